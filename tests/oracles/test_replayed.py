"""Replayed raters, against tables and pairs written down here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from blackbox import Budget, Parameters, Session, UserError, run
from blackbox.estimators import RankEstimator
from blackbox.feedback import Answers, Failed, Preferences, Ranking
from blackbox.optimizers import SGD
from blackbox.order import order_of
from blackbox.probe import Context
from blackbox.strategies import GradientStrategy
from blackbox.testing.oracles import OracleSuite
from oracles import ReplayedComparisons, ReplayedRatings

NAN = float("nan")


class Shelf:
    """Items 0, 1, 2, 3; a candidate stands for the item that its first coordinate rounds to."""

    def __init__(self, ratings: Any = (), said: Mapping[str, Any] | None = None) -> None:
        self.ratings, self.said = np.array(ratings, dtype=np.float64), said or {}

    def recorded_ratings(self, candidates: Any, context: Context) -> Any:
        return [f"person {i}" for i in range(self.ratings.shape[1])], self.ratings[self._items(candidates)]

    def recorded_comparisons(self, candidates: Any, context: Context) -> Any:
        place = {int(item): i for i, item in enumerate(self._items(candidates))}
        return {
            rater: [(place[a], place[b]) for a, b in pairs if a in place and b in place]
            for rater, pairs in self.said.items()
        }

    def _items(self, candidates: Any) -> Any:
        return np.clip(np.round(candidates[:, 0]), 0, 3).astype(int)


RATINGS = [[3, 1, NAN, NAN], [3, 2, 5, NAN], [4, NAN, 5, NAN], [-1, 0, NAN, 2]]


def asked(oracle: Any, asks: Any, items: Any, parameters: Parameters) -> Any:
    oracle.submit(asks([[float(item), 0.0, 0.0] for item in items]), parameters)
    return oracle.poll()


def test_each_person_ranks_what_they_rated(asks: Any, parameters: Parameters) -> None:
    found = asked(ReplayedRatings(Shelf(RATINGS)), asks, [0, 1, 2, 3], parameters)
    assert [(one.rater, one.groups, one.skipped) for one in found] == [
        ("person 0", (("0.0.2",), ("0.0.0", "0.0.1"), ("0.0.3",)), ()),
        ("person 1", (("0.0.1",), ("0.0.0",), ("0.0.3",)), ("0.0.2",)),
        ("person 2", (("0.0.1", "0.0.2"),), ("0.0.0", "0.0.3")),
        # Person 3 rated one of them only, which is no order.
    ]
    assert [one.cost["comparisons"] for one in found] == [5, 3, 0]
    assert sum(one.cost["queries"] for one in found) == 4


def test_skipped_is_not_bad(asks: Any, parameters: Parameters) -> None:
    """A candidate that nobody rated has no edge, for or against."""
    found = asked(ReplayedRatings(Shelf([[1], [NAN], [3], [2]])), asks, [0, 1, 2, 3], parameters)
    order = order_of(Answers(found), [f"0.0.{i}" for i in range(4)])
    assert order.edges == 3 and order.wins.tolist() == [-2, 0, 2, 0]


def test_who_answers_is_drawn_from_the_seed(asks: Any, parameters: Parameters) -> None:
    ratings = np.arange(4)[:, None] * np.ones(200)

    def names(seed: int) -> list[str]:
        return [one.rater for one in asked(ReplayedRatings(Shelf(ratings), 5, seed), asks, [0, 1], parameters)]

    assert names(1) == names(1) and len(set(names(1))) == 5
    assert names(1) != names(2)


def test_everybody_is_drawn_equally_often(parameters: Parameters, asks: Any) -> None:
    """Over 400 rounds each of ten people is one of three in 120 of them; 4 standard deviations are 37."""
    oracle = ReplayedRatings(Shelf(np.arange(4)[:, None] * np.ones(10)), 3, seed=4)
    counts = dict.fromkeys([f"person {i}" for i in range(10)], 0)
    for step in range(400):
        queries = asks([[0.0, 0, 0], [1.0, 0, 0]])
        for query in queries:
            query.id = f"{step}{query.id[1:]}"
        oracle.submit(queries, parameters)
        for one in oracle.poll():
            counts[one.rater] += 1
    assert sum(counts.values()) == 1200 and all(abs(count - 120) < 37 for count in counts.values())


def test_comparisons_are_those_recorded(asks: Any, parameters: Parameters) -> None:
    said = {"ann": [(2, 0), (0, 1), (1, 0)], "bob": [(3, 1)], "cy": []}
    found = asked(ReplayedComparisons(Shelf(said=said)), asks, [2, 0, 1], parameters)
    assert [type(one) for one in found] == [Preferences]
    assert found[0].rater == "ann"
    assert found[0].pairs == (("0.0.0", "0.0.1"), ("0.0.1", "0.0.2"), ("0.0.2", "0.0.1"))
    assert found[0].cost["comparisons"] == 2  # one of them a tie, which is there both ways
    assert found[0].cost["queries"] == 3


def test_what_nobody_compared_is_skipped(asks: Any, parameters: Parameters) -> None:
    found = asked(ReplayedComparisons(Shelf(said={"ann": [(2, 0)]})), asks, [0, 1, 2, 3], parameters)
    assert [type(one) for one in found] == [Preferences, Ranking]
    assert found[1].groups == () and found[1].skipped == ("0.0.1", "0.0.3")
    nothing = asked(ReplayedComparisons(Shelf(said={"ann": []})), asks, [0, 1], parameters)
    assert [one.skipped for one in nothing] == [("0.0.0", "0.0.1")] and nothing[0].cost["queries"] == 2


def test_a_round_without_an_answer_moves_nothing(parameters: Parameters) -> None:
    strategy = GradientStrategy(RankEstimator(epsilon=0.1, probes=4), SGD(0.1))
    before = parameters.flat()
    result = run(Session(strategy, parameters), ReplayedComparisons(Shelf(said={"ann": []})), Budget(queries=12))
    assert result.steps == 3 and torch.equal(parameters.flat(), before)
    assert result.cost.get("failed", 0) == 0


def test_a_problem_that_raises_is_a_failure(asks: Any, parameters: Parameters) -> None:
    class Broken(Shelf):
        def recorded_ratings(self, candidates: Any, context: Context) -> Any:
            raise ValueError("the table is upside down")

    (failed,) = asked(ReplayedRatings(Broken()), asks, [0, 1], parameters)
    assert isinstance(failed, Failed) and failed.ids == ("0.0.0", "0.0.1") and "upside down" in failed.reason


def test_a_table_of_another_shape_is_a_failure(asks: Any, parameters: Parameters) -> None:
    class Short(Shelf):
        def recorded_ratings(self, candidates: Any, context: Context) -> Any:
            return ["ann"], np.zeros((1, 1))

    (failed,) = asked(ReplayedRatings(Short()), asks, [0, 1], parameters)
    assert isinstance(failed, Failed) and "[1, 1] for 2 candidates" in failed.reason


def test_mistakes_are_said() -> None:
    with pytest.raises(UserError, match="no recorded ratings"):
        ReplayedRatings(object())
    with pytest.raises(UserError, match="no recorded comparisons"):
        ReplayedComparisons(object())
    with pytest.raises(UserError, match="at least 1, not 0"):
        ReplayedRatings(Shelf(RATINGS), raters=0)


class TestRatings(OracleSuite):
    @pytest.fixture
    def oracle(self) -> Any:
        return ReplayedRatings(Shelf([[1.0, 4.0], [2.0, 3.0], [3.0, 2.0], [4.0, 1.0]]))


class TestComparisons(OracleSuite):
    @pytest.fixture
    def oracle(self) -> Any:
        return ReplayedComparisons(Shelf(said={"ann": [(0, 1)], "bob": [(3, 2)]}))
