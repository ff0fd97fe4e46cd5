"""Published methods as combinations: one step of each against its formula, written out with dense vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from blackbox import Parameters, Probe, Query, Session, Values
from blackbox.estimators import CentralDifference, Estimator, OneBit
from blackbox.execution import InPlace, WriteFree
from blackbox.noise import Blockwise, Gaussian, Law, LowRank, Rademacher, Sparse
from blackbox.optimizers import SGD, Optimizer, Schedule, SignSGD, TorchOptimizer
from blackbox.probe import CURRENT
from blackbox.strategies import GradientStrategy, RankLineSearch
from blackbox.testing.executions import values
from blackbox.testing.models import TinyObjective
from blackbox.variance import SVRG

FloatArray = npt.NDArray[np.float64]
EPSILON, LR = 1e-2, 0.05
D = 40


def f(x: FloatArray) -> float:
    """No quadratic, and no two coordinates alike."""
    return float(np.sum(np.arange(1, D + 1) * (1 - np.cos(x))) / D + x[0] * x[1])


class Course:
    """A session on f, driven by hand."""

    def __init__(self, estimator: Estimator, optimizer: Optimizer | None = None, search: RankLineSearch | None = None):
        self.parameters = Parameters.from_vector(torch.linspace(-1, 1, D, dtype=torch.float64))
        self.session = Session(GradientStrategy(estimator, optimizer, search), self.parameters)
        self.asked: list[Query] = []

    @property
    def x(self) -> FloatArray:
        return self.parameters.flat().numpy()

    def z(self, law: Law, seed: int) -> FloatArray:
        (spec,) = self.parameters.layout.specs
        return law.sample((seed,), spec, 0, D)[0].double().numpy()

    def at(self, query: Query) -> FloatArray:
        base = self.x if query.base == CURRENT else self.parameters.anchor(query.base)["x"].numpy()
        if not isinstance(query.candidate, Probe):
            return base
        probe = query.candidate
        return base + sum(c * self.z(probe.law, seed) for seed, c in probe.terms)

    def step(self) -> list[Query]:
        """One round; its queries."""
        asked: list[Query] = []
        number = self.session.steps
        while self.session.steps == number:
            queries = self.session.ask()
            asked += queries
            told = np.array([f(self.at(q)) for q in queries])
            self.session.tell(Values(tuple(q.id for q in queries), told))
            self.session.advance()
        return asked

    def slope(self, queries: Sequence[Query], x: FloatArray) -> tuple[FloatArray, float]:
        """z of the first pair, and the difference quotient along it."""
        probe = queries[0].candidate
        assert isinstance(probe, Probe)
        z = self.z(probe.law, probe.terms[0][0])
        return z, (f(x + EPSILON * z) - f(x - EPSILON * z)) / (2 * EPSILON)


def sgd() -> SGD:
    return SGD(LR, Schedule("constant"))


def test_the_sign_of_zo_sgd_sign_is_that_of_the_difference() -> None:
    course, lengths = Course(OneBit(Gaussian(), EPSILON, probes=1), sgd()), set()
    for _ in range(4):
        x = course.x
        z, slope = course.slope(course.step(), x)
        np.testing.assert_allclose(course.x - x, -LR * np.sign(slope) * z, rtol=0, atol=1e-12)
        lengths.add(round(float(np.abs((course.x - x) / LR).max()), 6))
    assert len(lengths) == 4  # an element moves by its own z, not by 1


def test_the_sign_of_zo_sign_sgd_is_that_of_each_element() -> None:
    course = Course(CentralDifference(Gaussian(), EPSILON), SignSGD(LR, Schedule("constant")))
    x = course.x
    z, slope = course.slope(course.step(), x)
    np.testing.assert_allclose(course.x - x, -LR * np.sign(slope * z), rtol=0, atol=1e-12)


def test_momentum_remembers_estimates_and_not_seeds() -> None:
    optimizer = TorchOptimizer("SGD", lr=LR, options={"momentum": 0.9}, schedule=Schedule("constant"))
    course, velocity = Course(CentralDifference(Gaussian(), EPSILON), optimizer), np.zeros(D)
    for _ in range(4):
        x = course.x
        z, slope = course.slope(course.step(), x)
        velocity = 0.9 * velocity + slope * z
        np.testing.assert_allclose(course.x - x, -LR * velocity, rtol=0, atol=1e-6)


def test_the_conservative_step_goes_to_the_best_of_three_points() -> None:
    step = 2 * LR  # too long at times
    search = RankLineSearch(step=step, candidates=1, memory=0, adaptive=False, uphill=True)
    course, kinds = Course(CentralDifference(Gaussian(), EPSILON), search=search), set()
    for _ in range(60):
        x = course.x
        queries = course.step()
        assert len(queries) == 5
        z, slope = course.slope(queries, x)
        points = [x, x - step * slope * z, x + step * slope * z]
        best = int(np.argmin([f(p) for p in points]))
        np.testing.assert_allclose(course.x, points[best], rtol=0, atol=1e-9)
        kinds.add(best)
    assert {0, 1} <= kinds


def test_svrg_subtracts_what_the_same_seed_says_at_a_copy_of_the_snapshot() -> None:
    """Released code keeps a reference to the live weights for the snapshot, and draws a seed anew."""
    course = Course(SVRG(CentralDifference(Gaussian(), EPSILON), every=4), sgd())
    anchor, full = course.x, np.zeros(D)
    for number in range(12):
        x = course.x
        queries = course.step()
        z, slope = course.slope(queries, x)
        if number % 4 == 0:
            anchor, full = x, slope * z
            moved = full
        else:
            assert len(queries) == 4
            assert {q.base for q in queries} == {CURRENT, "svrg"}
            moved = (slope - course.slope(queries, anchor)[1]) * z + full
            assert np.abs(x - anchor).max() > 1e-3
        np.testing.assert_allclose(course.x - x, -LR * moved, rtol=0, atol=1e-9)


NOISES = [
    Rademacher(),
    Gaussian(),
    LowRank(2, Gaussian(), refresh=3),
    LowRank(2, refresh=3, core="full"),
    LowRank(2, refresh=3, core="diagonal"),
    Sparse(Rademacher(), density=0.3, keep="smallest"),
    Sparse(Rademacher(), density=0.3, keep="largest"),
    Sparse(LowRank(refresh=3), density=0.3, seed=5),
    Blockwise(Rademacher(), ["embed", "hidden", "norm"]),
]


def course_of(law: Law, execution: WriteFree | InPlace, probes: int) -> tuple[Tensor, Tensor]:
    """Where a run ends, and where its start ends up by dense arithmetic from the seeds and values it had."""
    objective = TinyObjective()
    parameters = Parameters.from_module(objective.module)
    session = Session(GradientStrategy(CentralDifference(law, EPSILON, probes), sgd()), parameters)
    dense = parameters.flat().clone()
    for _ in range(7):
        queries = session.ask()
        told = values(execution.evaluate(objective, queries, parameters)).mean(1).numpy()
        for number, query in enumerate(queries[::2]):
            assert isinstance(query.candidate, Probe)
            ((seed, _),) = query.candidate.terms
            z = torch.cat([law.sample((seed,), s, 0, s.numel)[0] for s in parameters.layout.specs]).double()
            dense -= LR / probes * (told[2 * number] - told[2 * number + 1]) / (2 * EPSILON) * z
        session.tell(Values(tuple(q.id for q in queries), told))
        session.advance()
    return parameters.flat(), dense


@pytest.mark.parametrize("probes", [1, 3])
@pytest.mark.parametrize("law", NOISES, ids=lambda law: type(law).__name__)
def test_streamed_steps_are_those_of_dense_arithmetic_in_every_execution(law: Law, probes: int) -> None:
    """The tied embedding moves once, by the noise it was probed with; a tensor's noise is its own."""
    start = Parameters.from_module(TinyObjective().module).flat()
    ends = [course_of(law, execution, probes) for execution in (WriteFree(), InPlace())]
    for end, dense in ends:
        torch.testing.assert_close(end, dense, rtol=0, atol=1e-12)
        torch.testing.assert_close(end, ends[0][0], rtol=0, atol=1e-11)
    assert (ends[0][0] - start).norm() > 1e-2


@pytest.mark.parametrize("law", NOISES[:5], ids=repr)
def test_tensors_of_one_shape_are_probed_independently(law: Law) -> None:
    parameters = Parameters({f"layers.{i}": torch.zeros(16, 16) for i in range(2)})
    one, two = (law.sample(range(400), spec, 0, 256).double() for spec in parameters.layout.specs)
    products = (one * two).mean(1)  # per seed; 1 on average if both had the same noise
    assert abs(float(products.mean())) < 0.15
