"""ZO-SVRG: estimates corrected by what the same directions and examples say at a snapshot.

    v_k = g_I(x_k; u) - g_I(x_0; u) + g_all(x_0)                                         (arXiv:1805.10367, eq. 6)

x_0 is an anchor, taken every ``every`` steps, when the estimate over all data is made; that step goes by it alone,
since the other two terms are equal there. The two terms that are subtracted have the same directions u, examples I
and whatever else is random in an evaluation: with directions drawn anew the difference would have twice the variance
of one estimate, and nothing would be gained.

The published variants are combinations (``estimator`` inside, ``full`` at the snapshot):

    ZO-SVRG               forward, one probe             the same over blocks of the data
    ZO-SVRG-Ave           more probes                    the same
    ZO-SVRG-Coord         all coordinates                all coordinates
    ZO-SVRG-Coord-Rand    random directions              all coordinates        (arXiv:1910.12166, Algorithm 1)
"""

from __future__ import annotations

from typing import Any

from blackbox.direction import Direction
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers
from blackbox.variance.base import Wrapper
from blackbox.variance.parts import Part, Parts, over_all_data, require_stateless, require_values
from blackbox.variance.terms import bounded, from_state, to_state

ANCHOR = "svrg"


class SVRG(Wrapper):
    """Stochastic variance reduced gradient.

    Args:
        estimator: of both terms that are subtracted, on the step's minibatch; linear in values.
        full: of the gradient over all data at the snapshot; ``estimator`` if left out. Its errors last until the next
            snapshot, so it should see many more directions: ``blocks``, or all coordinates.
        every: steps from snapshot to snapshot.
    """

    def __init__(self, estimator: Estimator, full: Estimator | None = None, every: int = 50) -> None:
        super().__init__(estimator)
        self.full = full if full is not None else estimator
        if every < 1:
            raise UserError(f"every is a number of steps, at least 1, not {every}.")
        require_values("SVRG", estimator, self.full)
        require_stateless("SVRG", estimator, self.full)
        self.every = every
        self._snapshot: Direction | None = None
        self._made = -1  # the step of the snapshot

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """All data at a new snapshot, or the minibatch here and at the snapshot."""
        anchors = (ANCHOR,) if phase == 0 and self._renews(round) else ()
        return self._parts(round).next(phase, answers, anchors)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """v_k; "snapshot" is 1 where one was taken. No direction if there was no answer."""
        found = self._parts(round).estimates(answers)
        here, info = found[0], {"snapshot": float(self._renews(round))}
        if here is None:
            if self._renews(round):
                self._snapshot = None  # the anchor has moved on without an estimate: the next step takes another
            return Estimate(Direction())
        if self._renews(round):
            self._snapshot, self._made = bounded(here.direction, round.layout, self.laws), round.step
            return Estimate(here.direction, here.info | info)
        there = found[1]
        assert self._snapshot is not None
        assert there is not None, "paired parts have their answers together"
        return Estimate(here.direction + there.direction * -1.0 + self._snapshot, here.info | info)

    def _renews(self, round: Round) -> bool:
        # A round at which one was due may have been dropped, and its anchor was taken.
        return self._snapshot is None or round.step // self.every > self._made // self.every or round.step == self._made

    def _parts(self, round: Round) -> Parts:
        if self._renews(round):
            return Parts(round, [Part(self.full, over_all_data(round, "full"))])
        return pair(self.estimator, round, ANCHOR)

    def state_dict(self) -> dict[str, Any]:
        """The estimate at the snapshot; the point itself is an anchor of the session's."""
        return {"snapshot": None if self._snapshot is None else to_state(self._snapshot, self.laws), "made": self._made}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        self._snapshot = None if state["snapshot"] is None else from_state(state["snapshot"], self.laws)
        self._made = state.get("made", -1)


def pair(estimator: Estimator, round: Round, anchor: str) -> Parts:
    """The same round, directions, examples and all, at the present point and at an anchor."""
    return Parts(round, [Part(estimator, round), Part(estimator, round, anchor)], paired=True)
