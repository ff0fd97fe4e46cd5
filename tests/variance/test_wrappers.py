"""Averages, antithetic pairs, blocks, control variates and shrinkage against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blackbox.errors import UserError
from blackbox.estimators import CentralDifference, CoordinateWise, Estimator, ForwardDifference, RankEstimator
from blackbox.feedback import Answers
from blackbox.noise import Gaussian, Rademacher, Sphere
from blackbox.testing.estimators import EstimatorSuite
from blackbox.testing.sums import LAYOUT, D, Driver, Quadratics, make_round, path
from blackbox.variance import SVRG, Antithetic, Average, Blocks, ControlVariate, Shrinkage
from blackbox.variance.terms import vector

X = torch.linspace(-1, 1, D, dtype=torch.float64)


class TestAverage(EstimatorSuite):
    rounds = 250

    @pytest.fixture
    def estimator(self) -> Estimator:
        return Average(ForwardDifference(Gaussian(), 0.1), 3, own_batches=True)


class TestAverageOfPairs(EstimatorSuite):
    rounds = 250

    @pytest.fixture
    def estimator(self) -> Estimator:
        return Average(Antithetic(ForwardDifference(Gaussian(), 0.1)), 2)


class TestAntithetic(EstimatorSuite):
    rounds = 250

    @pytest.fixture
    def estimator(self) -> Estimator:
        return Antithetic(ForwardDifference(Rademacher(), 0.1, probes=2))


class TestBlocks(EstimatorSuite):
    rounds = 250

    @pytest.fixture
    def estimator(self) -> Estimator:
        return Blocks(CentralDifference(Rademacher(), 0.1), examples=7, blocks=3)


class TestControlVariate(EstimatorSuite):
    rounds = 250

    @pytest.fixture
    def estimator(self) -> Estimator:
        return ControlVariate(CentralDifference(Rademacher(), 0.1, probes=2))


class TestShrinkage(EstimatorSuite):
    unbiased_on_linear = False

    @pytest.fixture
    def estimator(self) -> Estimator:
        return Shrinkage(CentralDifference(Rademacher(), 0.1), repeats=3)


def errors(make: object, rounds: int = 600) -> float:
    """Mean |g' - grad|^2 / |grad|^2 on a linear function, over runs of one round."""
    function, total = Quadratics(linear=True), 0.0
    for seed in range(rounds):
        driver = Driver(make(), function, seed)  # type: ignore[operator]
        gradient = function.gradient(X, driver.round().context)
        total += float((driver.vector(X) - gradient).square().sum() / gradient.square().sum())
    return total / rounds


# averages


@pytest.mark.parametrize("repeats", [1, 4])
def test_variance_of_an_average_is_that_of_one_over_repeats(repeats: int) -> None:
    expected = (D + 1) / repeats
    assert errors(lambda: Average(CentralDifference(Gaussian(), 0.1), repeats)) == pytest.approx(expected, rel=0.15)


def test_base_value_that_repeats_share_is_asked_once() -> None:
    driver = Driver(Average(ForwardDifference(Gaussian(), 0.1), 5), Quadratics())
    driver.at(X)
    assert [query.candidate is None for query in driver.asked].count(True) == 1
    assert len(driver.asked) == 6


def test_own_batches_are_distinct_and_share_what_else_is_random() -> None:
    driver = Driver(Average(CentralDifference(Gaussian(), 0.1), 3, own_batches=True), Quadratics())
    driver.at(X)
    assert len({query.context.batch_seed for query in driver.asked}) == 3
    assert len({query.context.reset_seed for query in driver.asked}) == 1


def test_repeat_without_an_answer_is_left_out_of_the_mean() -> None:
    driver = Driver(Average(CentralDifference(Gaussian(), 0.1), 2), Quadratics())
    driver.fails = {0, 1}
    partial = driver.vector(X)
    whole = Driver(Average(CentralDifference(Gaussian(), 0.1), 2), Quadratics())
    both = whole.at(X).direction.terms[0]
    assert len(both.weights) == 2  # type: ignore[union-attr]
    alone = [vector_of(both, i) * 2 for i in range(2)]
    assert any(torch.allclose(partial, one, rtol=1e-12) for one in alone)


def vector_of(term: object, place: int) -> torch.Tensor:
    from blackbox.direction import Direction, SeedTerms

    assert isinstance(term, SeedTerms)
    keep = slice(place, place + 1)
    return vector(Direction((SeedTerms(term.law, term.seeds[keep], term.weights[keep]),)), LAYOUT)


