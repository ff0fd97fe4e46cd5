"""A network that corrects a coarse solver, trained with and without the solver in the loop, at equal steps.

Burgers' equation (arXiv:2007.00016; arXiv:2310.02025, section 5, has the zeroth-order version). Sides:

    uncorrected        the coarse solver alone
    apart              supervised on pairs made beforehand: one solver step from a reference frame, and the next frame
    zeroth_order       through 8 solver steps; the solver is opaque: every coordinate of its input, forward differences
    random_directions  the same with as many Gaussian directions as a quarter of the coordinates
    first_order        through the torch twin of the solver: what only a differentiable solver allows

Every side makes the same number of Adam steps on as many frames a step. Its learning rate is chosen on validation
waves with seeds of their own; the error is the mean absolute one of roll-outs from held-out waves over all 40 steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import arguments, finish, machine, median
from blackbox import OpaqueLayer
from blackbox.estimators import ForwardDifference
from blackbox.estimators.coordinate import CoordinateWise
from blackbox.noise import Gaussian
from blackbox.seeds import derive_seed
from problems.burgers import CoarseSolver, Corrector, Trajectories, roll_out, rolled_error, twin_step, windows

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SOLVER = CoarseSolver()
TRAIN, VALIDATION, TEST = (Trajectories(count, seed, SOLVER) for seed, count in enumerate((128, 32, 64)))
UNROLLED, BATCH = 8, 8
RATES = (3e-2, 1e-2, 3e-3)
SIDES = ("apart", "zeroth_order", "random_directions", "first_order")

Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Trained:
    """A corrector, and how often its training asked the opaque solver for one sample."""

    corrector: Corrector
    queries: int

    def error(self, trajectories: Trajectories) -> float:
        """Mean absolute error of roll-outs; infinite if they blew up."""
        with np.errstate(over="ignore", invalid="ignore"):
            found = rolled_error(SOLVER, self.corrector, trajectories.frames)
        return found if np.isfinite(found) else float("inf")


def train(side: str, channels: int, rate: float, steps: int, seed: int) -> Trained:
    """One training run."""
    corrector = Corrector(channels, derive_seed(seed, "weights"))
    optimizer = torch.optim.Adam(corrector.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(derive_seed(seed, "batches"))
    solver = solver_of(side, seed)
    unrolled = 1 if side == "apart" else UNROLLED
    batch = BATCH * UNROLLED // unrolled  # as many frames a step for all
    for _ in range(steps):
        chosen = torch.randint(TRAIN.count, (batch,), generator=generator)
        starts = torch.randint(TRAIN.steps - unrolled + 1, (batch,), generator=generator)
        frames = windows(TRAIN.frames[chosen], starts, unrolled)
        optimizer.zero_grad()
        found = roll_out(solver, corrector, frames[:, 0], unrolled)
        (found - frames[:, 1:]).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(corrector.parameters(), 0.1)
        optimizer.step()
        schedule.step()
    return Trained(corrector, int(solver.queries) if isinstance(solver, OpaqueLayer) else 0)


def solver_of(side: str, seed: int) -> Step:
    """The coarse solver as this side may have it."""
    if side == "first_order":
        return lambda u: twin_step(SOLVER, u)
    if side == "zeroth_order":
        return OpaqueLayer(SOLVER, CoordinateWise(1e-3, "forward"), seed)
    if side == "random_directions":
        return OpaqueLayer(SOLVER, ForwardDifference(Gaussian(), 1e-3, probes=TRAIN.cells // 4), seed)
    return SOLVER  # apart: its input is data, so no gradient is wanted


def tuned(side: str, channels: int, steps: int, seeds: range) -> float:
    """The rate of the lowest median error on the validation waves."""
    errors = {r: median([train(side, channels, r, steps, s).error(VALIDATION) for s in seeds]) for r in RATES}
    return min(errors, key=lambda r: errors[r])


def plot(correctors: dict[str, Corrector]) -> None:
    """One held-out wave in the end, and the error over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    frames, names = TEST.frames, {"uncorrected": lambda u: u, **correctors}
    x = (np.arange(TEST.cells) + 0.5) * 2 * np.pi / TEST.cells
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.4))
    left.plot(x, frames[0, 20], "k", linewidth=2.5, label="fine solver")
    for name, correct in names.items():
        with torch.no_grad():
            found = roll_out(SOLVER, correct, frames[:, 0], TEST.steps)
        style = ":" if name == "uncorrected" else "--" if name == "zeroth_order" else "-"
        left.plot(x, found[0, 19], style, label=name.replace("_", " "))
        right.plot((found - frames[:, 1:]).abs().mean((0, 2)), style, label=name.replace("_", " "))
    left.set(xlabel="x", ylabel="u", title="a held-out wave after 20 steps")
    right.set(xlabel="solver steps", title="mean absolute error, 64 held-out waves")
    right.legend(fontsize=7)
    figure.tight_layout()
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "solver-in-loop.png", dpi=100)


def compare(channels: int, steps: int, seeds: range, tuning: range | None, sides: tuple[str, ...]) -> dict[str, float]:
    """Median errors by side; without tuning seeds every rate is 1e-2."""
    weights = sum(w.numel() for w in Corrector(channels).parameters())
    print(f"  {channels} channels ({weights} weights), {steps} steps, {len(seeds)} seeds: median error (range)")
    medians: dict[str, float] = {"uncorrected": rolled_error(SOLVER, lambda u: u, TEST.frames)}
    print(f"    {'uncorrected':18s} {medians['uncorrected']:.5f}")
    shown: dict[str, Corrector] = {}
    for side in sides:
        rate = tuned(side, channels, steps, tuning) if tuning is not None else 1e-2
        runs = [train(side, channels, rate, steps, seed) for seed in seeds]
        errors = [run.error(TEST) for run in runs]
        medians[side] = median(errors)
        shown[side] = runs[int(np.argsort(errors)[len(errors) // 2])].corrector
        spread = f"({min(errors):.5f} .. {max(errors):.5f})"
        print(f"    {side:18s} {medians[side]:.5f} {spread}  rate {rate:g}, {runs[0].queries:,} queries", flush=True)
    if tuning is not None and channels == 2:
        plot({side: shown[side] for side in ("apart", "zeroth_order", "first_order")})
    return medians


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    print(f"solver in the loop on {machine()}")
    if options.quick:
        found = compare(2, 120, range(5), None, tuple(side for side in SIDES if side != "random_directions"))
    else:
        found = compare(2, 300, range(5), range(100, 102), SIDES)
        compare(8, 300, range(5), range(100, 102), ("apart", "first_order"))
    finish(found)


if __name__ == "__main__":
    main()
