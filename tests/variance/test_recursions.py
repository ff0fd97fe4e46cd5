"""SVRG, SPIDER, PAGE, STORM and SAGA against dense computations and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.estimators import CentralDifference, CoordinateWise, Estimator
from blackbox.noise import Gaussian, Rademacher
from blackbox.probe import CURRENT, Context
from blackbox.testing.estimators import EstimatorSuite
from blackbox.testing.sums import LAYOUT, D, Driver, Quadratics, make_round, path
from blackbox.variance import PAGE, SAGA, SPIDER, STORM, SVRG, Blocks

LAW = Gaussian()
POINTS = path(8)


def inner(probes: int = 1) -> CentralDifference:
    return CentralDifference(LAW, 1e-3, probes)


def exact(stencil: str = "central") -> CoordinateWise:
    return CoordinateWise(1e-3, stencil)  # type: ignore[arg-type]


def slopes_along(driver: Driver, gradient: Tensor, step: int, probes: int) -> Tensor:
    """(1/q) sum (grad . z_i) z_i for the directions of that step's own round."""
    seeds = make_round(step, driver.seed).seeds("probe", probes)
    z = LAW.sample(seeds, LAYOUT.specs[0], 0, D).double()
    return (z @ gradient) @ z / probes


class TestSVRG(EstimatorSuite):
    unbiased_on_linear = False  # within an epoch estimates aren't independent; see below

    @pytest.fixture
    def estimator(self) -> Estimator:
        return SVRG(CentralDifference(Rademacher(), 0.1, 2), every=2)


class TestSPIDER(EstimatorSuite):
    unbiased_on_linear = False

    @pytest.fixture
    def estimator(self) -> Estimator:
        return SPIDER(CentralDifference(Rademacher(), 0.1, 2), every=4)


class TestPAGE(EstimatorSuite):
    unbiased_on_linear = False

    @pytest.fixture
    def estimator(self) -> Estimator:
        return PAGE(CentralDifference(Rademacher(), 0.1, 2), probability=0.4)


class TestSTORM(EstimatorSuite):
    unbiased_on_linear = False

    @pytest.fixture
    def estimator(self) -> Estimator:
        return STORM(CentralDifference(Rademacher(), 0.1, 2), forget=0.3)


class TestSAGA(EstimatorSuite):
    unbiased_on_linear = False

    @pytest.fixture
    def estimator(self) -> Estimator:
        return SAGA(CentralDifference(Rademacher(), 0.1, 2), examples=5, blocks=3)


# SVRG


def test_svrg_at_the_anchor_is_the_full_estimate() -> None:
    """At the snapshot's step, and at every later step that is still at x_0."""
    function = Quadratics()
    driver = Driver(SVRG(inner(), exact(), every=5), function)
    for _ in range(5):
        torch.testing.assert_close(driver.vector(POINTS[3]), function.gradient(POINTS[3]), rtol=1e-8, atol=1e-9)


