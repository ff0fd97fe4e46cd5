"""Values of problems: vectors, and modules under several executions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blackbox.errors import UserError
from blackbox.execution import Batched, Execution, InPlace, WriteFree
from blackbox.feedback import Failed, Feedback, Values
from blackbox.noise import Rademacher
from blackbox.parameters import Parameters
from blackbox.probe import Context, DenseCandidate, Probe, Query
from oracles import Counted, ObjectiveOracle
from problems.base import ModuleProblem
from problems.functions import Sphere
from problems.small_net import SmallNet

BATCH = Context(batch_seed=3)


def ask(oracle: ObjectiveOracle, queries: list[Query], parameters: Parameters) -> list[Feedback]:
    oracle.submit(queries, parameters)
    return list(oracle.poll())


def pair(context: Context, name: str = "0.0") -> list[Query]:
    """theta, theta + z/256, theta - z/256."""
    candidates = [None, *(Probe(Rademacher(), ((7, c),)) for c in (2**-8, -(2**-8)))]
    return [Query(f"{name}.{i}", c, context=context) for i, c in enumerate(candidates)]


def by_hand(problem: SmallNet, query: Query, parameters: Parameters) -> Tensor:
    """Per-example values with the weights written by plain arithmetic; in float64."""
    terms = query.candidate.terms if isinstance(query.candidate, Probe) else ()
    weights = {}
    for spec in parameters.layout.specs:
        weight = parameters.tensors[spec.name].double().flatten()
        for seed, c in terms:
            weight = weight + c * Rademacher().sample([seed], spec, 0, spec.numel)[0].double()
        weights[spec.name] = weight.view(spec.shape)
    indices = np.random.Generator(np.random.Philox(key=3)).choice(256, 32, replace=False)
    x, labels = (part[indices] for part in problem._data["train"])
    hidden = torch.tanh(x.double() @ weights["0.weight"].T + weights["0.bias"])
    scores = hidden @ weights["2.weight"].T + weights["2.bias"]
    return -torch.log_softmax(scores, -1)[torch.arange(32), labels]


@pytest.mark.parametrize("execution", [None, WriteFree(), InPlace(), Batched()])
def test_executions_give_the_values_of_written_weights(execution: Execution | None) -> None:
    problem = SmallNet(device="cpu")
    parameters = problem.parameters()
    expected = [float(by_hand(problem, q, parameters).mean()) for q in pair(BATCH)]
    (feedback,) = ask(ObjectiveOracle(problem, execution), pair(BATCH), parameters)
    assert isinstance(feedback, Values) and feedback.values.dtype == np.float64
    np.testing.assert_allclose(feedback.values, expected, rtol=1e-5)


def test_per_example_values_on_demand() -> None:
    problem = SmallNet(device="cpu")
    oracle = ObjectiveOracle(problem)
    oracle.per_example = True
    (feedback,) = ask(oracle, pair(BATCH), problem.parameters())
    assert isinstance(feedback, Values) and feedback.values.shape == (3, 32)
    expected = by_hand(problem, pair(BATCH)[1], problem.parameters())
    np.testing.assert_allclose(feedback.values[1], expected, rtol=1e-4)


def test_contexts_may_differ_in_size() -> None:
    problem = SmallNet(device="cpu")
    queries = [*pair(BATCH), Query("0.1.0", None), Query("0.1.1", None, context=Context(indices=(1, 5)))]
    oracle = ObjectiveOracle(problem)
    (means,) = ask(oracle, queries, problem.parameters())
    assert isinstance(means, Values) and means.values.shape == (5,)
    oracle.per_example = True
    feedback = ask(oracle, queries, problem.parameters())
    assert [f.values.shape for f in feedback if isinstance(f, Values)] == [(3, 32), (1, 256), (1, 2)]
    assert [f.cost.get("examples") for f in feedback] == [96, 256, 2]


def test_costs_are_known_before_and_after() -> None:
    problem = SmallNet(device="cpu")
    oracle = ObjectiveOracle(problem)
    queries = [*pair(BATCH), Query("0.1.0", None)]
    assert oracle.cost(queries) == {"queries": 4, "examples": 3 * 32 + 256}
    (feedback,) = ask(oracle, queries, problem.parameters())
    assert feedback.cost.pop("seconds") > 0
    assert feedback.cost == oracle.cost(queries)


class Moody(ModuleProblem):
    """A module objective whose values go wrong on some batch seeds."""

    def __init__(self) -> None:
        self.module = nn.Linear(2, 1, bias=False, device="meta").to_empty(device="cpu")
        nn.init.constant_(next(self.module.parameters()), 2.0)

    def metrics(self, split: str = "test") -> dict[str, float]:
        return {}

    def values(self, context: Context) -> Tensor:
        seed = context.batch_seed
        if seed == 1:
            raise MemoryError("out of memory")
        if seed == 2:
            return torch.tensor([1.0, float("nan")])
        if seed == 3:
            return torch.zeros(2, 2)
        if seed == 4:
            return [1.0]  # type: ignore[return-value]
        if seed == 5:
            return torch.empty(0)
        value: Tensor = self.module(torch.ones(1, 2))[0]
        return value


def test_every_kind_of_failure_names_its_query_and_spares_the_others() -> None:
    moody = Moody()
    queries = [Query(f"0.0.{seed}", None, context=Context(batch_seed=seed)) for seed in range(7)]
    values, *failed = ask(ObjectiveOracle(moody), queries, moody.parameters())
    assert isinstance(values, Values)
    assert values.ids == ("0.0.0", "0.0.6") and values.values.tolist() == [4.0, 4.0]
    assert {f.ids[0]: f.reason for f in failed if isinstance(f, Failed)} == {
        "0.0.1": "MemoryError: out of memory",
        "0.0.2": "not finite: nan (1 of 2 examples)",
        "0.0.3": "wrong shape: [2, 2] is neither one value nor one per example",
        "0.0.4": "TypeError: the objective gave a list, not a tensor",
        "0.0.5": "wrong shape: [0] is neither one value nor one per example",
    }
    assert all(f.cost == {"queries": 1} for f in failed)
    assert values.cost["queries"] == 2


def test_a_problem_that_maximizes_is_turned_once() -> None:
    problem = Sphere(2, start=[3.0, 4.0])
    problem.maximize = True
    (feedback,) = ask(ObjectiveOracle(problem), [Query("0.0.0", None)], problem.parameters())
    assert isinstance(feedback, Values) and feedback.values.tolist() == [-25.0]
    assert problem.metrics()["value"] == 25.0


def test_a_candidate_that_does_not_fit_is_the_users_mistake_not_a_failure() -> None:
    problem = SmallNet(device="cpu")
    query = Query("0.0.0", DenseCandidate(np.zeros(problem.parameters().dimension)))
    oracle = ObjectiveOracle(problem)
    with pytest.raises(UserError, match="dense"):
        oracle.submit([query], problem.parameters())
    assert oracle.poll() == []


def test_replay_repeats_the_in_place_passes_bit_for_bit() -> None:
    asked, replayed = SmallNet(device="cpu"), SmallNet(device="cpu")
    oracle = Counted(ObjectiveOracle(asked, InPlace()))
    oracle.submit(pair(BATCH), asked.parameters())
    Counted(ObjectiveOracle(replayed, InPlace())).replay(pair(BATCH), replayed.parameters())
    for name, tensor in asked.parameters().tensors.items():
        assert torch.equal(tensor, replayed.parameters().tensors[name])


def test_settings_name_the_execution() -> None:
    problem: Any = Sphere(2)
    assert Counted(ObjectiveOracle(problem, Batched(chunk=4))).settings() == {
        "execution": "Batched",
        "chunk": 4,
    }
