"""Estimate a gradient, perhaps search along it, step."""

from __future__ import annotations

from typing import Any, Protocol

from blackbox.direction import Direction
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers
from blackbox.optimizers.base import Optimizer
from blackbox.parameters import Parameters
from blackbox.strategies.base import Strategy


class LineSearch(Protocol):
    """A second part of the round: queries along the direction, planned after the estimate's answers have come."""

    def next(self, round: Round, phase: int, first: int, direction: Direction, answers: Answers) -> Plan:
        """Queries of phase ``phase`` (the search's own first phase is ``first``); empty when decided."""
        ...

    def choose(self, round: Round, first: int, direction: Direction, answers: Answers) -> Direction:
        """The displacement to move by, from the answers."""
        ...


class GradientStrategy(Strategy):
    """Descent along an estimate.

    Args:
        estimator: gives the direction.
        optimizer: applies it.
        line_search: decides the displacement by queries of its own instead of the optimizer's learning rate.
    """

    def __init__(self, estimator: Estimator, optimizer: Optimizer, line_search: LineSearch | None = None) -> None:
        self.estimator = estimator
        self.optimizer = optimizer
        self.line_search = line_search
        self.accepts = estimator.accepts
        self._estimate: Estimate | None = None
        self._search_from = 0

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
        return self.line_search.next(round, phase, self._search_from, self._estimate.direction, answers)

    def step(self, round: Round, answers: Answers, parameters: Parameters) -> dict[str, float]:
        """Move by the optimizer, or to where the line search says."""
        estimate = self._estimate
        assert estimate is not None, "a round ends after its plan is empty"
        self._estimate = None
        if self.line_search is None:
            return estimate.info | self.optimizer.step(estimate, round, parameters)
        parameters.apply(self.line_search.choose(round, self._search_from, estimate.direction, answers))
        return dict(estimate.info)

    def state_dict(self) -> dict[str, Any]:
        """The estimator's and the optimizer's state."""
        return {"estimator": self.estimator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        self.estimator.load_state_dict(state["estimator"])
        self.optimizer.load_state_dict(state["optimizer"])
