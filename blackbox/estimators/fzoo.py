"""One-sided differences in units of their own spread: FZOO (arXiv:2506.09034).

    g = 1/(q sigma) sum_i [f(x + mu z_i) - f(x)] z_i        q + 1 queries (one shared base value)

sigma is the standard deviation of the q values f(x + mu z_i) (of a sample: over q - 1). For a linear f it is about
mu |grad f|, so g is about the gradient's direction, of length 1, whatever mu and the scale of f: descent along it is
normalised descent, with long steps where f is flat. Where all values agree there is no direction.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.estimators.facts import difference_facts, mean_of
from blackbox.estimators.two_point import ForwardDifference
from blackbox.feedback import Answers, Feedback, Values
from blackbox.noise import Law


class SpreadNormalized(Estimator):
    """Forward differences, over the standard deviation of the values.

    Args:
        noise: the law of the directions; rademacher, as in the paper, if left out.
        epsilon: the distance mu of the probes, in units of the parameters; positive.
        probes: q (the paper's N), directions of one step; at least 2.
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Values})

    def __init__(self, noise: Law | None = None, epsilon: float = 1e-4, probes: int = 8) -> None:
        self.stencil = ForwardDifference(noise, epsilon, probes)
        if probes < 2:
            raise UserError(f"probes must be at least 2, as one value has no spread; not {probes}.")
        self.noise = self.stencil.noise
        self.epsilon = epsilon
        self.probes = probes

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """The base, then x + mu z_i."""
        return self.stencil.next(round, phase, answers)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The direction, over the probes that were answered; "spread" is sigma."""
        values = answers.values(round.ids(0, self.probes + 1))
        means = mean_of(values)
        slopes = mean_of(self.stencil.projected(values))
        known = ~np.isnan(slopes)
        spread = float(means[1:][known].std(ddof=1)) if known.sum() > 1 else 0.0
        weights = np.zeros(self.probes)
        if spread > 0:
            weights[known] = slopes[known] * self.epsilon / (known.sum() * spread)
        info = difference_facts(values, slopes, *self.stencil.pairs(values)) | {"spread": spread}
        seeds = np.array(round.probes(self.noise, self.probes), dtype=np.int64)
        return Estimate(Direction((SeedTerms(self.noise, seeds, weights),)), info)
