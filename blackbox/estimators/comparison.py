"""One bit a direction: g = (1/q) sum_i sign(f(x + mu z_i) - f(x - mu z_i)) z_i.

The comparison oracle of SCOBO (arXiv:2010.02479) and ZO-signSGD (arXiv:1905.01832) without their sparsity: all that is
used of a pair is which of the two is better. Several raters vote; a tie votes for neither.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers, Feedback, Preferences, Ranking, Values
from blackbox.noise import Law, Rademacher
from blackbox.order import order_of
from blackbox.probe import mirrored


class OneBit(Estimator):
    """Signs of central differences.

    Args:
        noise: the law of the directions.
        epsilon: the distance mu of the probes, in units of the parameters; positive.
        probes: q, pairs compared in one round.
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Values, Ranking, Preferences})

    def __init__(self, noise: Law | None = None, epsilon: float = 1e-2, probes: int = 8) -> None:
        if not epsilon > 0:
            raise UserError(f"epsilon is a distance and must be positive, not {epsilon}.")
        if probes < 1:
            raise UserError(f"probes must be at least 1, not {probes}.")
        self.noise: Law = noise if noise is not None else Rademacher()
        self.epsilon = epsilon
        self.probes = probes

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """x + mu z_i, x - mu z_i, in turn: a pairwise oracle compares neighbours."""
        if phase > 0:
            return Plan()
        seeds, distance = round.probes(self.noise, self.probes), self.epsilon * round.radius
        return Plan(round.queries(0, mirrored(self.noise, seeds, distance)))

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The direction in which the value rises; pairs without an answer, or tied, are left out."""
        ids = round.ids(0, 2 * self.probes)
        signs = np.array([-np.sign(order_of(answers, ids[i : i + 2]).wins[0]) for i in range(0, len(ids), 2)])
        seeds = np.array(round.probes(self.noise, self.probes), dtype=np.int64)
        info = {"decided": float(np.count_nonzero(signs)) / self.probes}
        values = answers.values(ids)
        if not np.isnan(values).all():
            info["value"] = float(np.nanmean(values))
        return Estimate(Direction((SeedTerms(self.noise, seeds, signs / self.probes),)), info)
