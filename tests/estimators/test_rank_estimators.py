"""Estimators that look at an order only."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from blackbox.errors import UserError
from blackbox.estimators import Estimator, OneBit, RankEstimator, RankEvolution
from blackbox.feedback import Answers, Ranking
from blackbox.noise import Gaussian, Rademacher
from blackbox.parameters import Parameters
from blackbox.testing.estimators import EstimatorSuite, make_round, vector
from oracles import FunctionOracle, Ranked


class TestRank(EstimatorSuite):
    unbiased_on_linear = False

    @pytest.fixture
    def estimator(self) -> Estimator:
        return RankEstimator(probes=5)


class TestRankReused(EstimatorSuite):
    unbiased_on_linear = False

    @pytest.fixture
    def estimator(self) -> Estimator:
        return RankEstimator(probes=5, reuse=2)


class TestEvolution(EstimatorSuite):
    unbiased_on_linear = False

    @pytest.fixture
    def estimator(self) -> Estimator:
        return RankEvolution(probes=3)


class TestOneBit(EstimatorSuite):
    unbiased_on_linear = False

    @pytest.fixture
    def estimator(self) -> Estimator:
        return OneBit(Gaussian(), probes=3)


def mean_cosine(estimator: Estimator, top: int | None, trials: int, dimension: int = 100) -> float:
    """To the gradient of |x|^2, over rounds."""
    start = np.random.Generator(np.random.Philox(3)).standard_normal(dimension)
    parameters = Parameters.from_vector(start)
    oracle = Ranked(FunctionOracle(lambda x: (x**2).sum(1), batched=True), top)
    total = 0.0
    for step in range(trials):
        round = make_round(step, parameters)
        oracle.submit(estimator.next(round, 0, Answers()).queries, parameters)
        found = vector(estimator.estimate(round, Answers(oracle.poll())).direction, parameters.layout)
        total += float(torch.nn.functional.cosine_similarity(found, torch.from_numpy(start), dim=0))
    return total / trials


@pytest.mark.parametrize(
    ("m", "k", "cosine"), [(6, 6, 0.200), (6, 3, 0.186), (15, 15, 0.337), (15, 5, 0.286), (15, 1, 0.180)]
)
def test_cosine_to_the_gradient_at_d_100(m: int, k: int, cosine: float) -> None:
    """The figures of an independent simulation; half as many trials would stay within .01 as well."""
    assert mean_cosine(RankEstimator(epsilon=1e-3, probes=m), k, 2000) == pytest.approx(cosine, abs=0.01)


def test_antithetic_ranks_lose_little_against_values() -> None:
    """q antithetic pairs with values reach sqrt(q/(d + q)) or so."""
    found = mean_cosine(RankEvolution(epsilon=1e-3, probes=8), None, 800)
    assert 0.9 * math.sqrt(8 / 108) < found < math.sqrt(8 / 108) + 0.01


def test_one_bit_of_a_pair_has_the_cosine_of_its_sign() -> None:
    """One direction: E|cos| between a random sign vector and the gradient is sqrt(2/(pi d))."""
    found = mean_cosine(OneBit(Rademacher(), 1e-3, probes=1), None, 2000)
    assert found == pytest.approx(math.sqrt(2 / (math.pi * 100)), abs=0.006)


def test_skipped_round_gives_no_direction() -> None:
    estimator, round = RankEstimator(probes=3), make_round(0, Parameters.from_vector(np.zeros(4)))
    estimate = estimator.estimate(round, Answers([Ranking((), ("0.0.0", "0.0.1", "0.0.2"))]))
    assert estimate.info["edges"] == 0 and estimate.proposals == ()
    assert not vector(estimate.direction, round.layout).any()


def test_natural_utilities_are_those_of_the_paper() -> None:
    """arXiv:1106.4487, section 3.1, for 4 candidates."""
    from blackbox.estimators.evolution import natural

    raw = np.array([max(0.0, math.log(3) - math.log(k)) for k in (1, 2, 3, 4)])
    np.testing.assert_allclose(natural(np.arange(4.0)), 1 - 4 * raw / raw.sum())


def test_past_rounds_are_averaged_in_and_survive_a_restart() -> None:
    parameters = Parameters.from_vector(np.zeros(50))
    ranking = [Ranking(tuple((f"{s}.0.{i}",) for i in range(4))) for s in range(2)]
    plain, reusing = RankEstimator(probes=4), RankEstimator(probes=4, reuse=1, fading=0.5)
    rounds = [make_round(s, parameters) for s in range(2)]
    apart = [vector(plain.estimate(r, Answers([a])).direction, r.layout) for r, a in zip(rounds, ranking, strict=True)]
    reusing.estimate(rounds[0], Answers([ranking[0]]))
    again = RankEstimator(probes=4, reuse=1, fading=0.5)
    again.load_state_dict(reusing.state_dict())
    for estimator in (reusing, again):
        both = vector(estimator.estimate(rounds[1], Answers([ranking[1]])).direction, rounds[1].layout)
        torch.testing.assert_close(both, (apart[1] + 0.5 * apart[0]) / 1.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RankEstimator(epsilon=0), "epsilon is a distance"),
        (lambda: RankEstimator(probes=1), "one candidate alone has no order"),
        (lambda: RankEstimator(fading=0), "fading must lie in"),
        (lambda: RankEvolution(probes=0), "probes must be at least 1"),
        (lambda: RankEvolution(utilities="best"), "'centred' or 'nes'"),  # type: ignore[arg-type]
        (lambda: OneBit(epsilon=-1), "epsilon is a distance"),
    ],
)
def test_bad_arguments_are_refused_in_words(make: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()  # type: ignore[operator]
