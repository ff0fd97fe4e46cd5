"""Raters who said it once already: recorded human judgements, answered again to whoever asks.

A problem knows what its candidates have to do with the records: which recorded item a candidate is, or how well a
candidate agrees with what a person said. These oracles let only each person's order through, under their own name. What
nobody said is skipped, which isn't bad; ties stay ties. Nothing is drawn but who is asked.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from blackbox.errors import UserError
from blackbox.feedback import Cost, Failed, Feedback, Preferences, Ranking, add_cost
from blackbox.objective import cost_of
from blackbox.parameters import Parameters
from blackbox.probe import Context, Query, by_context, ids_of
from blackbox.seeds import derive_seed
from oracles.asking import candidates_of, parts
from oracles.base import LocalOracle
from oracles.door import reason_of

FloatArray = npt.NDArray[np.float64]
Pairs = Sequence[tuple[int, int]]
One = TypeVar("One")


@runtime_checkable
class Rated(Protocol):
    """A problem with recorded ratings."""

    def recorded_ratings(self, candidates: Any, context: Context) -> tuple[Sequence[str], FloatArray]:
        """Names of people, each once, and their ratings of n candidates [n, people]: higher is better, NaN is none."""


@runtime_checkable
class Compared(Protocol):
    """A problem with recorded comparisons."""

    def recorded_comparisons(self, candidates: Any, context: Context) -> Mapping[str, Pairs]:
        """Each person's comparisons of n candidates, as (better, worse) positions; a tie is there both ways."""


class _Replayed(LocalOracle):
    def __init__(self, problem: Any, raters: int | None, seed: int) -> None:
        if raters is not None and raters < 1:
            raise UserError(f"raters is how many people answer: at least 1, not {raters}.")
        self.problem, self.raters, self.seed = problem, raters, seed

    def answer(self, queries: Sequence[Query], parameters: Parameters) -> Sequence[Feedback]:
        """What the people said of all queries that share a context; one Failed where the problem raised."""
        return [
            feedback
            for part, keywords in parts(queries, by_context=True)
            for feedback in self._of_part(part, candidates_of(part, parameters, "numpy"), keywords["context"])
        ]

    def cost(self, queries: Sequence[Query]) -> Cost:
        """Queries, and what the problem counts."""
        total: Cost = {"queries": len(queries)}
        for context, same in by_context(queries) if hasattr(self.problem, "cost") else ():
            add_cost(total, {coin: len(same) * one for coin, one in cost_of(self.problem, context).items()})
        return total

    def _of_part(self, queries: Sequence[Query], candidates: Any, context: Context) -> list[Feedback]:
        began, ids = time.perf_counter(), ids_of(queries)
        cost = self.cost(queries)
        try:
            said = self._said(ids, candidates, context)
        except Exception as error:  # whatever a problem of the user's raises
            return [Failed(ids, reason_of(error), cost)]
        judged = {one for feedback in said for one in feedback.ids}
        unjudged = tuple(i for i in ids if i not in judged)
        if unjudged:
            said.append(Ranking((), unjudged, cost={"queries": 0.0}))
        add_cost(said[0].cost, {**cost, "seconds": time.perf_counter() - began})
        return said

    def _drawn(self, people: Iterable[One], ids: Sequence[str]) -> list[One]:
        """Those of the people who are asked this time, in their order."""
        every = list(people)
        if self.raters is None or self.raters >= len(every):
            return every
        chance = np.random.Generator(np.random.Philox(key=derive_seed(self.seed, f"raters of {ids[0]}")))
        return [every[i] for i in np.sort(chance.choice(len(every), self.raters, replace=False))]

    @abstractmethod
    def _said(self, ids: Sequence[str], candidates: Any, context: Context) -> list[Feedback]:
        """An answer a person, with a cost that counts no queries."""


class ReplayedRatings(_Replayed):
    """A ranking by each person who rated at least two of the candidates that are asked about together.

    Args:
        problem: one with ``recorded_ratings``.
        raters: how many of these people answer, drawn anew each time; all if left out.
        seed: of the draws, which are a function of it and the queries' ids.

    Raises:
        UserError: the problem has no ratings, or ``raters`` is less than 1.
    """

    answers = frozenset({Ranking, Failed})

    def __init__(self, problem: Any, raters: int | None = None, seed: int = 0) -> None:
        if not isinstance(problem, Rated):
            raise UserError(f"{type(problem).__name__} has no recorded ratings: it doesn't implement recorded_ratings.")
        super().__init__(problem, raters, seed)

    def _said(self, ids: Sequence[str], candidates: Any, context: Context) -> list[Feedback]:
        names, ratings = self.problem.recorded_ratings(candidates, context)
        if np.shape(ratings) != (len(ids), len(names)):
            raise ValueError(f"got ratings {list(np.shape(ratings))} for {len(ids)} candidates and {len(names)} people")
        people = np.flatnonzero((~np.isnan(ratings)).sum(0) > 1)
        return [_ranking(ids, ratings[:, i], names[i]) for i in self._drawn(people.tolist(), ids)]


class ReplayedComparisons(_Replayed):
    """The recorded pairs of each person who compared some of the candidates that are asked about together.

    A candidate that none of them compared is in a ranking of skipped ones.

    Args:
        problem: one with ``recorded_comparisons``.
        raters: how many of these people answer, drawn anew each time; all if left out.
        seed: of the draws, which are a function of it and the queries' ids.

    Raises:
        UserError: the problem has no comparisons, or ``raters`` is less than 1.
    """

    answers = frozenset({Preferences, Ranking, Failed})

    def __init__(self, problem: Any, raters: int | None = None, seed: int = 0) -> None:
        if not isinstance(problem, Compared):
            name = type(problem).__name__
            raise UserError(f"{name} has no recorded comparisons: it doesn't implement recorded_comparisons.")
        super().__init__(problem, raters, seed)

    def _said(self, ids: Sequence[str], candidates: Any, context: Context) -> list[Feedback]:
        people = self.problem.recorded_comparisons(candidates, context)
        said: list[Feedback] = []
        for name, pairs in self._drawn([one for one in people.items() if one[1]], ids):
            named = tuple((ids[better], ids[worse]) for better, worse in pairs)
            # A tie is one judgement, though it is there both ways.
            judged = float(len({frozenset(pair) for pair in named}))
            said.append(Preferences(named, name, cost={"queries": 0.0, "judgements": 1.0, "comparisons": judged}))
        return said


def _ranking(ids: Sequence[str], ratings: FloatArray, name: str) -> Ranking:
    """Best first; equal ratings are a tie, NaN is skipped."""
    levels = np.unique(ratings[~np.isnan(ratings)])[::-1]
    groups = tuple(tuple(ids[i] for i in np.flatnonzero(ratings == level).tolist()) for level in levels)
    skipped = tuple(ids[i] for i in np.flatnonzero(np.isnan(ratings)).tolist())
    sizes = [len(group) for group in groups]
    edges = (sum(sizes) ** 2 - sum(size**2 for size in sizes)) / 2
    return Ranking(groups, skipped, name, cost={"queries": 0.0, "rankings": 1.0, "comparisons": edges})
