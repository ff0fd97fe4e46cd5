"""Augmented random search: the best directions only, scaled by the spread of their values (arXiv:1803.07055, Alg. 1).

    g = 1/(b sigma) sum_{i in best b} [f(x + mu z_i) - f(x - mu z_i)] z_i

where the best b of q directions are those with the lowest min(f+, f-) (here lower is better), and sigma is the standard
deviation of the 2b values that are used. b = q is the paper's V1, b < q V1-t; on whitened observations they are V2 and
V2-t.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers, Feedback, Values
from blackbox.noise import Gaussian, Law
from blackbox.probe import mirrored


class AugmentedRandomSearch(Estimator):
    """ARS.

    Args:
        noise: the law of the directions.
        epsilon: the width mu (the paper's nu), in units of the parameters; positive.
        probes: q (the paper's N), directions of one round.
        best: b, directions that are used; all if left out.
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Values})

    def __init__(
        self, noise: Law | None = None, epsilon: float = 0.05, probes: int = 8, best: int | None = None
    ) -> None:
        if not epsilon > 0:
            raise UserError(f"epsilon is a distance and must be positive, not {epsilon}.")
        if probes < 1:
            raise UserError(f"probes must be at least 1, not {probes}.")
        if best is not None and not 1 <= best <= probes:
            raise UserError(f"best must lie between 1 and probes ({probes}), not {best}.")
        self.noise: Law = noise if noise is not None else Gaussian()
        self.epsilon = epsilon
        self.probes = probes
        self.best = probes if best is None else best

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """x + mu z_i, x - mu z_i, in turn."""
        if phase > 0:
            return Plan()
        return Plan(round.queries(0, mirrored(self.noise, round.probes(self.noise, self.probes), self.epsilon)))

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The direction; pairs with a failure are left out, and where all values agree it is zero."""
        values = answers.values(round.ids(0, 2 * self.probes))
        pairs = (values if values.ndim == 1 else values.mean(1)).reshape(-1, 2)
        known = np.logical_not(np.isnan(pairs[:, 0]) | np.isnan(pairs[:, 1]))
        order = np.argsort(np.where(known, pairs.min(1), np.inf), kind="stable")
        used = [i for i in order[: self.best] if known[i]]
        weights = np.zeros(self.probes)
        spread = float(pairs[used].std()) if used else 0.0
        if spread > 0:
            weights[used] = (pairs[used, 0] - pairs[used, 1]) / (len(used) * spread)
        value = {"value": float(np.nanmean(pairs))} if known.any() else {}
        seeds = np.array(round.probes(self.noise, self.probes), dtype=np.int64)
        return Estimate(Direction((SeedTerms(self.noise, seeds, weights),)), {**value, "spread": spread})
