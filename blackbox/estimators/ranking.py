"""The rank estimator of ZO-RankSGD: a direction from an order of candidates alone.

m candidates x + mu z_i are put in order, perhaps only the best k of them. With E the pairs (i, j) in which i is known
to be better than j (arXiv:2303.03751, eq. 9),

    g = (1/|E|) sum_{(i,j) in E} (z_j - z_i) = sum_i (in_i - out_i)/|E| z_i

is a direction in which the value rises. Ties, partial orders, skipped candidates and several raters are other sets of
edges. For an (m, k)-ranking without ties |E| = k m - k(k + 1)/2; the 0-based rank r < k has weight
-(m - 1 - 2r)/|E| and an unranked one k/|E|, which sum to zero.

The length of g says nothing about the gradient's: an order doesn't know it. ``epsilon`` isn't divided by.
"""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

import numpy as np

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers, Feedback, Preferences, Ranking, Values
from blackbox.noise import Gaussian, Law
from blackbox.order import order_of
from blackbox.probe import Probe, Probes


class RankEstimator(Estimator):
    """ZO-RankSGD's estimator.

    Args:
        noise: the law of the directions.
        epsilon: the distance mu of the probes, in units of the parameters; positive.
        probes: m, candidates of one round; at least 2.
        reuse: past rounds whose directions are averaged in. They were found at other points, so they help where
            steps are short and answers dear.
        fading: weight of a past round against the one after it, in (0, 1].
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Values, Ranking, Preferences})

    def __init__(
        self,
        noise: Law | None = None,
        epsilon: float = 0.1,
        probes: int = 15,
        reuse: int = 0,
        fading: float = 0.5,
    ) -> None:
        if not epsilon > 0:
            raise UserError(f"epsilon is a distance and must be positive, not {epsilon}.")
        if probes < 2:
            raise UserError(f"probes must be at least 2, not {probes}: one candidate alone has no order.")
        if reuse < 0:
            raise UserError(f"reuse is a number of past rounds: 0 or more, not {reuse}.")
        if not 0 < fading <= 1:
            raise UserError(f"fading must lie in (0, 1], not {fading}.")
        self.noise: Law = noise if noise is not None else Gaussian()
        self.epsilon = epsilon
        self.probes = probes
        self.reuse = reuse
        self.fading = fading
        self._past: deque[SeedTerms] = deque(maxlen=reuse)

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """All candidates in phase 0."""
        if phase > 0:
            return Plan()
        seeds = round.probes(self.noise, self.probes)
        return Plan(round.queries(0, Probes(self.noise, seeds, (self.epsilon * round.radius,) * self.probes)))

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The direction; the best candidate is proposed for a line search. "edges" is |E|."""
        order = order_of(answers, round.ids(0, self.probes))
        seeds = round.probes(self.noise, self.probes)
        now = SeedTerms(self.noise, np.array(seeds, dtype=np.int64), -order.scores)
        terms = [now, *self._past] if order.edges else list(self._past)
        shares = self.fading ** np.arange(len(terms))
        averaged = Direction(tuple(terms[:1])) if len(terms) == 1 else _mean(terms, shares)
        info = {"edges": order.edges}
        values = answers.values(round.ids(0, self.probes))
        if not np.isnan(values).all():
            info["value"] = float(np.nanmean(values))
        best: tuple[Probe, ...] = ()
        if order.edges:
            self._past.appendleft(now)
            best = (Probe(self.noise, ((seeds[int(order.wins.argmax())], self.epsilon * round.radius),)),)
        return Estimate(averaged, info, best)

    def state_dict(self) -> dict[str, Any]:
        """The past rounds that are reused."""
        return {"past": [[terms.seeds.tolist(), terms.weights.tolist()] for terms in self._past]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        past = [SeedTerms(self.noise, np.array(s, np.int64), np.array(w, np.float64)) for s, w in state["past"]]
        self._past = deque(past, maxlen=self.reuse)


def _mean(terms: list[SeedTerms], shares: np.ndarray[Any, Any]) -> Direction:
    """The weighted mean of directions of one law, as one sum of seeds."""
    if not terms:
        return Direction()
    shares = shares / shares.sum()
    seeds = np.concatenate([one.seeds for one in terms])
    weights = np.concatenate([share * one.weights for share, one in zip(shares, terms, strict=True)])
    return Direction((SeedTerms(terms[0].law, seeds, weights),))
