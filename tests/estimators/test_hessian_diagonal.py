"""The diagonal of the Hessian from three values a direction, against quadratics whose Hessian is known."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.estimators import Estimator, HessianDiagonal
from blackbox.feedback import Answers, Failed
from blackbox.noise import Gaussian
from blackbox.parameters import Parameters
from blackbox.testing.estimators import EstimatorSuite, ask, estimate, linear, make_round, point, vector

BOUND = 4.5
H = torch.diag(torch.tensor([1.0, 2.0, 4.0, 8.0, 3.0, -2.0, 0.5], dtype=torch.float64)) + 0.3
SLOPE = torch.tensor([1.0, -2.0, 0.5, 0.25, 3.0, -0.25, 1.5], dtype=torch.float64)


def quadratic(x: Tensor) -> Tensor:
    return 0.5 * torch.einsum("ni,ij,nj->n", x, H, x) + x @ SLOPE + 1.0


def gradient() -> Tensor:
    return H @ point().flat() + SLOPE


class TestHessianDiagonal(EstimatorSuite):
    """Where a function is linear the curvature is below the floor of 1, so the direction is the gradient."""

    rounds = 400

    @pytest.fixture
    def estimator(self) -> Estimator:
        return HessianDiagonal(probes=2)


def with_mean_curvature(curvature: float, probes: int, memory: float = 0.0) -> HessianDiagonal:
    estimator = HessianDiagonal(probes=probes, memory=memory)
    estimator.load_state_dict({"sums": {}, "weight": 0.0, "curvature": curvature})
    return estimator


def diagonals(curvature: float, trials: int, probes: int) -> np.ndarray:
    """h of single rounds (memory 0), each with this control variate."""
    parameters, found = point(), []
    for step in range(trials):
        estimator = with_mean_curvature(curvature, probes)
        estimate(estimator, quadratic, make_round(step, parameters), parameters)
        found.append(torch.cat([h.reshape(-1) for h in estimator.diagonal(parameters.layout).values()]).numpy())
    return np.stack(found)


@pytest.mark.parametrize("curvature", [0.0, float(H.trace())])
def test_diagonal_is_unbiased_with_and_without_the_control_variate(curvature: float) -> None:
    found = diagonals(curvature, 1000, 2)
    error = np.abs(found.mean(0) - H.diag().numpy())
    assert (error < BOUND * found.std(0) / len(found) ** 0.5).all()


@pytest.mark.parametrize("kappa", [0.0, 18.6])
def test_diagonal_of_one_round_is_its_formula(kappa: float) -> None:
    """(1/q) sum_i (z_i^T H z_i - kappa)(z_i^2 - 1)/2 with the dense noise of the round's seeds."""
    parameters, q, estimator = point(), 3, with_mean_curvature(kappa, 3)
    round = make_round(7, parameters)
    estimate(estimator, quadratic, round, parameters)
    seeds = round.seeds("probe", q)
    z = torch.cat([Gaussian().sample(seeds, s, 0, s.numel) for s in parameters.layout.specs], 1).double()
    expected = ((((z @ H) * z).sum(1) - kappa)[:, None] * (z**2 - 1) / 2).mean(0)
    found = torch.cat([h.reshape(-1) for h in estimator.diagonal(parameters.layout).values()]).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_control_variate_takes_the_trace_out_of_the_variance() -> None:
    """For H = I in d = 7 the variance of an entry is d + 13, and tr^2/2 + 4 tr = 52.5 more without (by moments)."""
    parameters, found = point(), {}
    for kappa in (0.0, 7.0):
        rows = []
        for step in range(600):
            estimator = with_mean_curvature(kappa, 1)
            estimate(estimator, lambda x: 0.5 * (x**2).sum(1), make_round(step, parameters), parameters)
            rows.append(torch.cat([h.reshape(-1) for h in estimator.diagonal(parameters.layout).values()]))
        found[kappa] = float(torch.stack(rows).var(0).mean())
    assert found[7.0] < 0.5 * found[0.0]


