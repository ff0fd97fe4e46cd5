"""HiZOO against its algorithm written out with dense vectors, in every execution and over a restart."""

from __future__ import annotations

import copy
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor

from blackbox import Journal, Parameters, Session, Values
from blackbox.errors import UserError
from blackbox.estimators import Estimator, HiZOO
from blackbox.estimators.base import Round
from blackbox.execution import Execution, InPlace, LowRankForward, WriteFree, materialise
from blackbox.noise import Coordinate, Gaussian, LowRank, Preconditioned, Sphere
from blackbox.optimizers import SGD, Schedule, TorchOptimizer
from blackbox.probe import ALL_DATA
from blackbox.strategies import GradientStrategy
from blackbox.testing.estimators import EstimatorSuite
from blackbox.testing.executions import values
from blackbox.testing.models import TinyObjective
from blackbox.variance import SVRG

EPSILON, LR, SMOOTHING = 1e-2, 0.05, 0.3


class TestHiZOO(EstimatorSuite):
    @pytest.fixture
    def estimator(self) -> Estimator:
        return HiZOO(epsilon=0.1, probes=3)


class Course:
    """Some steps on the tiny model."""

    def __init__(
        self, execution: Execution, probes: int = 1, journal: Journal | None = None, whole: bool = False
    ) -> None:
        self.objective, self.execution = TinyObjective(), execution
        self.parameters = Parameters.from_module(self.objective.module)
        self.estimator = HiZOO(EPSILON, probes, SMOOTHING)
        constant = Schedule("constant")
        optimizer = TorchOptimizer("SGD", LR, constant) if whole else SGD(LR, constant)
        strategy = GradientStrategy(self.estimator, optimizer)
        self.session = Session(strategy, self.parameters, journal=journal, replay=execution.replay)

    def steps(self, count: int) -> Tensor:
        for _ in range(count):
            queries = self.session.ask()
            told = values(self.execution.evaluate(self.objective, queries, self.parameters)).mean(1).numpy()
            self.session.tell(Values(tuple(q.id for q in queries), told))
            self.session.advance()
        return self.parameters.flat()


def written_out(steps: int, probes: int) -> tuple[Tensor, Tensor]:
    """Where the algorithm ends, and h there (before the last step's lesson)."""
    objective = TinyObjective()
    parameters = Parameters.from_module(objective.module)
    specs = parameters.layout.specs
    h = learnt = torch.ones(parameters.dimension, dtype=torch.float64)
    for step in range(steps):
        h, theta = learnt, parameters.flat()
        move, squares = torch.zeros_like(theta), torch.zeros_like(theta)
        for seed in Round(step, step, 0, ALL_DATA, parameters.layout).probes(HiZOO().noise, probes):
            z = torch.cat([Gaussian().sample((seed,), s, 0, s.numel)[0] for s in specs]).double()
            u = z / h.sqrt()
            plus, base, minus = (value(objective, theta + c * u) for c in (EPSILON, 0.0, -EPSILON))
            move += (plus - minus) / (2 * EPSILON) * u / probes
            squares += abs(plus + minus - 2 * base) / (2 * EPSILON**2) * h * z**2 / probes
        learnt = (1 - SMOOTHING) * h + SMOOTHING * squares
        place(parameters, theta - LR * move)
    return parameters.flat(), h


def place(parameters: Parameters, theta: Tensor) -> None:
    for spec in parameters.layout.specs:
        parameters.raw[spec.name].copy_(theta[spec.offset : spec.offset + spec.numel].view(spec.shape))


@torch.no_grad()
def value(objective: TinyObjective, theta: Tensor) -> float:
    other = copy.deepcopy(objective)
    place(Parameters.from_module(other.module), theta)
    return float(other.values(ALL_DATA).mean())


@pytest.mark.parametrize("probes", [1, 3])
@pytest.mark.parametrize("execution", [WriteFree, InPlace, LowRankForward])
def test_steps_are_the_algorithms_in_every_execution(execution: type[Execution], probes: int) -> None:
    expected, h = written_out(6, probes)
    assert float(h.max() / h.min()) > 3  # it has been learnt from
    course = Course(execution(), probes)
    torch.testing.assert_close(course.steps(6), expected, rtol=0, atol=2e-6)  # h and z are float32
    found = torch.cat([course.estimator.noise.diagonal(s).flatten() for s in course.parameters.layout.specs])
    torch.testing.assert_close(found.double(), h, rtol=2e-4, atol=0)


