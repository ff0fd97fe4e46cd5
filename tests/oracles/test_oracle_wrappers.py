"""Oracles around oracles."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from blackbox.errors import UserError
from blackbox.execution import InPlace
from blackbox.feedback import Cost, Failed, Feedback, Ranking, Values, add_cost
from blackbox.noise import Rademacher
from blackbox.parameters import Parameters
from blackbox.probe import Context, DenseCandidate, Payload, Probe, Query
from oracles import (
    BaseOracle,
    Cached,
    Counted,
    FunctionOracle,
    Noisy,
    ObjectiveOracle,
    Oracle,
    RankingOracle,
    Retried,
    TimedOut,
)
from problems.small_net import SmallNet


def ask(oracle: Oracle, queries: Sequence[Query], parameters: Parameters) -> list[Feedback]:
    oracle.submit(queries, parameters)
    return list(oracle.poll())


def values(feedback: Sequence[Feedback]) -> dict[str, float]:
    return {i: float(v) for f in feedback if isinstance(f, Values) for i, v in zip(f.ids, f.values, strict=True)}


def failures(feedback: Sequence[Feedback]) -> dict[str, str]:
    return {i: f.reason for f in feedback if isinstance(f, Failed) for i in f.ids}


def spent(feedback: Sequence[Feedback]) -> Cost:
    total: Cost = {}
    for one in feedback:
        add_cost(total, one.cost)
    return total


class Late(BaseOracle):
    """Answers ``total`` polls after it was asked, as a service would."""

    answers = frozenset({Values, Failed})

    def __init__(self, polls: int) -> None:
        self.polls = polls
        self.asked: list[Query] = []

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        self.asked += queries

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        self.polls -= 1
        if self.polls > 0 or not self.asked:
            return []
        ids = tuple(q.id for q in self.asked)
        self.asked.clear()
        return [Values(ids, np.zeros(len(ids)), {"queries": len(ids)})]


class AlwaysFirst(RankingOracle):
    def rank(self, candidates: Any) -> Any:
        return range(len(candidates))


class FailsAtFirst:
    """A function that raises ``times`` times for each new point."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls: dict[float, int] = {}

    def __call__(self, x: Any) -> float:
        calls = self.calls[x[0]] = self.calls.get(x[0], 0) + 1
        if calls <= self.times:
            raise ConnectionError("refused")
        return float(x.sum())


# Noisy


def test_noise_is_a_function_of_the_id_and_the_seed(asks: Any, parameters: Parameters) -> None:
    queries = asks([[0, 0, 0]] * 2000)
    oracle = Noisy(FunctionOracle(lambda x: 1.0), sigma=2.0, seed=1)
    first = values(ask(oracle, queries, parameters))
    assert first == values(ask(oracle, queries[::-1], parameters))
    assert first != values(ask(Noisy(FunctionOracle(lambda x: 1.0), 2.0, seed=2), queries, parameters))
    noise = np.array(list(first.values())) - 1.0
    assert abs(noise.mean()) < 5 * 2 / 2000**0.5 and abs(noise.std() - 2) < 0.2


def test_each_example_gets_noise_of_its_own(asks: Any, parameters: Parameters) -> None:
    oracle = Noisy(FunctionOracle(lambda x: x, batched=True), sigma=1.0)
    oracle.per_example = True
    (feedback,) = ask(oracle, asks([[0, 0, 0]]), parameters)
    assert isinstance(feedback, Values) and feedback.values.shape == (1, 3)
    assert len(set(feedback.values[0])) == 3


def test_numbers_are_needed_where_numbers_are_changed() -> None:
    with pytest.raises(UserError, match="Noisy needs an oracle that answers Values, but AlwaysFirst answers"):
        Noisy(AlwaysFirst(), 1.0)
    with pytest.raises(UserError, match="Cached needs"):
        Cached(AlwaysFirst())
    with pytest.raises(UserError, match="sigma"):
        Noisy(Late(1), float("nan"))


# Cached


def test_hits_cost_no_query_and_call_nothing(parameters: Parameters, probes: list[Query]) -> None:
    counted = Counted(FunctionOracle(lambda x: float(x @ x)))
    oracle = Cached(counted)
    first = ask(oracle, probes, parameters)
    assert spent(first)["queries"] == 3 and oracle.cost(probes) == {"queries": 0}
    again = [Query(f"9{q.id}", q.candidate) for q in probes]
    second = ask(oracle, again, parameters)
    assert counted.counts["queries"] == 3 and spent(second) == {"queries": 0}
    assert list(values(second).values()) == list(values(first).values())


