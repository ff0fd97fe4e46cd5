"""1.5-SPSA: each probe's slope over a power of the curvature along it.

    g = (1/q) sum_i w_i s_i z_i        w_i = 1/max(1, |c_i|^power)
    s_i = [f(x + mu z_i) - f(x - mu z_i)]/(2 mu)      c_i = [f(x + mu z_i) - 2 f(x) + f(x - mu z_i)]/mu^2

Between SPSA (power 0) and a Newton step along each probe (power 1 where curvatures exceed 1): where f bends, a step
along z is short. 2q + 1 values a step, over the same minibatch. As published: random signs, power 0.1, q of 160, and a
learning rate as large as mu, 1e-4.

The weights depend on the probe, so the estimate isn't unbiased; it is where f is linear.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.estimators.curvature import CurvatureStencil
from blackbox.feedback import Answers, Feedback, Values
from blackbox.noise import Law, Rademacher


class CurvatureScaled(Estimator):
    """Central differences, each scaled by its own curvature.

    Args:
        noise: the law of the directions; rademacher if left out.
        epsilon: the distance mu of the probes, in units of the parameters; positive.
        probes: q, directions of one step.
        power: of the curvature, in [0, 1].
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Values})

    def __init__(self, noise: Law | None = None, epsilon: float = 1e-4, probes: int = 160, power: float = 0.1) -> None:
        self.stencil = CurvatureStencil(epsilon, probes)
        if not 0 <= power <= 1:
            raise UserError(f"power must lie in [0, 1], not {power}.")
        self.noise: Law = noise if noise is not None else Rademacher()
        self.epsilon = epsilon
        self.probes = probes
        self.power = power

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """The base, then x + mu z_i, x - mu z_i, in turn."""
        return self.stencil.plan(round, phase, self.noise)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The direction; "curvature" is the mean along the probes. Pairs without a curvature are left out."""
        slopes, curvatures, info = self.stencil.measured(round, answers)
        known = ~np.isnan(slopes) & ~np.isnan(curvatures)
        weights = np.zeros(self.probes)
        scales = np.maximum(1.0, np.abs(curvatures[known]) ** self.power)
        weights[known] = slopes[known] / scales / max(int(known.sum()), 1)
        seeds = np.array(round.probes(self.noise, self.probes), dtype=np.int64)
        return Estimate(Direction((SeedTerms(self.noise, seeds, weights),)), info)
