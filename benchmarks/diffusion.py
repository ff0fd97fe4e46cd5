"""Random latents turned into images of a class by a simulated rater, from configs/diffusion.yaml, over 20 seeds.

The rater is a classifier's logit of the class (seed modulo 10), seen only as an order through the oracle `ranked`.
A run succeeds when the classifier names the class with a probability of .9 or more, on the preview as the rater
sees it; rounds until then are counted. ZO-RankSGD: 15 probes in order, then a line search by ranking.

Before and after, on the previews: the picture grid, sharpness (variance of the Laplacian) and the Frechet distance to
the rendered images of 500 other random latents, in the classifier's penultimate features.

With BLACKBOX_ASSETS set, the model is assets/diffusion's of Fashion-MNIST, 28x28; else the built-in one of digits, 8x8.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import arguments, finish, machine, median
from blackbox.config.loader import build_strategy, load
from blackbox.hooks import Hook
from blackbox.run import run
from blackbox.session import Session
from problems.diffusion import Diffusion, Latent

ROOT = Path(__file__).parents[1]
CERTAIN = 0.9


def settings(seed: int) -> list[str]:
    """What differs from the file."""
    found = [f"problem.score.label={seed % 10}", f"problem.latent.seed={seed}", f"run.seed={seed}"]
    if folder := os.environ.get("BLACKBOX_ASSETS"):
        assets = Path(folder) / "diffusion"
        found.append(f"problem.pipeline.path={assets / 'ddpm_fashion_mnist28'}")
        found.append(f"problem.score.classifier={assets / 'fashion_mnist_cnn.safetensors'}")
    return found


class UntilLiked(Hook):
    """Stops when the classifier is certain."""

    def __init__(self, problem: Diffusion) -> None:
        self.problem, self.liked, self.rounds = problem, liked(problem), 0

    def on_step(self, record: dict[str, Any]) -> bool:
        self.rounds += 1
        self.liked = liked(self.problem)
        return self.liked


def liked(problem: Diffusion) -> bool:
    """Whether the classifier names the class, and is certain."""
    facts = problem.metrics("validation")
    return facts["named"] == problem.score.label and facts["probability"] >= CERTAIN


def search(seed: int) -> tuple[Diffusion, Tensor, Tensor, UntilLiked]:
    """One run: the problem, its image before and after, and how it ended."""
    config = load(ROOT / "configs" / "diffusion.yaml", settings(seed))
    assert config.problem is not None
    problem = config.problem.build()
    before = problem.images(problem.start[None])
    watch = UntilLiked(problem)
    if not watch.liked:
        session = Session(build_strategy(config), problem.parameters(), config.run.seed)
        run(session, config.oracle.build(problem=problem), config.budget.build(), [watch])
    return problem, before, problem.images(problem.parameters().flat()[None]), watch


def sharpness(images: Tensor) -> float:
    """Mean over images of the variance of the Laplacian."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return float(functional.conv2d(images.mean(1, keepdim=True), kernel).var((1, 2, 3)).mean())


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of the normal laws fitted to features [n, k] and [m, k]."""
    first, second = np.cov(a.T), np.cov(b.T)
    # The eigenvalues of a product of covariances are real and not negative, but for rounding.
    root = np.sqrt(np.linalg.eigvals(first @ second).real.clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second) - 2 * root)


def features(problem: Diffusion, images: Tensor) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = problem.score.classifier.features(images).double().numpy()  # type: ignore
    return found


def random_images(problem: Diffusion, count: int) -> Tensor:
    """Previews of latents that no run starts from."""
    latents = torch.cat([Latent(seed=10_000 + i).of_shape(problem.pipeline.shape).start[None] for i in range(count)])
    return problem.pipeline(latents.reshape(count, *problem.pipeline.shape), problem.pipeline.steps)


def plot(before: Tensor, after: Tensor, labels: list[int]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    n = len(before)
    figure, axes = pyplot.subplots(4, n // 2, figsize=(n // 2, 4.4))
    for i in range(n):
        half, column = divmod(i, n // 2)
        for row, images in ((2 * half, before), (2 * half + 1, after)):
            axis = axes[row, column]
            axis.imshow(images[i, 0], cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            if column == 0:
                axis.set_ylabel("before" if images is before else "after")
        axes[2 * half, column].set_title(f"class {labels[i]}", fontsize=8)
    figure.tight_layout(pad=0.3)
    (ROOT / "docs" / "images").mkdir(exist_ok=True)
    figure.savefig(ROOT / "docs" / "images" / "diffusion.png", dpi=90)


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "").parse_args()
    print(f"diffusion on {machine()}")
    found = []
    for seed in range(3 if options.quick else 20):
        problem, before, after, watch = search(seed)
        found.append((before, after, watch, problem.score.label))
        facts = problem.metrics("validation")
        print(
            f"  seed {seed:2d} class {problem.score.label}: {'liked' if watch.liked else 'not   '} after "
            f"{watch.rounds:3d} rounds, probability {facts['probability']:.2f}, at the final number of steps "
            f"{problem.metrics()['probability']:.2f}",
            flush=True,
        )
    before, after = torch.cat([one[0] for one in found]), torch.cat([one[1] for one in found])
    reference = features(problem, random_images(problem, 100 if options.quick else 500))
    for name, images in (("before", before), ("after", after)):
        distance = frechet(features(problem, images), reference)
        print(f"  {name:6s} sharpness {sharpness(images):.4f}, Frechet distance {distance:.3f}")
    if not options.quick:
        plot(before, after, [one[3] for one in found])
    rounds = [float(watch.rounds) for _, _, watch, _ in found if watch.liked]
    middle = {"median_rounds": median(rounds)} if rounds else {}
    finish({"success_rate": len(rounds) / len(found), **middle})


if __name__ == "__main__":
    main()
