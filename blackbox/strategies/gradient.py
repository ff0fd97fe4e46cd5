"""Estimate a gradient, perhaps search along it, step."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar, Protocol, cast

from blackbox.direction import Direction
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers, Feedback
from blackbox.noise.base import Law
from blackbox.optimizers.base import Optimizer
from blackbox.parameters import Parameters
from blackbox.strategies.base import Strategy
from blackbox.variance.terms import laws_of


class LineSearch(Protocol):
    """A second part of the round: queries along the direction, planned after the estimate's answers have come."""

    accepts: ClassVar[frozenset[type[Feedback]]]

    def next(self, round: Round, phase: int, first: int, estimate: Estimate, answers: Answers) -> Plan:
        """Queries of phase ``phase`` (the search's own first phase is ``first``); empty when decided."""
        ...

    def choose(self, round: Round, first: int, estimate: Estimate, answers: Answers) -> Direction:
        """The displacement to move by, from the answers."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart besides the journal."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        ...


class GradientStrategy(Strategy):
    """Descent along an estimate.

    Args:
        estimator: gives the direction.
        optimizer: applies it; needed unless there is a line search.
        line_search: decides the displacement by queries of its own instead of an optimizer's learning rate.
    """

    def __init__(
        self, estimator: Estimator, optimizer: Optimizer | None = None, line_search: LineSearch | None = None
    ) -> None:
        if (optimizer is None) == (line_search is None):
            raise UserError("GradientStrategy needs an optimizer or a line search, and not both.")
        self.estimator = estimator
        self.optimizer = optimizer
        self.line_search = line_search
        self.accepts = estimator.accepts if line_search is None else estimator.accepts & line_search.accepts
        self._estimate: Estimate | None = None
        self._search_from = 0
        self._fresh: dict[str, Any] | None = None

    @property
    def laws(self) -> Sequence[Law]:
        """The estimator's."""
        return list(laws_of(self.estimator))

    def begin(self, parameters: Parameters) -> None:
        """As the base says: what the parts have learnt elsewhere, momentum and past directions, is forgotten."""
        self._estimate = None
        if self.optimizer is not None:
            self.optimizer.check(parameters)
        if self._fresh is None:
            self._fresh = deepcopy(self.state_dict())
        else:
            self.load_state_dict(deepcopy(self._fresh))

    def plan(self, round: Round, phase: int, answers: Answers) -> Plan:
        """The estimator's phases, then the line search's."""
        if phase == 0:
            self._estimate = None
        if self._estimate is None:
            plan = self.estimator.next(round, phase, answers)
            if plan.queries:
                return plan
            self._estimate = self.estimator.estimate(round, answers)
            self._search_from = phase
        if self.line_search is None:
            return Plan()
        return self.line_search.next(round, phase, self._search_from, self._estimate, answers)

    def step(self, round: Round, answers: Answers, parameters: Parameters) -> dict[str, float]:
        """Move by the optimizer, or to where the line search says."""
        estimate = self._estimate
        assert estimate is not None, "a round ends after its plan is empty"
        self._estimate = None
        if self.optimizer is not None:
            return estimate.info | self.optimizer.step(estimate, round, parameters)
        assert self.line_search is not None
        moved = self.line_search.choose(round, self._search_from, estimate, answers)
        parameters.apply(moved)
        return estimate.info | {"moved": float(bool(moved.terms))}

    def state_dict(self) -> dict[str, Any]:
        """The estimator's, and the optimizer's or the line search's state."""
        return {"estimator": self.estimator.state_dict(), **{name: p.state_dict() for name, p in self._parts.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        self.estimator.load_state_dict(state["estimator"])
        for name, part in self._parts.items():
            part.load_state_dict(state[name])

    @property
    def _parts(self) -> dict[str, Optimizer | LineSearch]:
        return {"optimizer": self.optimizer} if self.optimizer else {"line_search": cast(LineSearch, self.line_search)}