def test_an_optimizer_that_needs_the_estimate_whole_moves_along_what_was_probed() -> None:
    torch.testing.assert_close(
        Course(WriteFree(), 2, whole=True).steps(5), Course(WriteFree(), 2).steps(5), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("saved", [False, True], ids=["replayed", "from a checkpoint"])
@pytest.mark.parametrize("execution", [WriteFree, InPlace])
def test_a_resumed_run_is_bit_for_bit_the_whole_one(execution: type[Execution], saved: bool, tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "whole")) as journal:
        whole = Course(execution(), 2, journal)
        whole.steps(3)
        if saved:
            whole.session.save(0.0)
        whole.steps(3)
    with closing(Journal(tmp_path / "parts")) as journal:
        part = Course(execution(), 2, journal)
        part.steps(3)
        if saved:
            part.session.save(0.0)
    with closing(Journal(tmp_path / "parts")) as journal:
        resumed = Course(execution(), 2, journal)
        assert resumed.session.steps == 3
        resumed.steps(3)
    assert torch.equal(resumed.parameters.flat(), whole.parameters.flat())
    assert all(
        torch.equal(resumed.estimator.noise.diagonal(s), whole.estimator.noise.diagonal(s))
        for s in whole.parameters.layout.specs
    )


def test_on_a_quadratic_h_comes_to_order_the_curvatures() -> None:
    """E |c| z_j^2 h_j = (1/h_j A_jj 2 + tr) h_j: an average over many rounds is larger where f bends more."""
    scales = torch.tensor([100.0] * 10 + [1.0] * 10, dtype=torch.float64)
    parameters = Parameters({"x": torch.zeros(20, dtype=torch.float64)})
    estimator = HiZOO(1e-2, 8, 0.02)
    session = Session(GradientStrategy(estimator, SGD(1e-9, Schedule("constant"))), parameters)
    for _ in range(400):
        queries = session.ask()
        x = materialise(queries, parameters)
        session.tell(Values(tuple(q.id for q in queries), (0.5 * x.square() @ scales).numpy()))
        session.advance()
    h = estimator.noise.diagonal(parameters.layout.specs[0])
    assert float(h[:10].median() / h[10:].median()) > 3


def test_noise_is_drawn_for_a_step_at_a_time() -> None:
    parameters = Parameters({"w": torch.zeros(40, 30)})
    (spec,) = parameters.layout.specs
    law = Preconditioned(Gaussian(), 0.5)
    first = law.sample((7,), spec, 0, spec.numel)[0]
    assert torch.equal(first, Gaussian().sample((7,), spec, 0, spec.numel)[0])
    law.learn(0, [7], [2.0])
    assert torch.equal(law.sample((7,), spec, 0, spec.numel)[0], first)  # a step is still along what it probed
    later = (1 << 32) | 9
    h = 0.5 + 0.5 * 2.0 * first**2
    expected = Gaussian().sample((later,), spec, 0, spec.numel)[0] / h.sqrt()
    found = law.sample((later,), spec, 0, spec.numel)[0]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert torch.equal(law.sample((later,), spec, 100, 900)[0], found[100:900])
    assert torch.equal(law.rows(later, spec, torch.tensor([3, 0])), found.view(40, 30)[[3, 0]])
    with pytest.raises(UserError, match="step 0 was asked for in step 1"):
        law.sample((7,), spec, 0, 5)


def test_what_cannot_be_preconditioned_is_refused() -> None:
    with pytest.raises(UserError, match="normalised over all tensors"):
        Preconditioned(Sphere(), 0.1)
    with pytest.raises(UserError, match="from step to step"):
        Preconditioned(LowRank(refresh=2), 0.1)
    for arguments in ({"smoothing": 1.5}, {"epsilon": 0.0}, {"probes": 0}):
        with pytest.raises(UserError, match=next(iter(arguments))):
            HiZOO(**arguments)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="normalised"):
        Preconditioned(Coordinate(), 0.1)
    with pytest.raises(UserError, match="keeps a state"):
        SVRG(HiZOO())
