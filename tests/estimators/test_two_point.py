"""Forward and central differences against closed forms and autograd."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from blackbox.direction import SeedTerms
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference, Estimator, ForwardDifference, TwoPoint
from blackbox.feedback import Answers, Failed, Values
from blackbox.layout import Layout
from blackbox.noise import Coordinate, Gaussian, Law, Rademacher, Sphere
from blackbox.probe import ALL_DATA, Probe
from blackbox.seeds import derive_seed
from blackbox.testing.estimators import EstimatorSuite, estimate, make_round, point, vector

KINDS: list[type[TwoPoint]] = [CentralDifference, ForwardDifference]
by_kind = pytest.mark.parametrize("kind", KINDS, ids=["central", "forward"])


class TestCentral(EstimatorSuite):
    @pytest.fixture
    def estimator(self) -> Estimator:
        return CentralDifference(probes=3)


class TestForwardGaussian(EstimatorSuite):
    @pytest.fixture
    def estimator(self) -> Estimator:
        return ForwardDifference(Gaussian(), probes=2)


class TestCentralSphere(EstimatorSuite):
    rounds = 800

    @pytest.fixture
    def estimator(self) -> Estimator:
        return CentralDifference(Sphere(), probes=1)


# Closed forms on a linear function


D, ROUNDS, BOUND = 24, 10_000, 4.5
LAYOUT = Layout.of({"x": (D,)})
G = np.sqrt(np.arange(1.0, D + 1)) * np.where(np.arange(D) % 3, 1, -1)


@lru_cache
def directions(law: Law, count: int) -> np.ndarray:
    """Scaled noise of ``count`` seeds: [count, D]."""
    seeds = [derive_seed(1, "closed forms", i) for i in range(count)]
    scale = np.array([law.scale(seed, LAYOUT) for seed in seeds])
    z: np.ndarray = law.sample(seeds, LAYOUT.specs[0], 0, D).double().numpy() * scale[:, None]
    return z


@lru_cache
def linear_estimates(kind: type[TwoPoint], law: Law, q: int, rounds: int = ROUNDS) -> np.ndarray:
    """Estimates of G from values of x @ G, by the estimator's own arithmetic: [rounds, D]."""
    estimator = kind(law, epsilon=0.25, probes=q)
    z = directions(law, rounds * q).reshape(rounds, q, D)
    values = np.einsum("mq,rqd,d->mr", estimator.coefficients(), z, G) + 3.0
    estimates: np.ndarray = np.einsum("qr,rqd->rd", estimator.weights(values), z)
    return estimates


@by_kind
@pytest.mark.parametrize(
    ("law", "q", "factor"),
    [
        (Gaussian(), 1, D + 1),
        (Gaussian(), 4, D + 1),
        (Rademacher(), 1, D - 1),
        (Rademacher(), 4, D - 1),
        (Coordinate(), 4, D - 1),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Law) else str(v),
)
def test_variance_is_its_closed_form(kind: type[TwoPoint], law: Law, q: int, factor: float) -> None:
    squares = ((linear_estimates(kind, law, q) - G) ** 2).sum(1)
    expected = factor / q * float(G @ G)
    assert abs(squares.mean() - expected) < BOUND * squares.std() / ROUNDS**0.5


@by_kind
@pytest.mark.parametrize("q", [1, 4])
def test_sphere_variance_is_its_closed_form(kind: type[TwoPoint], q: int) -> None:
    rounds = 2000 // q
    squares = ((linear_estimates(kind, Sphere(), q, rounds) - G) ** 2).sum(1)
    expected = (D - 1) / q * float(G @ G)
    assert abs(squares.mean() - expected) < BOUND * squares.std() / rounds**0.5


@by_kind
@pytest.mark.parametrize("law", [Gaussian(), Rademacher(), Coordinate()], ids=lambda law: type(law).__name__)
def test_mean_is_the_gradient(kind: type[TwoPoint], law: Law) -> None:
    estimates = linear_estimates(kind, law, 4)
    error = np.abs(estimates.mean(0) - G)
    assert (error < BOUND * estimates.std(0) / ROUNDS**0.5).all()