def test_running_mean_tends_to_the_diagonal_and_the_direction_to_newtons() -> None:
    parameters, rounds, q, memory = point(), 600, 16, 0.998
    estimator = HessianDiagonal(probes=q, memory=memory, floor=0.1)
    for step in range(rounds):
        estimate(estimator, quadratic, make_round(step, parameters), parameters)
    h = torch.cat([part.reshape(-1) for part in estimator.diagonal(parameters.layout).values()]).double()
    weights = memory ** np.arange(rounds - 1.0)  # the first round only says what the curvature is like
    shrink = np.sqrt(np.square(weights / weights.sum()).sum() / q)
    most = diagonals(0.0, 500, 1).std(0)  # without the control variate; with it there is less
    assert (np.abs(h.numpy() - H.diag().numpy()) < BOUND * most * shrink).all()
    found = torch.stack(
        [
            vector(estimate(copy.deepcopy(estimator), quadratic, make_round(s, parameters), parameters).direction)
            for s in range(5000, 5300)
        ]
    )
    expected = gradient() / h.abs()
    # h moves by two thousandths a round, together with what the gradient is estimated from.
    assert (found.mean(0) - expected).abs().le(BOUND * found.std(0) / 300**0.5 + 0.01 * expected.abs()).all()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_direction_is_the_gradient_over_the_floored_power(power: float) -> None:
    """Against the plain estimate of the same round: the diagonal known, the floor above some of it."""
    parameters, round = point(), make_round(3, point())
    known = {
        "a": torch.tensor([1.0, 2.0, 4.0, 8.0]),
        "b": torch.tensor([3.0, -2.0, 0.5]),
    }
    directions = []
    for p in (power, 0.0):
        estimator = HessianDiagonal(probes=3, memory=0.5, floor=1.5, power=p)
        estimator.load_state_dict({"sums": known, "weight": 1.0, "curvature": None})  # nothing is learnt yet
        directions.append(vector(estimate(estimator, quadratic, round, parameters).direction))
    h = torch.tensor([1.5, 2.0, 4.0, 8.0, 3.0, 2.0, 1.5], dtype=torch.float64)
    torch.testing.assert_close(directions[0], directions[1] / h**power, rtol=1e-6, atol=1e-6)


def test_descent_beats_the_plain_gradient_where_curvatures_differ() -> None:
    """f = sum h_i x_i^2/2 with h from 1 to 1000: at a fixed rate stable for both, after equal queries."""
    curvature = torch.logspace(0, 3, 8, dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return 0.5 * (curvature * x**2).sum(1)

    left = []
    for power, rate in ((1.0, 0.1), (0.0, 1e-4)):
        parameters = Parameters({"x": torch.ones(8, dtype=torch.float64)})
        estimator = HessianDiagonal(probes=8, memory=0.98, floor=1.0, power=power)
        for step in range(300):
            found = estimate(estimator, f, make_round(step, parameters), parameters)
            if step >= 100:  # before, h is being learnt
                parameters.apply(found.direction * -rate)
        left.append(float(f(parameters.flat()[None])))
    assert left[0] < 0.1 * left[1]


def test_failed_base_leaves_the_gradient_but_teaches_nothing() -> None:
    parameters, estimator = point(), with_mean_curvature(1.0, 3, 0.9)
    round = make_round(0, parameters)
    told = ask(estimator, linear, round, parameters)
    before = estimator.state_dict()
    answers = Answers(f if i != 0 else Failed((q.id,), "test") for i, (q, f) in enumerate(told))
    assert vector(estimator.estimate(round, answers).direction).any()
    after = estimator.state_dict()
    assert after["weight"] == before["weight"]
    assert after["curvature"] == before["curvature"]
    assert not any(total.any() for total in after["sums"].values())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HessianDiagonal(epsilon=0.0), "epsilon is a distance"),
        (lambda: HessianDiagonal(probes=0), "probes must be at least 1"),
        (lambda: HessianDiagonal(floor=0.0), "floor is the least curvature"),
        (lambda: HessianDiagonal(memory=1.0), "memory must lie in"),
        (lambda: HessianDiagonal(power=2.0), "power must lie in"),
    ],
)
def test_bad_arguments_are_refused_in_words(make: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()  # type: ignore[operator]
