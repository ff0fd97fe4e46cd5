"""Recursive estimates: how the last one changes from the last point to this one.

    v_k = g_I(x_k; u) + keep (v_{k-1} - g_I(x_{k-1}; u))

Both g have the same directions u and examples I, so their difference is as small as the step was. ``keep`` is 1 for
SPIDER and PAGE, which begin anew from time to time, and 1 - a for STORM, which forgets.

x_{k-1} is an anchor of the session's. A plan's anchors are taken before its queries are asked, so two of them take
turns: at step k one becomes x_k while the queries go to the other, which is still x_{k-1}.

v_{k-1} is kept as seeds and weights, or dense, whichever is smaller: no more than about 2 d numbers however long the
recursion is.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from blackbox.direction import Direction
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers
from blackbox.variance.base import Wrapper
from blackbox.variance.parts import Parts, require_stateless, require_values
from blackbox.variance.svrg import pair
from blackbox.variance.terms import bounded, from_state, to_state

ANCHORS = ("recursive-even", "recursive-odd")


class Recursive(Wrapper):
    """What SPIDER, PAGE and STORM share.

    Args:
        estimator: of both terms that are subtracted, on the step's minibatch; linear in values.
        full: of the estimate from which the recursion begins.
    """

    keep: float = 1.0

    def __init__(self, estimator: Estimator, full: Estimator | None = None) -> None:
        super().__init__(estimator)
        self.full = full if full is not None else estimator
        name = type(self).__name__
        require_values(name, estimator, self.full)
        require_stateless(name, estimator, self.full)
        self._last: Direction | None = None
        self._made = -1  # the step of v

    @abstractmethod
    def due(self, round: Round) -> bool:
        """Whether the recursion begins anew at this step (it does anyway where there is nothing to go on from)."""

    @abstractmethod
    def start(self, round: Round) -> Parts:
        """The one part from which the recursion begins."""

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """The first estimate, or the minibatch at this point and at the last."""
        anchors = (ANCHORS[round.step % 2],) if phase == 0 else ()
        return self._parts(round).next(phase, answers, anchors)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """v_k; "restart" is 1 where the recursion began. No direction if there was no answer."""
        found = self._parts(round).estimates(answers)
        here, begins = found[0], self._begins(round)
        if here is None:
            return Estimate(Direction())
        v = here.direction
        if not begins:
            there = found[1]
            assert self._last is not None
            assert there is not None, "paired parts have their answers together"
            v = v + (self._last + there.direction * -1.0) * self.keep
        self._last, self._made = bounded(v, round.layout, self.laws), round.step
        return Estimate(self._last, here.info | {"restart": float(begins)})

    def _begins(self, round: Round) -> bool:
        # After a round that was dropped or had no answer, the anchor is of another step than v.
        return self._last is None or self._made != round.step - 1 or self.due(round)

    def _parts(self, round: Round) -> Parts:
        if self._begins(round):
            return self.start(round)
        return pair(self.estimator, round, ANCHORS[(round.step + 1) % 2])

    def state_dict(self) -> dict[str, Any]:
        """v of the last step; the last point is an anchor of the session's."""
        return {"last": None if self._last is None else to_state(self._last, self.laws), "made": self._made}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        self._last = None if state["last"] is None else from_state(state["last"], self.laws)
        self._made = state.get("made", -1)