def test_what_differs_in_content_is_asked(parameters: Parameters) -> None:
    base, seeded = Query("a", None), Query("b", None, context=Context(batch_seed=1))
    probe = Query("c", Probe(Rademacher(), ((1, 0.5),)))
    other = Query("d", Probe(Rademacher(), ((1, 0.25),)))
    later = Query("e", None, version=1)
    payloads = [Query("f", Payload("p", {"x": 1})), Query("g", Payload("p", {"x": 2}))]
    dense = [Query("h", DenseCandidate(np.zeros(3))), Query("i", DenseCandidate(np.ones(3)))]
    queries = [base, seeded, probe, other, later, *payloads, *dense]
    counted = Counted(FunctionOracle(lambda x: 0.0))
    assert len(values(ask(Cached(counted), queries, parameters))) == 9
    assert counted.counts["queries"] == 9


def test_dense_candidates_are_known_at_any_version_and_anchors_by_theirs(parameters: Parameters) -> None:
    counted = Counted(FunctionOracle(lambda x: float(x.sum())))
    oracle = Cached(counted)
    parameters.take_anchor("start")
    first = [Query("0", DenseCandidate(np.ones(3))), Query("1", None)]
    second = [Query("2", DenseCandidate(np.ones(3)), version=1), Query("3", None, base="start", version=1)]
    assert values(ask(oracle, first, parameters)) == {"0": 3.0, "1": 6.0}
    parameters.version = 1
    assert values(ask(oracle, second, parameters)) == {"2": 3.0, "3": 6.0}
    assert counted.counts["queries"] == 2


def test_equal_questions_of_one_round_are_asked_once(parameters: Parameters, asks: Any) -> None:
    counted = Counted(FunctionOracle(lambda x: float(x.sum()) if x[0] else float("nan")))
    feedback = ask(Cached(counted), asks([[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]), parameters)
    assert counted.counts["queries"] == 2
    assert values(feedback) == {"0.0.0": 1.0, "0.0.1": 1.0}
    assert failures(feedback) == {"0.0.2": "not finite: nan", "0.0.3": "not finite: nan"}
    assert spent(feedback)["queries"] == 2


def test_other_parameters_empty_the_cache(probes: list[Query], parameters: Parameters) -> None:
    oracle = Cached(FunctionOracle(lambda x: float(x.sum())))
    assert values(ask(oracle, probes[:1], parameters)) == {"0.0.0": 6.0}
    assert values(ask(oracle, probes[:1], Parameters.from_vector([0.0, 0.0, 1.0]))) == {"0.0.0": 1.0}


def test_failures_are_not_remembered_and_the_oldest_is_forgotten(asks: Any, parameters: Parameters) -> None:
    oracle = Cached(FunctionOracle(FailsAtFirst(1)), size=1)
    queries = asks([[1, 0, 0], [2, 0, 0]])
    assert len(failures(ask(oracle, queries, parameters))) == 2
    assert len(values(ask(oracle, queries, parameters))) == 2
    assert oracle.cost(queries[:1]) == {"queries": 1} and oracle.cost(queries[1:]) == {"queries": 0}


# Retried


def test_failed_attempts_count(asks: Any, parameters: Parameters) -> None:
    oracle = Retried(FunctionOracle(FailsAtFirst(2)), attempts=3)
    feedback = ask(oracle, asks([[1, 0, 0], [2, 0, 0]]), parameters)
    assert values(feedback) == {"0.0.0": 1.0, "0.0.1": 2.0}
    assert spent(feedback)["queries"] == 6


def test_the_last_failure_is_the_answer(asks: Any, parameters: Parameters) -> None:
    oracle = Retried(FunctionOracle(FailsAtFirst(3)), attempts=3)
    feedback = ask(oracle, asks([[1, 0, 0]]), parameters)
    assert failures(feedback) == {"0.0.0": "ConnectionError: refused (asked 3 times)"}
    assert spent(feedback)["queries"] == 3


def test_waiting_is_not_failing(asks: Any, parameters: Parameters) -> None:
    oracle = Retried(Late(polls=3))
    oracle.submit(asks([[1, 0, 0]]), parameters)
    assert oracle.poll() == [] and oracle.poll() == []
    assert values(oracle.poll()) == {"0.0.0": 0.0}


def test_a_ranking_is_retried_as_a_whole(asks: Any, parameters: Parameters) -> None:
    class Flaky(RankingOracle):
        calls = 0

        def rank(self, candidates: Any) -> Any:
            self.calls += 1
            return [0, 1] if self.calls > 1 else [0, 0]

    feedback = ask(Retried(Flaky()), asks([[1, 0, 0], [2, 0, 0]]), parameters)
    (ranking,) = feedback
    assert isinstance(ranking, Ranking) and ranking.groups == (("0.0.0",), ("0.0.1",))
    assert ranking.cost["queries"] == 4


# TimedOut


def test_a_query_that_takes_too_long_fails_alone(asks: Any, parameters: Parameters) -> None:
    release = threading.Event()

    def function(x: Any) -> float:
        if x[0] == 2:
            release.wait(10)
        return float(x.sum())

    oracle = TimedOut(FunctionOracle(function), seconds=0.2)
    began = time.monotonic()
    feedback = ask(oracle, asks([[1, 0, 0], [2, 0, 0], [3, 0, 0]]), parameters)
    assert time.monotonic() - began < 5
    assert values(feedback) == {"0.0.0": 1.0, "0.0.2": 3.0}
    assert failures(feedback) == {"0.0.1": "TimedOut: no answer within 0.2 seconds"}
    assert spent(feedback)["queries"] == 3
    release.set()
    time.sleep(0.05)
    assert values(ask(oracle, [Query("1.0.0", None)], parameters)) == {"1.0.0": 6.0}


def test_late_services_are_waited_for_within_the_time(asks: Any, parameters: Parameters) -> None:
    assert values(ask(TimedOut(Late(polls=3), 5), asks([[1, 0, 0]]), parameters)) == {"0.0.0": 0.0}
    assert list(failures(ask(TimedOut(Late(10**9), 0.05), asks([[1, 0, 0]]), parameters))) == ["0.0.0"]


def test_a_ranking_has_its_time_as_a_whole(asks: Any, parameters: Parameters) -> None:
    (ranking,) = ask(TimedOut(AlwaysFirst(), 5), asks([[1, 0, 0], [2, 0, 0]]), parameters)
    assert isinstance(ranking, Ranking) and len(ranking.groups) == 2


def test_mistakes_come_through_the_thread(parameters: Parameters) -> None:
    oracle = TimedOut(FunctionOracle(lambda x: 0.0), 5)
    for one in (oracle, Cached(oracle)):
        with pytest.raises(UserError, match="anchor"):
            one.submit([Query("0.0.0", None, base="nowhere")], parameters)


# Counted, and all of them together


def test_counts_by_kind(asks: Any, parameters: Parameters) -> None:
    oracle = Counted(FunctionOracle(FailsAtFirst(1)))
    queries = asks([[1, 0, 0], [2, 0, 0]])
    ask(oracle, queries, parameters)
    ask(oracle, queries[:1], parameters)
    assert oracle.counts == {"queries": 3, "Failed": 2, "Values": 1}
    assert oracle.failures == {"ConnectionError": 2}
    assert oracle.spent["queries"] == 3


def test_they_nest(asks: Any, parameters: Parameters) -> None:
    counted = Counted(FunctionOracle(FailsAtFirst(1)))
    oracle = Noisy(Cached(Retried(TimedOut(counted, 5))), sigma=0.0)
    queries = asks([[1, 0, 0], [2, 0, 0]])
    assert oracle.answers == frozenset({Values, Failed}) and isinstance(oracle, Oracle)
    assert values(ask(oracle, queries, parameters)) == {"0.0.0": 1.0, "0.0.1": 2.0}
    assert values(ask(oracle, queries, parameters)) == {"0.0.0": 1.0, "0.0.1": 2.0}
    assert counted.counts["queries"] == 4
    oracle.per_example = True
    assert counted.oracle.per_example  # type: ignore[attr-defined]


def test_wrappers_that_change_what_is_evaluated_refuse_in_place_runs() -> None:
    problem = SmallNet(device="cpu")
    in_place = Counted(ObjectiveOracle(problem, InPlace()))
    for wrap in (Cached, Retried):
        with pytest.raises(UserError, match="in-place"):
            wrap(in_place)
    with pytest.raises(UserError, match="module"):
        TimedOut(ObjectiveOracle(problem), 1)
