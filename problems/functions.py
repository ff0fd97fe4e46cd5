"""Test functions with known minima: batched torch, float64, lowest value 0.

With y = x - shift,

    Sphere      sum_i y_i^2                                                           minimum at shift
    Quadratic   1/2 sum_i l_i (Q^T y)_i^2, l_i from 1 to the condition number         minimum at shift
    Rosenbrock  sum_i 100 (y_{i+1} - y_i^2)^2 + (1 - y_i)^2                           minimum at shift + 1
    Ackley      -20 exp(-.2 sqrt(mean y^2)) - exp(mean cos 2 pi y) + 20 + e           minimum at shift
    Rastrigin   10 d + sum_i y_i^2 - 10 cos 2 pi y_i                                  minimum at shift
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.probe import Context
from problems.base import VectorProblem
from problems.device import resolve_device, resolve_dtype


class Function(VectorProblem):
    """What the functions share.

    Args:
        dimension: d; taken from ``start`` if that is a list.
        start: the starting point, a number for all coordinates or d of them; drawn uniformly from the
            function's usual box if left out.
        shift: added to the minimum, a number or d of them.
        seed: of everything drawn: the start, a rotation.
        device: auto, cuda, mps or cpu. Small functions are fastest on the cpu.
        dtype: float64 or float32.

    Attributes:
        minimizer: [d], where the value is lowest.
        minimum: the lowest value.

    Raises:
        UserError: sizes that don't fit, an unknown device or dtype.
    """

    box: ClassVar[tuple[float, float]] = (-5.0, 5.0)
    least_dimension: ClassVar[int] = 1
    minimum: float = 0.0

    def __init__(
        self,
        dimension: int | None = None,
        start: float | Sequence[float] | None = None,
        shift: float | Sequence[float] = 0.0,
        seed: int = 0,
        device: str = "cpu",
        dtype: str = "float64",
    ) -> None:
        if dimension is None:
            dimension = len(start) if isinstance(start, Sequence) else 10
        if dimension < self.least_dimension:
            raise UserError(f"dimension: {type(self).__name__} needs {self.least_dimension} or more, not {dimension}.")
        if dtype == "bfloat16":
            raise UserError("dtype: functions are computed in float64 or float32, not bfloat16.")
        self.dimension = dimension
        self.seed = seed
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        # The start is drawn even where one is given, so that a rotation drawn later doesn't depend on it.
        self._generator = torch.Generator().manual_seed(seed)
        low, high = self.box
        drawn = low + (high - low) * torch.rand(dimension, generator=self._generator, dtype=torch.float64)
        self.start = self._vector("start", drawn if start is None else start)
        self._shift = self._vector("shift", shift)
        self._shifted = bool(self._shift.any())
        self.minimizer = self._shift + self.optimum()

    @abstractmethod
    def formula(self, y: Tensor) -> Tensor:
        """y [..., d] -> values [...]."""

    def optimum(self) -> float:
        """Every coordinate of the unshifted minimum."""
        return 0.0

    def __call__(self, candidates: Tensor, context: Context | None = None) -> Tensor:
        """Candidates [n, d] -> values [n]; the context doesn't matter."""
        return self.formula(candidates - self._shift if self._shifted else candidates)

    def metrics(self, split: str = "test") -> dict[str, float]:
        """``value`` above the minimum's, and ``distance`` to it, at the present point."""
        x = self.parameters().flat()
        distance = torch.linalg.vector_norm(x - self.minimizer)
        return {"value": float(self(x[None])[0]), "distance": float(distance)}

    def _vector(self, name: str, value: float | Sequence[float] | Tensor) -> Tensor:
        vector = torch.as_tensor(value, dtype=torch.float64)
        if vector.ndim == 0:
            vector = vector.repeat(self.dimension)
        if vector.shape != (self.dimension,):
            raise UserError(f"{name}: {len(vector)} numbers for dimension {self.dimension}.")
        return vector.to(self.dtype).to(self.device)


class Sphere(Function):
    """The squared distance."""

    def formula(self, y: Tensor) -> Tensor:
        """See the module."""
        return y.square().sum(-1)


class Quadratic(Function):
    """A bowl with a given condition number.

    Args:
        dimension, start, shift, seed, device, dtype: as for Function.
        condition: the largest eigenvalue; the smallest is 1 and they are evenly spaced in the logarithm.
        rotated: turn the axes by a random rotation (d x d numbers), so that the function isn't separable.
    """

    def __init__(
        self,
        dimension: int | None = None,
        start: float | Sequence[float] | None = None,
        shift: float | Sequence[float] = 0.0,
        seed: int = 0,
        device: str = "cpu",
        dtype: str = "float64",
        condition: float = 100.0,
        rotated: bool = False,
    ) -> None:
        super().__init__(dimension, start, shift, seed, device, dtype)
        if not condition >= 1 or not math.isfinite(condition):
            raise UserError(f"condition: a condition number is 1 or more, not {condition}.")
        self.condition = condition
        exponents = torch.linspace(0, 1, self.dimension, dtype=torch.float64)
        self.eigenvalues = self._vector("eigenvalues", condition**exponents)
        self.rotation: Tensor | None = None
        if rotated:
            shape = (self.dimension, self.dimension)
            q, r = torch.linalg.qr(torch.randn(shape, generator=self._generator, dtype=torch.float64))
            # With the signs of r's diagonal, q is drawn uniformly from all rotations and reflections.
            self.rotation = (q * r.diagonal().sign()).to(self.dtype).to(self.device)

    def formula(self, y: Tensor) -> Tensor:
        """See the module."""
        turned = y if self.rotation is None else y @ self.rotation
        return 0.5 * (turned.square() * self.eigenvalues).sum(-1)


class Rosenbrock(Function):
    """A curved valley."""

    box = (-2.0, 2.0)
    least_dimension = 2

    def formula(self, y: Tensor) -> Tensor:
        """See the module."""
        head, tail = y[..., :-1], y[..., 1:]
        return (100.0 * (tail - head.square()).square() + (1.0 - head).square()).sum(-1)

    def optimum(self) -> float:
        """1."""
        return 1.0


class Ackley(Function):
    """Nearly flat with many shallow minima, and a hole."""

    box = (-32.768, 32.768)

    def formula(self, y: Tensor) -> Tensor:
        """See the module."""
        distance = y.square().mean(-1).sqrt()
        ripple = torch.cos(2 * math.pi * y).mean(-1)
        return -20.0 * torch.exp(-0.2 * distance) - torch.exp(ripple) + 20.0 + math.e


class Rastrigin(Function):
    """A bowl with a regular grid of deep minima."""

    box = (-5.12, 5.12)

    def formula(self, y: Tensor) -> Tensor:
        """See the module."""
        return (y.square() + 10.0 * (1.0 - torch.cos(2 * math.pi * y))).sum(-1)
