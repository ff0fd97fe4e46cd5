"""A subspace of past estimates, kept as seeds and weights.

An estimate made of fresh noise and of the subspace of past ones adds nothing but its fresh part to their span, so that
is all that is kept: k rounds of q seeds each, whatever they were built on. No vector of the parameters' size exists.
A basis is orthonormalised by inner products that follow from the seeds (``blackbox.noise.gram``); it costs k q d
elements of noise a round, on the CPU, and a probe in it is a sum of k q seeds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from blackbox.direction import SeedTerms
from blackbox.errors import UserError
from blackbox.layout import Layout
from blackbox.noise import Law
from blackbox.noise.gram import combined_gram

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_SINGULAR = 1e-10
"""Directions whose square falls below this share of the largest, once made orthogonal, add nothing to a span."""


class PastDirections:
    """The fresh parts of the last estimates.

    Args:
        law: the law of their seeds.
        size: k, how many are kept.
    """

    def __init__(self, law: Law, size: int) -> None:
        if size < 1:
            raise UserError(f"history is a number of past estimates: at least 1, not {size}.")
        self.law = law
        self._kept: deque[SeedTerms] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def terms(self) -> list[SeedTerms]:
        """The newest first."""
        return list(self._kept)

    @property
    def full(self) -> bool:
        """Whether k are kept."""
        return len(self._kept) == self._kept.maxlen

    def add(self, seeds: IntArray, weights: FloatArray) -> None:
        """Keep one more; a direction of no length isn't one."""
        used = weights != 0
        if used.any():
            self._kept.appendleft(SeedTerms(self.law, seeds[used], weights[used]))

    def state_dict(self) -> dict[str, Any]:
        """Seeds and weights."""
        return {"past": [[terms.seeds.tolist(), terms.weights.tolist()] for terms in self._kept]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        kept = [SeedTerms(self.law, np.array(s, np.int64), np.array(w, np.float64)) for s, w in state["past"]]
        self._kept = deque(kept, maxlen=self._kept.maxlen)


def orthonormal(law: Law, terms: Sequence[SeedTerms], layout: Layout) -> tuple[IntArray, FloatArray]:
    """An orthonormal basis of the span of some directions: seeds [m] and rows [r, m], u_k = sum_i rows[k, i] z(s_i)."""
    if not terms:
        return np.zeros(0, np.int64), np.zeros((0, 0))
    seeds = np.concatenate([one.seeds for one in terms])
    rows = np.zeros((len(terms), len(seeds)))
    start = 0
    for row, one in zip(rows, terms, strict=True):
        row[start : start + len(one.seeds)] = one.weights
        start += len(one.seeds)
    # To unit length first: estimates of different rounds may differ by orders of magnitude.
    products = combined_gram(law, seeds.tolist(), rows, layout)
    lengths = np.sqrt(np.diag(products))
    squares, vectors = np.linalg.eigh(products / np.outer(lengths, lengths))
    kept = squares > _SINGULAR * squares[-1]
    return seeds, (vectors[:, kept] / np.sqrt(squares[kept])).T @ (rows / lengths[:, None])
