"""The mode a module is evaluated in: what it is in otherwise makes no difference, and nothing is left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blackbox.errors import UserError
from blackbox.execution import Batched, Execution, InPlace, LayerAccess, WriteFree
from blackbox.feedback import Slopes, Values
from blackbox.noise import Rademacher
from blackbox.parameters import Parameters
from blackbox.probe import Context, Probe, Query
from blackbox.seeds import derive_seed
from blackbox.testing.generators import global_state
from oracles import ObjectiveOracle
from oracles.derivative import DerivativeOracle
from problems.functions import Sphere


class Network(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))


class Noisy:
    """Dropout and batch norm, in train mode as every module is at first."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.module: nn.Module = Network().double()
        self.inputs_ = torch.linspace(-1, 1, 48, dtype=torch.float64).view(16, 3)

    def values(self, context: Context) -> Tensor:
        return self.module(self.inputs_)[:, 0] ** 2


def queries(context: Context, name: str = "0.0") -> list[Query]:
    candidates = [None, *(Probe(Rademacher(), ((7, c),)) for c in (0.01, -0.01))]
    return [Query(f"{name}.{i}", c, context=context) for i, c in enumerate(candidates)]


def ask(oracle: ObjectiveOracle | DerivativeOracle, asked: list[Query], parameters: Parameters) -> list[float]:
    oracle.submit(asked, parameters)
    found: list[float] = []
    for feedback in oracle.poll():
        assert isinstance(feedback, Values | Slopes)
        found += feedback.values.tolist()
    return found


def state(module: nn.Module) -> list[object]:
    return [*(b.clone().tolist() for b in module.buffers()), *(part.training for part in module.modules())]


@pytest.mark.parametrize("execution", [None, WriteFree(), InPlace()], ids=lambda one: type(one).__name__)
def test_a_module_in_train_mode_is_evaluated_as_one_in_eval_mode(execution: Execution | None) -> None:
    problem, same = Noisy(), Noisy()
    same.module.eval()
    before, generators = state(problem.module), global_state()
    found = ask(ObjectiveOracle(problem, execution), queries(Context(1)), Parameters.from_module(problem.module))
    assert global_state() == generators
    assert state(problem.module) == before
    assert found == ask(ObjectiveOracle(same, execution), queries(Context(1)), Parameters.from_module(same.module))
    assert len(set(found)) == 3


def test_derivatives_are_those_of_eval_mode() -> None:
    problem, same = Noisy(), Noisy()
    same.module.eval()
    before, generators = state(problem.module), global_state()
    found = ask(DerivativeOracle(problem), queries(Context(1))[1:], Parameters.from_module(problem.module))
    assert global_state() == generators
    assert state(problem.module) == before
    assert found == ask(DerivativeOracle(same), queries(Context(1))[1:], Parameters.from_module(same.module))


@pytest.mark.parametrize("execution", [None, WriteFree(), InPlace()], ids=lambda one: type(one).__name__)
def test_train_mode_draws_by_the_context_and_leaves_nothing_behind(execution: Execution | None) -> None:
    problem = Noisy()
    problem.module.eval()
    parameters = Parameters.from_module(problem.module)
    before, generators = state(problem.module), global_state()
    oracle = ObjectiveOracle(problem, execution, mode="train")
    first = ask(oracle, queries(Context(1, None, 5)), parameters)
    again = ask(oracle, queries(Context(1, None, 5), "1.0"), parameters)
    other = ask(oracle, queries(Context(1, None, 6), "2.0"), parameters)
    parameters.flush()
    assert global_state() == generators
    assert state(problem.module) == before
    np.testing.assert_allclose(again, first, rtol=0 if not isinstance(execution, InPlace) else 1e-12)
    assert other[0] != first[0]
    # By hand, with torch's own dropout and batch statistics.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(derive_seed(5, "train mode"))
        reference = Noisy().module.train()
        expected = (reference(problem.inputs_)[:, 0] ** 2).mean()
    np.testing.assert_allclose(first[0], float(expected), rtol=1e-12)
    # A difference within one context is the weights' alone.
    assert abs(first[1] - first[2]) < 0.5 * abs(other[0] - first[0])


def test_what_has_no_train_mode_is_refused() -> None:
    with pytest.raises(UserError, match="only a module has a train mode"):
        ObjectiveOracle(Sphere(2), mode="train")
    for execution in (Batched(), LayerAccess()):
        with pytest.raises(UserError, match="goes with write-free or in-place"):
            ObjectiveOracle(Noisy(), execution, mode="train")
    with pytest.raises(UserError, match="mode is 'eval' or 'train'"):
        ObjectiveOracle(Noisy(), mode="trian")  # type: ignore[arg-type]
    assert ObjectiveOracle(Noisy(), mode="train").settings()["mode"] == "train"
    assert "mode" not in ObjectiveOracle(Noisy()).settings()