@pytest.mark.parametrize("q", [1, 4, 12])
def test_squared_cosine_is_beta_distributed(q: int) -> None:
    """With Gaussian noise cos^2 = chi2(q) / (chi2(q) + chi2(d - 1)), so its mean is q/(q + d - 1), about q/d.

    Proof: turn g onto the first axis; the first row of Z is a ~ N(0, I_q), Z a = (|a|^2, |a| N(0, I_{d-1})).
    """
    estimates = linear_estimates(CentralDifference, Gaussian(), q)[: 10_000 // q]
    squared = (estimates @ G) ** 2 / ((estimates**2).sum(1) * (G @ G))
    assert abs(squared.mean() - q / (q + D - 1)) < BOUND * squared.std() / len(squared) ** 0.5
    assert stats.kstest(squared, stats.beta(q / 2, (D - 1) / 2).cdf).pvalue > 1e-3


def test_mean_squared_cosine_of_one_rademacher_probe_is_one_over_d() -> None:
    estimates = linear_estimates(CentralDifference, Rademacher(), 1)
    squared = (estimates @ G) ** 2 / ((estimates**2).sum(1) * (G @ G))
    assert abs(squared.mean() - 1 / D) < BOUND * squared.std() / ROUNDS**0.5


# Curved functions


H = np.diag(np.linspace(0.5, 4, D)) + 0.1


def quadratic(x: np.ndarray) -> np.ndarray:
    value: np.ndarray = 0.5 * np.einsum("...i,ij,...j->...", x, H, x) + x @ G
    return value


@pytest.mark.parametrize("epsilon", [1.0, 0.25, 1e-3])
def test_central_difference_is_exact_on_quadratics(epsilon: float) -> None:
    z, x = directions(Gaussian(), 5), np.linspace(1, 2, D)
    estimator = CentralDifference(Gaussian(), epsilon, probes=5)
    slopes = estimator.projected(quadratic(x + estimator.coefficients() @ z))
    np.testing.assert_allclose(slopes, z @ (H @ x + G), rtol=0, atol=1e-9)


@pytest.mark.parametrize("epsilon", [1.0, 0.25])
def test_forward_difference_is_off_by_half_epsilon_curvature(epsilon: float) -> None:
    z, x = directions(Gaussian(), 5), np.linspace(1, 2, D)
    estimator = ForwardDifference(Gaussian(), epsilon, probes=5)
    slopes = estimator.projected(quadratic(x + estimator.coefficients() @ z))
    curvature = np.einsum("ki,ij,kj->k", z, H, z)
    np.testing.assert_allclose(slopes, z @ (H @ x + G) + epsilon / 2 * curvature, rtol=0, atol=1e-9)


X = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(6, 3)
Y = torch.sin(3 * X.sum(1))


def net_loss(x: Tensor) -> Tensor:
    """Mean squared error of a net of 3, 5 and 1 units with weights x [n, 24 used of D] -> [n]."""
    hidden = torch.tanh(torch.einsum("bi,nhi->nbh", X, x[:, :15].reshape(-1, 5, 3)) + x[:, None, 15:20])
    out = torch.einsum("nbh,nh->nb", hidden, torch.nn.functional.pad(x[:, 20:24], (1, 0), value=1.0))
    return ((out - Y) ** 2).mean(1)


POINT = torch.cos(torch.arange(D, dtype=torch.float64))


def net_gradient() -> np.ndarray:
    x = POINT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net_loss(x[None])[0], x)
    return gradient.numpy()


def net_values(estimator: TwoPoint, z: np.ndarray) -> np.ndarray:
    return net_loss(POINT + torch.from_numpy(estimator.coefficients() @ z)).numpy()


@pytest.mark.parametrize(("kind", "order"), [(CentralDifference, 2), (ForwardDifference, 1)])
def test_error_against_autograd_falls_with_its_order_in_epsilon(kind: type[TwoPoint], order: int) -> None:
    z = directions(Rademacher(), 20)
    errors = []
    for epsilon in (2e-3, 1e-3):
        estimator = kind(Rademacher(), epsilon, probes=20)
        errors.append(np.abs(estimator.projected(net_values(estimator, z)) - z @ net_gradient()).sum())
    assert errors[0] / errors[1] == pytest.approx(2.0**order, rel=0.05)


