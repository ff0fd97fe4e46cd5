"""What is answered: Values, Slopes, Gradients, Ranking, Preferences or Failed, always with the ids of the queries.

Lower is better. A ranking is never turned into numbers, a failure is never a large number, and a NaN never gets this
far: oracles turn it into Failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from blackbox.errors import UserError

Cost = dict[str, float]
"""What answers cost: {"queries": n, "examples": n, "tokens": n, "seconds": s, ...}."""

FloatArray = npt.NDArray[np.float64]


def add_cost(total: Cost, more: Cost) -> None:
    """Add ``more`` into ``total`` in place."""
    for coin, amount in more.items():
        total[coin] = total.get(coin, 0) + amount


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """Numbers. ``values`` is float64 [n], or [n, batch] per example; row i answers ``ids[i]``."""

    ids: tuple[str, ...]
    values: FloatArray
    cost: Cost = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.ndim not in (1, 2) or len(self.values) != len(self.ids):
            raise UserError(
                f"Values for {len(self.ids)} queries must have shape [{len(self.ids)}] or "
                f"[{len(self.ids)}, batch], not {list(self.values.shape)}."
            )
        if not np.isfinite(self.values).all():
            bad = [i for i, row in zip(self.ids, self.values, strict=True) if not np.isfinite(row).all()]
            raise UserError(f"The value of query {bad[0]} is not finite. Answer Failed(('{bad[0]}',), reason) instead.")


@dataclass(frozen=True, slots=True, eq=False)
class Slopes:
    """Derivatives along probes, from an oracle that has access to the model; see ``oracles.DerivativeOracle``.

    ``slopes`` float64 [n]: d/dt f(base + t * displacement of query ids[i]) at t = 0. ``values`` float64 [n]: f(base).
    """

    ids: tuple[str, ...]
    slopes: FloatArray
    values: FloatArray
    cost: Cost = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.slopes.shape == self.values.shape == (len(self.ids),):
            raise UserError(
                f"Slopes of {len(self.ids)} queries must have shape [{len(self.ids)}], and as many values; not "
                f"{list(self.slopes.shape)} and {list(self.values.shape)}."
            )
        bad = ~(np.isfinite(self.slopes) & np.isfinite(self.values))
        if bad.any():
            first = self.ids[int(bad.argmax())]
            raise UserError(f"The slope of query {first} is not finite. Answer Failed(('{first}',), reason) instead.")


@dataclass(frozen=True, slots=True, eq=False)
class Gradients:
    """Values, and the gradient of some tensors where a query asked for it; see ``oracles.GradientOracle``.

    ``values`` float64 [n]: row i answers ``ids[i]``. ``gradients``: by tensor, float64, of its shape, at the base.
    """

    ids: tuple[str, ...]
    values: FloatArray
    gradients: Mapping[str, FloatArray]
    cost: Cost = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.ids),):
            raise UserError(f"Values of {len(self.ids)} queries have shape [{len(self.ids)}], not {self.values.shape}.")
        if not np.isfinite(self.values).all():
            bad = self.ids[int((~np.isfinite(self.values)).argmax())]
            raise UserError(f"The value of query {bad} is not finite. Answer Failed(('{bad}',), reason) instead.")
        for name, gradient in self.gradients.items():
            if not np.isfinite(gradient).all():
                raise UserError(f"The gradient of '{name}' is not finite. Answer Failed with the query's id instead.")


@dataclass(frozen=True, slots=True)
class Ranking:
    """An order: ``groups`` best first, an inner group is a tie. ``skipped`` ids were seen but not judged."""

    groups: tuple[tuple[str, ...], ...]
    skipped: tuple[str, ...] = ()
    rater: str = ""
    weight: float = 1.0
    cost: Cost = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = self.ids
        if len(set(named)) != len(named):
            raise UserError(f"A ranking names each query once; got {named}.")

    @property
    def ids(self) -> tuple[str, ...]:
        """Every query the ranking speaks of."""
        return tuple(i for group in self.groups for i in group) + self.skipped


@dataclass(frozen=True, slots=True)
class Preferences:
    """Pairs (better, worse)."""

    pairs: tuple[tuple[str, str], ...]
    rater: str = ""
    weight: float = 1.0
    cost: Cost = field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        """Every query named in a pair, once."""
        return tuple(dict.fromkeys(i for pair in self.pairs for i in pair))


@dataclass(frozen=True, slots=True)
class Failed:
    """No answer will come for these queries; ``reason`` says why in words."""

    ids: tuple[str, ...]
    reason: str
    cost: Cost = field(default_factory=dict)


Feedback = Values | Slopes | Gradients | Ranking | Preferences | Failed


class Answers:
    """The answers of one round, by query id. The order in which they came never matters."""

    def __init__(self, feedback: Iterable[Feedback] = ()) -> None:
        self._parts: list[Values] = []
        self.failed: dict[str, str] = {}
        self.rankings: list[Ranking] = []
        self.preferences: list[Preferences] = []
        self._slopes: dict[str, tuple[float, float]] = {}
        self.gradients: dict[str, FloatArray] = {}
        for one in feedback:
            self.add(one)

    def add(self, feedback: Feedback) -> None:
        """Take one more answer."""
        match feedback:
            case Values():
                self._parts.append(feedback)
            case Slopes():
                pairs = zip(feedback.slopes.tolist(), feedback.values.tolist(), strict=True)
                self._slopes.update(zip(feedback.ids, pairs, strict=True))
            case Gradients():
                self._parts.append(Values(feedback.ids, feedback.values))
                self.gradients.update(feedback.gradients)
            case Failed():
                self.failed.update(dict.fromkeys(feedback.ids, feedback.reason))
            case Ranking():
                self.rankings.append(feedback)
            case Preferences():
                self.preferences.append(feedback)

    @property
    def empty(self) -> bool:
        """Whether nothing but failures came."""
        return not (self._parts or self._slopes or self.rankings or self.preferences)

    def slopes(self, ids: Sequence[str]) -> tuple[FloatArray, FloatArray]:
        """Slopes and values, float64 [n] each; NaN where a query failed."""
        found = np.array([self._slopes.get(i, (np.nan, np.nan)) for i in ids], dtype=np.float64).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def values(self, ids: Sequence[str]) -> FloatArray:
        """float64 [n] or [n, batch]; the row of a failed query is NaN, so arithmetic on it can't go unnoticed."""
        if len(self._parts) == 1 and self._parts[0].ids == tuple(ids):
            return self._parts[0].values  # mostly one answer has all that is wanted
        known_rows = {i: row for part in self._parts for i, row in zip(part.ids, part.values, strict=True)}
        rows = [known_rows.get(i) for i in ids]
        known = next((row for row in rows if row is not None), None)
        if known is None:
            return np.full(len(rows), np.nan)
        missing = np.full(np.shape(known), np.nan)
        return np.array([missing if row is None else row for row in rows], dtype=np.float64)
