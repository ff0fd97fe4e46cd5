"""Forward and central differences along random directions, averaged over q probes.

    forward   g = (1/q) sum_i [f(x + mu z_i) - f(x)] z_i / mu            q + 1 queries (one shared base value)
    central   g = (1/q) sum_i [f(x + mu z_i) - f(x - mu z_i)] z_i / 2mu  2q queries

Central with q = 1 is SPSA (Spall 1992) and, with minibatch common random numbers, MeZO (arXiv:2305.17333, Algorithm 1);
forward is the estimator of Nesterov and Spokoiny (2017), eq. 30. For a linear f the variance of one coordinate
summed over d is (d + 1)/q |g|^2 with Gaussian and (d - 1)/q |g|^2 with Rademacher or sphere noise.

Both are linear in the values: ``coefficients`` places the queries, ``weights`` turns values into one weight a seed.
The arithmetic is pure, so it also serves per-sample estimates inside backpropagation.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers, Feedback, Values
from blackbox.noise import Law, Rademacher
from blackbox.probe import Candidate, Probe, mirrored

FloatArray = npt.NDArray[np.float64]


class TwoPoint(Estimator):
    """What forward and central differences share.

    Args:
        noise: the law of the directions.
        epsilon: the distance mu of the probes, in units of the parameters; positive.
        probes: q, directions averaged in one step.
        clip: bound on each probe's projected gradient |f' z|; None leaves it alone.
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Values})

    def __init__(
        self, noise: Law | None = None, epsilon: float = 1e-3, probes: int = 1, clip: float | None = None
    ) -> None:
        if not epsilon > 0:
            raise UserError(f"epsilon is a distance and must be positive, not {epsilon}.")
        if probes < 1:
            raise UserError(f"probes must be at least 1, not {probes}.")
        if clip is not None and not clip > 0:
            raise UserError(f"clip must be positive, not {clip}; leave it out for none.")
        self.noise: Law = noise if noise is not None else Rademacher()
        self.epsilon = epsilon
        self.probes = probes
        self.clip = clip

    @property
    @abstractmethod
    def queries(self) -> int:
        """m, queries of one step."""

    @abstractmethod
    def coefficients(self) -> FloatArray:
        """[m, q]: query j asks at x + sum_i coefficients[j, i] z_i."""

    @abstractmethod
    def projected(self, values: FloatArray) -> FloatArray:
        """Values [m, *batch] -> projected gradients [q, *batch]; NaN where a value is."""

    @abstractmethod
    def pairs(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Values [m, *batch] -> what each probe's difference is taken of, [q, *batch] (or broadcast to it) each."""

    def weights(self, values: FloatArray) -> FloatArray:
        """Values [m, *batch] -> weights [q, *batch], so that the estimate is sum_i weights[i] z_i.

        Probes with a missing (NaN) value get weight 0 and the mean is taken over the others.
        """
        slopes = self._slopes(values)
        missing = np.isnan(slopes)
        if not missing.any():
            return slopes / len(slopes)
        weights: FloatArray = np.where(missing, 0.0, slopes) / np.maximum((~missing).sum(0), 1)
        return weights

    def _slopes(self, values: FloatArray) -> FloatArray:
        slopes = self.projected(values)
        return slopes if self.clip is None else np.clip(slopes, -self.clip, self.clip)

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """All queries in phase 0."""
        if phase > 0:
            return Plan()
        return Plan(round.queries(0, self.candidates(round.probes(self.noise, self.probes))))

    @abstractmethod
    def candidates(self, seeds: Sequence[int]) -> Sequence[Candidate]:
        """The stencil around these seeds: row j of ``coefficients`` as a candidate."""

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """(1/q) sum_i slope_i z_i; the per-example mean, if there is one, is taken after the difference."""
        values = answers.values(round.ids(0, self.queries))
        weights, missing, answered = self.weights(values), np.isnan(values), values
        if missing.any():
            slopes, answered = self._slopes(values), values[~missing]
        else:
            slopes = weights * self.probes
        if weights.ndim == 2:
            weights, slopes = weights.mean(1), slopes.mean(1)  # a slope is NaN where one of its examples is
        slopes = slopes[~np.isnan(slopes)] if answered is not values else slopes
        info = {
            "value": float(answered.sum()) / answered.size if answered.size else float("nan"),
            "slope": math.sqrt(slopes @ slopes / max(slopes.size, 1)),
            "zero_differences": 1.0 - np.count_nonzero(slopes) / slopes.size if slopes.size else 0.0,
            "near_rounding": near_rounding(*self.pairs(values)) / slopes.size if slopes.size else 0.0,
        }
        seeds = np.array(round.probes(self.noise, self.probes), dtype=np.int64)
        return Estimate(Direction((SeedTerms(self.noise, seeds, weights),)), info)


class CentralDifference(TwoPoint):
    """f(x + mu z) - f(x - mu z): 2q queries, bias O(mu^2)."""

    @property
    def queries(self) -> int:
        """2q."""
        return 2 * self.probes

    def coefficients(self) -> FloatArray:
        """Row 2i is +mu z_i, row 2i + 1 is -mu z_i."""
        matrix: FloatArray = np.repeat(np.eye(self.probes), 2, 0)
        matrix *= np.tile([self.epsilon, -self.epsilon], self.probes)[:, None]
        return matrix

    def candidates(self, seeds: Sequence[int]) -> Sequence[Candidate]:
        """x + mu z_i, x - mu z_i, in turn."""
        return mirrored(self.noise, seeds, self.epsilon)

    def projected(self, values: FloatArray) -> FloatArray:
        """(f+ - f-)/2mu."""
        return (values[0::2] - values[1::2]) / (2 * self.epsilon)

    def pairs(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """f+ and f-."""
        return values[0::2], values[1::2]


class ForwardDifference(TwoPoint):
    """f(x + mu z) - f(x) with one shared base value: q + 1 queries, bias O(mu)."""

    @property
    def queries(self) -> int:
        """q + 1."""
        return self.probes + 1

    def coefficients(self) -> FloatArray:
        """Row 0 is the base, row i is +mu z_i."""
        return np.vstack([np.zeros((1, self.probes)), np.eye(self.probes) * self.epsilon])

    def candidates(self, seeds: Sequence[int]) -> Sequence[Candidate]:
        """The base, then x + mu z_i."""
        return [None, *(Probe(self.noise, ((seed, self.epsilon),)) for seed in seeds)]

    def projected(self, values: FloatArray) -> FloatArray:
        """(f_i - f_0)/mu."""
        return (values[1:] - values[:1]) / self.epsilon

    def pairs(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """f_i and f_0."""
        return values[1:], values[:1]


def near_rounding(first: FloatArray, second: FloatArray) -> int:
    """How many differences are not 0, but within 4 units in the last place that float32 has at these values.

    ``first`` [q] or [q, batch]; of examples the mean counts. What is NaN counts as far from it.
    """
    if first.ndim == 2:
        first, second = first.mean(1), second.mean(1)
    gap = np.abs(first - second)
    close = np.count_nonzero(gap <= _FEW_ULPS * np.abs(second))
    return int(close - (gap.size - np.count_nonzero(gap)))


_FEW_ULPS = 4 * 2.0**-23
