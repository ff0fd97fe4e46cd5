"""Guided evolution strategies: half of the search in a subspace where the gradient is believed to lie.

    z = sqrt(alpha) xi + sqrt((1 - alpha) d/k) U xi',    xi ~ N(0, I_d), xi' ~ N(0, I_k)
    g = (1/q) sum_i [f(x + mu z_i) - f(x - mu z_i)]/(2 mu) z_i

with U an orthonormal basis of k surrogate gradients (arXiv:1806.10230, eq. 2 and 3, whose sigma is mu sqrt(d) and
whose beta is d). E z z^T = alpha I + (1 - alpha)(d/k) U U^T, and the estimate of a linear f has that times its gradient
as its mean: it is biased towards the subspace on purpose. It pays where the subspace holds a good part of the gradient;
|U^T g|^2/|g|^2 above k/d is better than chance.

The surrogates are past estimates, or what a function of yours gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Round
from blackbox.estimators.seed_sums import FloatArray, IntArray, SeedSums
from blackbox.estimators.subspace import PastDirections, orthonormal
from blackbox.feedback import Answers
from blackbox.noise import Law


class Surrogate(Protocol):
    """Gives directions in which the gradient may lie."""

    def __call__(self, round: Round) -> Sequence[SeedTerms]:
        """Directions of the estimator's law; their lengths don't matter. A function of the round alone."""
        ...


class Guided(SeedSums):
    """Guided ES.

    Args:
        noise: the law of the seeds.
        epsilon: the distance mu of the probes along z, in units of the parameters; positive.
        probes: q, antithetic pairs of one round.
        history: k, past estimates that span the subspace.
        alpha: share of the isotropic search, in (0, 1].
        surrogate: gives the subspace instead of past estimates.
    """

    def __init__(
        self,
        noise: Law | None = None,
        epsilon: float = 1e-3,
        probes: int = 4,
        history: int = 8,
        alpha: float = 0.5,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(noise, epsilon, probes)
        if not 0 < alpha <= 1:
            raise UserError(f"alpha is the share of the isotropic search and must lie in (0, 1], not {alpha}.")
        self.alpha = alpha
        self.surrogate = surrogate
        self._past = PastDirections(self.noise, history)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The direction, a sum of all seeds; pairs with a failure are left out of the mean."""
        seeds, rows = self.directions(round)
        _, slopes, info = self.measured(round, answers)
        known = ~np.isnan(slopes)
        if not known.any():
            return Estimate(Direction(), info)
        weights = slopes[known] @ rows[known] / known.sum()
        self._past.add(seeds[-self.probes :], weights[-self.probes :])
        return Estimate(Direction((SeedTerms(self.noise, seeds, weights),)), info)

    def state_dict(self) -> dict[str, Any]:
        """The past estimates."""
        return self._past.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        self._past.load_state_dict(state)
        self._drawn = None

    def _draw(self, round: Round) -> tuple[IntArray, FloatArray]:
        terms = self._past.terms if self.surrogate is None else list(self.surrogate(round))
        if any(one.law != self.noise for one in terms):
            raise UserError("surrogate: its directions must be of the estimator's law of noise.")
        seeds, basis = orthonormal(self.noise, terms, round.layout)
        fresh = self.fresh(round)
        share = self.alpha if len(basis) else 1.0
        within = inside(round, self.probes, basis) * np.sqrt(1.0 - share)
        return np.concatenate([seeds, fresh]), np.hstack([within, np.sqrt(share) * np.eye(self.probes)])


def inside(round: Round, count: int, basis: FloatArray) -> FloatArray:
    """[count, m]: sqrt(d/k) U xi' with xi' ~ N(0, I_k), in the basis' seeds."""
    generator = np.random.Generator(np.random.Philox(round.seed("subspace")))
    drawn = generator.standard_normal((count, len(basis))) * np.sqrt(round.layout.dimension / max(len(basis), 1))
    within: FloatArray = drawn @ basis
    return within
