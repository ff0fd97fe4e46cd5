"""Certification: how often a radius is too large, the cost over bare forwards, what stopping early saves.

    python -m benchmarks.certify [--quick]

Soundness: random half-spaces in 2 to 8 dimensions, whose smoothed classifier has the exact radius |w.x + b| / |w|. Each
trial is a call of ``certify`` with 100 + 1,000 draws at alpha .001 on noise of its own; a trial exceeds if it certifies
the wrong class, or more than the exact radius. 10,000 trials may exceed 20 times.

Cost: ``certify`` with all its draws against the classifier on as many inputs in the same batches, drawn beforehand;
sides take turns, medians are quoted. The networks are a ResNet-20 (arXiv:1512.03385, random weights, eval mode) and a
small convolutional one, on 3 x 32 x 32 inputs.

Stopping early: a simulated set whose smoothed accuracies are spread as those of a real one (probabilities drawn from a
Beta distribution), all draws against early stops at the radii 0, .25, .5 and .75, sigma .25: inputs classified.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import alternate, arguments, finish, machine, median
from blackbox.seeds import derive_seed
from problems.smoothing.certify import ABSTAIN, certify, classes_of

ALPHA = 0.001
RADII = (0.0, 0.25, 0.5, 0.75)


def exceeding(trials: int, seed: int) -> tuple[int, int, float]:
    """(trials whose certificate is too large, abstentions, mean of certified over exact radius)."""
    generator = np.random.Generator(np.random.Philox(key=derive_seed(seed, "half-spaces")))
    too_large, abstained, shares = 0, 0, []
    for trial in range(trials):
        dimension = int(generator.integers(2, 9))
        w = torch.from_numpy(generator.standard_normal(dimension)).float()
        exact = float(generator.uniform(0.0, 0.6))
        label = int(generator.integers(2))
        # A point at the exact distance on the label's side, anywhere along the boundary.
        normal = w / w.norm()
        along = torch.from_numpy(generator.standard_normal(dimension)).float()
        offset = float(generator.standard_normal())
        boundary = along - (along @ normal) * normal - offset / w.norm() * normal
        x = boundary + (exact if label else -exact) * normal
        exact = abs(float(x.double() @ w.double() + offset)) / float(w.double().norm())  # after float32's rounding
        one = certify(half_space(w, offset), x, 0.25, 100, 1000, ALPHA, 1000, seed, trial)
        too_large += one.label != ABSTAIN and (one.label != label or one.radius > exact)
        abstained += one.label == ABSTAIN
        if one.label == label:
            shares.append(one.radius / exact)
    return too_large, abstained, float(np.mean(shares))


def half_space(w: Tensor, offset: float) -> Callable[[Tensor], Tensor]:
    return lambda inputs: (inputs @ w + offset > 0).long()


class Block(nn.Module):
    """A basic block with the shortcut that pads (option A)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        wide = channels * stride
        self.first, self.second = nn.Conv2d(channels, wide, 3, stride, 1, bias=False), nn.Conv2d(wide, wide, 3, 1, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(wide), nn.BatchNorm2d(wide)])
        self.stride, self.pad = stride, wide - channels

    def forward(self, x: Tensor) -> Tensor:
        short = x[:, :, :: self.stride, :: self.stride]
        short = nn.functional.pad(short, (0, 0, 0, 0, 0, self.pad))
        return torch.relu(self.norms[1](self.second(torch.relu(self.norms[0](self.first(x))))) + short)


def resnet20() -> nn.Module:
    blocks = [Block(16, 1) for _ in range(3)] + [Block(16, 2)] + [Block(32, 1) for _ in range(2)]
    blocks += [Block(32, 2)] + [Block(64, 1) for _ in range(2)]
    head = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*head, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


def small() -> nn.Module:
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10)).eval()


def over_forward(network: nn.Module, draws: int, batch: int, turns: int) -> tuple[float, float]:
    """(median seconds of certifying over bare forwards, microseconds of a bare forward of one input)."""
    x = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    noisy = x + 0.25 * torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    selection = batch  # the same batches on both sides

    @torch.inference_mode()
    def bare() -> None:
        for _ in range((selection + draws) // batch):
            classes_of(network, noisy)

    sides = {"bare": bare, "certify": lambda: certify(network, x, 0.25, selection, draws, ALPHA, batch)}
    seconds = alternate(sides, turns)
    ratio = median(seconds["certify"]) / median(seconds["bare"])
    return ratio, 1e6 * median(seconds["bare"]) / (selection + draws)


def saved(examples: int, estimation: int, batch: int) -> tuple[float, bool]:
    """(share of the inputs that stopping early saves, whether all verdicts are the same)."""
    chances = np.random.Generator(np.random.Philox(key=7)).beta(2.0, 0.35, examples)
    whole = early = 0
    same = True
    for example, p in enumerate(chances):
        # One-dimensional, so that the class is right with probability p exactly: a threshold on the noise.
        x = torch.full((1,), 0.25 * float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64))))
        arguments: dict[str, Any] = {"sigma": 0.25, "estimation": estimation, "batch": batch, "example": example}
        one = certify(half_space(torch.ones(1), 0.0), x, **arguments)
        two = certify(half_space(torch.ones(1), 0.0), x, radii=RADII, **arguments)
        whole, early = whole + one.evaluated, early + two.evaluated
        same &= one.label == two.label and all(one.certified(r) == two.certified(r) for r in RADII)
    return 1 - early / whole, same


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {"ResNet-20": (resnet20(), 256, 128), "small": (small(), 2048, 128)}
    print(machine())
    trials = 10_000
    began = time.perf_counter()
    too_large, abstained, share = exceeding(trials, seed=1)
    print(
        f"{too_large} of {trials:,} certified radii exceed the exact one (bound 20); "
        f"{abstained:,} abstained; certified / exact {share:.2f} in the mean; {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    ratios = {}
    for name, (network, draws, batch) in networks.items():
        ratio, each = over_forward(network, draws * (1 if options.quick else 4), batch, 5 if options.quick else 9)
        ratios[name] = ratio
        print(f"{name}: certify / bare forwards {ratio:.3f}; a forward {each:.0f} microseconds", flush=True)
    share_saved, same = saved(60 if options.quick else 500, 10_000, 256)
    print(f"Stopping early saves {share_saved:.1%} of the inputs; verdicts the same: {same}")
    assert math.isfinite(share_saved) and same
    finish(
        {
            "exceed_rate": too_large / trials,
            "over_forward": ratios["ResNet-20"],
            "over_forward_small": ratios["small"],
            "samples_saved": share_saved,
        }
    )


if __name__ == "__main__":
    main()
