"""Initial waves, and what the reference solver makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from blackbox.seeds import derive_seed
from problems.burgers.coarse import CoarseSolver
from problems.burgers.fine import LENGTH, FineSolver, FloatArray, averaged


def random_waves(count: int, cells: int, seed: int, modes: int = 3) -> FloatArray:
    """Exact cell averages [count, cells] of sum_k a_k sin(k x + p_k), k = 1 .. modes, of zero mean.

    a_k is normal with standard deviation 1/k and p_k uniform; each wave is scaled to a largest average of 1.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    k = np.arange(1, modes + 1)
    amplitudes = generator.standard_normal((count, modes)) / k
    phases = generator.uniform(0, LENGTH, (count, modes))
    edges = np.linspace(0, LENGTH, cells + 1)
    integral = -(amplitudes[..., None] / k[:, None] * np.cos(k[:, None] * edges + phases[..., None])).sum(1)
    means = np.diff(integral) / (LENGTH / cells)
    waves: FloatArray = means / np.abs(means).max(1, keepdims=True)
    return waves


@dataclass(frozen=True)
class Trajectories:
    """Reference solutions on the coarse grid.

    Args:
        count: how many waves.
        seed: of the waves.
        solver: the coarse solver, for the interval between frames and the viscosity.
        steps: intervals of each trajectory.
        cells: of the coarse grid; the fine one has 8 times as many.
    """

    count: int
    seed: int
    solver: CoarseSolver
    steps: int = 40
    cells: int = 32

    @cached_property
    def frames(self) -> Tensor:
        """float64 [count, steps + 1, cells], computed when first asked for."""
        fine = FineSolver(8 * self.cells, self.solver.viscosity)
        waves = random_waves(self.count, fine.cells, derive_seed(self.seed, "waves"))
        return torch.from_numpy(averaged(fine.trajectory(waves, self.solver.dt, self.steps), self.cells))


def windows(frames: Tensor, starts: Tensor, steps: int) -> Tensor:
    """[batch, steps + 1, cells]: of each trajectory [batch, frames, cells] the frames from its start on."""
    index = starts[:, None] + torch.arange(steps + 1)
    return frames[torch.arange(len(frames))[:, None], index]
