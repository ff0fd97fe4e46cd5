"""Orthogonal directions: the random probes' span is used as if it had been probed along an orthonormal basis of it.

With unit directions u_1 .. u_q orthonormal, the estimate (d/q) sum_j (g.u_j) u_j is (d/q) P g, P the projection onto
their span. Its variance is (d - q)/q |g|^2 instead of the (d - 1)/q of independent directions on the sphere, and its
mean squared cosine is q/d exactly (orthogonal exploration, arXiv:1804.02395; compared with others in arXiv:1905.01332).

The basis need not be probed. Slopes b_i along plain seeds z_i say as much: with the Gram matrix G_ij = z_i.z_j

    P g = sum_i a_i z_i,   G a = b

so every probe stays one seed, and the direction one sum of seeds. What it costs is G: q d elements of noise and q^2 d
multiplications a round, on the CPU (``blackbox.noise.gram``). G is well conditioned while q is well below d:
((1 + r)/(1 - r))^2 with r = sqrt(q/d), so 34 at q = d/2. Near q = d noise of the values is magnified; probe
coordinates there.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.estimators.facts import slopes_of, two_point
from blackbox.feedback import Answers, Feedback, Values
from blackbox.noise import Law, Rademacher, Scaled, Sparse
from blackbox.noise.gram import gram

_SINGULAR = 1e-10
"""Eigenvalues of the Gram matrix below this share of the largest count as 0: two probes along one line, say."""


class Orthogonal(Estimator):
    """Projection onto the span of q probes, scaled by d/q.

    Args:
        noise: the law of the probes, not sparse or scaled. Gaussian spans are uniformly distributed; random signs are
            as good in the mean and the variance, and a tenth of the work.
        epsilon: the distance mu of the probes, in units of the parameters; positive.
        probes: q, at most d.
        stencil: central (2q queries) or forward (q + 1).
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Values})

    def __init__(
        self,
        noise: Law | None = None,
        epsilon: float = 1e-3,
        probes: int = 8,
        stencil: Literal["central", "forward"] = "central",
    ) -> None:
        if isinstance(noise, Sparse | Scaled):
            raise UserError(f"{type(noise).__name__} noise treats directions unequally, so d/q is no right factor.")
        self.noise: Law = noise if noise is not None else Rademacher()
        self.probes = probes
        self.stencil = two_point(stencil, self.noise, epsilon, probes)

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """The stencil's queries."""
        if self.probes > round.layout.dimension:
            raise UserError(f"probes must not exceed the {round.layout.dimension} parameters; it is {self.probes}.")
        return self.stencil.next(round, phase, answers)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """(d/q) P g over the q probes that were answered."""
        slopes, info = slopes_of(self.stencil, round, answers)
        known = ~np.isnan(slopes)
        seeds = np.array(round.probes(self.noise, self.probes), dtype=np.int64)[known]
        if not len(seeds):
            return Estimate(Direction(), info)
        products = gram(self.noise, seeds.tolist(), round.layout)
        weights, _, rank, _ = np.linalg.lstsq(products, slopes[known], rcond=_SINGULAR)
        scaled = weights.astype(np.float64) * (round.layout.dimension / max(int(rank), 1))
        return Estimate(Direction((SeedTerms(self.noise, seeds, scaled),)), info)