# antithetic pairs


def test_antithetic_forward_differences_are_central_ones() -> None:
    function = Quadratics()
    pairs = Driver(Antithetic(ForwardDifference(Gaussian(), 0.3, probes=3)), function).vector(X)
    central = Driver(CentralDifference(Gaussian(), 0.3, probes=3), function).vector(X)
    torch.testing.assert_close(pairs, central, rtol=1e-9, atol=1e-12)


def test_antithetic_forward_asks_the_base_once() -> None:
    driver = Driver(Antithetic(ForwardDifference(Gaussian(), 0.3, probes=3)), Quadratics())
    driver.at(X)
    assert len(driver.asked) == 7


def test_antithetic_coordinates_are_central_ones() -> None:
    function = Quadratics()
    found = Driver(Antithetic(CoordinateWise(0.3)), function)
    torch.testing.assert_close(found.vector(X), function.gradient(X, found.asked[0].context), rtol=1e-9, atol=1e-10)
    assert len(found.asked) == 2 * D + 1


def test_antithetic_around_both_sides_is_refused() -> None:
    estimator = Antithetic(CentralDifference(Gaussian(), 0.1))
    with pytest.raises(UserError, match="asks along z and -z already"):
        estimator.next(make_round(0), 0, Answers())


# blocks


def test_blocks_of_coordinates_are_the_gradient_over_all_data() -> None:
    function = Quadratics()
    found = Driver(Blocks(CoordinateWise(1e-3, "central"), 20, 3), function)
    torch.testing.assert_close(found.vector(X), function.gradient(X), rtol=1e-8, atol=1e-9)
    assert {i for query in found.asked for i in query.context.indices or ()} == set(range(20))


def test_blocks_divide_the_variance_of_directions_at_the_same_cost() -> None:
    function = Quadratics(identical=True)
    gradient = function.gradient(X)

    def error(estimator: Estimator) -> tuple[float, int]:
        drivers = [Driver(estimator, function, seed) for seed in range(300)]
        total = np.mean([float((d.vector(X) - gradient).square().sum()) for d in drivers])
        return float(total), sum(len(function.rows(query.context)) for query in drivers[0].asked)

    one, cost_of_one = error(Blocks(CentralDifference(Rademacher(), 1e-3), 20, 1))
    many, cost_of_many = error(Blocks(CentralDifference(Rademacher(), 1e-3), 20, 10))
    assert cost_of_one == cost_of_many
    assert many == pytest.approx(one / 10, rel=0.2)


# control variates


def primed(estimator: ControlVariate, model: torch.Tensor) -> ControlVariate:
    estimator.model = model.clone()
    return estimator


def test_model_equal_to_the_gradient_leaves_no_variance() -> None:
    function = Quadratics(linear=True)
    driver = Driver(CentralDifference(Gaussian(), 0.1), function)
    gradient = function.gradient(X, driver.round().context)
    driver.estimator = primed(ControlVariate(driver.estimator, coefficient=1.0), gradient)
    torch.testing.assert_close(driver.vector(X), gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("law", "sign"), [(Gaussian(), 1), (Rademacher(), -1), (Sphere(), -1)])
def test_variance_is_that_of_the_residual_gradient(law: object, sign: int) -> None:
    """(d +- 1)/q |grad - a m|^2 in place of (d +- 1)/q |grad|^2."""
    function, a, total, rounds = Quadratics(linear=True), 0.7, 0.0, 500
    gradient = function.gradient(X, make_round(0).context)
    model = gradient + 0.3 * torch.ones(D, dtype=torch.float64)
    expected = (D + sign) / 2 * float((gradient - a * model).square().sum())
    for seed in range(rounds):
        inner = CentralDifference(law, 0.1, probes=2)  # type: ignore[arg-type]
        driver = Driver(primed(ControlVariate(inner, coefficient=a), model), function, seed)
        own = function.gradient(X, driver.round().context)
        total += (
            float((driver.vector(X) - own).square().sum())
            * expected
            / ((D + sign) / 2 * float((own - a * model).square().sum()))
        )
    assert total / rounds == pytest.approx(expected, rel=0.15)


