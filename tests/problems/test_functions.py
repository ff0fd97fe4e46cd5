"""Test functions and the small network, against closed forms, scipy and autograd."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize  # type: ignore[import-untyped]
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.objective import ModuleObjective, VectorObjective
from blackbox.probe import Context
from problems.base import ModuleProblem, Problem, examples_of
from problems.device import resolve_device, resolve_dtype
from problems.functions import Ackley, Function, Quadratic, Rastrigin, Rosenbrock, Sphere
from problems.small_net import SmallNet

ALL: list[type[Function]] = [Sphere, Quadratic, Rosenbrock, Ackley, Rastrigin]


def points(count: int, dimension: int) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("shift", [0.0, [0.5, -1.0, 2.0]])
def test_the_minimum_is_where_it_is_said_to_be(kind: type[Function], shift: Any) -> None:
    problem = kind(3, shift=shift)
    at_minimum = problem(problem.minimizer[None])
    assert at_minimum.shape == (1,) and at_minimum.dtype == torch.float64
    assert float(at_minimum[0]) == pytest.approx(problem.minimum, abs=1e-14)
    nearby = problem.minimizer + 1e-3 * points(100, 3)
    assert (problem(nearby) > at_minimum).all()


@pytest.mark.parametrize("kind", ALL)
def test_a_batch_is_its_rows(kind: type[Function]) -> None:
    problem, x = kind(4, shift=0.3), points(5, 4)
    rows = torch.cat([problem(row[None]) for row in x])
    torch.testing.assert_close(problem(x), rows, rtol=1e-14, atol=1e-14)


def test_sphere_and_quadratic_in_closed_form() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    assert Sphere(3)(x).tolist() == [14.0]
    assert Quadratic(3, condition=100)(x).tolist() == pytest.approx([0.5 * (1 + 10 * 4 + 100 * 9)])


def test_rosenbrock_is_scipys() -> None:
    x = points(6, 5)
    np.testing.assert_allclose(Rosenbrock(5)(x).numpy(), scipy.optimize.rosen(x.numpy().T), rtol=1e-13)


def test_ackley_and_rastrigin_at_known_points() -> None:
    ones = torch.ones(1, 6, dtype=torch.float64)
    assert float(Ackley(6)(ones)[0]) == pytest.approx(20 - 20 * math.exp(-0.2), abs=1e-13)
    halves = ones / 2
    expected = -20 * math.exp(-0.1) - math.exp(-1) + 20 + math.e
    assert float(Ackley(6)(halves)[0]) == pytest.approx(expected, abs=1e-13)
    assert float(Rastrigin(6)(ones)[0]) == pytest.approx(6.0, abs=1e-12)
    assert float(Rastrigin(6)(halves)[0]) == pytest.approx(6 * 20.25, abs=1e-12)


@pytest.mark.parametrize("rotated", [False, True])
def test_the_hessian_has_the_condition_number(rotated: bool) -> None:
    problem = Quadratic(5, condition=1e4, rotated=rotated)
    x = problem.start
    hessian = torch.autograd.functional.hessian(lambda x: problem(x[None])[0], x)  # type: ignore[no-untyped-call]
    eigenvalues = torch.linalg.eigvalsh(hessian)
    expected = torch.logspace(0, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(eigenvalues, expected, rtol=1e-8, atol=1e-8)
    off_diagonal = hessian - torch.diag(hessian.diagonal())
    assert bool(off_diagonal.abs().max() > 1) is rotated


def test_metrics_are_those_of_the_present_point() -> None:
    problem = Sphere(start=[3.0, 4.0], shift=[0.0, 4.0])
    assert problem.metrics() == {"value": 9.0, "distance": 3.0}
    problem.parameters().assign({"x": torch.tensor([0.0, 0.0], dtype=torch.float64)})
    assert problem.metrics() == {"value": 16.0, "distance": 4.0}
    assert problem.start.tolist() == [3.0, 4.0]


def test_the_start_is_seeded_and_in_the_box() -> None:
    assert torch.equal(Ackley(50).start, Ackley(50).start)
    assert not torch.equal(Ackley(50).start, Ackley(50, seed=1).start)
    assert Ackley(50).start.abs().max() <= 32.768
    assert Sphere(2, start=1.5).start.tolist() == [1.5, 1.5]
    assert Sphere(4, dtype="float32").parameters().tensors["x"].dtype == torch.float32


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Rosenbrock(1), "dimension"),
        (lambda: Sphere(3, start=[1.0, 2.0]), "start: 2 numbers for dimension 3"),
        (lambda: Sphere(3, shift=[1.0]), "shift"),
        (lambda: Quadratic(3, condition=0.5), "condition"),
        (lambda: Sphere(3, dtype="bfloat16"), "dtype"),
        (lambda: Sphere(3, dtype="double"), "dtype"),
        (lambda: Sphere(3, device="abacus"), "device: 'abacus'"),
        (lambda: Sphere(3).render(None), "render"),
        (lambda: SmallNet(batch_size=0), "batch_size"),
        (lambda: SmallNet(device="cpu").metrics("held-back"), "split"),
    ],
)
def test_mistakes_are_refused_in_words(build: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build()


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cuda", "mps", "cpu")
    with pytest.raises(UserError, match="float64"):
        resolve_dtype("float64", torch.device("mps"))


def test_a_context_chooses_examples() -> None:
    assert examples_of(Context(), 5, 2).tolist() == [0, 1, 2, 3, 4]
    assert examples_of(Context(indices=(3, 3, 1)), 5, 2).tolist() == [3, 3, 1]
    drawn = examples_of(Context(batch_seed=2**63 - 1), 100, 40)
    assert len(set(drawn.tolist())) == 40
    assert torch.equal(drawn, examples_of(Context(batch_seed=2**63 - 1), 100, 40))
    with pytest.raises(UserError, match="outside"):
        examples_of(Context(indices=(5,)), 5, 2)


def test_problems_are_objectives() -> None:
    assert isinstance(Sphere(2), VectorObjective) and isinstance(Sphere(2), Problem)
    net = SmallNet(device="cpu")
    assert isinstance(net, ModuleObjective) and isinstance(net, ModuleProblem)
    assert net.cost(Context()) == {"examples": 256} and net.cost(Context(batch_seed=1)) == {"examples": 32}


def test_the_small_net_is_seeded_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = SmallNet(device="cpu"), SmallNet(device="cpu"), SmallNet(device="cpu", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    context = Context(batch_seed=5)
    assert torch.equal(first.values(context), second.values(context))
    assert not torch.equal(first.values(context), other.values(context))


def test_the_small_net_can_be_learnt() -> None:
    net = SmallNet(hidden=(16,), examples=512, batch_size=64, device="cpu")
    before = net.metrics()
    optimizer = torch.optim.Adam(net.module.parameters(), lr=0.03)
    for step in range(100):
        optimizer.zero_grad()
        net.values(Context(batch_seed=step)).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert net.metrics()["accuracy"] > 0.9 > before["accuracy"]
    assert net.metrics()["cross_entropy"] < before["cross_entropy"] / 2
