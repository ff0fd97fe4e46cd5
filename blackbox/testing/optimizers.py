"""What every optimizer must satisfy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from blackbox.direction import Direction, SeedTerms
from blackbox.estimators.base import Estimate, Round
from blackbox.noise.base import Law
from blackbox.noise.rademacher import Rademacher
from blackbox.optimizers.base import Optimizer
from blackbox.parameters import Parameters
from blackbox.probe import ALL_DATA
from blackbox.testing.generators import untouched

MakeOptimizer = Callable[[], Optimizer]


def start() -> Parameters:
    """A point: a weight and a bias, float64."""
    weight = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
    return Parameters({"layer.weight": weight, "layer.bias": torch.ones(3, dtype=torch.float64)})


def make_round(step: int, parameters: Parameters, progress: float = 0.0) -> Round:
    """The inputs of one step."""
    return Round(step, parameters.version, 0, ALL_DATA, parameters.layout, progress)


def along(seeds: Sequence[int], weights: Sequence[float], law: Law | None = None) -> Estimate:
    """The estimate sum_i weights[i] z(seeds[i]), with signs unless there is a law."""
    term = SeedTerms(law or Rademacher(), np.array(seeds, dtype=np.int64), np.array(weights, dtype=np.float64))
    return Estimate(Direction((term,)))


def dense(estimate: Estimate, parameters: Parameters) -> dict[str, Tensor]:
    """The estimate's tensors."""
    zeros = Parameters({name: torch.zeros_like(t) for name, t in parameters.raw.items()})
    zeros.apply(estimate.direction)
    return zeros.tensors


def run(optimizer: Optimizer, parameters: Parameters, steps: range, law: Law | None = None) -> None:
    """Steps along estimates that are functions of the step's number."""
    for step in steps:
        estimate = along([step, step + 1000], [0.5, -0.1 * step], law)
        optimizer.step(estimate, make_round(step, parameters, step / 20), parameters)


class OptimizerSuite:
    """Subclass it and define the fixture ``make_optimizer``: a function that makes a new optimizer a call.

    Its learning rate should suit a function of unit curvature.
    """

    law: Law | None = None
    """The law of the estimates, for an optimizer that takes no other than its own."""

    @pytest.fixture
    def make_optimizer(self) -> MakeOptimizer:
        """Makes the optimizer under test."""
        raise NotImplementedError("define a fixture `make_optimizer` in the subclass")

    def test_each_step_is_one_version(self, make_optimizer: MakeOptimizer) -> None:
        parameters = start()
        run(make_optimizer(), parameters, range(3), self.law)
        assert parameters.version == 3

    def test_first_step_lowers_a_function_with_that_gradient(self, make_optimizer: MakeOptimizer) -> None:
        """The displacement has a negative product with the estimate."""
        parameters, estimate = start(), along([1], [0.5], self.law)
        make_optimizer().step(estimate, make_round(0, parameters), parameters)
        before, gradient = start().tensors, dense(estimate, parameters)
        products = [((t - before[n]) * gradient[n]).sum() for n, t in parameters.tensors.items()]
        assert float(sum(products)) < 0

    def test_quadratic_is_descended(self, make_optimizer: MakeOptimizer) -> None:
        """300 steps along one-probe estimates of |x|^2 / 2 at least halve it."""
        parameters, optimizer = start(), make_optimizer()
        before = float(parameters.flat().square().sum())
        for step in range(300):
            z = dense(along([step], [1.0], self.law), parameters)
            slope = float(sum((z[n] * t).sum() for n, t in parameters.tensors.items()))
            optimizer.step(along([step], [slope], self.law), make_round(step, parameters, step / 300), parameters)
        assert float(parameters.flat().square().sum()) < before / 2

    def test_steps_are_reproducible(self, make_optimizer: MakeOptimizer) -> None:
        first, second = start(), start()
        for parameters in (first, second):
            run(make_optimizer(), parameters, range(5), self.law)
        assert torch.equal(first.flat(), second.flat())

    def test_saved_state_continues_identically(self, make_optimizer: MakeOptimizer) -> None:
        parameters, optimizer = start(), make_optimizer()
        run(optimizer, parameters, range(5), self.law)
        saved, resumed = copy.deepcopy(optimizer.state_dict()), Parameters(copy.deepcopy(parameters.tensors))
        resumed.version = parameters.version
        run(optimizer, parameters, range(5, 9), self.law)
        fresh = make_optimizer()
        fresh.load_state_dict(saved)
        run(fresh, resumed, range(5, 9), self.law)
        assert torch.equal(resumed.flat(), parameters.flat())

    def test_state_loaded_before_the_first_step_is_saved_unchanged(self, make_optimizer: MakeOptimizer) -> None:
        optimizer, fresh = make_optimizer(), make_optimizer()
        run(optimizer, start(), range(3), self.law)
        fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        torch.testing.assert_close(fresh.state_dict(), optimizer.state_dict(), rtol=0, atol=0)

    def test_excluded_names_are_not_decayed(self, make_optimizer: MakeOptimizer) -> None:
        parameters, optimizer = start(), make_optimizer()
        optimizer.weight_decay = 0.5
        optimizer.step(along([1], [0.0], self.law), make_round(0, parameters), parameters)
        before, after = start().tensors, parameters.tensors
        assert torch.equal(after["layer.bias"], before["layer.bias"])
        assert (after["layer.weight"].abs() < before["layer.weight"].abs()).all()

    def test_tensors_stay_clean(self, make_optimizer: MakeOptimizer) -> None:
        """The same storages, without gradients."""
        parameters = start()
        places = [t.data_ptr() for t in parameters.raw.values()]
        run(make_optimizer(), parameters, range(2), self.law)
        assert [t.data_ptr() for t in parameters.tensors.values()] == places
        assert all(t.grad is None and not t.requires_grad for t in parameters.tensors.values())

    def test_facts_for_the_log_are_numbers(self, make_optimizer: MakeOptimizer) -> None:
        parameters = start()
        facts = make_optimizer().step(along([1], [0.5], self.law), make_round(0, parameters), parameters)
        assert all(isinstance(value, float | int) for value in facts.values())

    def test_global_generators_are_left_alone(self, make_optimizer: MakeOptimizer) -> None:
        with untouched():
            run(make_optimizer(), start(), range(2), self.law)
