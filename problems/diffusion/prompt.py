"""What is added to a prompt's embedding, and by which numbers.

With the embedding E of d = tokens * width numbers, and r the root of their mean square, the offset is

    full     r scale x,                     x in R^d
    a size   r scale sqrt(d / size) Q x,    x in R^size, Q [d, size] orthonormal, drawn from the seed

so that numbers x of size 1 move an embedding by ``scale`` of its own size. The search starts from x = 0, the prompt.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.seeds import derive_seed


class PromptOffset:
    """An offset that is searched.

    Args:
        size: dimension of a random subspace; all numbers of the embedding if left out.
        scale: how far numbers of size 1 move the embedding, as a share of its size.
        seed: of the subspace.

    Raises:
        UserError: a size or scale that isn't positive.
    """

    def __init__(self, size: int | None = None, scale: float = 0.1, seed: int = 0) -> None:
        if size is not None and size < 1:
            raise UserError(f"size must be 1 or more, not {size}.")
        if not 0 < scale < math.inf:
            raise UserError(f"scale must be positive and finite, not {scale}.")
        self.size, self.scale, self.seed = size, scale, seed

    def around(self, embedding: Tensor) -> Offsets:
        """For an embedding [tokens, width]; UserError if ``size`` is too large for it."""
        d = embedding.numel()
        unit = self.scale * float(embedding.double().square().mean().sqrt())
        if self.size is None:
            return Offsets(embedding.shape, d, unit, None)
        if self.size > d:
            raise UserError(f"size: {self.size} is too large for an embedding {list(embedding.shape)}; at most {d}.")
        draws = np.random.Generator(np.random.Philox(key=derive_seed(self.seed, "prompt")))
        basis = torch.from_numpy(np.linalg.qr(draws.standard_normal((d, self.size)))[0])
        return Offsets(embedding.shape, self.size, unit * math.sqrt(d / self.size), basis)


class Offsets:
    """Vectors [n, size] -> offsets [n, tokens, width], float32.

    Attributes:
        size: numbers that are searched.
    """

    def __init__(self, shape: torch.Size, size: int, unit: float, basis: Tensor | None) -> None:
        self.size = size
        self._shape, self._unit, self._basis = shape, unit, basis

    def __call__(self, vectors: Tensor) -> Tensor:
        """UserError for vectors of another length."""
        if vectors.ndim != 2 or vectors.shape[1] != self.size:
            raise UserError(f"prompt_offset: [n, {self.size}] is needed, got {list(vectors.shape)}.")
        flat = vectors.detach().cpu().double()
        flat = flat if self._basis is None else flat @ self._basis.T
        return (self._unit * flat).float().reshape(len(vectors), *self._shape)
