"""Linear regression on slopes, those of past rounds among them.

Every probe tells one slope, b_i = g.z_i up to curvature and noise. With rows z_i of this round and of the last few,

    g = argmin sum_i c_i (g.z_i - b_i)^2 + rho d |g|^2 = sum_i a_i z_i,   (G + rho d C^-1) a = b

where G_ij = z_i.z_j and C = diag(c), c_i = fading^age: what was measured k steps ago at a point nearby counts as if
its noise were 1/c_i times as large. It is the posterior mean of g under a normal prior. Without ridge and reuse it is
linear interpolation, the simplex gradient (arXiv:1905.01332): for a linear f and m rows in all its
squared cosine to g is m/d in the mean, and its length shrinks with it; m >= d rows give g itself.

Past slopes are free of queries. They were measured where the parameters were then, which an estimator doesn't know;
that they are differences rather than values makes them comparable without. So reuse pays where steps are short
against the distance over which the gradient turns, and fading says how short.

The estimate is shrunk, not unbiased: |g| is approached from below as rows grow. Learning rates are therefore those of
the true gradient, about d/q times those that ``central`` stands.

A round costs the Gram matrix of all m = q(1 + reuse) rows: m d elements of noise, m^2 d multiplications.
"""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar, Literal

import numpy as np

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.estimators.facts import slopes_of, two_point
from blackbox.estimators.two_point import FloatArray
from blackbox.feedback import Answers, Feedback, Values
from blackbox.noise import Law, Rademacher
from blackbox.noise.gram import gram


class Regression(Estimator):
    """Ridge regression on the slopes of this round and the last ones.

    Args:
        noise: the law of the probes.
        epsilon: the distance mu of the probes, in units of the parameters; positive.
        probes: q, directions of one round.
        stencil: central (2q queries) or forward (q + 1).
        reuse: past rounds whose slopes are used again; 0 for none.
        fading: weight of a past round's slopes against the round after it, in (0, 1].
        ridge: rho, the variance of a slope's noise over that of a slope under the prior; 0 interpolates.
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Values})

    def __init__(
        self,
        noise: Law | None = None,
        epsilon: float = 1e-3,
        probes: int = 8,
        stencil: Literal["central", "forward"] = "central",
        reuse: int = 4,
        fading: float = 0.5,
        ridge: float = 0.1,
    ) -> None:
        if reuse < 0:
            raise UserError(f"reuse is a number of past rounds: 0 or more, not {reuse}.")
        if not 0 < fading <= 1:
            raise UserError(f"fading must lie in (0, 1], not {fading}.")
        if not ridge >= 0:
            raise UserError(f"ridge is a ratio of variances: 0 or more, not {ridge}.")
        self.noise: Law = noise if noise is not None else Rademacher()
        self.probes = probes
        self.stencil = two_point(stencil, self.noise, epsilon, probes)
        self.fading = fading
        self.ridge = ridge
        self._past: deque[tuple[list[int], list[float]]] = deque(maxlen=reuse)

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """The stencil's queries."""
        return self.stencil.next(round, phase, answers)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The regression's gradient. Without any answer of this round there is none; "rows" is m."""
        slopes, info = slopes_of(self.stencil, round, answers)
        known = ~np.isnan(slopes)
        if not known.any():
            return Estimate(Direction(), {**info, "rows": 0.0})
        now = np.array(round.probes(self.noise, self.probes))[known].tolist(), slopes[known].tolist()
        rows = [now, *self._past]
        seeds = [seed for part, _ in rows for seed in part]
        heard = np.array([slope for _, part in rows for slope in part])
        trust = np.concatenate([np.full(len(part), self.fading**age) for age, (part, _) in enumerate(rows)])
        weights = solve(gram(self.noise, seeds, round.layout), heard, self.ridge * round.layout.dimension / trust)
        self._past.appendleft(now)
        terms = SeedTerms(self.noise, np.array(seeds, dtype=np.int64), weights)
        return Estimate(Direction((terms,)), {**info, "rows": float(len(seeds))})

    def state_dict(self) -> dict[str, Any]:
        """Seeds and slopes of the past rounds that are used again."""
        return {"past": [[seeds, slopes] for seeds, slopes in self._past]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        past = [([int(seed) for seed in seeds], [float(slope) for slope in slopes]) for seeds, slopes in state["past"]]
        self._past = deque(past, maxlen=self._past.maxlen)


def solve(products: FloatArray, slopes: FloatArray, noise: FloatArray) -> FloatArray:
    """a of (G + diag(noise)) a = b; the shortest where G is singular and there is no noise."""
    return np.linalg.lstsq(products + np.diag(noise), slopes, rcond=1e-12)[0].astype(np.float64)
