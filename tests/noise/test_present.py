"""Masks by the present weights: Sparse-MeZO written out with dense tensors, alike in every execution."""

from __future__ import annotations

import copy
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor

from blackbox import Journal, Parameters, Session, Values
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference, Estimator
from blackbox.estimators.base import Round
from blackbox.execution import Execution, InPlace, LowRankForward, WriteFree
from blackbox.noise import Blockwise, Gaussian, Law, LowRank, PresentMask, Rademacher, Scaled, Sparse
from blackbox.optimizers import SGD, Optimizer, Schedule, TorchOptimizer
from blackbox.probe import ALL_DATA, Probe, Query
from blackbox.strategies import GradientStrategy
from blackbox.testing.executions import values
from blackbox.testing.models import TinyObjective
from blackbox.variance import SVRG

EPSILON, LR = 1e-2, 0.2


def sparse(over: Law | None = None, keep: str = "smallest") -> Sparse:
    return Sparse(over or Rademacher(), density=0.4, keep=keep, recompute=True)  # type: ignore[arg-type]


class Course:
    """Some steps on the tiny model."""

    def __init__(
        self,
        execution: Execution,
        law: Law,
        probes: int = 1,
        journal: Journal | None = None,
        optimizer: Optimizer | None = None,
        estimator: Estimator | None = None,
    ) -> None:
        self.objective, self.execution = TinyObjective(), execution
        self.parameters = Parameters.from_module(self.objective.module)
        estimator = estimator or CentralDifference(law, EPSILON, probes)
        strategy = GradientStrategy(estimator, optimizer or SGD(LR, Schedule("constant")))
        self.session = Session(strategy, self.parameters, journal=journal, replay=execution.replay)

    def steps(self, count: int) -> Tensor:
        for _ in range(count):
            queries = self.session.ask()
            told = values(self.execution.evaluate(self.objective, queries, self.parameters)).mean(1).numpy()
            self.session.tell(Values(tuple(q.id for q in queries), told))
            self.session.advance()
        return self.parameters.flat()


def written_out(steps: int, probes: int, over: Law, largest: bool = False, decay: float = 0.0) -> tuple[Tensor, int]:
    """Sparse-MeZO with dense vectors: where it ends, and how many elements were in some mask but not in all."""
    objective = TinyObjective()
    parameters = Parameters.from_module(objective.module)
    specs = parameters.layout.specs
    thresholds = {}
    for spec in specs:
        sizes = parameters.raw[spec.name].abs().flatten().sort(descending=largest).values
        thresholds[spec.name] = sizes[round(0.4 * spec.numel) - 1]
    some, every = torch.zeros(parameters.dimension, dtype=torch.bool), torch.ones(parameters.dimension, dtype=bool)
    for step in range(steps):
        theta = parameters.flat()
        sizes = {s.name: theta[s.offset : s.offset + s.numel].abs() for s in specs}
        masks = [v >= thresholds[n] if largest else v <= thresholds[n] for n, v in sizes.items()]
        mask = torch.cat(masks)
        some, every = some | mask, every & mask
        seeds = Round(step, step, 0, ALL_DATA, parameters.layout).probes(sparse(over), probes)
        move = torch.zeros_like(theta)
        for seed in seeds:
            z = torch.cat([over.sample((seed,), s, 0, s.numel)[0] for s in specs]).double() * mask
            slope = (value(objective, theta + EPSILON * z) - value(objective, theta - EPSILON * z)) / (2 * EPSILON)
            move += slope * z / probes
        place(parameters, theta * (1 - LR * decay) - LR * move)
    return parameters.flat(), int((some & ~every).sum())


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
def test_steps_are_the_papers_in_every_execution(execution: type[Execution], probes: int) -> None:
    expected, crossed = written_out(8, probes, Rademacher())
    assert crossed >= 3  # weights that come and go: a mask made once, or from moved weights, would end elsewhere
    found = Course(execution(), sparse(), probes).steps(8)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    once = Course(execution(), Sparse(Rademacher(), density=0.4, keep="smallest"), probes).steps(8)
    assert (once - expected).abs().max() > 1e-3


@pytest.mark.parametrize("execution", [WriteFree, InPlace, LowRankForward])
def test_decay_comes_after_the_mask_is_taken(execution: type[Execution]) -> None:
    """The step shrinks the weights, so a mask taken of shrunk ones would keep more of them."""
    expected, _ = written_out(6, 2, Rademacher(), decay=0.5)
    optimizer = SGD(LR, Schedule("constant"), weight_decay=0.5, no_decay=())
    found = Course(execution(), sparse(), 2, optimizer=optimizer).steps(6)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_the_largest_and_other_laws() -> None:
    expected, crossed = written_out(6, 2, Gaussian(), largest=True)
    assert crossed
    torch.testing.assert_close(
        Course(WriteFree(), sparse(Gaussian(), "largest"), 2).steps(6), expected, rtol=0, atol=1e-10
    )


def test_an_optimizer_that_needs_the_estimate_whole_moves_along_the_same_mask() -> None:
    """SGD of torch without momentum makes the estimate dense before it steps."""
    plain = Course(WriteFree(), sparse(), 2).steps(6)
    whole = Course(WriteFree(), sparse(), 2, optimizer=TorchOptimizer("SGD", LR, Schedule("constant"))).steps(6)
    torch.testing.assert_close(whole, plain, rtol=0, atol=1e-12)


