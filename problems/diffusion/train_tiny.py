"""The built-in models, trained once and cached: a DDPM of handwritten digits (8x8), and a classifier of them.

DDPM: arXiv:2006.11239, with the cosine schedule of arXiv:2102.09672. Data: scikit-learn's digits (1,797 images), or
Fashion-MNIST halved to 14x14 where Debian's package dataset-fashion-mnist is installed and asked for.

    python -m problems.diffusion.train_tiny [FOLDER] [--data fashion-mnist]

leaves FOLDER/pipeline (a diffusers pipeline) and FOLDER/classifier.safetensors.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from blackbox.errors import UserError
from blackbox.seeds import derive_seed
from problems.assets import cache_folder, install
from problems.diffusion.classifier import SmallClassifier
from problems.diffusion.initial import drawn

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
VERSION = "digits-2"


def tiny_folder() -> Path:
    """The cached models, trained on first use with a message on stderr."""
    folder = cache_folder() / "models" / f"diffusion-{VERSION}"
    if not folder.is_dir():
        print("Training the built-in diffusion model of digits; it takes two or three minutes, once.", file=sys.stderr)
    return install(folder, lambda into: train(into, *digits()))


def digits() -> tuple[Tensor, Tensor]:
    """Images float32 [1797, 1, 8, 8] in [0, 1] and labels int64; UserError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "The built-in diffusion model is trained on scikit-learn's digits: install scikit-learn, or name another "
            "pipeline."
        ) from error
    data = load_digits()
    images = torch.from_numpy(data.images / 16).float()[:, None]
    return images, torch.from_numpy(data.target).long()


def fashion_mnist(folder: Path = DEBIAN) -> tuple[Tensor, Tensor]:
    """Images float32 [60000, 1, 14, 14] in [0, 1] and labels int64; UserError where the files aren't there."""
    try:
        with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
            pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28).copy()
        with gzip.open(folder / "train-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8).copy()
    except OSError as error:
        raise UserError(f"Fashion-MNIST is not in {folder}: install Debian's dataset-fashion-mnist.") from error
    return functional.avg_pool2d(torch.from_numpy(pixels).float() / 255, 2), torch.from_numpy(labels).long()


def train(folder: Path, images: Tensor, labels: Tensor, steps: int = 2000, seed: int = 0) -> None:
    """Trains both models and saves them in ``folder``; all that is drawn comes from the seed."""
    train_ddpm(folder / "pipeline", images, steps, _generator(seed, "ddpm"))
    classifier = train_classifier(images, labels, max(steps // 3, 1), _generator(seed, "classifier"))
    save_file(classifier.state_dict(), folder / "classifier.safetensors")


def _generator(seed: int, role: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, role))


def train_ddpm(
    folder: Path, images: Tensor, steps: int, generator: torch.Generator, batch: int = 64, rate: float = 2e-3
) -> None:
    """Squared error of the noise with min-SNR weights (gamma 5, arXiv:2303.09556); the mean of weights is kept."""
    import diffusers

    kit: Any = diffusers
    with torch.device("meta"):
        unet = kit.UNet2DModel(
            sample_size=images.shape[-1],
            in_channels=1,
            out_channels=1,
            block_out_channels=(24, 48),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            attention_head_dim=8,
        )
    unet = drawn(unet, generator)
    scheduler = kit.DDPMScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
    average = torch.optim.swa_utils.AveragedModel(unet, avg_fn=lambda mean, new, _: torch.lerp(mean, new, 0.005))
    optimizer = torch.optim.AdamW(unet.parameters(), rate, weight_decay=1e-4)
    course = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    for _ in range(steps):
        clean = 2 * images[torch.randint(len(images), (batch,), generator=generator)] - 1
        noise = torch.randn(clean.shape, generator=generator)
        within = torch.rand(batch, generator=generator)
        times = ((torch.arange(batch) + within) * 1000 / batch).long()  # one in each of equal intervals
        noisy = scheduler.add_noise(clean, noise, times)
        alpha = scheduler.alphas_cumprod[times]
        weight = (5 * (1 - alpha) / alpha).clamp(max=1)
        loss: Any = (weight * ((unet(noisy, times).sample - noise) ** 2).mean((1, 2, 3))).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        course.step()
        average.update_parameters(unet)
    kit.DDPMPipeline(average.module.eval(), scheduler).save_pretrained(folder, safe_serialization=True)


def train_classifier(
    images: Tensor, labels: Tensor, steps: int, generator: torch.Generator, batch: int = 64, rate: float = 5e-3
) -> SmallClassifier:
    """Cross-entropy with label smoothing, on lightly noised images."""
    with torch.device("meta"):
        module = SmallClassifier(int(labels.max()) + 1)
    module = drawn(module, generator).train()
    optimizer = torch.optim.AdamW(module.parameters(), rate)
    course = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch,), generator=generator)
        seen = images[chosen] + 0.05 * torch.randn(batch, *images.shape[1:], generator=generator)
        loss: Any = functional.cross_entropy(module(seen), labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.step()
    return module.eval().requires_grad_(False)


def main() -> None:
    """Train into a folder."""
    parser = argparse.ArgumentParser(description="Train the tiny diffusion model and its classifier.")
    parser.add_argument("folder", type=Path, nargs="?", help="where to; the cache if left out (digits only)")
    parser.add_argument("--data", choices=("digits", "fashion-mnist"), default="digits")
    options = parser.parse_args()
    if options.folder is None:
        print(tiny_folder())
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    train(options.folder, *(digits() if options.data == "digits" else fashion_mnist()))


if __name__ == "__main__":
    main()
