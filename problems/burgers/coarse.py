"""The coarse solver: a program in numpy that gives states and no gradients; and the same scheme in torch.

Finite volumes of first order with the local Lax-Friedrichs flux (Rusanov 1961) and explicit Euler steps:

    F_{i+1/2} = (u_i^2 + u_{i+1}^2)/4 - (max(|u_i|, |u_{i+1}|)/2 + nu/dx) (u_{i+1} - u_i)
    u_i <- u_i - dt/dx (F_{i+1/2} - F_{i-1/2})

Robust and wrong in a systematic way: the flux adds a viscosity of |u| dx/2, which on a coarse grid is more than nu
itself and smears every front. The torch twin is there for the first-order bound that a real opaque program would not
offer; both give the same numbers to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blackbox.errors import UserError
from problems.burgers.fine import LENGTH, FloatArray


@dataclass(frozen=True)
class CoarseSolver:
    """One step of length ``dt`` on a periodic grid.

    Args:
        viscosity: nu.
        dt: the step; stable while dt (max|u|/dx + 2 nu/dx^2) <= 1.
    """

    viscosity: float = 0.05
    dt: float = 0.08

    def check(self, cells: int, speed: float = 1.0) -> None:
        """Raises UserError if a step on this grid is not stable at speeds of max|u| = ``speed``."""
        dx = LENGTH / cells
        longest = 1 / (speed / dx + 2 * self.viscosity / dx**2)
        if self.dt > longest:
            raise UserError(
                f"The coarse solver's dt of {self.dt:g} is not stable on {cells} cells with viscosity "
                f"{self.viscosity:g}: at most {longest:.3g}. Take fewer cells or less viscosity."
            )

    def step(self, u: FloatArray) -> FloatArray:
        """Cell averages [batch, cells] one step later."""
        dx = LENGTH / u.shape[-1]
        right = np.roll(u, -1, -1)
        smear = np.maximum(np.abs(u), np.abs(right)) / 2 + self.viscosity / dx
        flux = (u * u + right * right) / 4 - smear * (right - u)
        later: FloatArray = u - self.dt / dx * (flux - np.roll(flux, 1, -1))
        return later

    def __call__(self, u: Tensor) -> Tensor:
        """``step`` for tensors on a CPU, through numpy: no gradient comes out of it."""
        return torch.from_numpy(self.step(u.detach().numpy()))


def twin_step(solver: CoarseSolver, u: Tensor) -> Tensor:
    """``solver.step`` in torch, differentiable."""
    dx = LENGTH / u.shape[-1]
    right = u.roll(-1, -1)
    smear = torch.maximum(u.abs(), right.abs()) / 2 + solver.viscosity / dx
    flux = (u * u + right * right) / 4 - smear * (right - u)
    return u - solver.dt / dx * (flux - flux.roll(1, -1))
