"""Steps held in factors: the values and steps of steps that are written, weights that aren't, and resumed runs."""

from __future__ import annotations

from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from blackbox import Journal, Parameters, Session, Values
from blackbox.estimators import CentralDifference, Estimator, ForwardDifference, RankEvolution
from blackbox.execution import Execution, LowRankForward, WriteFree
from blackbox.feedback import Ranking
from blackbox.noise import Gaussian, Law, LowRank, Scaled
from blackbox.optimizers import SGD, Schedule
from blackbox.probe import Context
from blackbox.strategies import GradientStrategy
from blackbox.testing.executions import values
from blackbox.testing.generators import seeded
from blackbox.testing.models import TinyObjective
from blackbox.variance import SVRG

KEPT = LowRank(2, Gaussian(), refresh=4)


class Mix(nn.Module):
    """Owns a matrix that is no linear layer's, and a linear layer with a bias besides."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.inner = nn.Parameter(torch.eye(32) + 0.1), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x @ self.matrix)


class Net(nn.Module):
    """A tied embedding, norms, a matrix outside of linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.norm, self.mix = nn.Embedding(60, 32), nn.LayerNorm(32), Mix()
        self.head = nn.Linear(32, 60, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.mix(self.norm(self.tokens(ids)))).mean(1)


class Objective:
    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        with seeded(0):
            self.module: nn.Module = Net().to(dtype).eval()
            self.ids = torch.randint(0, 60, (5, 6))
            self.labels = torch.randint(0, 60, (5,))

    def values(self, context: Context) -> Tensor:
        return self.stacked_values(context, 1)[0]

    def stacked_values(self, context: Context, copies: int) -> Tensor:
        scores = self.module(self.ids.repeat(copies, 1))
        scores = scores if scores.dtype == torch.float64 else scores.float()
        return nn.functional.cross_entropy(scores, self.labels.repeat(copies), reduction="none").view(copies, -1)


class Course:
    def __init__(
        self,
        execution: Execution,
        estimator: Estimator | None = None,
        journal: Journal | None = None,
        dtype: torch.dtype = torch.float64,
        decay: float = 0.0,
    ) -> None:
        self.objective, self.execution = Objective(dtype), execution
        self.parameters = Parameters.from_module(self.objective.module)
        optimizer = SGD(2e-4, Schedule("constant"), weight_decay=decay)
        strategy = GradientStrategy(estimator or CentralDifference(KEPT, 1e-2), optimizer)
        self.session = Session(strategy, self.parameters, journal=journal, replay=execution.replay)
        self.told: list[Tensor] = []

    def steps(self, count: int) -> None:
        for _ in range(count):
            queries = self.session.ask()
            found = values(self.execution.evaluate(self.objective, queries, self.parameters)).mean(1)
            ids = tuple(q.id for q in queries)
            if Values in self.session.strategy.accepts:
                self.session.tell(Values(ids, found.numpy()))
            else:
                self.session.tell(Ranking(tuple((ids[i],) for i in found.argsort().tolist())))
            self.session.advance()
            self.told.append(found)

    def written(self) -> Tensor:
        """The tensors as they are, without what is pending."""
        return torch.cat([t.reshape(-1) for t in self.parameters.raw.values()]).clone()


ESTIMATORS = [
    CentralDifference(KEPT, 1e-2),
    CentralDifference(KEPT, 1e-2, 3),
    ForwardDifference(KEPT, 1e-2, 2),
    CentralDifference(Scaled(KEPT, {"mix": 0.5}), 1e-2),
    RankEvolution(KEPT, 1e-2, 3),
]


@pytest.mark.parametrize("copies", [1, 2, 4])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=["pair", "3 pairs", "with the base", "scaled", "ranks"])
def test_values_and_steps_are_those_of_steps_that_are_written(estimator: Estimator, copies: int) -> None:
    held, plain = Course(LowRankForward(copies, hold=True), estimator), Course(WriteFree(), estimator)
    held.steps(10)
    plain.steps(10)
    assert (torch.stack(held.told[1:]) - held.told[0]).abs().min() > 1e-5
    torch.testing.assert_close(torch.stack(held.told), torch.stack(plain.told), rtol=0, atol=1e-6)
    torch.testing.assert_close(held.parameters.flat(), plain.parameters.flat(), rtol=0, atol=1e-6)