@pytest.mark.parametrize("q", [100, 2000])
def test_estimate_tends_to_autograd_as_probes_grow(q: int) -> None:
    """The relative error is sqrt((d - 1)/q), itself uncertain by a share of about 1/sqrt(2d)."""
    z = directions(Rademacher(), q)
    estimator = CentralDifference(Rademacher(), 1e-4, probes=q)
    error = estimator.weights(net_values(estimator, z)) @ z - net_gradient()
    relative = float(np.linalg.norm(error) / np.linalg.norm(net_gradient()))
    expected = math.sqrt((D - 1) / q)
    assert relative == pytest.approx(expected, rel=BOUND / math.sqrt(2 * D))


# Queries, answers, failures, clipping


@by_kind
@pytest.mark.parametrize("q", [1, 3])
def test_coefficients_agree_with_candidates(kind: type[TwoPoint], q: int) -> None:
    estimator = kind(epsilon=0.5, probes=q)
    seeds = list(range(100, 100 + q))
    matrix = np.zeros((estimator.queries, q))
    for row, candidate in enumerate(estimator.candidates(seeds)):
        for seed, coefficient in candidate.terms if isinstance(candidate, Probe) else ():
            matrix[row, seed - 100] += coefficient
    assert np.array_equal(matrix, estimator.coefficients())


@by_kind
def test_a_round_equals_the_pure_arithmetic(kind: type[TwoPoint]) -> None:
    estimator, parameters = kind(Gaussian(), 0.5, probes=3), point()
    round = make_round(4, parameters)
    seeds = [round.seed("probe", i) for i in range(3)]
    specs = parameters.layout.specs
    z = np.hstack([Gaussian().sample(seeds, s, 0, s.numel).double().numpy() for s in specs])
    values = np.square(parameters.flat().numpy() + estimator.coefficients() @ z).sum(1)
    found = vector(estimate(estimator, lambda x: (x**2).sum(1), round, parameters).direction)
    np.testing.assert_allclose(found.numpy(), estimator.weights(values) @ z, rtol=0, atol=1e-12)


def test_central_asks_2q_and_forward_q_plus_1() -> None:
    counts = [len(kind(probes=5).next(make_round(0, point()), 0, Answers()).queries) for kind in KINDS]
    assert counts == [10, 6]


def test_every_step_and_probe_has_a_seed_of_its_own() -> None:
    estimator, seeds = CentralDifference(probes=4), set()
    for step in range(25):
        for query in estimator.next(make_round(step, point()), 0, Answers()).queries:
            assert isinstance(query.candidate, Probe)
            seeds.add(query.candidate.terms[0][0])
    assert len(seeds) == 100


def test_failed_probe_is_dropped_from_the_mean() -> None:
    """Slopes 1, missing, 3: weights 1/2, 0, 3/2."""
    estimator = CentralDifference(epsilon=0.5, probes=3)
    weights = estimator.weights(np.array([1.0, 0.0, np.nan, 5.0, 3.0, 0.0]))
    assert weights.tolist() == [0.5, 0.0, 1.5]


def test_failed_base_drops_every_forward_probe() -> None:
    assert not ForwardDifference(probes=2).weights(np.array([np.nan, 1.0, 2.0])).any()


def answered(estimator: TwoPoint, values: np.ndarray, failed: tuple[int, ...] = ()) -> np.ndarray:
    """Weights of the estimate after these values were told."""
    round = make_round(0, point())
    ids = round.ids(0, estimator.queries)
    known = [i for i in range(len(ids)) if i not in failed]
    answers = Answers([Values(tuple(ids[i] for i in known), values[known])])
    answers.add(Failed(tuple(ids[i] for i in failed), "test"))
    (term,) = estimator.estimate(round, answers).direction.terms
    assert isinstance(term, SeedTerms)
    return term.weights


def test_told_failure_equals_a_missing_value() -> None:
    estimator = CentralDifference(epsilon=0.5, probes=3)
    assert answered(estimator, np.array([1.0, 0.0, 7.0, 5.0, 3.0, 0.0]), failed=(2,)).tolist() == [
        0.5,
        0.0,
        1.5,
    ]


