"""Burgers' equation: the fine solver against Cole and Hopf's solution, the coarse one against its twin."""

import numpy as np
import pytest
import torch

from blackbox import Context, OpaqueLayer, UserError
from blackbox.estimators.coordinate import CoordinateWise
from blackbox.parameters import Parameters
from blackbox.probe import Query
from oracles import ObjectiveOracle
from problems.burgers import (
    Burgers,
    CoarseSolver,
    Corrector,
    FineSolver,
    Trajectories,
    averaged,
    random_waves,
    roll_out,
    twin_step,
    windows,
)

VISCOSITY = 0.05


def cole_hopf(cells, duration, points=4096):
    """Exact cell averages from u(x, 0) = sin x (Hopf 1950, Cole 1951).

    u = -2 nu d/dx log phi turns the equation into the heat equation for phi, whose Fourier modes decay by
    exp(-nu k^2 t). The average over a cell is a difference of log phi.
    """
    x = np.arange(points) * 2 * np.pi / points
    phi = np.exp((np.cos(x) - 1) / (2 * VISCOSITY))
    k = np.fft.rfftfreq(points, 1 / points)
    later = np.fft.irfft(np.fft.rfft(phi) * np.exp(-VISCOSITY * k**2 * duration), points)
    edges = np.log(later[:: points // cells])
    return -2 * VISCOSITY * (np.roll(edges, -1) - edges) / (2 * np.pi / cells)


def sine(cells):
    edges = np.linspace(0, 2 * np.pi, cells + 1)
    return -np.diff(np.cos(edges))[None] / (2 * np.pi / cells)


def test_the_truth_starts_where_it_should_and_steepens():
    np.testing.assert_allclose(cole_hopf(64, 0.0), sine(64)[0], atol=1e-7)
    assert np.abs(np.diff(cole_hopf(256, 1.5))).max() > 5 * np.abs(np.diff(sine(256)[0])).max()


def test_the_fine_solver_converges_to_the_exact_solution_with_second_order():
    errors = []
    for cells in (128, 256, 512):
        found = FineSolver(cells, VISCOSITY).solve(sine(cells), 1.5)
        errors.append(np.abs(found[0] - cole_hopf(cells, 1.5)).mean())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (np.abs(orders - 2) < 0.15).all(), (errors, orders)
    assert errors[1] < 5e-4  # the resolution of the data; the coarse solver's error is some sixty times as large


def test_the_coarse_solver_errs_much_more():
    u, solver = sine(32), CoarseSolver(VISCOSITY)
    for _ in range(20):
        u = solver.step(u)
    assert np.abs(u[0] - cole_hopf(32, 20 * solver.dt)).mean() > 0.02


def test_the_twin_is_the_program_to_rounding():
    solver, u = CoarseSolver(VISCOSITY), random_waves(16, 32, seed=1)
    program, twin = u, torch.from_numpy(u)
    for _ in range(40):
        program, twin = solver.step(program), twin_step(solver, twin)
    np.testing.assert_allclose(twin.numpy(), program, rtol=0, atol=1e-12)


def test_the_opaque_path_gives_no_gradient_and_the_layer_gives_the_twins():
    solver = CoarseSolver(VISCOSITY)
    u = torch.from_numpy(random_waves(4, 32, seed=2)).requires_grad_()
    assert not solver(u).requires_grad
    layer = OpaqueLayer(solver, CoordinateWise(1e-5, "central"))
    found, exact = (torch.autograd.grad(f(u).pow(3).sum(), u)[0] for f in (layer, lambda v: twin_step(solver, v)))
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-8)


def test_both_solvers_conserve_the_mean():
    u = random_waves(3, 256, seed=3)
    np.testing.assert_allclose(FineSolver().solve(u, 0.5).mean(1), u.mean(1), atol=1e-14)
    coarse = averaged(u, 32)
    np.testing.assert_allclose(CoarseSolver().step(coarse).mean(1), u.mean(1), atol=1e-14)


def test_waves_are_exact_averages_of_zero_mean_and_largest_value_one():
    u = random_waves(5, 256, seed=4)
    np.testing.assert_allclose(u.mean(1), 0, atol=1e-14)
    np.testing.assert_allclose(np.abs(u).max(1), 1)
    assert np.array_equal(u, random_waves(5, 256, seed=4))
    assert not np.array_equal(u, random_waves(5, 256, seed=5))


def test_a_fresh_corrector_changes_nothing_and_its_seed_decides_its_weights():
    u = torch.from_numpy(random_waves(2, 32, seed=6))
    assert torch.equal(Corrector(seed=1)(u), u)
    first, again, other = (Corrector(seed=s).layers[0].weight for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_roll_outs_and_windows():
    solver = CoarseSolver()
    frames = Trajectories(3, 0, solver, steps=4).frames
    assert frames.shape == (3, 5, 32)
    found = roll_out(solver, lambda u: u, frames[:, 0], 2)
    assert np.array_equal(found[:, 1].numpy(), solver.step(solver.step(frames[:, 0].numpy())))
    some = windows(frames, torch.tensor([0, 2, 1]), 2)
    assert torch.equal(some[1], frames[1, 2:5]) and some.shape == (3, 3, 32)


@pytest.fixture(scope="module")
def problem():
    return Burgers(channels=2, examples=8, batch_size=4, steps=10, unrolled=3)


def test_values_are_per_trajectory_and_a_context_names_the_same_ones_again(problem):
    first, again = (problem.values(Context(batch_seed=5)) for _ in range(2))
    assert first.shape == (4,) and torch.equal(first, again)
    assert not torch.equal(first, problem.values(Context(batch_seed=6)))
    assert problem.values(Context()).shape == (8,)
    assert problem.cost(Context(batch_seed=5)) == {"examples": 4}
    assert problem.cost(Context(indices=(1, 2))) == {"examples": 2} and problem.cost(Context()) == {"examples": 8}


def test_the_identity_has_the_error_of_the_solver_alone(problem):
    metrics = problem.metrics("validation")
    assert metrics["mae"] == metrics["uncorrected"] > 0


def test_the_oracle_asks_it(problem):
    oracle, parameters = ObjectiveOracle(problem), problem.parameters()
    assert isinstance(parameters, Parameters) and parameters.dimension == 2 * 5 + 2 + 2 * 2 * 5 + 2 + 2 * 5 + 1
    oracle.submit([Query("0.0.0", None, context=Context(batch_seed=5))], parameters)
    (answer,) = oracle.poll()
    assert answer.values[0] == pytest.approx(float(problem.values(Context(batch_seed=5)).detach().mean()))
    assert answer.cost["examples"] == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FineSolver(4), "8 or more, not 4"),
        (lambda: FineSolver(viscosity=0.0), "viscosity must be positive"),
        (lambda: averaged(np.zeros((1, 100)), 32), "100 fine cells are no multiple of 32"),
        (lambda: Burgers(batch_size=100), "1 to 64"),
        (lambda: Burgers(unrolled=50), "at most the 40 steps"),
        (lambda: Burgers(channels=0), "at least one channel"),
        (lambda: Burgers(cells=128), "dt"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_an_unknown_split_is_refused(problem):
    with pytest.raises(UserError, match="no 'dev'; the data has train, validation, test"):
        problem.metrics("dev")
