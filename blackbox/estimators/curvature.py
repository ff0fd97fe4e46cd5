"""Three values a direction, f(x + mu z), f(x), f(x - mu z): slopes and curvatures along z."""

from __future__ import annotations

import numpy as np

from blackbox.errors import UserError
from blackbox.estimators.base import Plan, Round
from blackbox.estimators.facts import difference_facts, mean_of
from blackbox.estimators.two_point import FloatArray
from blackbox.feedback import Answers
from blackbox.noise import Law
from blackbox.probe import mirrored


class CurvatureStencil:
    """2q + 1 queries: the base, then a pair for each direction.

    Args:
        epsilon: the distance mu of the probes, in units of the parameters; positive.
        probes: q, directions of one step.
    """

    def __init__(self, epsilon: float, probes: int) -> None:
        if not epsilon > 0:
            raise UserError(f"epsilon is a distance and must be positive, not {epsilon}.")
        if probes < 1:
            raise UserError(f"probes must be at least 1, not {probes}.")
        self.epsilon = epsilon
        self.probes = probes

    def plan(self, round: Round, phase: int, law: Law) -> Plan:
        """The base, then x + mu z_i, x - mu z_i, in turn; all in phase 0."""
        if phase > 0:
            return Plan()
        return Plan(round.queries(0, [None, *mirrored(law, round.probes(law, self.probes), self.epsilon)]))

    def measured(self, round: Round, answers: Answers) -> tuple[FloatArray, FloatArray, dict[str, float]]:
        """Slopes [q] and curvatures [q], NaN where a value is missing, and the facts for the log."""
        values = answers.values(round.ids(0, 2 * self.probes + 1))
        base, plus, minus = values[:1], values[1::2], values[2::2]
        slopes = mean_of((plus - minus) / (2 * self.epsilon))
        curvatures = mean_of((plus - 2 * base + minus) / self.epsilon**2)
        known = curvatures[~np.isnan(curvatures)]
        mean = float(known.mean()) if known.size else float("nan")
        return slopes, curvatures, {**difference_facts(values, slopes, plus, minus), "curvature": mean}