def test_svrg_equals_its_formula_along_the_same_directions() -> None:
    """v = P (grad_I(x) - grad_I(x_0)) + grad(x_0) with P = (1/q) sum z z^T: false by far if u were redrawn."""
    function = Quadratics()
    driver = Driver(SVRG(inner(2), exact(), every=8), function)
    driver.at(POINTS[0])
    for x in POINTS[1:]:
        context, step = driver.round().context, driver.step
        change = function.gradient(x, context) - function.gradient(POINTS[0], context)
        expected = slopes_along(driver, change, step, 2) + function.gradient(POINTS[0])
        torch.testing.assert_close(driver.vector(x), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", [lambda e: SVRG(e, exact(), every=99), lambda e: SPIDER(e, exact(), every=99)])
def test_subtracted_terms_ask_along_the_same_directions_on_the_same_data(make: object) -> None:
    driver = Driver(make(inner(3)), Quadratics())  # type: ignore[operator]
    driver.at(POINTS[0])
    driver.at(POINTS[1])
    here = [(q.candidate, q.context) for q in driver.asked if q.base == CURRENT]
    there = [(q.candidate, q.context) for q in driver.asked if q.base != CURRENT]
    assert len(here) == 6
    assert here == there


def redrawn(driver: Driver, x: Tensor, anchor: Tensor) -> Tensor:
    """What the correction would be with directions drawn anew for the second term."""
    context = driver.round().context
    first = slopes_along(driver, driver.function.gradient(x, context), driver.step, 1)
    second = slopes_along(driver, driver.function.gradient(anchor, context), driver.step + 5000, 1)
    return first - second + driver.function.gradient(anchor)


def test_variance_falls_with_the_distance_and_would_not_with_directions_redrawn() -> None:
    """With identical components E|v - grad|^2 = (d + 1) |grad(x) - grad(x_0)|^2, 4 % of an estimate's own at .1 x_0."""
    function = Quadratics(identical=True)
    anchor = POINTS[-1] * 3
    x = anchor * 0.9
    gradient, same, anew, rounds = function.gradient(x), 0.0, 0.0, 400
    for seed in range(rounds):
        driver = Driver(SVRG(inner(), exact(), every=99), function, seed)
        driver.at(anchor)
        anew += float((redrawn(driver, x, anchor) - gradient).square().sum())
        same += float((driver.vector(x) - gradient).square().sum())
    expected = (D + 1) * float((gradient - function.gradient(anchor)).square().sum())
    assert same / rounds == pytest.approx(expected, rel=0.2)
    assert anew > 20 * same


def test_correction_on_identical_linear_components_is_zero() -> None:
    function = Quadratics(identical=True, linear=True)
    driver = Driver(SVRG(inner(), exact(), every=99), function)
    for x in POINTS:
        torch.testing.assert_close(driver.vector(x), function.gradient(x), rtol=1e-8, atol=1e-8)


def test_correction_along_all_coordinates_on_identical_quadratics_has_no_variance() -> None:
    """Directions are no chance then, and neither are the examples: every step is the gradient itself."""
    function = Quadratics(identical=True)
    driver = Driver(SVRG(exact(), every=99), function)
    for x in POINTS:
        torch.testing.assert_close(driver.vector(x), function.gradient(x), rtol=1e-7, atol=1e-8)


def test_svrg_is_unbiased_over_runs() -> None:
    function, x = Quadratics(), POINTS[2]
    found = []
    for seed in range(400):
        driver = Driver(SVRG(inner(), Blocks(inner(), 20, 5), every=9), function, seed)
        driver.at(POINTS[0])
        found.append(driver.vector(x))
    estimates = torch.stack(found)
    error = (estimates.mean(0) - function.gradient(x)).abs()
    assert (error < 4 * estimates.std(0) / 20).all()


def test_query_that_failed_at_one_point_is_left_out_at_the_other() -> None:
    """Otherwise the difference would be between unlike sums, as large as a gradient."""
    function = Quadratics(identical=True)
    driver = Driver(SVRG(inner(3), exact(), every=9), function)
    driver.at(POINTS[0])
    driver.fails = {1}
    torch.testing.assert_close(driver.vector(POINTS[0]), function.gradient(POINTS[0]), rtol=1e-6, atol=1e-8)


def test_snapshot_that_failed_is_taken_again() -> None:
    function = Quadratics()
    driver = Driver(SVRG(inner(), exact(), every=3), function)
    for step, x in enumerate(POINTS[:5]):
        driver.fails = set(range(100)) if step == 3 else set()
        found = driver.vector(x)
        if step == 3:
            assert not found.any()
        if step in (0, 4):
            torch.testing.assert_close(found, function.gradient(x), rtol=1e-7, atol=1e-8)
    assert driver.parameters.anchors["svrg"][0]["x"].equal(POINTS[4])


# SPIDER, PAGE, STORM


def dense_recursion(driver: Driver, keep: float, begins: object, first: object) -> list[Tensor]:
    """v_k = P_k grad_I(x_k) + keep (v_{k-1} - P_k grad_I(x_{k-1})), in dense arithmetic."""
    found: list[Tensor] = []
    for step, x in enumerate(POINTS):
        context = make_round(step, driver.seed).context
        if begins(step):  # type: ignore[operator]
            found.append(first(step, x))  # type: ignore[operator]
            continue
        here = slopes_along(driver, driver.function.gradient(x, context), step, 2)
        there = slopes_along(driver, driver.function.gradient(POINTS[step - 1], context), step, 2)
        found.append(here + keep * (found[-1] - there))
    return found


def test_spider_is_its_recursion() -> None:
    function = Quadratics()
    driver = Driver(SPIDER(inner(2), exact(), every=5), function)
    expected = dense_recursion(driver, 1.0, lambda k: k % 5 == 0, lambda k, x: function.gradient(x))
    for x, v in zip(POINTS, expected, strict=True):
        torch.testing.assert_close(driver.vector(x), v, rtol=1e-5, atol=1e-7)


def test_page_is_its_recursion() -> None:
    function = Quadratics()
    estimator = PAGE(inner(2), exact(), probability=0.4)
    driver = Driver(estimator, function)
    tossed = [k for k in range(8) if k == 0 or estimator.due(make_round(k))]
    assert 1 < len(tossed) < 8
    expected = dense_recursion(driver, 1.0, lambda k: k in tossed, lambda k, x: function.gradient(x))
    for x, v in zip(POINTS, expected, strict=True):
        torch.testing.assert_close(driver.vector(x), v, rtol=1e-5, atol=1e-7)


def test_page_tosses_a_fair_coin_of_its_probability() -> None:
    estimator = PAGE(inner(), probability=0.2)
    assert sum(estimator.due(make_round(k)) for k in range(5000)) == pytest.approx(1000, abs=110)


def test_storm_is_its_recursion() -> None:
    function = Quadratics()
    driver = Driver(STORM(inner(2), forget=0.3), function)

    def first(k: int, x: Tensor) -> Tensor:
        return slopes_along(driver, function.gradient(x, make_round(k).context), k, 2)

    expected = dense_recursion(driver, 0.7, lambda k: k == 0, first)
    for x, v in zip(POINTS, expected, strict=True):
        torch.testing.assert_close(driver.vector(x), v, rtol=1e-5, atol=1e-7)


def test_storm_that_forgets_all_is_the_estimator_inside() -> None:
    function = Quadratics()
    storm, alone = Driver(STORM(inner(2), forget=1.0), function), Driver(inner(2), function)
    for x in POINTS:
        torch.testing.assert_close(storm.vector(x), alone.vector(x), rtol=1e-10, atol=1e-12)


def test_recursion_stays_small_however_long_it_is() -> None:
    function = Quadratics()
    driver = Driver(STORM(inner(2), forget=0.01), function)
    for k in range(30):
        driver.at(POINTS[k % 8])
        (entry,) = [e for e in driver.estimator.state_dict()["last"] if "seeds" in e or "values" in e][:1]
        assert len(entry["seeds"] if "seeds" in entry else entry["values"]) <= D + 2


def test_last_point_is_asked_at_an_anchor_that_still_is_the_last_point() -> None:
    driver = Driver(SPIDER(inner(), exact(), every=99), Quadratics())
    for k, x in enumerate(POINTS):
        driver.at(x)
        bases = {query.base for query in driver.asked} - {CURRENT}
        assert len(bases) == (1 if k else 0)
        for base in bases:
            assert driver.parameters.anchor(base)["x"].equal(POINTS[k - 1])


# SAGA


def test_saga_along_all_coordinates_is_its_formula() -> None:
    function, m = Quadratics(), 7
    driver = Driver(SAGA(exact(), 20, m), function)
    blocks = [tuple(range(j, 20, m)) for j in range(m)]
    table = [function.gradient(POINTS[0], Context(indices=b)) for b in blocks]
    torch.testing.assert_close(driver.vector(POINTS[0]), function.gradient(POINTS[0]), rtol=1e-7, atol=1e-8)
    for x in [*POINTS[1:], *POINTS]:
        j = make_round(driver.step).seed("saga") % m
        now = function.gradient(x, Context(indices=blocks[j]))
        mean = sum((len(b) / 20 * t for b, t in zip(blocks, table, strict=True)), torch.zeros(D))
        expected = m * len(blocks[j]) / 20 * (now - table[j]) + mean
        torch.testing.assert_close(driver.vector(x), expected, rtol=1e-6, atol=1e-7)
        table[j] = now


def test_saga_compares_each_block_along_the_directions_of_its_row() -> None:
    """While x stands still the correction is zero, which new directions would not make it."""
    driver = Driver(SAGA(inner(), 20, 4, redraw=10**6), Quadratics())
    first = driver.vector(POINTS[1])
    for _ in range(12):
        torch.testing.assert_close(driver.vector(POINTS[1]), first, rtol=1e-9, atol=1e-11)
        assert len(driver.asked) == 2


def test_saga_redraws_after_so_many_visits() -> None:
    driver = Driver(SAGA(inner(), 20, 1, redraw=3), Quadratics())
    driver.at(POINTS[1])
    asked = []
    for _ in range(8):
        driver.at(POINTS[1])
        asked.append(len(driver.asked))
    assert asked == [2, 2, 4, 2, 2, 4, 2, 2]


def test_saga_with_directions_redrawn_is_unbiased_over_runs() -> None:
    function, x = Quadratics(), POINTS[2]
    found = []
    for seed in range(400):
        driver = Driver(SAGA(inner(), 20, 4), function, seed)
        for point in (POINTS[0], POINTS[1], x):
            last = driver.vector(point)
        found.append(last)
    estimates = torch.stack(found)
    assert ((estimates.mean(0) - function.gradient(x)).abs() < 4 * estimates.std(0) / 20).all()


# what's wrong in a configuration


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SVRG(inner(), every=0), "every is a number of steps"),
        (lambda: SPIDER(inner(), every=0), "every is a number of steps"),
        (lambda: PAGE(inner(), probability=0.0), "probability must lie in"),
        (lambda: STORM(inner(), forget=1.5), "forget must lie in"),
        (lambda: SAGA(inner(), 10, 11), "blocks: 1 to 10"),
        (lambda: SAGA(inner(), 10, redraw=0), "redraw is a number of visits"),
        (lambda: Blocks(inner(), 10, 0), "blocks: 1 to 10"),
        (lambda: SPIDER(SVRG(inner())), "SVRG keeps a state"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make: object, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make()  # type: ignore[operator]
