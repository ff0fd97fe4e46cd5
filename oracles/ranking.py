"""Orders in place of values: any oracle of values, asked for a ranking or for pairs and nothing else.

For problems where only an order is to be had, these stand in for it: simulated raters of stated skill, whose mistakes
follow the models that rankings are usually described by. The numbers don't get through.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from blackbox.errors import UserError
from blackbox.feedback import Answers, Cost, Failed, Feedback, Preferences, Ranking, add_cost
from blackbox.parameters import Parameters
from blackbox.probe import Query, by_context, ids_of
from blackbox.seeds import derive_seed
from oracles.base import Oracle
from oracles.wrappers import Wrapper


@dataclass(frozen=True)
class Rater:
    """Somebody who puts candidates in order, and how well.

    Args:
        name: as the rankings carry it.
        weight: what the rater's word counts; positive.
        temperature: T of the Plackett-Luce model (for pairs Bradley-Terry): an order is drawn as if each value
            had Gumbel noise of scale T. 0 makes no such mistake. In units of the values.
        flip: probability that two neighbours closer than ``margin`` change places.
        margin: see ``flip``; in units of the values.
        relative: temperature and margin are multiples of the spread (standard deviation) of the values that are
            put in order, which keeps the rater's skill the same while they shrink.
    """

    name: str = ""
    weight: float = 1.0
    temperature: float = 0.0
    flip: float = 0.0
    margin: float = 0.0
    relative: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise UserError(f"weight must be positive, not {self.weight}.")
        if not 0 <= self.temperature < math.inf or not 0 <= self.margin < math.inf:
            raise UserError("temperature and margin must be finite and 0 or more.")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip is a probability, not {self.flip}.")

    def unit(self, values: np.ndarray) -> float:
        """What temperature and margin are measured in."""
        return float(values.std()) if self.relative else 1.0


class _Judged(Wrapper):
    """Waits until all queries asked together have values, then judges them."""

    def __init__(self, oracle: Oracle, raters: Sequence[Rater] | None, seed: int) -> None:
        super().__init__(oracle)
        self.answers = type(self).answers  # not what the inner oracle answers
        self._need_values()
        self.raters = tuple(raters) if raters else (Rater(),)
        names = [rater.name for rater in self.raters]
        if len(set(names)) < len(names):
            raise UserError(f"Raters need names of their own; got {names}.")
        self.seed = seed
        self._open: list[tuple[str, ...]] = []
        self._known = Answers()
        self._done: set[str] = set()
        self._cost: Cost = {}

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Asks for the values; what is asked together in one context is judged together."""
        waiting = {i for ids in self._open for i in ids}
        for _, part in by_context(queries):
            ids = tuple([i for i in ids_of(part) if i not in waiting])
            if ids:
                self._open.append(ids)
        self.oracle.submit(queries, parameters)

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """Judgements of what is complete, and failures."""
        feedback: list[Feedback] = []
        for one in self.oracle.poll(timeout):
            self._known.add(one)
            self._done.update(one.ids)
            if isinstance(one, Failed):
                feedback.append(one)
            else:
                add_cost(self._cost, one.cost)
        for ids in [ids for ids in self._open if self._done.issuperset(ids)]:
            self._open.remove(ids)
            self._done.difference_update(ids)
            values = self._known.values(ids)
            values = values if values.ndim == 1 else values.mean(1)
            there = ~np.isnan(values)
            feedback += self._judge([i for i, known in zip(ids, there, strict=True) if known], values[there])
        if not self._open:
            self._known = Answers()
        return feedback

    @abstractmethod
    def _judge(self, ids: Sequence[str], values: np.ndarray) -> list[Feedback]:
        """The judgements of queries with these values [n]."""

    def _take_cost(self, judgements: str, comparisons: float) -> Cost:
        """The values' cost goes to the first judgement; every judgement counts itself."""
        cost, self._cost = self._cost, {}
        return {"queries": 0.0, **cost, judgements: 1.0, "comparisons": comparisons}

    def _generator(self, rater: Rater, what: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=derive_seed(self.seed, f"{rater.name} on {what}")))


