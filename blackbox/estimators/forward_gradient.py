"""The forward gradient: directional derivatives along random directions (arXiv:2202.08587, definition 1).

    g = (1/q) sum_i <grad f(x), z_i> z_i            q queries, each a forward pass that carries a tangent

Unbiased for any differentiable f, with no step to choose and no difference to round: what ``CentralDifference``
tends to as its epsilon goes to 0. It needs access to the model, so only an oracle that answers Slopes serves, such
as ``oracles.DerivativeOracle``. It is the reference that estimates from values alone are measured against: with
Gaussian directions its variance is (d + 1)/q |g|^2, with Rademacher or sphere directions (d - 1)/q |g|^2.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers, Feedback, Slopes
from blackbox.noise import Gaussian, Law
from blackbox.probe import Probes


class ForwardGradient(Estimator):
    """Slopes times their directions, averaged.

    Args:
        noise: the law of the directions; Gaussian, as in the paper, if left out.
        probes: q, directions averaged in one step.
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Slopes})

    def __init__(self, noise: Law | None = None, probes: int = 1) -> None:
        if probes < 1:
            raise UserError(f"probes must be at least 1, not {probes}.")
        self.noise: Law = noise if noise is not None else Gaussian()
        self.probes = probes

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """q probes of coefficient 1: the displacement is the direction."""
        if phase > 0:
            return Plan()
        return Plan(round.queries(0, Probes(self.noise, round.probes(self.noise, self.probes), (1.0,) * self.probes)))

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """(1/q) sum_i slope_i z_i over those that were answered."""
        slopes, values = answers.slopes(round.ids(0, self.probes))
        known = ~np.isnan(slopes)
        found, count = slopes[known], max(int(known.sum()), 1)
        seeds = np.array(round.probes(self.noise, self.probes), dtype=np.int64)[known]
        info = {
            "value": float(values[known].mean()) if known.any() else float("nan"),
            "slope": math.sqrt(found @ found / count),
        }
        return Estimate(Direction((SeedTerms(self.noise, seeds, found / count),)), info)
