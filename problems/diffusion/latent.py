"""Which latents are searched, and by which numbers.

A latent of d = channels * h * w standard normals has a length close to sqrt(d), and a diffusion model knows no other.
So every candidate is put back on that shell, z <- sqrt(d) z / |z|, before it is rendered. With z0 drawn from the seed:

    full             z = x, x in R^d, from z0
    low-frequency    z = z0 with the lowest size x size coefficients of its cosine transform (DCT-II, orthonormal) in
                     every channel replaced by x
    random-subspace  z = z0 - Q Q^T z0 + Q x, Q [d, size] orthonormal, drawn from the seed
    slerp            z = slerp(.. slerp(slerp(z0, z1, x1), z2, x2) .., x_size): along great circles towards further
                     latents, from x = 0
    fixed            z = z0; nothing is searched

The noise of a sampler's steps has the same law, and is parameterised in the same way, step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.seeds import derive_seed
from problems.device import resolve_dtype

Shape = tuple[int, int, int]
KINDS = ("full", "low-frequency", "random-subspace", "slerp", "fixed")
WHOLE = ("full", "fixed")  # have no size


class Latent:
    """A parameterisation of latents.

    Args:
        parameterisation: full, low-frequency, random-subspace, slerp or fixed.
        size: frequencies along each axis (low-frequency), dimension (random-subspace) or number of further latents
            (slerp). Not for full and fixed.
        seed: of the first latent and of all else that is drawn.
        dtype: float32 or float64, of the numbers that are searched.

    Raises:
        UserError: an unknown name, or a size that is missing, out of place or below 1.
    """

    def __init__(
        self, parameterisation: str = "full", size: int | None = None, seed: int = 0, dtype: str = "float32"
    ) -> None:
        if parameterisation not in KINDS:
            raise UserError(f"parameterisation: '{parameterisation}' is not one of {', '.join(KINDS)}.")
        if (size is None) != (parameterisation in WHOLE):
            must = "has no size" if parameterisation in WHOLE else "needs a size"
            raise UserError(f"size: the parameterisation '{parameterisation}' {must}.")
        if size is not None and size < 1:
            raise UserError(f"size must be 1 or more, not {size}.")
        if dtype == "bfloat16":
            raise UserError("dtype: latents are searched in float32 or float64, not bfloat16.")
        self.parameterisation = parameterisation
        self.size = size or 0
        self.seed = seed
        self.dtype = resolve_dtype(dtype)

    def of_shape(self, shape: Shape) -> Parameterised:
        """For latents [c, h, w]; UserError if ``size`` is too large for them."""
        height, width = shape[1:]
        z0 = on_shell(self._draw("latent", math.prod(shape)))
        if self.parameterisation == "full":
            return Parameterised(shape, z0.to(self.dtype), lambda x: x)
        if self.parameterisation == "fixed":
            return Parameterised(shape, torch.empty(0, dtype=self.dtype), lambda x: z0.expand(len(x), -1))
        if self.parameterisation == "slerp":
            others = [on_shell(self._draw(f"latent {i + 1}", math.prod(shape))) for i in range(self.size)]
            return Parameterised(shape, torch.zeros(self.size, dtype=self.dtype), lambda x: _chain(z0, others, x))
        low = self.parameterisation == "low-frequency"
        most = min(height, width) if low else math.prod(shape)
        if self.size > most:
            raise UserError(f"size: {self.size} is too large for latents {list(shape)}; at most {most}.")
        basis = low_frequencies(shape, self.size) if low else self._subspace(math.prod(shape))
        start = basis.T @ z0
        rest = z0 - basis @ start
        return Parameterised(shape, start.to(self.dtype), lambda x: rest + x @ basis.T)

    def of_steps(self, shape: Shape, steps: int) -> ParameterisedSteps:
        """For the noise of each of so many steps; that of step i is drawn from the seed and i alone."""
        each = []
        for i in range(steps):
            of_step = copy(self)
            of_step.seed = derive_seed(self.seed, "step", i)
            each.append(of_step.of_shape(shape))
        return ParameterisedSteps(each)

    def _subspace(self, d: int) -> Tensor:
        draws = np.random.Generator(np.random.Philox(key=derive_seed(self.seed, "subspace")))
        return torch.from_numpy(np.linalg.qr(draws.standard_normal((d, self.size)))[0])

    def _draw(self, what: str, d: int) -> Tensor:
        draws = np.random.Generator(np.random.Philox(key=derive_seed(self.seed, what)))
        return torch.from_numpy(draws.standard_normal(d))


class Parameterised:
    """Vectors [n, k] -> latents [n, c, h, w] on the shell, float32.

    Attributes:
        start: [k].
    """

    def __init__(self, shape: Shape, start: Tensor, map: Callable[[Tensor], Tensor]) -> None:
        self.shape = shape
        self.start = start
        self._map = map

    def __call__(self, vectors: Tensor) -> Tensor:
        """A latent without a direction (zero, or not finite) has no place on the shell: its row is NaN."""
        if vectors.ndim != 2 or vectors.shape[1] != len(self.start):
            raise UserError(f"candidates: [n, {len(self.start)}] is needed, got {list(vectors.shape)}.")
        flat = on_shell(self._map(vectors.detach().cpu().double()))
        return flat.float().reshape(len(vectors), *self.shape)


class ParameterisedSteps:
    """Vectors [n, k] -> noises [n, steps, c, h, w], each on the shell, float32; k counts the numbers of all steps.

    Attributes:
        start: [k], step after step.
    """

    def __init__(self, each: Sequence[Parameterised]) -> None:
        self.start = torch.cat([one.start for one in each])
        self._each = each

    def __call__(self, vectors: Tensor) -> Tensor:
        """As ``Parameterised``."""
        parts = torch.split(vectors, [len(one.start) for one in self._each], dim=1)
        return torch.stack([one(part) for one, part in zip(self._each, parts, strict=True)], 1)


def on_shell(latents: Tensor) -> Tensor:
    """Latents [..., d] at length sqrt(d)."""
    found: Tensor = latents * (math.sqrt(latents.shape[-1]) / torch.linalg.vector_norm(latents, dim=-1, keepdim=True))
    return found


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the great circle through a [n, d] (t = 0) and b [d] (t = 1), both on the shell; t [n, 1]."""
    cosine = (a * b).sum(-1, keepdim=True) / a.shape[-1]
    angle = torch.arccos(cosine.clamp(-1, 1))
    across = on_shell(b - cosine * a)
    return torch.cos(t * angle) * a + torch.sin(t * angle) * across


def low_frequencies(shape: Shape, size: int) -> Tensor:
    """Orthonormal columns [d, c size^2]: DCT-II waves of the ``size`` lowest frequencies along h and w."""
    c, h, w = shape
    plane = torch.kron(_cosines(h, size), _cosines(w, size))
    return torch.kron(torch.eye(c, dtype=torch.float64), plane)


def _cosines(n: int, size: int) -> Tensor:
    place, frequency = torch.arange(n, dtype=torch.float64), torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / n * (place[:, None] + 0.5) * frequency)
    found: Tensor = waves / torch.linalg.vector_norm(waves, dim=0)
    return found


def _chain(z0: Tensor, others: list[Tensor], x: Tensor) -> Tensor:
    z = z0.expand(len(x), -1)
    for i, other in enumerate(others):
        z = slerp(z, other, x[:, i : i + 1])
    return z
