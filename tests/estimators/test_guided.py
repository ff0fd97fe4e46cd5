"""Estimators that lean on past estimates, against dense linear algebra and closed forms on linear functions."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch

from blackbox.direction import SeedTerms
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference, Estimator, Guided, HistoryAligned, SelfGuided
from blackbox.estimators.seed_sums import SeedSums
from blackbox.estimators.subspace import orthonormal
from blackbox.feedback import Answers, Failed
from blackbox.noise import Gaussian, Rademacher
from blackbox.parameters import Parameters
from blackbox.testing.estimators import EstimatorSuite, ask, estimate, make_round, vector

D = 24
G = torch.sqrt(torch.arange(1.0, D + 1, dtype=torch.float64)) * torch.tensor([1, -1, 1] * 8)
BOUND = 4.5


class TestGuided(EstimatorSuite):
    unbiased_on_linear = False  # on purpose: the subspace counts for more

    @pytest.fixture
    def estimator(self) -> Estimator:
        return Guided(probes=2, history=3)


class TestGuidedWithoutSubspace(EstimatorSuite):
    rounds = 400

    @pytest.fixture
    def estimator(self) -> Estimator:
        return Guided(Rademacher(), probes=2, alpha=1.0)


class TestSelfGuided(EstimatorSuite):
    unbiased_on_linear = False

    @pytest.fixture
    def estimator(self) -> Estimator:
        return SelfGuided(probes=3, history=2)


class TestHistoryAligned(EstimatorSuite):
    unbiased_on_linear = False

    @pytest.fixture
    def estimator(self) -> Estimator:
        return HistoryAligned(probes=2, terms=12)


def at_origin() -> Parameters:
    return Parameters({"a": torch.zeros(2, 6, dtype=torch.float64), "b": torch.zeros(12, dtype=torch.float64)})


LAYOUT = at_origin().layout


def slope(x: torch.Tensor) -> torch.Tensor:
    return x @ G


def noise(seeds: np.ndarray) -> np.ndarray:
    z = [Gaussian().sample(seeds.tolist(), s, 0, s.numel).double().numpy() for s in LAYOUT.specs]
    return np.hstack(z)


def estimates(estimator: Estimator, trials: int, first: int = 0) -> np.ndarray:
    """Each from the state the estimator is in now."""
    parameters, found = at_origin(), []
    for step in range(first, first + trials):
        round, fresh = make_round(step, parameters), copy.deepcopy(estimator)
        found.append(vector(estimate(fresh, slope, round, parameters).direction, LAYOUT).numpy())
    return np.stack(found)


PAST = [
    SeedTerms(Gaussian(), np.array([5, 6], np.int64), np.array([1e4, -2e4])),
    SeedTerms(Gaussian(), np.array([7], np.int64), np.array([1e-6])),
    SeedTerms(Gaussian(), np.array([8, 5], np.int64), np.array([0.5, 0.25])),
]


def basis_of_past() -> np.ndarray:
    """[d, 3] by a QR decomposition of the dense directions."""
    dense = np.stack([t.weights @ noise(t.seeds) for t in PAST])
    return np.linalg.qr((dense / np.linalg.norm(dense, axis=1, keepdims=True)).T)[0]


# The subspace


def test_basis_is_orthonormal_and_spans_the_past() -> None:
    seeds, rows = orthonormal(Gaussian(), PAST, LAYOUT)
    u = rows @ noise(seeds)
    np.testing.assert_allclose(u @ u.T, np.eye(3), atol=1e-9)
    qr = basis_of_past()
    np.testing.assert_allclose(u.T @ u, qr @ qr.T, atol=1e-9)


def test_what_is_there_twice_adds_nothing() -> None:
    seeds, rows = orthonormal(Gaussian(), [*PAST, PAST[0]], LAYOUT)
    u = rows @ noise(seeds)
    assert len(u) == 3
    qr = basis_of_past()
    np.testing.assert_allclose(u.T @ u, qr @ qr.T, atol=1e-6)


def test_fresh_parts_span_what_the_estimates_span() -> None:
    """While nothing is forgotten the kept seeds span all estimates so far, though those are built on each other."""
    estimator, parameters, found = Guided(Gaussian(), probes=2, history=5), at_origin(), []
    for step in range(5):
        found.append(vector(estimate(estimator, slope, make_round(step, parameters), parameters).direction, LAYOUT))
    seeds, rows = orthonormal(Gaussian(), estimator._past.terms, LAYOUT)
    u = rows @ noise(seeds)
    dense = torch.stack(found).numpy()
    np.testing.assert_allclose(dense @ u.T @ u, dense, rtol=1e-5, atol=1e-5)


# Guided


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_second_moment_of_guided_directions_is_its_closed_form(alpha: float) -> None:
    """E z z^T = alpha I + (1 - alpha)(d/k) U U^T, entry by entry within its standard error."""
    estimator, parameters, u = (
        Guided(Gaussian(), probes=8, alpha=alpha, surrogate=lambda round: PAST),
        at_origin(),
        basis_of_past(),
    )
    z = np.concatenate(
        [
            rows @ noise(seeds)
            for seeds, rows in (estimator.directions(make_round(step, parameters)) for step in range(400))
        ]
    )
    moments = z[:, :, None] * z[:, None, :]
    expected = alpha * np.eye(D) + (1 - alpha) * D / 3 * u @ u.T
    error = np.abs(moments.mean(0) - expected)
    assert (error < 5 * moments.std(0) / len(z) ** 0.5).all()


def test_mean_of_guided_estimates_is_its_closed_form() -> None:
    trials, alpha, g, u = 600, 0.5, G.numpy(), basis_of_past()
    found = estimates(Guided(Gaussian(), probes=4, alpha=alpha, surrogate=lambda round: PAST), trials)
    expected = alpha * g + (1 - alpha) * D / 3 * u @ (u.T @ g)
    assert (np.abs(found.mean(0) - expected) < BOUND * found.std(0) / trials**0.5).all()


def test_a_surrogate_that_holds_the_gradient_helps() -> None:
    """Cosine to the gradient, at equal queries, where one of four surrogates is the gradient itself."""
    seeds = np.arange(100, 100 + D)
    weights = np.linalg.solve(noise(seeds).T, G.numpy())  # the gradient in seeds
    good = [SeedTerms(Gaussian(), seeds, weights), *PAST]
    cosines = []
    for estimator in (
        Guided(Gaussian(), probes=2, surrogate=lambda round: good),
        CentralDifference(Gaussian(), probes=2),
    ):
        v = estimates(estimator, 200)
        cosines.append(v @ G.numpy() / (np.linalg.norm(v, axis=1) * float(G.norm())))
    apart = cosines[0].mean() - cosines[1].mean()
    assert apart > BOUND * np.hypot(cosines[0].std(), cosines[1].std()) / 200**0.5


# Self-guided


def with_past(alpha: float) -> SelfGuided:
    estimator = SelfGuided(Gaussian(), probes=4, history=3)
    past = [[t.seeds.tolist(), t.weights.tolist()] for t in PAST]
    estimator.load_state_dict({"past": past, "alpha": alpha})
    return estimator


def test_self_guided_directions_lie_inside_or_square_to_the_subspace() -> None:
    estimator, u = with_past(0.5), basis_of_past()
    inside = []
    for step in range(30):
        seeds, rows = estimator.directions(make_round(step, at_origin()))
        for z in rows @ noise(seeds):
            share = np.sum((u.T @ z) ** 2) / (z @ z)
            assert share < 1e-12 or share > 1 - 1e-12
            inside.append(share > 0.5)
    assert abs(np.mean(inside) - 0.5) < BOUND * 0.5 / len(inside) ** 0.5


@pytest.mark.parametrize("alpha", [0.3, 0.7])
def test_mean_of_self_guided_estimates_is_its_closed_form(alpha: float) -> None:
    trials, g, u = 600, G.numpy(), basis_of_past()
    found = estimates(with_past(alpha), trials)
    inner = u @ (u.T @ g)
    expected = alpha * D / 3 * inner + (1 - alpha) * D / (D - 3) * (g - inner)
    assert (np.abs(found.mean(0) - expected) < BOUND * found.std(0) / trials**0.5).all()


def test_alpha_follows_what_pays() -> None:
    """Of |u^T x|-like values those inside are lower, then higher; alpha goes by 1.1 and stays within [0.1, 0.9]."""
    u = torch.from_numpy(basis_of_past())
    parameters = at_origin()

    def bowl(sign: float, x: torch.Tensor) -> torch.Tensor:
        return sign * ((x @ u) ** 2).sum(1)

    for sign, bound in ((-1.0, 0.9), (1.0, 0.1)):
        estimator, alpha = with_past(0.5), 0.5
        for step in range(40):
            estimator._past = with_past(0.5)._past
            estimator._drawn = None
            found = estimate(estimator, partial(bowl, sign), make_round(step, parameters), parameters)
            ratio = found.info["alpha"] / alpha
            assert ratio == pytest.approx(1.1**-sign) or ratio == 1.0 or found.info["alpha"] == bound
            alpha = found.info["alpha"]
        assert alpha == bound


def test_search_is_isotropic_until_the_history_is_full() -> None:
    estimator, parameters = SelfGuided(Gaussian(), probes=2, history=3), at_origin()
    lengths = []
    for step in range(5):
        lengths.append(len(estimator.directions(make_round(step, parameters))[0]))
        estimate(estimator, slope, make_round(step, parameters), parameters)
    assert lengths[:3] == [2, 2, 2]
    assert lengths[3] == 2 + 3 * 2


# History-aligned


def test_estimate_is_the_projection_onto_the_last_one_and_fresh_directions() -> None:
    estimator, parameters = HistoryAligned(Gaussian(), probes=3), at_origin()
    last = None
    for step in range(4):
        round = make_round(step, parameters)
        found = vector(estimate(estimator, slope, round, parameters).direction, LAYOUT).numpy()
        spanning = noise(np.array(round.seeds("probe", 3)))
        if last is not None:
            spanning = np.vstack([last, spanning])
        q, _ = np.linalg.qr(spanning.T)
        np.testing.assert_allclose(found, q @ (q.T @ G.numpy()), rtol=1e-5, atol=1e-6)
        last = found


def test_squared_sine_shrinks_by_its_closed_form() -> None:
    """(1 - q/d)(1 - q/(d - 1))^(T - 1) after T rounds."""
    q, rounds, trials, g, parameters = 3, 4, 200, G.numpy(), at_origin()
    sines = []
    for trial in range(trials):
        estimator = HistoryAligned(Gaussian(), probes=q)
        for step in range(trial * rounds, (trial + 1) * rounds):
            found = estimate(estimator, slope, make_round(step, parameters), parameters)
        v = vector(found.direction, LAYOUT).numpy()
        sines.append(1 - (v @ g) ** 2 / (v @ v * (g @ g)))
    expected = (1 - q / D) * (1 - q / (D - 1)) ** (rounds - 1)
    assert abs(np.mean(sines) - expected) < BOUND * np.std(sines) / trials**0.5


def test_no_more_seeds_are_kept_than_asked() -> None:
    estimator, parameters = HistoryAligned(Gaussian(), probes=2, terms=6), at_origin()
    for step in range(10):
        found = estimate(estimator, slope, make_round(step, parameters), parameters)
        assert found.info["seeds"] <= 8
        assert len(estimator.state_dict()["seeds"]) <= 6


@pytest.mark.parametrize(
    "make", [lambda: Guided(Gaussian(), probes=3), lambda: with_past(0.5), lambda: HistoryAligned(Gaussian(), probes=3)]
)
def test_failed_pair_counts_for_nothing(make) -> None:  # type: ignore[no-untyped-def]
    """Whatever the missing value would have been, the direction is the same."""
    parameters, estimator = at_origin(), make()

    def bumped(by: float, x: torch.Tensor) -> torch.Tensor:
        return x @ G + by * torch.eye(len(x), dtype=torch.float64)[2]

    estimate(estimator, slope, make_round(0, parameters), parameters)
    round, found = make_round(1, parameters), []
    for bump in (0.0, 100.0):
        one = copy.deepcopy(estimator)
        told = ask(one, partial(bumped, bump), round, parameters)
        answers = Answers(f if i != 2 else Failed((q.id,), "test") for i, (q, f) in enumerate(told))
        found.append(vector(one.estimate(round, answers).direction, LAYOUT))
    assert torch.equal(*found)
    assert found[0].any()


def test_estimators_by_sums_of_seeds_ask_along_their_directions() -> None:
    estimator: SeedSums = Guided(Gaussian(), probes=2, surrogate=lambda round: PAST)
    parameters = at_origin()
    round = make_round(0, parameters)
    seeds, rows = estimator.directions(round)
    seen: list[torch.Tensor] = []
    ask(estimator, lambda x: seen.append(x) or x @ G, round, parameters)  # type: ignore[func-returns-value]
    expected = np.repeat(rows @ noise(seeds), 2, 0) * np.array([1, -1, 1, -1])[:, None] * 1e-3
    np.testing.assert_allclose(seen[0].numpy(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Guided(epsilon=0.0), "epsilon is a distance"),
        (lambda: Guided(Gaussian(), probes=0), "probes must be at least 1"),
        (lambda: Guided(alpha=0.0), "alpha is the share"),
        (lambda: Guided(history=0), "history is a number"),
        (
            lambda: Guided(Rademacher(), surrogate=lambda r: PAST).next(make_round(0, at_origin()), 0, Answers()),
            "must be of the estimator's law",
        ),
        (lambda: SelfGuided(alpha=0.05), "alpha must lie in"),
        (lambda: HistoryAligned(Gaussian(), probes=4, terms=3), "terms must be at least probes"),
    ],
)
def test_bad_arguments_are_refused_in_words(make: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()  # type: ignore[operator]
