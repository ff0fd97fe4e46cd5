"""Mean and spread of vectors that come in batches, merged without loss of digits.

    n = n_a + n_b,   d = m_b - m_a,   m = m_a + d n_b/n,   M = M_a + M_b + d^2 n_a n_b/n

with m the mean and M the sum of squared deviations (Chan, Golub and LeVeque 1979).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from problems.control.policies import Array


@dataclass(frozen=True)
class Moments:
    """Of n vectors: their ``count``, ``mean`` [o] and ``squares`` [o], sums of squared deviations from it."""

    count: int
    mean: Array
    squares: Array

    @classmethod
    def of(cls, vectors: Array) -> Moments:
        """Of vectors [n, o]."""
        if not len(vectors):
            return cls.none(vectors.shape[1])
        mean = vectors.mean(0)
        return cls(len(vectors), mean, ((vectors - mean) ** 2).sum(0))

    @classmethod
    def none(cls, size: int) -> Moments:
        """Of no vectors of o numbers."""
        return cls(0, np.zeros(size), np.zeros(size))

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Moments:
        """What ``to_json`` gave."""
        return cls(int(state["count"]), np.array(state["mean"], float), np.array(state["squares"], float))

    def to_json(self) -> dict[str, Any]:
        """JSON values, exact."""
        return {"count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if count == 0:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        squares = self.squares + other.squares + apart**2 * (self.count * other.count / count)
        return Moments(count, mean, squares)

    @property
    def whitening(self) -> tuple[Array, Array]:
        """(mean, standard deviation); 1 where nothing varies."""
        spread = np.sqrt(self.squares / max(self.count, 1))
        return self.mean, np.where(spread > 1e-8, spread, 1.0)
