"""What is learnt: a direction sum_i w_i z(s_i), plus coordinate and dense terms. It adds and scales.

Applying it to tensors is ``Parameters.apply``'s business; a direction holds no noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blackbox.noise.base import Law


@dataclass(frozen=True, slots=True, eq=False)
class SeedTerms:
    """sum_i weights[i] z(seeds[i]) of one law. ``seeds`` int64 [k], ``weights`` float64 [k]."""

    law: Law
    seeds: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class CoordinateTerms:
    """sum_i weights[i] e(indices[i]) within one tensor: int64 [k] flat indices, float64 [k] weights."""

    tensor: str
    indices: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class DenseTerm:
    """scale * values within one tensor. ``values`` has the tensor's shape."""

    tensor: str
    values: Tensor
    scale: float = 1.0


Term = SeedTerms | CoordinateTerms | DenseTerm


@dataclass(frozen=True, slots=True)
class Direction:
    """A sum of terms; immutable."""

    terms: tuple[Term, ...] = ()

    def __add__(self, other: Direction) -> Direction:
        return Direction(self.terms + other.terms)

    def __mul__(self, factor: float) -> Direction:
        return Direction(tuple(_scaled(term, factor) for term in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> Direction:
        return self * -1.0


def _scaled(term: Term, factor: float) -> Term:
    match term:
        case SeedTerms():
            return SeedTerms(term.law, term.seeds, term.weights * factor)
        case CoordinateTerms():
            return CoordinateTerms(term.tensor, term.indices, term.weights * factor)
        case DenseTerm():
            return DenseTerm(term.tensor, term.values, term.scale * factor)


def dense(tensor: str, values: Tensor) -> Direction:
    """A direction given whole for one tensor (a snapshot: later changes of ``values`` don't matter)."""
    return Direction((DenseTerm(tensor, values.detach().clone(memory_format=torch.preserve_format)),))
