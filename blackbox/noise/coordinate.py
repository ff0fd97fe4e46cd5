"""Coordinate noise: z(seed) = sqrt(d) e_i with i = seed mod d, so E z z^T = I for uniform seeds.

A seed below d names a coordinate outright, which is how coordinate-wise estimators enumerate them. sqrt(d) goes into
the coefficient (``scale``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from blackbox.layout import Layout, TensorSpec
from blackbox.noise.base import GROUP, Law


@dataclass(frozen=True)
class Coordinate(Law):
    """One coordinate a seed."""

    tag: ClassVar[str] = "coordinate/1"
    grouped: ClassVar[bool] = False

    def groups(self, key: Tensor, low: Tensor, high: int = 0) -> Tensor:
        """A coordinate is no function of a hash; ``sample`` and ``rows`` are overridden instead."""
        return torch.zeros(*low.shape, GROUP, device=low.device)

    def scale(self, seed: int, layout: Layout) -> float:
        """sqrt(d)."""
        return math.sqrt(layout.dimension)

    def sample(
        self, seeds: Sequence[int], spec: TensorSpec, start: int, stop: int, device: torch.device | str = "cpu"
    ) -> Tensor:
        """As in the base: a 1 where the seed's coordinate falls into the slice."""
        out = torch.zeros(len(seeds), stop - start, device=device)
        index = torch.tensor([seed % spec.dimension - spec.offset - start for seed in seeds])
        inside = ((index >= 0) & (index < stop - start)).nonzero()[:, 0]
        out[inside.to(device), index[inside].to(device)] = 1.0
        return out

    def rows(self, seed: int, spec: TensorSpec, rows: Tensor) -> Tensor:
        """As in the base."""
        width = spec.shape[-1]
        index = seed % spec.dimension - spec.offset
        out = torch.zeros(len(rows), width, device=rows.device)
        if 0 <= index < spec.numel:
            out[rows == index // width, index % width] = 1.0
        return out