def test_no_mask_is_kept_unless_tensors_are_displaced_themselves() -> None:
    free, placed = sparse(), sparse()
    Course(WriteFree(), free, 2).steps(3)
    course = Course(InPlace(), placed, 2)
    course.steps(3)
    assert isinstance(free.mask, PresentMask)
    assert isinstance(placed.mask, PresentMask)
    assert not free.mask.bits
    specs = course.parameters.layout.specs
    assert sum(b.numel() * b.element_size() for b in placed.mask.bits.values()) == sum(-(-s.numel // 8) for s in specs)


@pytest.mark.parametrize("saved", [False, True], ids=["replayed", "from a checkpoint"])
@pytest.mark.parametrize("execution", [WriteFree, InPlace])
def test_a_resumed_run_is_bit_for_bit_the_whole_one(execution: type[Execution], saved: bool, tmp_path: Path) -> None:
    def course(folder: str, steps: int) -> Course:
        journal = Journal(tmp_path / folder)
        with closing(journal):
            made = Course(execution(), sparse(), 2, journal)
            made.steps(steps - made.session.steps if steps == 6 else steps)
            if saved and steps == 3:
                made.session.save(0.0)
        return made

    with closing(Journal(tmp_path / "whole")) as journal:
        whole = Course(execution(), sparse(), 2, journal)
        whole.steps(3)
        if saved:  # a checkpoint's flush is one of the passes, in place: the whole run has it too
            whole.session.save(0.0)
        whole.steps(3)
    course("parts", 3)
    resumed = course("parts", 6)
    assert resumed.session.steps == 6
    assert torch.equal(resumed.parameters.flat(), whole.parameters.flat())


def test_masked_noise_of_a_slice_and_of_rows_is_that_of_the_whole() -> None:
    parameters = Parameters({"w": torch.linspace(-1, 1, 70 * 33).view(70, 33).clone()})
    (spec,) = parameters.layout.specs
    law = sparse(Gaussian())
    law.begin(parameters.tensors)
    whole = law.sample((7,), spec, 0, spec.numel)[0]
    assert torch.equal(law.sample((7,), spec, 100, 900)[0], whole[100:900])
    assert torch.equal(law.rows(7, spec, torch.tensor([3, 0, 69])), whole.view(70, 33)[[3, 0, 69]])
    before = whole.clone()
    law.see(7, spec, parameters.flat_of("w"))
    parameters.raw["w"].mul_(0.5)  # displaced: what was seen counts
    assert torch.equal(law.sample((7,), spec, 0, spec.numel)[0], before)
    assert torch.equal(law.rows(7, spec, torch.tensor([3])), before.view(70, 33)[[3]])
    now = law.sample((7 + (1 << 32),), spec, 0, spec.numel)[0]  # another step: everything halved is small
    assert (now != 0).sum() > (before != 0).sum()


def test_many_seeds_move_a_large_tensor_along_one_mask() -> None:
    """Elements cross the threshold while a step is carried out seed by seed: the mask is that of before."""
    weights = torch.linspace(-1, 1, 40_000)
    parameters = Parameters({"w": weights.clone()})
    (spec,) = parameters.layout.specs
    law = sparse(Gaussian())
    law.begin(parameters.tensors)
    threshold = weights.abs().kthvalue(16_000).values
    terms = [(seed, 0.3) for seed in range(4)]
    flat = parameters.flat_of("w")
    parameters.displacer(law).displace(flat, flat, spec, terms)
    z = Gaussian().sample(range(4), spec, 0, spec.numel).sum(0) * (weights.abs() <= threshold)
    torch.testing.assert_close(flat, weights + 0.3 * z, rtol=0, atol=1e-6)


def test_what_cannot_go_together_is_refused() -> None:
    with pytest.raises(UserError, match="keep: smallest"):
        Sparse(Rademacher(), density=0.5, recompute=True)
    with pytest.raises(UserError, match="LowRank keeps something"):
        sparse(LowRank(refresh=3))
    with pytest.raises(UserError, match="Sparse keeps something"):
        Blockwise(sparse(), ["hidden"])
    with pytest.raises(UserError, match="density"):
        Sparse(Rademacher(), density=0.0, keep="smallest", recompute=True)
    with pytest.raises(UserError, match=r"anchor 'svrg'.*recompute"):
        Course(WriteFree(), sparse(), estimator=SVRG(CentralDifference(sparse(), EPSILON), every=2)).steps(2)
    law = sparse()
    with pytest.raises(UserError, match=r"none for 'hidden.weight'"):
        law.sample((1,), Course(WriteFree(), sparse()).parameters.layout.by_name["hidden.weight"], 0, 5)


def test_a_direction_of_an_earlier_step_is_refused_rather_than_masked_anew() -> None:
    parameters = Parameters({"w": torch.linspace(-1, 1, 50)})
    (spec,) = parameters.layout.specs
    law = Scaled(sparse(), {"w": 2.0})
    law.begin(parameters.tensors)
    law.sample((5 << 32,), spec, 0, 50)
    with pytest.raises(UserError, match=r"step 4 was asked for in step 5.*svrg"):
        law.sample((4 << 32,), spec, 0, 50)


def test_seeds_name_their_step_and_stay_apart() -> None:
    layout = Parameters({"w": torch.zeros(3)}).layout
    seeds = [s for step in (0, 1, 9) for s in Round(step, step, 3, ALL_DATA, layout).probes(sparse(), 4)]
    assert [s >> 32 for s in seeds] == [0] * 4 + [1] * 4 + [9] * 4
    assert len({s & 0xFFFFFFFF for s in seeds}) == 12


def test_evaluating_twice_asks_about_one_mask() -> None:
    """An execution may try a probe out before it is asked: nothing is spent by that."""
    course = Course(WriteFree(), sparse())
    queries = course.session.ask()
    twice = [values(course.execution.evaluate(course.objective, queries, course.parameters)) for _ in range(2)]
    assert torch.equal(*twice)
    assert isinstance(queries[0], Query)
    assert isinstance(queries[0].candidate, Probe)
    assert bool(twice[0].isfinite().all())
