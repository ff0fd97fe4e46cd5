"""HiZOO: probes and steps shaped by a running estimate of the curvature of each parameter (arXiv:2402.15173).

    g = (1/q) sum_i s_i z_i/sqrt(h)                      s_i = [f(x + mu z_i/sqrt(h)) - f(x - mu z_i/sqrt(h))]/(2 mu)
    h <- (1 - s) h + s h (1/q) sum_i |c_i| z_i^2/2       c_i = [f(x + mu z_i/sqrt(h)) - 2 f(x) + f(..-..)]/mu^2

Descent along g is descent preconditioned by 1/h; 2q + 1 values a step. z is Gaussian: the squares of signs say nothing.
The released code takes the step along the new h, which hasn't been probed; here a step is along what it probed.

``hessian-diagonal`` is its relative with an unbiased estimate of the diagonal, for small problems.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.estimators.curvature import CurvatureStencil
from blackbox.feedback import Answers, Feedback, Values
from blackbox.noise import Gaussian, Preconditioned


class HiZOO(Estimator):
    """Central differences in the preconditioned space.

    Args:
        epsilon: the distance mu of the probes along z/sqrt(h); positive.
        probes: q, directions of one step, each a pair of queries; the base value is shared.
        smoothing: s, in [0, 1]; small, as one probe's curvature is about the trace of the Hessian, whatever the
            parameter.
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Values})

    def __init__(self, epsilon: float = 1e-3, probes: int = 1, smoothing: float = 1e-8) -> None:
        self.stencil = CurvatureStencil(epsilon, probes)
        if not 0 <= smoothing <= 1:
            raise UserError(f"smoothing is a share in [0, 1], not {smoothing}.")
        self.noise = Preconditioned(Gaussian(), smoothing)
        self.epsilon = epsilon
        self.probes = probes

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """The base, then x + mu z_i/sqrt(h), x - mu z_i/sqrt(h), in turn."""
        return self.stencil.plan(round, phase, self.noise)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The direction; "curvature" is the mean along the probes. Failed pairs are left out."""
        slopes, curvatures, info = self.stencil.measured(round, answers)
        known, curved = ~np.isnan(slopes), ~np.isnan(curvatures)
        seeds = np.array(round.probes(self.noise, self.probes), dtype=np.int64)
        if curved.any():
            weights = np.abs(curvatures[curved]) / (2 * curved.sum())
            self.noise.learn(round.step, seeds[curved].tolist(), weights.tolist())
        shares = np.where(known, slopes, 0.0) / max(int(known.sum()), 1)
        return Estimate(Direction((SeedTerms(self.noise, seeds, shares),)), info)

    def state_dict(self) -> dict[str, Any]:
        """h, and what is still to be learnt."""
        return self.noise.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        self.noise.load(state)
