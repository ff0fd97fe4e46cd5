"""The strategy protocol: what to ask in a round, and how the answers move the parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from blackbox.estimators.base import Plan, Round
from blackbox.feedback import Answers, Feedback
from blackbox.noise.base import Law
from blackbox.parameters import Parameters


class Strategy(ABC):
    """Base of the strategies.

    Attributes:
        accepts: feedback types it can work with.
    """

    accepts: frozenset[type[Feedback]]

    @property
    def laws(self) -> Sequence[Law]:
        """The laws that its candidates are drawn from; a session shows them the starting point."""
        return ()

    def begin(self, parameters: Parameters) -> None:
        """Called when a session takes the strategy up, and when people move the search: it begins where it is now."""
        return

    @abstractmethod
    def plan(self, round: Round, phase: int, answers: Answers) -> Plan:
        """Queries of phase 0, 1, ... given the round's answers so far; an empty plan ends the round."""

    @abstractmethod
    def step(self, round: Round, answers: Answers, parameters: Parameters) -> dict[str, float]:
        """End the round: move the parameters (their version grows by one) and return facts for the log."""

    def state_dict(self) -> dict[str, Any]:
        """JSON values and tensors that must survive a restart; taken between rounds only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
