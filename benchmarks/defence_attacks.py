"""Attacks on the classifiers of ``benchmarks.defence``, and reconstructions under attack.

    python -m benchmarks.defence_attacks [--quick] [--data FOLDER] [--box FILE] [--folder FOLDER] [--part NAME]

Attacks: what is left of the accuracy after black-box attacks in the maximum norm, each with as many queries for an
image: ZO-signSGD and ZO-AdaMM along random directions, ZO-signSGD along drawn coordinates, the Square attack. Victims:
the box, and the box behind the denoisers that ``benchmarks.defence`` left in the folder, asked once for an answer (no
smoothing).

Reconstruction (arXiv:2203.14195, section 5): the black box measures an image by 128 fixed random projections and makes
an image of them. Its root mean squared error against the true image, under PGD in the L2 norm through everything (50
steps), by the length of the perturbation. The denoisers are trained without ever seeing a true answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.defence import digits_box
from benchmarks.harness import arguments, finish, machine
from blackbox import OpaqueLayer, checkpoint
from blackbox.estimators import ForwardDifference
from blackbox.estimators.coordinate import CoordinateWise
from blackbox.estimators.selection import Sample
from blackbox.memory import keep_freed_memory
from blackbox.noise import Gaussian
from blackbox.seeds import derive_seed
from problems.smoothing.attacks import Ball, departure, descend, margin, square
from problems.smoothing.box import BlackBox, Module, Network
from problems.smoothing.defence import Defence
from problems.smoothing.images import DEBIAN, Digits, FashionMnist, Images
from problems.smoothing.networks import decoder
from problems.training.networks import seeded

PROBES, LENGTHS = 24, (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Sizes:
    """Of both parts."""

    attacked: int
    queries: int
    radius: float
    measured: int
    box_steps: int
    coder_steps: int
    steps: int
    latent: int
    depth: int
    channels: int


FULL = Sizes(50, 500, 0.1, 128, 2500, 2500, 400, 48, 5, 24)
QUICK = Sizes(20, 100, 0.15, 24, 600, 600, 100, 16, 3, 8)


def attacks(sizes: Sizes) -> dict[str, Callable[[BlackBox, Tensor, Tensor], Tensor]]:
    """Victim, images and labels -> perturbed images, by name; all with ``sizes.queries`` for an image."""
    ball = Ball(sizes.radius, "linf")

    def by(estimator: object, rule: str) -> Callable[[BlackBox, Tensor, Tensor], Tensor]:
        def attack(box: BlackBox, images: Tensor, labels: Tensor) -> Tensor:
            steps = (sizes.queries - 1) // (PROBES + 1)
            layer = OpaqueLayer(box, estimator, chunk=256)  # type: ignore[arg-type]
            return descend(layer, margin(labels), images, ball, steps, sizes.radius / 4, rule)  # type: ignore[arg-type]

        return attack

    random = ForwardDifference(Gaussian(), 2e-3, probes=PROBES)
    return {
        "sign": by(random, "sign"),
        "adamm": by(random, "adamm"),
        "coordinates": by(CoordinateWise(0.05, "forward", Sample(PROBES)), "sign"),
        "square": lambda box, images, labels: square(box, margin(labels), images, ball, sizes.queries),
    }


class Defended(BlackBox):
    """A defence, as something to be asked."""

    def __init__(self, problem: Defence) -> None:
        super().__init__()
        self.problem = problem

    def answer(self, images: Tensor) -> Tensor:
        """As the base says."""
        return self.problem.defended(images)


def attack_all(victims: dict[str, BlackBox], data: Images, sizes: Sizes) -> dict[str, float]:
    """Prints the table; the lowest accuracy over the attacks, by victim."""
    test, worst = data.splits["test"], {}
    images, labels = test.images[: sizes.attacked], test.labels[: sizes.attacked]
    tried = attacks(sizes)
    print(
        f"  accuracy after {sizes.queries} queries an image, radius {sizes.radius} (maximum norm), {len(labels)} images"
    )
    print(f"  {'victim':16s}{'clean':>12s}{''.join(f'{name:>12s}' for name in tried)}")
    for name, box in victims.items():
        shares = [float((box(images).argmax(1) == labels).float().mean())]
        for attack in tried.values():
            before = box.queries
            found = attack(box, images, labels)
            asked = (box.queries - before) / len(labels)
            assert asked <= sizes.queries, asked
            shares.append(float((box(found).argmax(1) == labels).float().mean()))
        print(f"  {name:16s}{''.join(f'{share:12.1%}' for share in shares)}", flush=True)
        worst[f"attacked_{name}"] = min(shares)
    return worst


def reconstructor(data: Images, sizes: Sizes) -> Module:
    """Random projections and a network that makes images of them, trained on clean images."""
    images = data.splits["train"].images
    shape: tuple[int, int, int] = tuple(images.shape[1:])  # type: ignore[assignment]
    measure = seeded(lambda: nn.Linear(math.prod(shape), sizes.measured, bias=False), derive_seed(0, "measure"))
    make = decoder(shape, (16, 32), sizes.measured, derive_seed(0, "reconstruction"))
    module = nn.Sequential(nn.Flatten(), measure, make)
    optimizer = torch.optim.Adam(make.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(derive_seed(0, "box"))
    for _ in range(sizes.box_steps):
        x = images[torch.randint(len(images), (32,), generator=generator)]
        optimizer.zero_grad()
        functional.mse_loss(module(x), x).backward()
        optimizer.step()
    return Module(module.eval().requires_grad_(False))


def reconstruct_all(data: Images, sizes: Sizes) -> dict[str, float]:
    """Prints the table; the error at length 2 by arm."""
    box, coder, found = reconstructor(data, sizes), dict[str, Tensor](), {}
    test = data.splits["test"].images[: 2 * sizes.attacked]
    pixels = ForwardDifference(Gaussian(), 5e-3 / math.prod(test.shape[1:]) ** 0.5, probes=sizes.latent)
    print(f"  RMSE of reconstructions at |delta| = {LENGTHS}, {len(test)} images; queries in training")
    for arm in ("standard", "fo-ds", "fo-ae-ds", "zo-ds", "zo-ae-ds"):
        answer: Callable[[Tensor], Tensor] = box.module
        asked = 0
        if arm != "standard":
            problem = Defence(
                data,
                box,
                CoordinateWise(5e-3, "forward") if "ae" in arm else pixels,
                arm,  # type: ignore[arg-type]
                "reconstruction",
                depth=sizes.depth,
                channels=sizes.channels,
                latent=sizes.latent,
                coder_steps=0 if coder else sizes.coder_steps,
                adam_steps=sizes.steps,
                device="cpu",
            )
            if "ae" in arm and coder:
                problem.parameters().assign(coder)
            before = box.queries
            for step in range(problem.steps):
                if "ae" in arm and not coder and step == sizes.coder_steps:
                    tensors = problem.parameters().tensors
                    coder = {name: t.clone() for name, t in tensors.items() if not name.startswith("denoiser")}
                problem.train_step(step)
            asked = box.queries - before

            def answer(x: Tensor, problem: Defence = problem) -> Tensor:
                return box.opened(problem.denoised(x))

        errors = []
        for length in LENGTHS:
            rate = 2.5 * length / 50
            moved = descend(answer, departure(test), test, Ball(length), 50, rate) if length else test
            with torch.no_grad():
                errors.append(float((answer(moved) - test).square().mean().sqrt()))
        print(f"  {arm:12s}{''.join(f'{error:8.3f}' for error in errors)}{asked:14,d}", flush=True)
        found[f"rmse_{arm.replace('-', '_')}"] = errors[2]
    return found


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", default=DEBIAN, help="folder of Fashion-MNIST's files")
    parser.add_argument("--box", default="fashion_mnist_cnn.safetensors", help="weights of the small classifier")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-defence"), help="of benchmarks.defence")
    parser.add_argument("--part", choices=("attacks", "reconstruction"), help="only this one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    box = Path(options.box).expanduser()
    real = not options.quick and Path(options.data, "train-images-idx3-ubyte.gz").exists() and box.exists()
    data, sizes = (FashionMnist(options.data), FULL) if real else (Digits(), QUICK)
    print(f"attacks on {machine()}; {'Fashion-MNIST' if real else 'digits'}: {sizes}")
    found: dict[str, float] = {}
    if options.part != "reconstruction":
        victims: dict[str, BlackBox] = {"none": Network(str(box)) if real else digits_box()}
        for arm in ("fo_ae_ds", "zo_ae_ds_cge"):
            saved = sorted((options.folder / arm / "checkpoints").glob("step-*.safetensors"))
            if real and saved:
                problem = Defence(data, Network(str(box)), route="fo-ae-ds", depth=5, channels=24, device="cpu")
                problem.parameters().assign(checkpoint.load(saved[-1])["tensors"])
                victims[arm] = Defended(problem)
        found |= attack_all(victims, data, sizes)
    if options.part != "attacks":
        found |= reconstruct_all(data, sizes)
    finish(found)


if __name__ == "__main__":
    main()