@pytest.mark.parametrize(
    ("gap", "share"), [(0.0, 0.0), (2.0**-23, 0.5), (-(2.0**-22), 0.5), (2.0**-20, 0.0), (math.nan, 0.0)]
)
def test_differences_within_a_few_float32_units_are_counted(gap: float, share: float) -> None:
    round = make_round(0, point())
    for estimator, values in (
        (CentralDifference(probes=2), [1.0, 1.0 + gap, 1.0, 2.0]),
        (ForwardDifference(probes=2), [1.0, 1.0 + gap, 2.0]),
    ):
        ids, answers = round.ids(0, estimator.queries), Answers()
        for i, value in zip(ids, values, strict=True):
            answers.add(Failed((i,), "no") if math.isnan(value) else Values((i,), np.array([value])))
        info = estimator.estimate(round, answers).info
        assert info["near_rounding"] == share
        assert info["zero_differences"] == (0.5 if gap == 0.0 else 0.0)


def test_failures_are_not_counted_as_zero_differences() -> None:
    estimator, round = CentralDifference(probes=2), make_round(0, point())
    answers = Answers([Values(("0.0.0", "0.0.1"), np.array([2.0, 1.0])), Failed(("0.0.2", "0.0.3"), "test")])
    assert estimator.estimate(round, answers).info["zero_differences"] == 0.0


def test_logged_slope_is_the_root_mean_square_over_answered_probes() -> None:
    estimator, round = CentralDifference(epsilon=0.5, probes=2), make_round(0, point())
    answers = Answers([Values(("0.0.0", "0.0.1"), np.array([4.0, 1.0])), Failed(("0.0.2", "0.0.3"), "test")])
    assert estimator.estimate(round, answers).info["slope"] == 3.0


def test_per_example_mean_is_taken_after_the_difference() -> None:
    """Losses near 1e9 that differ by ones: float64 keeps the differences, whatever the order of the mean."""
    estimator = CentralDifference(epsilon=0.5, probes=1)
    weights = answered(estimator, np.array([[1e9 + 1, 2.0, 3.0], [1e9, 0.0, 0.0]]))
    assert weights.tolist() == [2.0]


def test_weights_are_per_example() -> None:
    estimator = ForwardDifference(epsilon=0.5, probes=2)
    values = np.array([[0.0, 1.0], [1.0, 1.0], [3.0, 0.0]])
    assert estimator.weights(values).tolist() == [[1.0, 0.0], [3.0, -1.0]]


def test_example_that_failed_is_dropped_for_itself_only() -> None:
    estimator = ForwardDifference(epsilon=0.5, probes=2)
    values = np.array([[0.0, 0.0], [1.0, np.nan], [3.0, 3.0]])
    assert estimator.weights(values).tolist() == [[1.0, 0.0], [3.0, 6.0]]


@pytest.mark.parametrize(("difference", "slope"), [(5.0, 2.0), (-5.0, -2.0), (1.5, 1.5)])
def test_clip_bounds_each_projected_gradient(difference: float, slope: float) -> None:
    estimator = CentralDifference(epsilon=0.5, clip=2.0)
    assert estimator.weights(np.array([difference, 0.0])).tolist() == [slope]


def test_clip_is_per_example() -> None:
    estimator = CentralDifference(epsilon=0.5, clip=2.0)
    assert answered(estimator, np.array([[9.0, 1.0], [0.0, 0.0]])).tolist() == [1.5]


@pytest.mark.parametrize("options", [{"epsilon": 0.0}, {"epsilon": -1.0}, {"probes": 0}, {"clip": 0.0}])
@by_kind
def test_impossible_options_are_refused(kind: type[TwoPoint], options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(UserError, match=name):
        kind(**options)  # type: ignore[arg-type]


def test_context_of_the_round_is_shared_by_all_queries() -> None:
    queries = CentralDifference(probes=2).next(make_round(0, point()), 0, Answers()).queries
    assert {q.context for q in queries} == {ALL_DATA}
