"""Line search by ranking (ZO-RankSGD, arXiv:2303.03751, Algorithm 2): the step is chosen by an order, not by a rate.

After the estimate g, these are put in order: x - s b^i g for i = 0 .. n-1, the best probe of the round, and x itself.
The best becomes the next x. If x is best the round has failed: its direction isn't thrown away, the next search goes
along the mean of the directions since the last success.

With ``adaptive`` s follows what wins: the next longest step is 1/b times the step that won, and b times the present one
after a failed round. (The paper leaves it fixed, and so stops where the shortest step is too long.)

With one step, no memory and ``uphill`` the best of {x, x - s g, x + s g} is taken, and nothing else is carried over:
the conservative descent of ZO-Bench (arXiv:2402.11592).

The candidates are ordinary queries: whoever ranks the probes, ranks these.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Plan, Round
from blackbox.feedback import Answers, Feedback, Preferences, Ranking, Values
from blackbox.order import order_of
from blackbox.probe import Candidate, Probe


class RankLineSearch:
    """Search along an estimate by order alone.

    Args:
        step: the (first) longest step s, in lengths of the estimate; positive.
        shrink: b, each step's ratio to the one before, in (0, 1).
        candidates: n, steps tried; at least 1.
        memory: failed rounds whose directions are kept at most.
        adaptive: let s follow the steps that win.
        uphill: try x + s g, too.
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Values, Ranking, Preferences})

    def __init__(
        self,
        step: float = 1.0,
        shrink: float = 0.5,
        candidates: int = 5,
        memory: int = 20,
        adaptive: bool = True,
        uphill: bool = False,
    ) -> None:
        if not step > 0:
            raise UserError(f"step must be positive, not {step}.")
        if not 0 < shrink < 1:
            raise UserError(f"shrink must lie between 0 and 1, not {shrink}.")
        if candidates < 1:
            raise UserError(f"candidates must be at least 1, not {candidates}.")
        if memory < 0:
            raise UserError(f"memory is a number of rounds: 0 or more, not {memory}.")
        self.step = step
        self.shrink = shrink
        self.candidates = candidates
        self.memory = memory
        self.adaptive = adaptive
        self.uphill = uphill
        self._failed: list[tuple[list[int], list[float]]] = []  # seeds and weights

    def next(self, round: Round, phase: int, first: int, estimate: Estimate, answers: Answers) -> Plan:
        """All candidates in one phase; none if the estimate says nothing."""
        if phase > first:
            return Plan()
        candidates = self._candidates(round, estimate)
        return Plan(round.queries(phase, candidates)) if candidates else Plan()

    def choose(self, round: Round, first: int, estimate: Estimate, answers: Answers) -> Direction:
        """The displacement to the best candidate; x wins its ties, else the longer step does."""
        candidates = self._candidates(round, estimate)
        if not candidates:
            return Direction()
        wins = order_of(answers, round.ids(first, len(candidates))).wins
        best = len(wins) - 1 if wins[-1] >= wins.max() else int(wins.argmax())
        winner = candidates[best]
        if self.adaptive and best < self.candidates:
            self.step *= self.shrink ** (best - 1)
        if not isinstance(winner, Probe):  # x itself
            self.step *= self.shrink if self.adaptive else 1.0
            now = _terms(estimate)
            failed = [*self._failed, (now.seeds.tolist(), now.weights.tolist())]
            self._failed = failed[-self.memory :] if self.memory else []
            return Direction()
        self._failed = []
        seeds, weights = zip(*winner.terms, strict=True)
        return Direction((SeedTerms(winner.law, np.array(seeds, np.int64), np.array(weights, np.float64)),))

    def _candidates(self, round: Round, estimate: Estimate) -> list[Candidate]:
        if not estimate.direction.terms or not (now := _terms(estimate)).weights.any():
            return []
        every = [*self._failed, (now.seeds.tolist(), now.weights.tolist())]
        seeds = [seed for some, _ in every for seed in some]
        weights = np.array([weight for _, some in every for weight in some]) / len(every)
        lengths = round.radius * self.step * self.shrink ** np.arange(self.candidates)
        lengths = np.append(lengths, -lengths[0]) if self.uphill else lengths
        steps = [Probe(now.law, tuple(zip(seeds, (-s * weights).tolist(), strict=True))) for s in lengths]
        return [*steps, *estimate.proposals, None]

    def state_dict(self) -> dict[str, Any]:
        """The longest step, and the directions since the last success."""
        return {"step": self.step, "failed": [list(one) for one in self._failed]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.step = state["step"]
        self._failed = [(seeds, weights) for seeds, weights in state["failed"]]


def _terms(estimate: Estimate) -> SeedTerms:
    terms = estimate.direction.terms
    if not all(isinstance(one, SeedTerms) for one in terms):
        raise UserError("A line search by ranking needs an estimate that is a sum over seeds, as that of `rank` is.")
    some = [one for one in terms if isinstance(one, SeedTerms)]
    if len({one.law for one in some}) > 1:
        raise UserError("A line search by ranking needs an estimate along one law of noise.")
    return SeedTerms(some[0].law, np.concatenate([t.seeds for t in some]), np.concatenate([t.weights for t in some]))
