"""The estimator protocol: plan queries, turn answers into a direction.

An estimator is noise x stencil. It never sees tensors: a plan is a function of the round (seeds, step, context), an
estimate one of the round and the answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from blackbox.direction import Direction
from blackbox.feedback import Answers, Feedback
from blackbox.layout import Layout
from blackbox.noise.base import Law
from blackbox.probe import CURRENT, Candidate, Context, Queries, Query
from blackbox.seeds import derive_seed, derive_seeds


@dataclass(frozen=True, slots=True)
class Round:
    """The inputs of one step's plans; everything random in it comes from ``seed``.

    Attributes:
        step: number of the step, from 0.
        version: the parameters' version.
        run_seed: the run's seed.
        context: the data all queries of the step share (common random numbers).
        layout: the tensors.
        progress: share of the budget spent, in [0, 1]; schedules read it.
        radius: a factor on the distances at which candidates lie, by which people steer; what works from an order
            heeds it.
    """

    step: int
    version: int
    run_seed: int
    context: Context
    layout: Layout
    progress: float = 0.0
    radius: float = 1.0

    def seed(self, role: str, *index: int) -> int:
        """h(run, role, step, index)."""
        return derive_seed(self.run_seed, role, self.step, *index)

    def seeds(self, role: str, count: int) -> tuple[int, ...]:
        """``seed(role, i)`` for i = 0 .. count-1."""
        return derive_seeds(self.run_seed, role, self.step, count)

    def probes(self, law: Law, count: int) -> tuple[int, ...]:
        """Seeds of the round's own directions under a law: ``seeds("probe", count)``, as the law will have them."""
        return law.of_round(self.seeds("probe", count), self.run_seed, self.step)

    def queries(
        self,
        phase: int,
        candidates: Sequence[Candidate],
        base: str = CURRENT,
        context: Context | None = None,
        first: int = 0,
    ) -> Queries:
        """Queries "step.phase.index" for these candidates; ``first`` is the index of the first of them."""
        ids = _ids(self.step, phase, first, len(candidates))
        return Queries(ids, candidates, base, self.version, self.context if context is None else context)

    def ids(self, phase: int, count: int) -> tuple[str, ...]:
        """The ids that ``queries`` gives."""
        return _ids(self.step, phase, 0, count)


def _ids(step: int, phase: int, first: int, count: int) -> tuple[str, ...]:
    return (_few_ids if count <= _FEW else _many_ids)(step, phase, first, count)


@lru_cache(maxsize=64)  # as with seeds: for the plan and for the estimate
def _few_ids(step: int, phase: int, first: int, count: int) -> tuple[str, ...]:
    stem = f"{step}.{phase}."
    return tuple([stem + str(i) for i in range(first, first + count)])


_FEW = 4096
_many_ids = lru_cache(maxsize=2)(_few_ids.__wrapped__)  # a round of coordinates has megabytes of ids


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask next. No queries means the round is complete.

    ``anchors`` are taken at the present point before the queries are asked.
    """

    queries: Sequence[Query] = ()
    anchors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Estimate:
    """A gradient estimate (ascent direction of the value) and facts about it for the log.

    ``proposals`` are candidates judged on the way that deserve another look: a line search may try them.
    """

    direction: Direction
    info: dict[str, float] = field(default_factory=dict)
    proposals: tuple[Candidate, ...] = ()


class Estimator(ABC):
    """Base of the estimators.

    Attributes:
        accepts: the feedback types the estimate can be made from.
        per_example: True if values per example [n, batch] are wanted rather than their mean.
    """

    accepts: ClassVar[frozenset[type[Feedback]]]
    per_example: ClassVar[bool] = False

    @abstractmethod
    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """The queries of phase 0, 1, ... given the answers so far; an empty plan when nothing more is needed."""

    @abstractmethod
    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The direction, from all answers of the round. Queries that failed are left out."""

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart besides the journal: JSON values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
