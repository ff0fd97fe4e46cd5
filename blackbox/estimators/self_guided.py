"""Self-guided evolution strategies: each probe lies in the span of past estimates, or square to it.

    with probability alpha    z = sqrt(d/k) U xi',                    xi' ~ N(0, I_k)
    otherwise                 z = sqrt(d/(d - k)) (I - U U^T) xi,     xi ~ N(0, I_d)
    g = (1/q) sum_i [f(x + mu z_i) - f(x - mu z_i)]/(2 mu) z_i

(Liu, Li and Qian, IJCAI 2020, doi:10.24963/ijcai.2020/205.) alpha follows what pays: where the mean over the probes
inside of the lower of a pair's two values is below that of the probes outside, alpha is multiplied by 1.1, else divided
by it, within [0.1, 0.9]. Until k estimates are there the search is isotropic. The mean of the estimate of a linear f is
[alpha (d/k) U U^T + (1 - alpha) d/(d - k) (I - U U^T)] g.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Round
from blackbox.estimators.guided import inside
from blackbox.estimators.seed_sums import FloatArray, IntArray, SeedSums
from blackbox.estimators.subspace import PastDirections, orthonormal
from blackbox.feedback import Answers
from blackbox.noise import Law
from blackbox.noise.gram import products

_FACTOR, _LEAST, _MOST = 1.1, 0.1, 0.9


class SelfGuided(SeedSums):
    """SGES.

    Args:
        noise: the law of the seeds.
        epsilon: the distance mu of the probes along z, in units of the parameters; positive.
        probes: q, antithetic pairs of one round.
        history: k, past estimates that span the subspace; the search is isotropic until there are as many.
        alpha: share of the probes inside the subspace at first, in [0.1, 0.9].
    """

    def __init__(
        self,
        noise: Law | None = None,
        epsilon: float = 1e-3,
        probes: int = 4,
        history: int = 50,
        alpha: float = 0.5,
    ) -> None:
        super().__init__(noise, epsilon, probes)
        if not _LEAST <= alpha <= _MOST:
            raise UserError(f"alpha must lie in [{_LEAST}, {_MOST}], not {alpha}.")
        self.alpha = alpha
        self._past = PastDirections(self.noise, history)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The direction, a sum of all seeds; pairs with a failure are left out of the mean. "alpha" as it is next."""
        seeds, rows = self.directions(round)
        pairs, slopes, info = self.measured(round, answers)
        known = ~np.isnan(slopes)
        if not known.any():
            return Estimate(Direction(), {**info, "alpha": self.alpha})
        within = ~rows[:, -self.probes :].any(1)
        self._adapt(pairs.min(1), within & known, ~within & known)
        weights = slopes[known] @ rows[known] / known.sum()
        self._past.add(seeds[-self.probes :], weights[-self.probes :])
        return Estimate(Direction((SeedTerms(self.noise, seeds, weights),)), {**info, "alpha": self.alpha})

    def state_dict(self) -> dict[str, Any]:
        """The past estimates and alpha."""
        return {**self._past.state_dict(), "alpha": self.alpha}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        self._past.load_state_dict(state)
        self.alpha = float(state["alpha"])
        self._drawn = None

    def _adapt(self, lowest: FloatArray, within: npt.NDArray[np.bool_], without: npt.NDArray[np.bool_]) -> None:
        if not within.any() or not without.any():
            return
        better = lowest[within].mean() < lowest[without].mean()
        self.alpha = min(self.alpha * _FACTOR, _MOST) if better else max(self.alpha / _FACTOR, _LEAST)

    def _draw(self, round: Round) -> tuple[IntArray, FloatArray]:
        fresh = self.fresh(round)
        if not self._past.full:
            return fresh, np.eye(self.probes)
        d = round.layout.dimension
        seeds, basis = orthonormal(self.noise, self._past.terms, round.layout)
        k = len(basis)
        generator = np.random.Generator(np.random.Philox(round.seed("side")))
        within = (generator.random(self.probes) < self.alpha) | (k >= d)
        # (I - U U^T) xi is the fresh seed less its share in each u; the products with the past seeds give those.
        shares = products(self.noise, fresh.tolist(), seeds.tolist(), round.layout) @ basis.T
        outside = np.hstack([-shares @ basis, np.eye(self.probes)]) * np.sqrt(d / max(d - k, 1))
        into = np.hstack([inside(round, self.probes, basis), np.zeros((self.probes, self.probes))])
        return np.concatenate([seeds, fresh]), np.where(within[:, None], into, outside)
