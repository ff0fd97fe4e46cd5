"""What estimators by differences share: slopes along seeds, and what they say of themselves in the log."""

from __future__ import annotations

import math

import numpy as np

from blackbox.errors import UserError
from blackbox.estimators.base import Round
from blackbox.estimators.two_point import CentralDifference, FloatArray, ForwardDifference, TwoPoint, near_rounding
from blackbox.feedback import Answers
from blackbox.noise import Law


def two_point(stencil: str, noise: Law, epsilon: float, probes: int) -> TwoPoint:
    """The stencil of that name; UserError if there is none, or if the rest is wrong."""
    kinds = {"central": CentralDifference, "forward": ForwardDifference}
    if stencil not in kinds:
        raise UserError(f"stencil is 'forward' or 'central', not {stencil!r}.")
    return kinds[stencil](noise, epsilon, probes)


def slopes_of(stencil: TwoPoint, round: Round, answers: Answers) -> tuple[FloatArray, dict[str, float]]:
    """Projected gradients [q] of a round that ``stencil`` planned, NaN where one is missing, and the facts."""
    values = answers.values(round.ids(0, stencil.queries))
    slopes = mean_of(stencil.projected(values))
    return slopes, difference_facts(values, slopes, *stencil.pairs(values))


def mean_of(values: FloatArray) -> FloatArray:
    """Numbers [n] as they are, numbers per example [n, batch] as their means [n]; NaN where an example is."""
    return values if values.ndim == 1 else values.mean(1)


def difference_facts(values: FloatArray, slopes: FloatArray, first: FloatArray, second: FloatArray) -> dict[str, float]:
    """The facts that ``TwoPoint`` logs, see docs/estimators.md.

    Args:
        values: all of the round, [m] or [m, batch]; NaN where a query failed.
        slopes: projected gradients [q]; NaN where one is missing.
        first: what the differences were taken of, [q] or [q, batch].
        second: what was subtracted, [q] or [q, batch], or broadcast to it.
    """
    answered, known = values[~np.isnan(values)], slopes[~np.isnan(slopes)]
    return {
        "value": float(answered.mean()) if answered.size else float("nan"),
        "slope": math.sqrt(known @ known / max(known.size, 1)),
        "zero_differences": 1.0 - np.count_nonzero(known) / known.size if known.size else 0.0,
        "near_rounding": near_rounding(first, second) / known.size if known.size else 0.0,
    }
