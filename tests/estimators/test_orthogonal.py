"""Projection onto the probes' span, and regression on slopes, against dense linear algebra and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blackbox.errors import UserError
from blackbox.estimators import CentralDifference, Estimator, Orthogonal, Regression
from blackbox.feedback import Answers, Failed
from blackbox.layout import Layout
from blackbox.noise import Coordinate, Gaussian, Law, Rademacher, Scaled, Sparse, Sphere
from blackbox.noise.gram import gram, products
from blackbox.parameters import Parameters
from blackbox.testing.estimators import (
    GRADIENT,
    LAYOUT,
    EstimatorSuite,
    ask,
    estimate,
    linear,
    make_round,
    point,
    vector,
)

D = 24
G = torch.sqrt(torch.arange(1.0, D + 1, dtype=torch.float64)) * torch.tensor([1, -1, 1] * 8)
BOUND = 4.5


class TestOrthogonal(EstimatorSuite):
    rounds = 400

    @pytest.fixture
    def estimator(self) -> Estimator:
        return Orthogonal(Gaussian(), probes=3)


class TestOrthogonalRademacherForward(EstimatorSuite):
    rounds = 400

    @pytest.fixture
    def estimator(self) -> Estimator:
        return Orthogonal(Rademacher(), probes=2, stencil="forward")


class TestRegression(EstimatorSuite):
    unbiased_on_linear = False

    @pytest.fixture
    def estimator(self) -> Estimator:
        return Regression(Gaussian(), probes=2, reuse=2)


def dense(law: Law, seeds: list[int], layout: Layout) -> np.ndarray:
    """Scaled noise as a matrix [n, d]."""
    scale = np.array([law.scale(seed, layout) for seed in seeds])
    z = np.hstack([law.sample(seeds, s, 0, s.numel).double().numpy() for s in layout.specs])
    return z * scale[:, None]


def at_origin() -> Parameters:
    return Parameters({"x": torch.zeros(D, dtype=torch.float64)})


def slope(x: torch.Tensor) -> torch.Tensor:
    return x @ G


@pytest.mark.parametrize(
    "law", [Gaussian(), Rademacher(), Sphere(), Coordinate(), Sparse(Gaussian(), 0.5), Scaled(Gaussian(), {"a": 2.0})]
)
def test_gram_matrix_is_that_of_the_dense_noise(law: Law, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blackbox.noise.gram._PIECE", 64 * 9)  # several pieces a tensor
    layout = Layout.of({"a": (50, 3), "b": (77,)})
    first, second = [1, 2, 3, 4, 300], [9, 8, 7]
    z, y = dense(law, first, layout), dense(law, second, layout)
    np.testing.assert_allclose(gram(law, first, layout), z @ z.T, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(products(law, first, second, layout), z @ y.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("law", [Gaussian(), Rademacher(), Sphere()])
def test_estimate_is_that_of_an_orthonormal_basis(law: Law) -> None:
    """On a linear function: (d/q) sum_j (g.u_j) u_j with u from a QR decomposition of the dense noise."""
    parameters, q = at_origin(), 7
    for step in range(5):
        round = make_round(step, parameters)
        basis, _ = np.linalg.qr(dense(law, list(round.seeds("probe", q)), parameters.layout).T)
        expected = D / q * basis @ (basis.T @ G.numpy())
        found = vector(
            estimate(Orthogonal(law, probes=q), slope, round, parameters).direction, parameters.layout
        ).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def linear_estimates(estimator: Estimator, trials: int) -> np.ndarray:
    parameters = at_origin()
    rounds = [make_round(step, parameters) for step in range(trials)]
    found = [vector(estimate(estimator, slope, r, parameters).direction, parameters.layout) for r in rounds]
    return torch.stack(found).numpy()


@pytest.mark.parametrize("law", [Gaussian(), Rademacher()])
@pytest.mark.parametrize("q", [2, 6, 18])  # at d/2 twice the projection is a reflection: the error is |g| always
def test_variance_is_d_minus_q_over_q(q: int, law: Law) -> None:
    trials, g = 600, G.numpy()
    squares = ((linear_estimates(Orthogonal(law, probes=q), trials) - g) ** 2).sum(1)
    assert abs(squares.mean() - (D - q) / q * (g @ g)) < BOUND * squares.std() / trials**0.5


@pytest.mark.parametrize("q", [1, 6, 12])
def test_mean_squared_cosine_is_q_over_d(q: int) -> None:
    trials, g = 600, G.numpy()
    v = linear_estimates(Orthogonal(Gaussian(), probes=q), trials)
    squared = (v @ g) ** 2 / ((v**2).sum(1) * (g @ g))
    assert abs(squared.mean() - q / D) < BOUND * squared.std() / trials**0.5


def test_as_many_probes_as_parameters_give_the_gradient() -> None:
    v = linear_estimates(Orthogonal(Gaussian(), probes=D, epsilon=0.5), 3)
    np.testing.assert_allclose(v, np.tile(G.numpy(), (3, 1)), rtol=1e-6, atol=1e-6)


def test_coordinates_drawn_twice_count_once() -> None:
    """Coordinate noise repeats; the projection is onto the distinct coordinates, the factor d over their number."""
    for v in linear_estimates(Orthogonal(Coordinate(), probes=D), 5):
        hit = np.abs(v) > 1e-9
        np.testing.assert_allclose(v[hit], G.numpy()[hit] * D / hit.sum(), rtol=1e-9)
        assert 0 < hit.sum() < D


def test_failed_probe_leaves_the_projection_onto_the_others() -> None:
    parameters, estimator = point(), Orthogonal(Gaussian(), probes=3)
    round = make_round(0, parameters)
    told = ask(estimator, linear, round, parameters)
    answers = Answers(f if i != 3 else Failed((q.id,), "test") for i, (q, f) in enumerate(told))
    seeds = list(round.seeds("probe", 3))
    basis, _ = np.linalg.qr(dense(Gaussian(), [seeds[0], seeds[2]], LAYOUT).T)
    expected = 7 / 2 * basis @ (basis.T @ GRADIENT.numpy())
    np.testing.assert_allclose(vector(estimator.estimate(round, answers).direction).numpy(), expected, atol=1e-7)


# Regression


def test_regression_without_ridge_is_the_projection() -> None:
    estimators = Orthogonal(Gaussian(), probes=6), Regression(Gaussian(), probes=6, reuse=0, ridge=0.0)
    ours, plain = (linear_estimates(e, 4) for e in estimators)
    np.testing.assert_allclose(ours * 6 / D, plain, rtol=1e-9)


@pytest.mark.parametrize("rho", [0.05, 1.0])
def test_regression_is_the_dense_ridge_regression(rho: float) -> None:
    """(Z^T C Z + rho d I)^-1 Z^T C b over the rows of three rounds, C by age."""
    parameters, q, fading = at_origin(), 5, 0.6
    estimator = Regression(Gaussian(), probes=q, reuse=2, fading=fading, ridge=rho)
    rounds = [make_round(step, parameters) for step in range(4)]
    found = [vector(estimate(estimator, slope, r, parameters).direction, parameters.layout).numpy() for r in rounds]
    z = np.vstack([dense(Gaussian(), list(rounds[3 - age].seeds("probe", q)), parameters.layout) for age in range(3)])
    trust = np.repeat(fading ** np.arange(3.0), q)
    left = z.T @ (trust[:, None] * z) + rho * D * np.eye(D)
    expected = np.linalg.solve(left, z.T @ (trust * (z @ G.numpy())))
    np.testing.assert_allclose(found[3], expected, rtol=1e-6, atol=1e-8)


def test_cosine_grows_with_reuse_as_m_over_d() -> None:
    """Three rounds of 4 rows are a random subspace of 12 of 24 dimensions."""
    trials, g, squared = 400, G.numpy(), []
    parameters = at_origin()
    for trial in range(trials):
        estimator = Regression(Gaussian(), probes=4, reuse=2, ridge=0.0)
        for step in range(3 * trial, 3 * trial + 3):
            found = estimate(estimator, slope, make_round(step, parameters), parameters)
        v = vector(found.direction, parameters.layout).numpy()
        squared.append((v @ g) ** 2 / (v @ v * (g @ g)))
    assert found.info["rows"] == 12
    assert abs(np.mean(squared) - 12 / D) < BOUND * np.std(squared) / trials**0.5


def test_enough_rows_give_the_gradient() -> None:
    parameters, estimator = at_origin(), Regression(Gaussian(), probes=5, reuse=5, ridge=0.0, fading=1.0)
    for step in range(6):
        found = estimate(estimator, slope, make_round(step, parameters), parameters)
    np.testing.assert_allclose(vector(found.direction, parameters.layout).numpy(), G.numpy(), rtol=1e-5)


def test_ridge_takes_noise_out() -> None:
    """With noisy slopes the mean squared error is below that of interpolation."""
    parameters, errors = at_origin(), []
    generator = torch.Generator().manual_seed(2)
    scale = float(G.norm())

    def noisy(x: torch.Tensor) -> torch.Tensor:
        return x @ G + 1e-3 * scale * torch.randn(len(x), generator=generator, dtype=torch.float64)

    for ridge in (0.0, 0.5):
        estimator = Regression(Gaussian(), probes=20, reuse=0, ridge=ridge)
        found = [
            vector(estimate(estimator, noisy, make_round(s, parameters), parameters).direction, parameters.layout)
            for s in range(100)
        ]
        errors.append(float((torch.stack(found) - G).square().sum(1).mean()))
    assert errors[1] < errors[0]


def test_orthogonal_is_more_accurate_than_central_at_equal_queries() -> None:
    g, q, trials = G.numpy(), 12, 400
    errors = [
        ((linear_estimates(e, trials) - g) ** 2).sum(1)
        for e in (Orthogonal(Gaussian(), probes=q), CentralDifference(Gaussian(), probes=q))
    ]
    apart = errors[1].mean() - errors[0].mean()
    assert apart > BOUND * np.hypot(errors[0].std(), errors[1].std()) / trials**0.5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Orthogonal(Sparse(Gaussian(), 0.5)), "treats directions unequally"),
        (lambda: Orthogonal(Gaussian(), probes=0), "probes must be at least 1"),
        (lambda: Orthogonal(epsilon=-1.0), "epsilon is a distance"),
        (lambda: Orthogonal(stencil="both"), "'forward' or 'central'"),  # type: ignore[arg-type]
        (lambda: Orthogonal(Gaussian(), probes=8).next(make_round(0, point()), 0, Answers()), "must not exceed the 7"),
        (lambda: Regression(reuse=-1), "reuse is a number"),
        (lambda: Regression(fading=0.0), "fading must lie in"),
        (lambda: Regression(ridge=-1.0), "ridge is a ratio"),
    ],
)
def test_bad_arguments_are_refused_in_words(make: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()  # type: ignore[operator]
