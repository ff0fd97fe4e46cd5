"""History-aligned estimation: the last estimate is probed again, beside q fresh directions.

    g = P f',  P the projection onto span{p, z_1 .. z_q},  p the last estimate

(arXiv:1910.05268; as History-PRGF, with another rule of combination, arXiv:2107.10110.) The slope along p is measured
anew, so an outdated p costs one pair of queries and does no harm. For a linear f the squared sine to the gradient
shrinks by 1 - q/(d - 1) a round: queries of all rounds add up as if they had been asked in one.

The directions are plain seeds and one sum of seeds; the projection is a system with their Gram matrix
(``blackbox.noise.gram``). As p is built on all rounds before it, only its ``terms`` heaviest seeds are kept. A round
costs (terms + q) d elements of noise on the CPU, and the pair along p a pass over the tensors for every seed kept.

The estimate is a projection, not unbiased: |g| comes to that of the gradient from below.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Round
from blackbox.estimators.seed_sums import FloatArray, IntArray, SeedSums
from blackbox.feedback import Answers
from blackbox.noise import Law
from blackbox.noise.gram import combined_gram


class HistoryAligned(SeedSums):
    """Projection onto the last estimate and q fresh directions.

    Args:
        noise: the law of the fresh directions.
        epsilon: the distance mu of the probes, in units of the parameters; the last estimate is probed at mu sqrt(d).
        probes: q, fresh directions of one round; 2q + 2 queries (2q in the first).
        terms: seeds that are kept of an estimate, at least q.
    """

    def __init__(self, noise: Law | None = None, epsilon: float = 1e-3, probes: int = 4, terms: int = 256) -> None:
        super().__init__(noise, epsilon, probes)
        if terms < probes:
            raise UserError(f"terms must be at least probes ({probes}), not {terms}.")
        self.terms = terms
        self._last: tuple[IntArray, FloatArray] = np.zeros(0, np.int64), np.zeros(0)  # sqrt(d) long

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The projection onto the directions that were answered. "seeds" is how many it is a sum of."""
        seeds, rows = self.directions(round)
        _, slopes, info = self.measured(round, answers)
        known = ~np.isnan(slopes)
        if not known.any():
            return Estimate(Direction(), {**info, "seeds": 0.0})
        used = rows[known]
        grams = combined_gram(self.noise, seeds.tolist(), used, round.layout)
        shares = np.linalg.lstsq(grams, slopes[known], rcond=1e-12)[0]
        weights = shares @ used
        self._keep(seeds, weights, math.sqrt(max(float(shares @ grams @ shares), 0.0)), round)
        return Estimate(Direction((SeedTerms(self.noise, seeds, weights),)), {**info, "seeds": float(len(seeds))})

    def state_dict(self) -> dict[str, Any]:
        """The last estimate."""
        return {"seeds": self._last[0].tolist(), "weights": self._last[1].tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        self._last = np.array(state["seeds"], np.int64), np.array(state["weights"], np.float64)
        self._drawn = None

    def _keep(self, seeds: IntArray, weights: FloatArray, length: float, round: Round) -> None:
        """Remember the heaviest seeds, at the length of the probes; what is left out makes it a little shorter."""
        if length == 0.0:
            return
        heaviest = np.sort(np.argsort(-np.abs(weights), kind="stable")[: self.terms])
        heaviest = heaviest[weights[heaviest] != 0]
        self._last = seeds[heaviest], weights[heaviest] * (math.sqrt(round.layout.dimension) / length)

    def _draw(self, round: Round) -> tuple[IntArray, FloatArray]:
        """The first row is the last estimate, if there is one; the others are fresh seeds."""
        seeds, weights = self._last
        rows = np.zeros((self.probes + (len(seeds) > 0), len(seeds) + self.probes))
        rows[0, : len(seeds)] = weights
        rows[-self.probes :, len(seeds) :] = np.eye(self.probes)
        return np.concatenate([seeds, self.fresh(round)]), rows
