"""What estimators share whose probes are sums of seeds: central differences along v_k = sum_i rows[k, i] z(s_i)."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from blackbox.errors import UserError
from blackbox.estimators.base import Estimator, Plan, Round
from blackbox.estimators.facts import difference_facts, mean_of
from blackbox.feedback import Answers, Feedback, Values
from blackbox.noise import Law, Rademacher
from blackbox.probe import Probe

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class SeedSums(Estimator):
    """Central differences along sums of seeds; a subclass says which, and what the slopes come to.

    Args:
        noise: the law of the seeds.
        epsilon: the distance mu of the probes along a direction, in units of the parameters; positive.
        probes: q, fresh seeds of one round.
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Values})

    def __init__(self, noise: Law | None, epsilon: float, probes: int) -> None:
        if not epsilon > 0:
            raise UserError(f"epsilon is a distance and must be positive, not {epsilon}.")
        if probes < 1:
            raise UserError(f"probes must be at least 1, not {probes}.")
        self.noise: Law = noise if noise is not None else Rademacher()
        self.epsilon = epsilon
        self.probes = probes
        self._drawn: tuple[Round, IntArray, FloatArray] | None = None

    def directions(self, round: Round) -> tuple[IntArray, FloatArray]:
        """Seeds [m] and rows [n, m]: v_k = sum_i rows[k, i] z(s_i). The last q seeds are the fresh ones."""
        if self._drawn is None or self._drawn[0] != round:  # worked out once for the plan and for the estimate
            self._drawn = round, *self._draw(round)
        return self._drawn[1:]

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """x + mu v_k, x - mu v_k, in turn."""
        if phase > 0:
            return Plan()
        seeds, rows = self.directions(round)
        names, probes = seeds.tolist(), []
        for row in rows:
            used = np.flatnonzero(row).tolist()
            for distance in (self.epsilon, -self.epsilon):
                probes.append(Probe(self.noise, tuple([(names[i], distance * float(row[i])) for i in used])))
        return Plan(round.queries(0, probes))

    def fresh(self, round: Round) -> IntArray:
        """The round's own seeds [q]."""
        return np.array(round.probes(self.noise, self.probes), dtype=np.int64)

    def measured(self, round: Round, answers: Answers) -> tuple[FloatArray, FloatArray, dict[str, float]]:
        """Values [n, 2] of the pairs, slopes [n] (NaN where one of a pair is missing), and the facts for the log."""
        values = answers.values(round.ids(0, 2 * len(self.directions(round)[1])))
        slopes = mean_of((values[0::2] - values[1::2]) / (2 * self.epsilon))
        facts = difference_facts(values, slopes, values[0::2], values[1::2])
        return mean_of(values).reshape(-1, 2), slopes, facts

    @abstractmethod
    def _draw(self, round: Round) -> tuple[IntArray, FloatArray]:
        """What ``directions`` gives; a function of the round and the state."""
