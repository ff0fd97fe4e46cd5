"""Each suite fails an implementation that breaks one promise."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from blackbox.direction import Direction, SeedTerms
from blackbox.estimators import CentralDifference, Estimate, Round
from blackbox.execution import Batched, Outcome
from blackbox.feedback import Answers
from blackbox.layout import Layout, TensorSpec
from blackbox.noise import Gaussian, Rademacher
from blackbox.objective import Objective
from blackbox.optimizers import SGD
from blackbox.parameters import Parameters
from blackbox.probe import Query
from blackbox.testing.estimators import EstimatorSuite
from blackbox.testing.executions import ExecutionSuite
from blackbox.testing.models import TinyObjective
from blackbox.testing.noise import NoiseSuite
from blackbox.testing.optimizers import OptimizerSuite
from blackbox.testing.oracles import OracleSuite
from oracles.function import FunctionOracle


@dataclass(frozen=True)
class FromZero(Gaussian):
    """Counts from the slice's start instead of the tensor's."""

    def sample(
        self,
        seeds: Sequence[int],
        spec: TensorSpec,
        start: int,
        stop: int,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        return super().sample(seeds, spec, 0, stop - start, device)


@dataclass(frozen=True)
class TooWide(Gaussian):
    """Has variance 1.21."""

    def scale(self, seed: int, layout: Layout) -> float:
        return 1.1


@dataclass(frozen=True)
class Alike(Rademacher):
    """The same noise in every tensor."""

    def sample(
        self,
        seeds: Sequence[int],
        spec: TensorSpec,
        start: int,
        stop: int,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        return super().sample(seeds, TensorSpec("one", spec.shape, 0, spec.dimension), start, stop, device)


class Halved(CentralDifference):
    """Forgets a factor of two."""

    def weights(self, values: Any) -> Any:
        return super().weights(values) / 2


class FirstComeFirst(CentralDifference):
    """Depends on the order of the answers."""

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        factor = 2.0 if answers._parts[0].ids[0].endswith("0") else 1.0
        return Estimate(super().estimate(round, answers).direction * factor)


class Drawing(CentralDifference):
    """Draws from a global generator."""

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        random.random()
        return super().estimate(round, answers)


class Uphill(SGD):
    """Goes the wrong way."""

    def step(self, estimate: Estimate, round: Round, parameters: Parameters) -> dict[str, float]:
        return super().step(Estimate(-estimate.direction), round, parameters)


class Forgetful(SGD):
    """Keeps a count that it does not save."""

    steps = 0

    def step(self, estimate: Estimate, round: Round, parameters: Parameters) -> dict[str, float]:
        self.steps += 1
        return super().step(Estimate(estimate.direction * self.steps), round, parameters)


class DecaysAll(SGD):
    """Decays what is excluded."""

    def decays(self, name: str) -> bool:
        return True


class LeavesTraces(Batched):
    """Moves the tensors."""

    def evaluate(self, objective: Objective, queries: Sequence[Query], parameters: Parameters) -> list[Outcome]:
        outcomes = super().evaluate(objective, queries, parameters)
        term = SeedTerms(Rademacher(), np.array([1]), np.array([1e-9]))
        version = parameters.version
        parameters.apply(Direction((term,)))
        parameters.version = version
        return outcomes


class Shuffled(Batched):
    """Gives the outcomes in another order."""

    def evaluate(self, objective: Objective, queries: Sequence[Query], parameters: Parameters) -> list[Outcome]:
        return super().evaluate(objective, queries, parameters)[::-1]


class Greedy(FunctionOracle):
    """Asks a waiting query again."""

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        self._ready.extend(self.answer(queries, parameters))


def tiny() -> tuple[TinyObjective, Parameters]:
    objective = TinyObjective()
    return objective, Parameters.from_module(objective.module)


vector = Parameters.from_vector([0.5, -1.0])
BROKEN: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
    (NoiseSuite().test_slice_noise_equals_noise_of_slice, (FromZero(), "cpu")),
    (NoiseSuite().test_second_moment_over_seeds, (TooWide(),)),
    (NoiseSuite().test_second_moment_over_seeds, (Alike(),)),
    (EstimatorSuite().test_estimate_is_unbiased_on_a_linear_function, (Halved(probes=4),)),
    (EstimatorSuite().test_order_of_answers_never_matters, (FirstComeFirst(),)),
    (EstimatorSuite().test_global_generators_are_left_alone, (Drawing(),)),
    (OptimizerSuite().test_first_step_lowers_a_function_with_that_gradient, (lambda: Uphill(0.1),)),
    (OptimizerSuite().test_saved_state_continues_identically, (lambda: Forgetful(0.1),)),
    (OptimizerSuite().test_excluded_names_are_not_decayed, (lambda: DecaysAll(0.1),)),
    (ExecutionSuite().test_tensors_are_as_before, (LeavesTraces(), tiny())),
    (ExecutionSuite().test_values_equal_dense_arithmetic, (Shuffled(), tiny(), Rademacher())),
    (OracleSuite().test_query_that_waits_is_not_asked_twice, (Greedy(np.sum), vector)),
]


@pytest.mark.draws
@pytest.mark.parametrize(("claim", "arguments"), BROKEN, ids=lambda v: v.__name__ if callable(v) else "")
def test_broken_promise_fails(claim: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    with pytest.raises(AssertionError):
        claim(*arguments)