def test_weights_are_written_where_the_factor_is_renewed_and_nowhere_else() -> None:
    course = Course(LowRankForward(2, hold=True))
    seen = [course.written()]
    for _ in range(9):
        course.steps(1)
        seen.append(course.written())
    changes = [not torch.equal(a, b) for a, b in pairwise(seen)]
    assert changes == [False] * 4 + [True] + [False] * 3 + [True]  # by the first forwards of steps 4 and 8
    assert len(course.parameters.pending.direction.terms[0].seeds) == 1  # type: ignore[union-attr]
    assert not torch.equal(course.parameters.flat(), seen[-1])  # whoever reads them has them whole
    assert course.parameters.pending is None
    course.steps(1)  # and the run goes on from there


def test_other_queries_find_the_weights_whole() -> None:
    """At an anchor, and along noise that keeps nothing."""
    fresh = LowRank(2, Gaussian())
    for make in (lambda: SVRG(CentralDifference(KEPT, 1e-2), every=3), lambda: CentralDifference(fresh, 1e-2)):
        held, plain = Course(LowRankForward(2, hold=True), make()), Course(WriteFree(), make())
        held.steps(7)
        plain.steps(7)
        torch.testing.assert_close(held.parameters.flat(), plain.parameters.flat(), rtol=0, atol=1e-6)


def test_decay_is_carried_out_at_once() -> None:
    held, plain = Course(LowRankForward(2, hold=True), decay=0.5), Course(WriteFree(), decay=0.5)
    held.steps(6)
    plain.steps(6)
    torch.testing.assert_close(held.parameters.flat(), plain.parameters.flat(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("saved", [False, True], ids=["replayed", "from a checkpoint"])
@pytest.mark.parametrize("at", [2, 4, 6])
def test_a_resumed_run_is_bit_for_bit_the_whole_one(at: int, saved: bool, tmp_path: Path) -> None:
    """Within a period of the factor, and at its end."""

    def course(folder: str, hook: bool) -> Course:
        with closing(Journal(tmp_path / folder)) as journal:
            made = Course(LowRankForward(2, hold=True), journal=journal)
            made.steps(at - made.session.steps)
            if saved and made.session.steps == at and hook:
                made.session.save(0.0)
            if folder == "whole" or not hook:
                made.steps(9 - at)
        return made

    whole = course("whole", hook=True)
    course("parts", hook=True)
    resumed = course("parts", hook=False)
    assert resumed.session.steps == 9
    assert torch.equal(resumed.parameters.flat(), whole.parameters.flat())


def test_reading_the_weights_in_between_is_repeated_on_resume(tmp_path: Path) -> None:
    """It changes bits, so it is journaled."""
    with closing(Journal(tmp_path)) as journal:
        part = Course(LowRankForward(2, hold=True), journal=journal)
        part.steps(2)
        part.parameters.flat()
        part.steps(1)
    with closing(Journal(tmp_path)) as journal:
        resumed = Course(LowRankForward(2, hold=True), journal=journal)
        assert resumed.session.steps == 3
        assert torch.equal(resumed.written(), part.written())
        assert torch.equal(resumed.parameters.flat(), part.parameters.flat())


def test_bfloat16_weights_are_rounded_once_a_period() -> None:
    course = Course(LowRankForward(2, hold=True), dtype=torch.bfloat16)
    before = course.written()
    course.steps(4)
    assert torch.equal(course.written(), before)
    assert course.parameters.flat().isfinite().all()


def test_a_model_that_falls_back_to_in_place_holds_nothing() -> None:
    class Outside(TinyObjective):
        def __init__(self) -> None:
            super().__init__()
            inner = self.module

            class Reads(nn.Module):
                def __init__(self) -> None:
                    super().__init__()
                    self.inner, self.outer = inner, nn.Linear(13, 13, bias=False).double()

                def forward(self, tokens: Tensor) -> Tensor:
                    return nn.functional.linear(self.inner(tokens), self.outer.weight)

            with seeded(3):
                self.module = Reads()

    law: Law = KEPT
    ends = []
    for execution in (LowRankForward(hold=True), LowRankForward()):
        objective = Outside()
        parameters = Parameters.from_module(objective.module)
        strategy = GradientStrategy(CentralDifference(law, 1e-2, 2), SGD(0.02, Schedule("constant")))
        session = Session(strategy, parameters, replay=execution.replay)
        for step in range(6):
            queries = session.ask()
            if step == 0:
                with pytest.warns(UserWarning, match="in-place"):
                    found = values(execution.evaluate(objective, queries, parameters)).mean(1)
            else:
                found = values(execution.evaluate(objective, queries, parameters)).mean(1)
            session.tell(Values(tuple(q.id for q in queries), found.numpy()))
            session.advance()
        ends.append(parameters.flat())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)
