"""Oracles that answer with an order, by a judge or by people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from blackbox.feedback import Failed, Ranking
from blackbox.parameters import Parameters
from blackbox.probe import Query
from oracles import HumanOracle, RankingOracle


class Smallest(RankingOracle):
    """A whole ranking oracle of one's own."""

    def rank(self, candidates: Any) -> Any:
        return np.argsort(np.abs(candidates).sum(1))


class Says(RankingOracle):
    def __init__(self, order: Any) -> None:
        self.order = order

    def rank(self, candidates: Any) -> Any:
        return self.order


def test_an_oracle_of_ones_own_ranks_by_ids(asks: Any, parameters: Parameters) -> None:
    oracle = Smallest()
    oracle.submit(asks([[3, 0, 0], [1, 0, 0], [2, 0, 0]]), parameters)
    (ranking,) = oracle.poll()
    assert isinstance(ranking, Ranking)
    assert ranking.groups == (("0.0.1",), ("0.0.2",), ("0.0.0",)) and ranking.skipped == ()
    assert ranking.cost["queries"] == 3


def test_inner_lists_are_ties_and_missing_positions_are_skipped(asks: Any, parameters: Parameters) -> None:
    oracle = Says([2, [0, 3]])
    oracle.submit(asks([[0, 0, 0]] * 4), parameters)
    (ranking,) = oracle.poll()
    assert isinstance(ranking, Ranking)
    assert ranking.groups == (("0.0.2",), ("0.0.0", "0.0.3")) and ranking.skipped == ("0.0.1",)


@pytest.mark.parametrize("order", [[0, 0], [3], [-1], [0.5], [float("nan")], ["0"], None])
def test_an_impossible_order_fails_the_round(asks: Any, parameters: Parameters, order: Any) -> None:
    oracle = Says(order)
    oracle.submit(asks([[0, 0, 0]] * 3), parameters)
    (failed,) = oracle.poll()
    assert isinstance(failed, Failed) and failed.ids == ("0.0.0", "0.0.1", "0.0.2") and failed.reason


class Desk(HumanOracle):
    """People who answer when ``inbox`` is filled."""

    def __init__(self) -> None:
        self.inbox: list[Ranking] = []

    def render(self, candidate: Any) -> str:
        if candidate[0] < 0:
            raise ValueError("nothing to see")
        return f"picture of {candidate.tolist()}"

    def collect(self) -> Sequence[Ranking]:
        taken, self.inbox = self.inbox, []
        return taken


def test_people_are_waited_for(asks: Any, parameters: Parameters) -> None:
    desk = Desk()
    queries = asks([[1, 0, 0], [2, 0, 0]])
    desk.submit(queries, parameters)
    desk.submit(queries, parameters)
    assert desk.artifacts["0.0.1"] == "picture of [2.0, 0.0, 0.0]" and len(desk.artifacts) == 2
    assert desk.poll() == []
    answer = Ranking((("0.0.1",), ("0.0.0",)), rater="ann")
    desk.inbox.append(answer)
    assert desk.poll(timeout=5) == [answer]
    assert desk.poll(timeout=0.01) == []


def test_an_answer_to_a_round_that_is_over_is_left_out(asks: Any, parameters: Parameters) -> None:
    desk = Desk()
    desk.submit(asks([[1, 0, 0], [2, 0, 0]]), parameters)
    desk.submit([Query("1.0.0", None), Query("1.0.1", None)], parameters)
    assert list(desk.artifacts) == ["1.0.0", "1.0.1"]
    desk.inbox.append(Ranking((("0.0.1",), ("0.0.0",))))
    assert desk.poll() == []


def test_a_picture_that_cannot_be_made_is_a_failure(asks: Any, parameters: Parameters) -> None:
    desk = Desk()
    desk.submit(asks([[1, 0, 0], [-1, 0, 0]]), parameters)
    (failed,) = desk.poll()
    assert isinstance(failed, Failed)
    assert (failed.ids, failed.reason) == (("0.0.1",), "ValueError: nothing to see")
    assert list(desk.artifacts) == ["0.0.0"]
