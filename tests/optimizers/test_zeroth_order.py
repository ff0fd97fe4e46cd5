"""ZO-signSGD and ZO-AdaMM against dense arithmetic and a convex solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from blackbox.errors import UserError
from blackbox.optimizers import AdaMM, Optimizer, Schedule, SignSGD
from blackbox.optimizers.adamm import START, multiplier
from blackbox.parameters import Parameters
from blackbox.testing.optimizers import MakeOptimizer, OptimizerSuite, along, dense, make_round, run, start

CONSTANT = Schedule("constant")


class TestSignSGD(OptimizerSuite):
    @pytest.fixture
    def make_optimizer(self) -> MakeOptimizer:
        return lambda: SignSGD(0.01, CONSTANT)


class TestAdaMM(OptimizerSuite):
    @pytest.fixture
    def make_optimizer(self) -> MakeOptimizer:
        return lambda: AdaMM(0.05)


class TestAdaMMInBall(OptimizerSuite):
    @pytest.fixture
    def make_optimizer(self) -> MakeOptimizer:
        return lambda: AdaMM(0.05, radius=1.5)


class TestAdaMMInBox(OptimizerSuite):
    @pytest.fixture
    def make_optimizer(self) -> MakeOptimizer:
        return lambda: AdaMM(0.05, box=(-2.0, 2.0))


def test_sign_sgd_moves_every_element_by_the_learning_rate() -> None:
    parameters, estimate = start(), along([1, 2], [0.5, -0.3])
    SignSGD(0.1, CONSTANT).step(estimate, make_round(0, parameters), parameters)
    for name, gradient in dense(estimate, parameters).items():
        expected = start().tensors[name] - 0.1 * gradient.sign()
        torch.testing.assert_close(parameters.tensors[name], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("make", [lambda: SignSGD(0.01), lambda: AdaMM(0.01, radius=0.02)])
def test_bfloat16_is_stepped_and_stays_finite(make: object) -> None:
    parameters = Parameters({"w": torch.linspace(-1, 1, 64, dtype=torch.bfloat16)})
    before = parameters.flat()
    run(make(), parameters, range(5))  # type: ignore[operator]
    after = parameters.flat()
    assert after.dtype == torch.bfloat16
    assert after.isfinite().all()
    assert not after.equal(before)


def test_adamm_is_its_recursion() -> None:
    parameters = start()
    optimizer = AdaMM(0.02, CONSTANT, beta1=0.8, beta2=0.4)
    x = start().flat().numpy()
    m, v = np.zeros_like(x), np.full_like(x, START)
    h = v.copy()
    for step in range(6):
        estimate = along([step, step + 50], [0.7, 0.2 * step - 0.4])
        g = torch.cat([t.reshape(-1) for t in dense(estimate, parameters).values()]).numpy()
        m, v = 0.8 * m + 0.2 * g, 0.4 * v + 0.6 * g**2
        h = np.maximum(h, v)
        x = x - 0.02 * m / np.sqrt(h)
        optimizer.step(estimate, make_round(step, parameters), parameters)
        np.testing.assert_allclose(parameters.flat().numpy(), x, rtol=1e-12, atol=1e-14)


def amsgrad_would_leave(optimizer: Optimizer, parameters: Parameters) -> dict[str, float]:
    facts: dict[str, float] = {}
    for step in range(8):
        facts = optimizer.step(along([5, step], [1.0, 0.05]), make_round(step, parameters), parameters)
    return facts


def test_box_is_not_left() -> None:
    parameters = start()
    facts = amsgrad_would_leave(AdaMM(0.5, CONSTANT, box=(-1.25, 1.25)), parameters)
    assert facts["projected"] == 1.0
    assert float(parameters.flat().abs().max()) == 1.25


def test_ball_around_the_start_is_not_left_and_its_edge_is_reached() -> None:
    parameters = start()
    facts = amsgrad_would_leave(AdaMM(0.5, CONSTANT, radius=0.75), parameters)
    assert facts["projected"] == 1.0
    assert float((parameters.flat() - start().flat()).norm()) == pytest.approx(0.75, rel=1e-12)


def test_projection_is_the_nearest_point_in_the_metric() -> None:
    """Against a solver of the constrained problem, which the Euclidean projection doesn't solve."""
    draw = np.random.Generator(np.random.Philox(key=1))
    gap, weights, radius = draw.standard_normal(5), draw.uniform(0.05, 4, 5), 0.8
    t = multiplier(torch.from_numpy(gap), torch.from_numpy(weights), radius)
    ours = weights * gap / (weights + t)
    solved = minimize(
        lambda y: weights @ (y - gap) ** 2,
        np.zeros(5),
        jac=lambda y: 2 * weights * (y - gap),
        constraints={"type": "ineq", "fun": lambda y: radius**2 - y @ y, "jac": lambda y: -2 * y},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(ours, solved.x, rtol=1e-5, atol=1e-6)
    assert abs(ours - gap * radius / np.linalg.norm(gap)).max() > 0.05


def test_point_inside_the_ball_is_its_own_projection() -> None:
    assert multiplier(torch.tensor([0.3, 0.4]), torch.tensor([1.0, 9.0]), 0.5001) == 0.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"beta1": 1.0}, "beta1 must lie in"),
        ({"beta2": -0.1}, "beta2 must lie in"),
        ({"box": (1.0, 1.0)}, "the lower bound"),
        ({"radius": 0.0}, "radius must be positive"),
        ({"radius": 1.0, "box": (0.0, 1.0)}, "give one of them"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        AdaMM(0.1, **arguments)  # type: ignore[arg-type]
