"""Steps from parabolas through a few values: along some coordinates, or in the span of a few vectors.

What ``coordinate_newton`` asks in one round, and how it reads the answers; the formulas are there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from blackbox.order import FloatArray
from blackbox.probe import Candidate, DenseCandidate

REACH = 100.0
"""The longest step, in widths."""
APART = 0.3
"""How far the probes in a span lie, in lengths of its vectors."""

Change = tuple[Any, Any]
"""Places of a vector, and what is added there."""


class Near(Sequence[Candidate]):
    """Vectors that differ from x in some places; each is made when it is looked at, as x may be long."""

    def __init__(self, x: FloatArray, changes: Sequence[Change]) -> None:
        self.x, self.changes = x, changes

    def __len__(self) -> int:
        return len(self.changes)

    @overload
    def __getitem__(self, at: int) -> DenseCandidate: ...
    @overload
    def __getitem__(self, at: slice) -> Near: ...
    def __getitem__(self, at: int | slice) -> DenseCandidate | Near:
        if isinstance(at, slice):
            return Near(self.x, self.changes[at])
        places, step = self.changes[at]
        point = self.x.copy()
        point[places] += step
        return DenseCandidate(point)


class Steps(ABC):
    """What a round asks, and the step that the answers suggest.

    Attributes:
        count: probes.
        places: coordinates that the step moves; a slice for all.
        step: [len(places)].
        gain: what it should gain.
        tried: (phase, index, factor) of every step asked about.
    """

    in_span = False
    count = 0
    places: Any = slice(None)
    step: FloatArray = np.zeros(0)
    gain = 0.0

    def __init__(self) -> None:
        self.tried: list[tuple[int, int, float]] = []

    @abstractmethod
    def probes(self) -> list[Change]:
        """What is added to x, ``count`` times."""

    @abstractmethod
    def fit(self, values: FloatArray, here: float) -> None:
        """Work out the step from the probes' values [count] and that of x."""


class Block(Steps):
    """Probes along some coordinates: two each, or one where the curvatures are given.

    Attributes:
        measured: whether the curvatures aren't given.
    """

    def __init__(self, places: Any, widths: FloatArray, curvatures: FloatArray | None) -> None:
        super().__init__()
        self.places, self.widths = places, widths
        self._given = curvatures
        self.measured = curvatures is None
        self.count = len(places) * (2 if curvatures is None else 1)

    def probes(self) -> list[Change]:
        """h_i e_i, then -h_i e_i."""
        ahead: list[Change] = list(zip(self.places.tolist(), self.widths.tolist(), strict=True))
        return ahead if self._given is not None else ahead + [(i, -h) for i, h in ahead]

    def fit(self, values: FloatArray, here: float) -> None:
        """A coordinate whose probe failed stays where it is."""
        n, h = len(self.places), self.widths
        above = values[:n]
        if self._given is None:
            below = values[n:]
            c, s = (above + below - 2 * here) / h**2, (above - below) / (2 * h)
        else:
            c = self._given
            s = (above - here) / h - 0.5 * c * h
        reach = REACH * np.abs(h)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = np.clip(-s / c, -reach, reach)
        t = np.where(c > 0, newton, -np.sign(s) * 2 * np.abs(h))
        known = np.isfinite(t) & np.isfinite(c)
        self.step = np.where(known, t, 0.0)
        self.curvatures = np.where(known, c, math.nan)
        self.flat = known & (s == 0) & (c == 0)
        self.gain = float(-(s * t + 0.5 * c * t * t)[known].sum())


class Span(Steps):
    """Probes in the span of a basis [d, m]: along each vector both ways, and along each pair."""

    in_span = True

    def __init__(self, basis: FloatArray) -> None:
        super().__init__()
        self.basis = basis
        m = basis.shape[1]
        self._pairs = np.array([(j, k) for j in range(m) for k in range(j)], dtype=np.int64).reshape(-1, 2)
        self.count = 2 * m + len(self._pairs)

    def probes(self) -> list[Change]:
        """e a_j, then -e a_j, then e a_j + e a_k."""
        along = APART * self.basis.T
        pairs = along[self._pairs[:, 0]] + along[self._pairs[:, 1]]
        return [(self.places, step) for step in np.concatenate([along, -along, pairs])]

    def fit(self, values: FloatArray, here: float) -> None:
        """Newton's step with the absolute eigenvalues of the scaled Hessian; none if a probe failed."""
        m, e = self.basis.shape[1], APART
        self.step = np.zeros(len(self.basis))
        if not np.isfinite(values).all():
            return
        above, below, both = values[:m], values[m : 2 * m], values[2 * m :]
        gradient, hessian = (above - below) / (2 * e), np.diag((above + below - 2 * here) / e**2)
        j, k = self._pairs.T
        hessian[j, k] = hessian[k, j] = (both - above[j] - above[k] + here) / e**2
        scale = np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
        with np.errstate(over="ignore", invalid="ignore"):  # where f is straight along a vector, but for rounding
            scaled = hessian / scale / scale[:, None]
            if not np.isfinite(scaled).all():
                return
            eigenvalues, vectors = np.linalg.eigh(scaled)
            steps = vectors @ ((vectors.T @ (gradient / scale)) / np.maximum(np.abs(eigenvalues), 1e-8))
            step = -(self.basis @ (steps / scale))
        self.step = step if np.isfinite(step).all() else self.step