class Ranked(_Judged):
    """An (m, k)-ranking of the m candidates that are asked about together.

    Args:
        oracle: one that answers Values.
        top: k, how many are put in order; the others come after them without an order. All if left out.
        tie: candidates whose values differ by at most this from the best of their group are tied.
        raters: who answers, each with a ranking of their own; one that makes no mistakes if left out.
        seed: of the raters' mistakes, which are a function of it, the rater and the query.
    """

    answers = frozenset({Ranking, Failed})

    def __init__(
        self,
        oracle: Oracle,
        top: int | None = None,
        tie: float = 0.0,
        raters: Sequence[Rater] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(oracle, raters, seed)
        if top is not None and top < 1:
            raise UserError(f"top is a number of candidates: at least 1, not {top}.")
        if not 0 <= tie < math.inf:
            raise UserError(f"tie is a difference of values: 0 or more and finite, not {tie}.")
        self.top = top
        self.tie = tie

    def _judge(self, ids: Sequence[str], values: np.ndarray) -> list[Feedback]:
        return [self._ranking(rater, ids, values) for rater in self.raters] if len(ids) else []

    def _ranking(self, rater: Rater, ids: Sequence[str], values: np.ndarray) -> Ranking:
        unit = rater.unit(values)
        seen = values
        if rater.temperature:
            seen = values - rater.temperature * unit * np.array([self._generator(rater, i).gumbel() for i in ids])
        order = np.argsort(seen, kind="stable").tolist()
        if rater.flip:
            chance = self._generator(rater, f"{ids[0]} and others")
            for a, b in zip(range(len(order)), range(1, len(order)), strict=False):
                close = seen[order[b]] - seen[order[a]] < rater.margin * unit
                if close and chance.random() < rater.flip:
                    order[a], order[b] = order[b], order[a]
        groups = self._top(_tied(order, seen, self.tie))
        named = tuple(tuple(ids[i] for i in group) for group in groups)
        sizes = [len(group) for group in groups]
        edges = (sum(sizes) ** 2 - sum(size**2 for size in sizes)) / 2
        return Ranking(named, (), rater.name, rater.weight, self._take_cost("rankings", edges))

    def _top(self, groups: list[list[int]]) -> list[list[int]]:
        """The groups that hold the first k candidates, then all others as one."""
        if self.top is None:
            return groups
        kept, count = 0, 0
        while kept < len(groups) and count < self.top:
            count += len(groups[kept])
            kept += 1
        rest = [i for group in groups[kept:] for i in group]
        return [*groups[:kept], rest] if rest else groups


class Pairwise(_Judged):
    """Pairs of candidates, each with the better one named.

    Args:
        oracle: one that answers Values.
        pairs: "neighbours" compares the first with the second candidate, the third with the fourth and so on;
            "all" compares every two.
        tie: candidates whose values differ by at most this are named as better both ways, which cancels.
        raters: who answers; one that makes no mistakes if left out. ``flip`` applies to pairs closer than ``margin``.
        seed: of the raters' mistakes.
    """

    answers = frozenset({Preferences, Failed})

    def __init__(
        self,
        oracle: Oracle,
        pairs: Literal["neighbours", "all"] = "neighbours",
        tie: float = 0.0,
        raters: Sequence[Rater] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(oracle, raters, seed)
        if pairs not in ("neighbours", "all"):
            raise UserError(f"pairs is 'neighbours' or 'all', not {pairs!r}.")
        if not 0 <= tie < math.inf:
            raise UserError(f"tie is a difference of values: 0 or more and finite, not {tie}.")
        self.pairs = pairs
        self.tie = tie

    def _judge(self, ids: Sequence[str], values: np.ndarray) -> list[Feedback]:
        if len(ids) == 1:
            return [Failed((ids[0],), "there is nothing to compare it with")]
        places = range(len(ids))
        if self.pairs == "all":
            asked = [(a, b) for a in places for b in places if a < b]
        else:
            asked = [(a, min(a + 1, len(ids) - 1)) for a in places[::2]]
            asked = [(a, b) if a != b else (a - 1, a) for a, b in asked]  # one left over: with the last but one
        return [self._preferences(rater, asked, ids, values) for rater in self.raters]

    def _preferences(
        self, rater: Rater, asked: Sequence[tuple[int, int]], ids: Sequence[str], values: np.ndarray
    ) -> Preferences:
        unit = rater.unit(values)
        named: list[tuple[str, str]] = []
        for a, b in asked:
            gap = float(values[b] - values[a])  # positive: a is better
            if abs(gap) <= self.tie:
                named += [(ids[a], ids[b]), (ids[b], ids[a])]
                continue
            chance = self._generator(rater, f"{ids[a]} and {ids[b]}")
            if rater.temperature and unit:
                gap += rater.temperature * unit * chance.logistic()
            if rater.flip and abs(gap) < rater.margin * unit and chance.random() < rater.flip:
                gap = -gap
            named.append((ids[a], ids[b]) if gap >= 0 else (ids[b], ids[a]))
        cost = self._take_cost("judgements", float(len(asked)))
        return Preferences(tuple(named), rater.name, rater.weight, cost)


def _tied(order: Sequence[int], values: np.ndarray, tie: float) -> list[list[int]]:
    groups: list[list[int]] = []
    for i in order:
        if groups and abs(values[i] - values[groups[-1][0]]) <= tie:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups
