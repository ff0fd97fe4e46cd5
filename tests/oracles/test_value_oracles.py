"""Oracles that answer with numbers: a user's class, and a plain function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from blackbox.errors import UserError
from blackbox.execution import materialise
from blackbox.feedback import Failed, Feedback, Values
from blackbox.parameters import Parameters
from blackbox.probe import ALL_DATA, Context, Payload, Query
from oracles import FunctionOracle, LocalOracle, Oracle, ValueOracle


def ask(oracle: LocalOracle, queries: list[Query], parameters: Parameters) -> list[Feedback]:
    oracle.submit(queries, parameters)
    return list(oracle.poll())


def values(feedback: list[Feedback]) -> dict[str, float]:
    (one,) = [f for f in feedback if isinstance(f, Values)]
    return dict(zip(one.ids, one.values.tolist(), strict=True))


def failures(feedback: list[Feedback]) -> dict[str, str]:
    return {f.ids[0]: f.reason for f in feedback if isinstance(f, Failed)}


class SumOfSquares(ValueOracle):
    def evaluate(self, candidates: Any) -> Any:
        return (candidates**2).sum(1)


def test_a_user_class_sees_displaced_vectors(parameters: Parameters, probes: list[Query]) -> None:
    x = materialise(probes, parameters).numpy()
    found = values(ask(SumOfSquares(), probes, parameters))
    assert found == {q.id: float(row @ row) for q, row in zip(probes, x, strict=True)}
    assert found["0.0.0"] == 14.0


def test_it_satisfies_the_protocol() -> None:
    assert isinstance(SumOfSquares(), Oracle)


def test_numpy_is_float64_whatever_the_parameters_are(probes: list[Query]) -> None:
    seen: list[Any] = []

    def function(x: Any) -> float:
        seen.append(x)
        return 0.0

    ask(FunctionOracle(function), probes[:1], Parameters.from_vector(torch.ones(3)))
    assert seen[0].dtype == np.float64 and seen[0].shape == (3,)


def test_torch_candidates_keep_the_parameters_precision(probes: list[Query]) -> None:
    seen: list[torch.Tensor] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.sum(1)

    ask(FunctionOracle(function, batched=True, library="torch"), probes, Parameters.from_vector(torch.ones(3)))
    assert seen[0].dtype == torch.float32 and seen[0].shape == (3, 3)


@pytest.mark.parametrize("batched", [False, True])
def test_one_exception_fails_one_query(asks: Any, parameters: Parameters, batched: bool) -> None:
    def function(x: Any) -> Any:
        if (x[..., 0] == 2).any():
            raise RuntimeError("the solver diverged")
        return x.sum(-1)

    oracle = FunctionOracle(function, batched=batched)
    feedback = ask(oracle, asks([[1, 0, 0], [2, 0, 0], [3, 0, 0]]), parameters)
    assert values(feedback) == {"0.0.0": 1.0, "0.0.2": 3.0}
    assert failures(feedback) == {"0.0.1": "RuntimeError: the solver diverged"}
    # A batch that fails is asked again one by one: three evaluations more.
    assert sum(f.cost["queries"] for f in feedback) == (6 if batched else 3)


def test_a_dear_oracle_is_not_asked_again(asks: Any, parameters: Parameters) -> None:
    class Dear(ValueOracle):
        ask_singly = False
        calls = 0

        def evaluate(self, candidates: Any) -> Any:
            self.calls += 1
            raise ConnectionError

    oracle = Dear()
    feedback = ask(oracle, asks([[1, 0, 0], [2, 0, 0]]), parameters)
    assert oracle.calls == 1
    assert failures(feedback) == {"0.0.0": "ConnectionError", "0.0.1": "ConnectionError"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), None])
def test_what_is_not_finite_stops_at_the_door(asks: Any, parameters: Parameters, bad: Any) -> None:
    oracle = FunctionOracle(lambda x: bad if x[0] == 1 else 0.5)
    feedback = ask(oracle, asks([[0, 0, 0], [1, 0, 0]]), parameters)
    assert values(feedback) == {"0.0.0": 0.5}
    assert list(failures(feedback)) == ["0.0.1"]
    assert failures(feedback)["0.0.1"].startswith("not finite")


@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 2), (2, 0)])
def test_a_wrong_shape_fails_all_it_was_for(asks: Any, parameters: Parameters, shape: tuple[int, ...]) -> None:
    oracle = FunctionOracle(lambda x: np.zeros(shape), batched=True)
    feedback = ask(oracle, asks([[0, 0, 0], [1, 0, 0]]), parameters)
    assert list(failures(feedback)) == ["0.0.0", "0.0.1"]
    assert "shape" in failures(feedback)["0.0.0"]


def test_a_batch_size_unlike_the_others_fails(asks: Any, parameters: Parameters) -> None:
    oracle = FunctionOracle(lambda x: np.zeros(3 if x[0] == 1 else 2))
    feedback = ask(oracle, asks([[0, 0, 0], [1, 0, 0], [2, 0, 0]]), parameters)
    assert values(feedback) == {"0.0.0": 0.0, "0.0.2": 0.0}
    assert failures(feedback) == {"0.0.1": "wrong shape: [3], where others in this context have [2]"}


def test_per_example_values_are_kept_only_when_wanted(asks: Any, parameters: Parameters) -> None:
    queries = asks([[1, 2, 6], [3, 4, 5]])
    oracle = FunctionOracle(lambda x: x, batched=True)
    (mean,) = ask(oracle, queries, parameters)
    assert isinstance(mean, Values) and mean.values.tolist() == [3.0, 4.0]
    oracle.per_example = True
    (full,) = ask(oracle, queries, parameters)
    assert isinstance(full, Values) and full.values.tolist() == [[1, 2, 6], [3, 4, 5]]


def test_context_is_offered_to_those_who_ask_for_it(parameters: Parameters) -> None:
    class Seeded(ValueOracle):
        def evaluate(self, candidates: Any, context: Context = ALL_DATA) -> Any:
            return [context.batch_seed] * len(candidates)

    queries = [Query(str(i), None, context=Context(batch_seed=i // 2)) for i in range(4)]
    assert values(ask(Seeded(), queries, parameters)) == {"0": 0, "1": 0, "2": 1, "3": 1}
    function = FunctionOracle(lambda x, context: float(context.batch_seed))
    assert values(ask(function, queries, parameters)) == {"0": 0, "1": 0, "2": 1, "3": 1}


def test_structured_candidates_come_as_dicts(parameters: Parameters) -> None:
    class Length(ValueOracle):
        def evaluate(self, candidates: Any) -> Any:
            return [len(candidate["program"]) for candidate in candidates]

    queries = [Query(str(i), Payload("program", {"program": "ab" * i})) for i in range(3)]
    assert values(ask(Length(), queries, parameters)) == {"0": 0, "1": 2, "2": 4}


def test_a_waiting_query_is_asked_once_and_an_answered_one_anew(parameters: Parameters) -> None:
    calls: list[Any] = []

    def function(x: Any) -> float:
        calls.append(x)
        return 0.0

    oracle = FunctionOracle(function)
    query = [Query("0.0.0", None)]
    oracle.submit(query, parameters)
    oracle.submit(query, parameters)
    assert len(calls) == 1
    assert len(oracle.poll()) == 1 and oracle.poll() == []
    oracle.submit(query, parameters)
    assert len(oracle.poll()) == 1 and len(calls) == 2


def test_an_interrupt_is_not_a_failure(parameters: Parameters) -> None:
    def function(x: Any) -> float:
        raise KeyboardInterrupt

    oracle = FunctionOracle(function)
    with pytest.raises(KeyboardInterrupt):
        oracle.submit([Query("0.0.0", None)], parameters)
    assert oracle.poll() == []


def test_a_function_by_import_path(parameters: Parameters, asks: Any) -> None:
    oracle = FunctionOracle("scipy.optimize:rosen")
    assert values(ask(oracle, asks([[1, 1, 1], [0, 0, 0]]), parameters)) == {"0.0.0": 0.0, "0.0.1": 2.0}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("rosen", "no import path"),
        ("nowhere.at_all:f", "nowhere"),
        ("scipy.optimize:rosin", "has no 'rosin'"),
        ("math:pi", "can't be called"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_in_words(path: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        FunctionOracle(path)


def test_costs_are_queries_and_seconds(parameters: Parameters, probes: list[Query]) -> None:
    (feedback,) = ask(SumOfSquares(), probes, parameters)
    assert feedback.cost["queries"] == 3 and feedback.cost["seconds"] > 0
    assert SumOfSquares().cost(probes) == {"queries": 3}
