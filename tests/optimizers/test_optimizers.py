"""SGD and torch.optim classes against dense arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from blackbox.direction import Direction
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference, Estimate
from blackbox.optimizers import SGD, Optimizer, Schedule, TorchOptimizer
from blackbox.parameters import Parameters
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from blackbox.testing.optimizers import MakeOptimizer, OptimizerSuite, along, dense, make_round, run, start

CONSTANT = Schedule("constant")


class TestSGD(OptimizerSuite):
    @pytest.fixture
    def make_optimizer(self) -> MakeOptimizer:
        return lambda: SGD(0.02, CONSTANT)


class TestAdam(OptimizerSuite):
    @pytest.fixture
    def make_optimizer(self) -> MakeOptimizer:
        return lambda: TorchOptimizer("Adam", 0.02)


class TestMomentum(OptimizerSuite):
    @pytest.fixture
    def make_optimizer(self) -> MakeOptimizer:
        return lambda: TorchOptimizer("SGD", 0.005, CONSTANT, options={"momentum": 0.9})


# SGD


def test_sgd_step_is_x_minus_lr_g() -> None:
    parameters, estimate = start(), along([1, 2], [0.5, -0.25])
    SGD(0.1, CONSTANT).step(estimate, make_round(0, parameters), parameters)
    gradient, before = dense(estimate, parameters), start().tensors
    for name, tensor in parameters.tensors.items():
        torch.testing.assert_close(tensor, before[name] - 0.1 * gradient[name], rtol=0, atol=1e-15)


def test_sgd_decays_by_one_minus_lr_times_rate() -> None:
    parameters, estimate = start(), along([1], [0.5])
    SGD(0.1, CONSTANT, weight_decay=0.5).step(estimate, make_round(0, parameters), parameters)
    gradient, before = dense(estimate, parameters), start().tensors
    weight, bias = "layer.weight", "layer.bias"
    after = parameters.tensors
    torch.testing.assert_close(after[weight], 0.95 * before[weight] - 0.1 * gradient[weight], rtol=0, atol=1e-15)
    torch.testing.assert_close(after[bias], before[bias] - 0.1 * gradient[bias], rtol=0, atol=1e-15)


def test_decay_and_step_follow_the_schedule() -> None:
    parameters = start()
    facts = SGD(0.1, Schedule("linear"), weight_decay=0.5).step(
        along([1], [0.0]), make_round(0, parameters, progress=0.75), parameters
    )
    assert facts["lr"] == pytest.approx(0.025)
    before, after = start().tensors["layer.weight"], parameters.tensors["layer.weight"]
    torch.testing.assert_close(after, (1 - 0.0125) * before, rtol=0, atol=1e-15)


def test_sgd_step_of_one_seed_waits_to_be_merged() -> None:
    parameters = start()
    SGD(0.1, CONSTANT).step(along([1], [0.5]), make_round(0, parameters), parameters)
    assert parameters.pending is not None


def test_zero_direction_moves_nothing() -> None:
    parameters = start()
    SGD(0.1).step(Estimate(Direction()), make_round(0, parameters), parameters)
    assert torch.equal(parameters.flat(), start().flat())
    assert parameters.version == 1


# torch.optim


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Adam", {}),
        ("Adam", {"betas": [0.5, 0.9], "amsgrad": True}),
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("RMSprop", {}),
        ("Adagrad", {}),
        ("NAdam", {}),
    ],
)
def test_torch_optimizer_equals_the_class_fed_with_the_dense_gradient(name: str, options: dict[str, Any]) -> None:
    parameters, optimizer = start(), TorchOptimizer(name, 0.05, CONSTANT, options=options)
    leaves = {n: torch.nn.Parameter(t.clone()) for n, t in start().tensors.items()}
    reference = getattr(torch.optim, name)(leaves.values(), lr=0.05, **options)
    for step in range(6):
        estimate = along([step, step + 50], [0.5 + step, -0.25])
        for leaf, gradient in zip(leaves.values(), dense(estimate, parameters).values(), strict=True):
            leaf.grad = gradient
        reference.step()
        optimizer.step(estimate, make_round(step, parameters), parameters)
    for n, leaf in leaves.items():
        assert torch.equal(parameters.tensors[n], leaf.detach())


def test_torch_optimizer_follows_the_schedule() -> None:
    parameters = start()
    facts = TorchOptimizer("SGD", 0.1).step(along([1], [1.0]), make_round(0, parameters, progress=0.5), parameters)
    moved = (parameters.flat() - start().flat()).abs()
    assert facts["lr"] == 0.05
    torch.testing.assert_close(moved, torch.full_like(moved, 0.05), rtol=0, atol=1e-15)


def test_adam_with_decay_equals_adamw_on_decayed_tensors() -> None:
    parameters, optimizer = start(), TorchOptimizer("Adam", 0.05, CONSTANT, weight_decay=0.1)
    leaf = torch.nn.Parameter(start().tensors["layer.weight"].clone())
    reference = torch.optim.AdamW([leaf], lr=0.05, weight_decay=0.1)
    for step in range(4):
        estimate = along([step], [0.5 + step])
        leaf.grad = dense(estimate, parameters)["layer.weight"]
        reference.step()
        optimizer.step(estimate, make_round(step, parameters), parameters)
    torch.testing.assert_close(parameters.tensors["layer.weight"], leaf.detach(), rtol=0, atol=1e-15)


def test_excluded_tensor_of_adam_with_decay_equals_plain_adam() -> None:
    parameters, plain = start(), start()
    run(TorchOptimizer("Adam", 0.05, CONSTANT, weight_decay=0.1), parameters, range(4))
    run(TorchOptimizer("Adam", 0.05, CONSTANT), plain, range(4))
    assert torch.equal(parameters.tensors["layer.bias"], plain.tensors["layer.bias"])


def test_pending_update_comes_before_the_step() -> None:
    deferred, eager = start(), start()
    deferred.apply(along([9], [0.5]).direction, defer=True)
    eager.apply(along([9], [0.5]).direction)
    for parameters in (deferred, eager):
        run(TorchOptimizer("Adam", 0.05), parameters, range(2))
    assert torch.equal(deferred.flat(), eager.flat())


def test_unknown_class_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'Adan'.*Adam"):
        TorchOptimizer("Adan", 0.1)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("Adam", {"beta": [0.9, 0.99]}, r"Adam has no 'beta'; it has: betas"),
        ("Adam", {"betas": [2.0, 0.99]}, "refuses them.*beta"),
        ("Adam", {"betas": "high"}, "refuses them"),
        ("SGD", {"nesterov": True}, "refuses them.*momentum"),
        ("SGD", {"lr": 0.1}, "lr is a key of its own"),
        ("LBFGS", {}, "LBFGS cannot step"),
        ("SparseAdam", {}, "SparseAdam cannot step"),
        ("Optimizer", {}, "Optimizer cannot step"),
    ],
)
def test_options_are_checked_when_it_is_made(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        TorchOptimizer(name, 0.1, options=options)


def test_a_class_that_takes_matrices_only_says_so_before_anything_is_asked() -> None:
    def session(**tensors: Any) -> Session:
        return Session(GradientStrategy(CentralDifference(), TorchOptimizer("Muon", 0.1)), Parameters(tensors))

    session(weight=torch.ones(2, 3))
    with pytest.raises(UserError, match=r"Muon does not take tensors of the shapes \[2, 3\], \[3\]: .*2D"):
        session(weight=torch.ones(2, 3), bias=torch.ones(3))


@pytest.mark.parametrize("steps", [1, 50])
def test_tiny_steps_survive_in_bfloat16(steps: int) -> None:
    """Steps of 2**-15 against a spacing of 2**-7 near 1; nearest rounding would move no element."""
    parameters = Parameters({"w": torch.ones(20_000, dtype=torch.bfloat16)})
    optimizer = TorchOptimizer("SGD", 2.0**-15, CONSTANT)
    moved = torch.zeros(20_000, dtype=torch.float64)
    for step in range(steps):
        z = dense(along([step], [1.0]), parameters)["w"]
        before = parameters.tensors["w"].double().clone()
        optimizer.step(along([step], [1.0]), make_round(step, parameters), parameters)
        moved -= (parameters.tensors["w"].double() - before) * z.double()
    expected, variance = steps * 2.0**-15, steps * 2.0**-15 * 2.0**-7
    assert abs(float(moved.mean()) - expected) < 4.5 * (variance / 20_000) ** 0.5


# What both share


@pytest.mark.parametrize("make", [SGD, lambda lr, **more: TorchOptimizer("Adam", lr, **more)], ids=["SGD", "Adam"])
@pytest.mark.parametrize(
    ("options", "name"), [({"lr": 0.0}, "lr"), ({"lr": 0.1, "weight_decay": -1.0}, "weight_decay")]
)
def test_impossible_options_are_refused(make: Any, options: dict[str, float], name: str) -> None:
    with pytest.raises(UserError, match=name):
        make(**options)


@pytest.mark.parametrize(
    ("name", "decayed"),
    [
        ("layers.0.weight", True),
        ("bias", False),
        ("layers.0.bias", False),
        ("ln_1.weight", False),
        ("model.LayerNorm.weight", False),
        ("input_layernorm.weight", False),
        ("norm.weight", False),
        ("bias_net.weight", True),
    ],
)
def test_default_exclusions(name: str, decayed: bool) -> None:
    assert SGD(0.1, weight_decay=0.1).decays(name) == decayed


@pytest.mark.parametrize("given", ["linear", None, Schedule("linear")])
def test_a_schedule_may_be_given_by_its_shape(given: Any) -> None:
    assert SGD(0.1, given).schedule.factor(0.75) == SGD(0.1).schedule.factor(0.75) == 0.25


def test_own_exclusions_replace_the_default_ones() -> None:
    optimizer: Optimizer = SGD(0.1, weight_decay=0.1, no_decay=["embed"])
    assert (optimizer.decays("embed.weight"), optimizer.decays("layer.bias")) == (False, True)


def test_nothing_decays_at_rate_zero() -> None:
    assert not SGD(0.1).decays("layer.weight")
