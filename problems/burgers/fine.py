"""The reference solver of u_t + (u^2/2)_x = nu u_xx, periodic on [0, 2 pi).

Finite volumes of second order: central fluxes

    F_{i+1/2} = (u_i^2 + u_{i+1}^2)/4 - nu (u_{i+1} - u_i)/dx,

and the classical Runge-Kutta method of fourth order in time. Central fluxes are in order where the viscosity resolves
every front: cells of at most 2 nu/max|u|.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from blackbox.errors import UserError

FloatArray = npt.NDArray[np.float64]

LENGTH = 2 * math.pi
_STABLE_DIFFUSION = 0.5
"""nu dt/dx^2; the method is stable on the negative axis up to 2.78 / 4."""
_STABLE_ADVECTION = 1.0
"""max|u| dt/dx; the method is stable on the imaginary axis up to 2.83."""


class FineSolver:
    """Cell averages on a fine grid.

    Args:
        cells: of the grid.
        viscosity: nu, positive.

    Raises:
        UserError: fewer than 8 cells, or a viscosity that isn't positive.
    """

    def __init__(self, cells: int = 256, viscosity: float = 0.05) -> None:
        if cells < 8:
            raise UserError(f"cells: a grid has 8 or more, not {cells}.")
        if not viscosity > 0:
            raise UserError(f"viscosity must be positive, not {viscosity}.")
        self.cells = cells
        self.viscosity = viscosity
        self.dx = LENGTH / cells

    def solve(self, u: FloatArray, duration: float) -> FloatArray:
        """Cell averages [batch, cells] after ``duration``; as many steps as stability takes."""
        speed = max(float(np.abs(u).max(initial=0.0)), 1e-12)  # it never grows
        longest = min(_STABLE_ADVECTION * self.dx / speed, _STABLE_DIFFUSION * self.dx**2 / self.viscosity)
        steps = math.ceil(duration / longest)
        for _ in range(steps):
            u = self._step(u, duration / steps)
        return u

    def trajectory(self, u: FloatArray, interval: float, frames: int) -> FloatArray:
        """[batch, frames + 1, cells]: the start, and the state after every interval."""
        states = [u]
        for _ in range(frames):
            states.append(self.solve(states[-1], interval))
        return np.stack(states, 1)

    def _step(self, u: FloatArray, dt: float) -> FloatArray:
        first = self._rate(u)
        second = self._rate(u + dt / 2 * first)
        third = self._rate(u + dt / 2 * second)
        fourth = self._rate(u + dt * third)
        return u + dt / 6 * (first + 2 * second + 2 * third + fourth)

    def _rate(self, u: FloatArray) -> FloatArray:
        right = np.roll(u, -1, -1)
        flux = (u * u + right * right) / 4 - self.viscosity / self.dx * (right - u)
        rate: FloatArray = (np.roll(flux, 1, -1) - flux) / self.dx
        return rate


def averaged(u: FloatArray, cells: int) -> FloatArray:
    """Averages [..., n] over n cells as averages [..., cells] over fewer; raises UserError if n is no multiple."""
    if u.shape[-1] % cells:
        raise UserError(f"{u.shape[-1]} fine cells are no multiple of {cells} coarse ones.")
    mean: FloatArray = u.reshape(*u.shape[:-1], cells, -1).mean(-1)
    return mean
