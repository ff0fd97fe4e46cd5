"""Evolution strategies by rank: the gradient of a smoothed objective from utilities of antithetic pairs.

    g = (1/(n mu)) sum_i u(rank_i) s_i z_i      over n = 2q candidates x + s_i mu z_i, s_i = +1, -1

"centred" is OpenAI-ES (arXiv:1703.03864): u = rank/(n - 1) - 1/2. "nes" is the utility of natural evolution strategies
(arXiv:1106.4487, section 3.1): -n max(0, log(n/2 + 1) - log(rank + 1)) normalised to sum to -n, plus 1. Both look at
ranks alone, so an order is all they need; ties share their mean rank.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers, Feedback, Preferences, Ranking, Values
from blackbox.noise import Gaussian, Law
from blackbox.order import FloatArray, order_of
from blackbox.probe import Probe, mirrored


class RankEvolution(Estimator):
    """OpenAI-ES, or NES with a fixed isotropic width.

    Args:
        noise: the law of the directions.
        epsilon: the width mu, in units of the parameters; positive.
        probes: q, antithetic pairs of one round.
        utilities: what ranks are worth.
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Values, Ranking, Preferences})

    def __init__(
        self,
        noise: Law | None = None,
        epsilon: float = 0.1,
        probes: int = 8,
        utilities: Literal["centred", "nes"] = "centred",
    ) -> None:
        if not epsilon > 0:
            raise UserError(f"epsilon is a distance and must be positive, not {epsilon}.")
        if probes < 1:
            raise UserError(f"probes must be at least 1, not {probes}.")
        if utilities not in ("centred", "nes"):
            raise UserError(f"utilities is 'centred' or 'nes', not {utilities!r}.")
        self.noise: Law = noise if noise is not None else Gaussian()
        self.epsilon = epsilon
        self.probes = probes
        self.utilities = utilities

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """x + mu z_i, x - mu z_i, in turn."""
        if phase > 0:
            return Plan()
        seeds, distance = round.probes(self.noise, self.probes), self.epsilon * round.radius
        return Plan(round.queries(0, mirrored(self.noise, seeds, distance)))

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The direction in which the value rises; "edges" is how many pairs are in order."""
        ids = round.ids(0, 2 * self.probes)
        order, seeds = order_of(answers, ids), round.probes(self.noise, self.probes)
        utilities = centred(order.ranks) if self.utilities == "centred" else natural(order.ranks)
        distance = self.epsilon * round.radius
        weights = (utilities[0::2] - utilities[1::2]) / (2 * self.probes * distance)
        info = {"edges": order.edges}
        values = answers.values(ids)
        if not np.isnan(values).all():
            info["value"] = float(np.nanmean(values))
        best: tuple[Probe, ...] = ()
        if order.edges:
            winner = int(order.wins.argmax())
            best = (Probe(self.noise, ((seeds[winner // 2], distance * (1 - 2 * (winner % 2))),)),)
        direction = Direction((SeedTerms(self.noise, np.array(seeds, dtype=np.int64), weights),))
        return Estimate(direction, info, best)


def centred(ranks: FloatArray) -> FloatArray:
    """Ranks [n], 0 the best -> -1/2 .. 1/2."""
    return ranks / (len(ranks) - 1) - 0.5


def natural(ranks: FloatArray) -> FloatArray:
    """Ranks [n], 0 the best -> minus the utilities of NES times n; they sum to zero."""
    n = len(ranks)
    kept = np.maximum(0.0, np.log(n / 2 + 1) - np.log(ranks + 1))
    weights: FloatArray = 1.0 - n * kept / kept.sum()
    return weights
