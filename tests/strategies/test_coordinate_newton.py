"""Newton's method by coordinates, against closed forms, scipy, and itself resumed."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import scipy.optimize

from blackbox import Budget, Journal, Parameters, Session, UserError, run
from blackbox.strategies import CoordinateNewton
from blackbox.strategies.coordinate_newton import _typical
from blackbox.strategies.parabolas import Block, Span
from oracles import FunctionOracle


def search(f, start, queries, strategy=None, journal=None, checkpoint_every=0):
    """The run's result, and every value in the order asked."""
    values = []

    def counted(x):
        values.append(f(x))
        return values[-1]

    session = Session(strategy or CoordinateNewton(1.0), Parameters.from_vector(start), seed=1, journal=journal)
    result = run(session, FunctionOracle(counted), Budget(queries=queries), checkpoint_every=checkpoint_every)
    return result, np.array(values)


def test_a_separable_quadratic_takes_two_queries_a_dimension_whatever_its_condition():
    d = 300
    scale, target = np.logspace(0, 6, d), np.linspace(-3, 3, d)
    result, values = search(lambda x: float(scale @ (x - target) ** 2), np.zeros(d), 2 * d + 200)
    assert values.min() < 1e-12 * values[0]
    assert np.allclose(result.parameters.flat().numpy(), target, atol=1e-6)


def test_alike_curvatures_are_measured_once_and_a_sphere_takes_one_query_a_dimension():
    d = 400
    target = np.linspace(-3, 3, d)
    _, values = search(lambda x: float(((x - target) ** 2).sum()), np.zeros(d), d + 100)
    assert values.min() < 1e-12 * values[0]


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_curvatures_are_guessed_only_from_those_that_are_alike(spread):
    drawn = np.exp(spread * np.random.Generator(np.random.Philox(0)).standard_normal(50))
    guess = _typical(drawn)
    assert np.isnan(guess) if spread > 1 else abs(np.log(guess)) < 4 * spread / 50**0.5
    assert np.isnan(_typical(np.array([1.0, 1.0, 1.0])))  # too few
    assert np.isnan(_typical(np.array([1.0, 1.0, 1.0, 1.0, -1.0])))


def test_it_is_ahead_of_finite_differences_with_a_quasi_newton_method_on_a_rotated_quadratic():
    d = 200
    signs = np.random.Generator(np.random.Philox(0)).choice([-1.0, 1.0], d)
    eigenvalues = np.logspace(0, 3, d)

    def f(x):
        return float(eigenvalues @ scipy.fft.dct(signs * (x - 1), norm="ortho") ** 2)

    ours, _ = search(f, np.zeros(d), 20 * d)
    theirs = scipy.optimize.minimize(f, np.zeros(d), method="L-BFGS-B", options={"maxfun": 20 * d})
    assert ours.best.value < theirs.fun


def test_the_value_of_the_parameters_never_rises():
    facts = []

    class Notes:
        def __getattr__(self, name):
            return lambda *_: False

        def on_step(self, record):
            facts.append(record["value"])

    session = Session(CoordinateNewton(1.0), Parameters.from_vector(np.full(30, -1.0)), seed=0)
    result = run(session, FunctionOracle(scipy.optimize.rosen), Budget(queries=1500), hooks=[Notes()])
    assert (np.diff(facts) <= 0).all() and facts[-1] < 30
    assert scipy.optimize.rosen(result.parameters.flat().numpy()) == pytest.approx(facts[-1], rel=1e-9)


@pytest.mark.parametrize("stop", [150, 455])
def test_a_resumed_run_is_the_one_that_was_never_stopped(stop, tmp_path):
    whole, _ = search(scipy.optimize.rosen, np.full(40, -1.0), 700)
    for budget in (stop, 700):
        journal = Journal(tmp_path)
        resumed, values = search(scipy.optimize.rosen, np.full(40, -1.0), budget, journal=journal, checkpoint_every=4)
        journal.close()
    assert (resumed.parameters.flat() == whole.parameters.flat()).all() and len(values) <= 700 - stop + 100


def test_a_coordinate_whose_probe_failed_stays_and_the_others_move():
    def f(x):
        if x[0] > 0:
            raise ValueError("no")
        return float((x - 1) @ (x - 1))

    result, _ = search(f, np.zeros(20), 15)  # less than the tolerated number of failures
    x = result.parameters.flat().numpy()
    assert x[0] == 0 and np.allclose(x[x != 0], 1)


def test_on_a_plateau_the_widths_grow_until_something_is_seen():
    def f(x):
        return float(np.maximum(0, np.abs(x - 30) - 5).sum() if x.max() > 5 else 99)

    _, values = search(f, np.zeros(3), 300)
    assert values.min() < 99


def test_a_block_of_parabolas_has_their_minima_and_gain():
    c, t, here = np.array([2.0, 8.0]), np.array([1.0, -0.5]), 3.0
    block = Block(np.array([4, 1]), np.array([0.1, -0.3]), None)
    values = [here + float((0.5 * c * ((np.eye(2)[i] * h - t) ** 2 - t**2)).sum()) for i, h in block_probes(block)]
    block.fit(np.array(values), here)
    assert np.allclose(block.step, t) and np.allclose(block.curvatures, c)
    assert block.gain == pytest.approx(0.5 * (c * t**2).sum())


def block_probes(block):
    row = {int(place): i for i, place in enumerate(block.places)}
    return [(row[place], step) for place, step in block.probes()]


def test_the_step_in_a_span_is_newtons():
    random = np.random.Generator(np.random.Philox(3))
    basis, root = np.linalg.qr(random.standard_normal((6, 3)))[0], random.standard_normal((6, 6))
    hessian, slope = root @ root.T, random.standard_normal(6)

    def f(step):
        return float(slope @ step + 0.5 * step @ hessian @ step)

    span = Span(basis)
    span.fit(np.array([f(step) for _, step in span.probes()]), 0.0)
    expected = -basis @ np.linalg.solve(basis.T @ hessian @ basis, basis.T @ slope)
    assert np.allclose(span.step, expected)


@pytest.mark.parametrize(("arguments", "words"), [((0,), "width"), ((1, 0), "block"), ((1, 3, -1), "memory")])
def test_settings_out_of_range_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        CoordinateNewton(*arguments)