def test_running_coefficient_of_a_linear_function_is_the_projection_on_the_model() -> None:
    """a* = <grad, m> / |m|^2. The sums over 2000 directions come within a few percent of it."""
    function = Quadratics(identical=True, linear=True)
    gradient = function.gradient(X)
    model = gradient * 0.5 + 0.1 * torch.ones(D, dtype=torch.float64)
    estimator = ControlVariate(CentralDifference(Gaussian(), 0.1, probes=2000), memory=0.5)
    driver = Driver(estimator, function)
    for _ in range(2):
        primed(estimator, model)
        found = driver.at(X).info["coefficient"]
    assert found == pytest.approx(float(gradient @ model / model.square().sum()), rel=0.08)


def test_coefficient_of_the_round_solves_the_regression() -> None:
    """One direction in d = 1 determines a: the corrected estimate is a m, the gradient itself."""
    function = Quadratics(identical=True, linear=True)
    gradient = function.gradient(X)
    estimator = primed(ControlVariate(CentralDifference(Gaussian(), 0.1, 3), coefficient="round"), gradient * 4)
    driver = Driver(estimator, function)
    assert driver.at(X).info["coefficient"] == pytest.approx(0.25, rel=1e-6)


def test_control_variate_needs_no_more_queries() -> None:
    driver = Driver(ControlVariate(ForwardDifference(Gaussian(), 0.1, 3)), Quadratics())
    for _ in range(2):
        driver.at(X)
        assert len(driver.asked) == 4


def test_failed_queries_are_left_out_of_the_model_too() -> None:
    """With model = gradient and a = 1 nothing is left to chance, whatever failed."""
    function = Quadratics(identical=True, linear=True)
    gradient = function.gradient(X)
    driver = Driver(primed(ControlVariate(CentralDifference(Gaussian(), 0.1, 3), coefficient=1.0), gradient), function)
    driver.fails = {0, 3}
    torch.testing.assert_close(driver.vector(X), gradient, rtol=1e-9, atol=1e-12)


# shrinkage


@pytest.mark.parametrize(
    ("law", "factor"),
    [(Rademacher(), 2 / (D + 1)), (Sphere(), 2 / (D + 1)), (Gaussian(), 2 / (D + 3))],
)
def test_closed_form_has_the_least_error(law: object, factor: float) -> None:
    """f V with f = q/(d + q -+ 1), V = (d -+ 1)/q |grad|^2: below V and below what any other factor leaves."""
    variance = (1 - factor) / factor  # V/|grad|^2, from f = 1/(1 + V/|grad|^2)
    found = errors(lambda: Shrinkage(CentralDifference(law, 0.1, probes=2)))  # type: ignore[arg-type]
    assert found == pytest.approx(factor * variance, rel=0.15)
    one = Driver(Shrinkage(CentralDifference(law, 0.1, probes=2)), Quadratics()).at(X)  # type: ignore[arg-type]
    assert one.info["shrinkage"] == pytest.approx(factor)


def test_estimated_factor_comes_to_the_best_one() -> None:
    """r repeats of q = 1: 1/(1 + V/|grad|^2), V = (d - 1)/r |grad|^2."""
    function = Quadratics(identical=True, linear=True)
    driver = Driver(Shrinkage(CentralDifference(Rademacher(), 0.1), repeats=4, memory=0.999), function)
    for _ in range(700):
        factor = driver.at(X).info["shrinkage"]
    assert factor == pytest.approx(4 / (D + 3), rel=0.15)


def test_factor_is_zero_where_there_is_no_slope() -> None:
    function = Quadratics(identical=True, linear=True)
    function.centres[:] = 0
    driver = Driver(Shrinkage(CentralDifference(Rademacher(), 0.1), repeats=4), function)
    assert not driver.vector(X).any()


# what doesn't go together


def test_stateful_estimators_are_refused_where_they_are_asked_twice() -> None:
    with pytest.raises(UserError, match="RankEstimator keeps a state"):
        Average(RankEstimator())
    with pytest.raises(UserError, match="SVRG keeps a state"):
        Antithetic(SVRG(CentralDifference()))


def test_estimates_by_order_are_not_subtracted() -> None:
    with pytest.raises(UserError, match="goes by an order"):
        SVRG(RankEstimator())


def test_wrappers_nest() -> None:
    inner = Average(Antithetic(ForwardDifference(Gaussian(), 0.1)), 2)
    driver = Driver(Shrinkage(SVRG(inner, Blocks(inner, 20, 5), every=3)), Quadratics())
    for x in path(5):
        assert driver.vector(x).isfinite().all()
