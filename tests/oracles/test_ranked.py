"""Orders of values, and raters who make mistakes, against the models they are named after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from blackbox.errors import UserError
from blackbox.feedback import Failed, Preferences, Ranking
from blackbox.parameters import Parameters
from blackbox.probe import DenseCandidate, Query
from blackbox.testing.oracles import Oracle, OracleSuite
from oracles import FunctionOracle, Pairwise, Ranked, Rater


class TestRankedSuite(OracleSuite):
    @pytest.fixture
    def oracle(self) -> Oracle:
        return Ranked(FunctionOracle(lambda x: (x**2).sum(-1)), top=1)


class TestPairwiseSuite(OracleSuite):
    @pytest.fixture
    def oracle(self) -> Oracle:
        return Pairwise(FunctionOracle(lambda x: (x**2).sum(-1)), raters=[Rater("a"), Rater("b", temperature=1.0)])


def first(x: Any) -> Any:
    if x[0] > 90:
        raise ValueError("too big")
    return x[0]


def judge(make: Any, values: list[float], step: int = 0, **how: Any) -> Any:
    parameters = Parameters.from_vector([0.0])
    oracle = make(FunctionOracle(first), **how)
    oracle.submit([Query(f"{step}.0.{i}", DenseCandidate(np.array([v]))) for i, v in enumerate(values)], parameters)
    return oracle.poll()


def places(ranking: Ranking) -> list[list[int]]:
    return [[int(i.split(".")[2]) for i in group] for group in ranking.groups]


def test_best_first_ties_together_and_the_rest_without_order() -> None:
    (ranking,) = judge(Ranked, [3, 1, 2, 2, 5])
    assert places(ranking) == [[1], [2, 3], [0], [4]] and ranking.cost["comparisons"] == 9
    (ranking,) = judge(Ranked, [3, 1, 2, 2, 5], top=2)
    assert places(ranking) == [[1], [2, 3], [0, 4]]
    (ranking,) = judge(Ranked, [3, 1, 2, 2, 5], top=9)
    assert places(ranking) == [[1], [2, 3], [0], [4]]
    (ranking,) = judge(Ranked, [0.0, 0.4, 0.8, 1.2], tie=0.5)
    assert places(ranking) == [[0, 1], [2, 3]]


def test_values_do_not_get_through_and_failures_do() -> None:
    found = judge(Ranked, [3, 99, 2])
    assert {type(one) for one in found} == {Ranking, Failed}
    ranking = next(one for one in found if isinstance(one, Ranking))
    assert places(ranking) == [[2], [0]]
    assert sum(one.cost["queries"] for one in found) == 3


def test_every_rater_answers_and_queries_are_paid_once() -> None:
    found = judge(Ranked, [1, 2, 3], raters=[Rater("ann"), Rater("bob", weight=2.0)])
    assert [(one.rater, one.weight) for one in found] == [("ann", 1.0), ("bob", 2.0)]
    assert [one.cost["queries"] for one in found] == [3, 0]
    assert [one.cost["rankings"] for one in found] == [1, 1]


def test_plackett_luce_chances() -> None:
    """The best of values 0, 1, 2 at temperature 1 is drawn with the softmax of -values; then that of the rest."""
    trials = 6000
    counts = np.zeros((3, 3))
    for step in range(trials):
        (ranking,) = judge(Ranked, [0, 1, 2], step=step, raters=[Rater(temperature=1.0)])
        order = [group[0] for group in places(ranking)]
        counts[order[0], order[1]] += 1
    strength = np.exp(-np.arange(3.0))
    for a in range(3):
        for b in range(3):
            chance = 0.0 if a == b else strength[a] / strength.sum() * strength[b] / (strength.sum() - strength[a])
            assert counts[a, b] / trials == pytest.approx(chance, abs=4 * np.sqrt(0.25 / trials))


def test_bradley_terry_chances() -> None:
    trials = 4000
    wins = sum(
        judge(Pairwise, [0, 1], step=step, raters=[Rater(temperature=1.0)])[0].pairs[0][0].endswith(".0")
        for step in range(trials)
    )
    assert wins / trials == pytest.approx(1 / (1 + np.exp(-1)), abs=4 * np.sqrt(0.2 / trials))


def test_relative_skill_does_not_depend_on_the_scale() -> None:
    rater = [Rater(temperature=0.5, relative=True)]
    for step in range(20):
        large, small = (judge(Ranked, [s * v for v in (1, 2, 3, 4)], step, raters=rater) for s in (1.0, 1e-6))
        assert places(large[0]) == places(small[0])


def test_only_close_neighbours_change_places() -> None:
    rater = [Rater(flip=1.0, margin=0.5)]
    (ranking,) = judge(Ranked, [0.0, 0.1, 5.0, 5.1], raters=rater)
    assert places(ranking) == [[1], [0], [3], [2]]


def test_neighbours_are_compared_and_the_odd_one_with_the_one_before() -> None:
    (pairs,) = judge(Pairwise, [1, 2, 4, 3, 0])
    assert isinstance(pairs, Preferences)
    assert pairs.pairs == (("0.0.0", "0.0.1"), ("0.0.3", "0.0.2"), ("0.0.4", "0.0.3"))
    (pairs,) = judge(Pairwise, [1, 1], tie=0.1)
    assert pairs.pairs == (("0.0.0", "0.0.1"), ("0.0.1", "0.0.0"))


def test_one_alone_cannot_be_compared() -> None:
    found = judge(Pairwise, [1, 99])
    assert all(isinstance(one, Failed) for one in found)
    assert {i for one in found for i in one.ids} == {"0.0.0", "0.0.1"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Ranked(FunctionOracle(first), top=0), "top is a number of candidates"),
        (lambda: Ranked(FunctionOracle(first), tie=-1), "tie is a difference"),
        (lambda: Ranked(FunctionOracle(first), raters=[Rater(), Rater()]), "names of their own"),
        (lambda: Ranked(Ranked(FunctionOracle(first))), "needs an oracle that answers Values"),
        (lambda: Pairwise(FunctionOracle(first), pairs="some"), "'neighbours' or 'all'"),  # type: ignore[arg-type]
        (lambda: Rater(weight=0), "weight must be positive"),
        (lambda: Rater(flip=2), "flip is a probability"),
        (lambda: Rater(temperature=float("nan")), "finite and 0 or more"),
    ],
)
def test_bad_arguments_are_refused_in_words(make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()
