"""Gradientless descent: go to the best of points at geometrically spaced distances (arXiv:1911.06317, GLD-Search).

    v_i = x + r_i u_i,  r_i from ``largest`` to ``smallest`` in equal ratios, u_i uniform on the sphere
    x   = the best of v_1 .. v_n and x

It looks at the order of its candidates only.
"""

from __future__ import annotations

import math

import numpy as np

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Plan, Round
from blackbox.feedback import Answers, Preferences, Ranking, Values
from blackbox.noise import Sphere
from blackbox.order import order_of
from blackbox.parameters import Parameters
from blackbox.probe import Candidate, Probe
from blackbox.strategies.base import Strategy


class GLD(Strategy):
    """Gradientless descent.

    Args:
        largest, smallest: the distances, in units of the parameters; 0 < smallest <= largest.
        candidates: n, points of one round besides x itself.
    """

    accepts = frozenset({Values, Ranking, Preferences})

    def __init__(self, largest: float, smallest: float, candidates: int = 14) -> None:
        if not 0 < smallest <= largest:
            raise UserError(f"distances: 0 < smallest <= largest is needed, not {smallest} and {largest}.")
        if candidates < 1:
            raise UserError(f"candidates must be at least 1, not {candidates}.")
        self.distances = np.geomspace(largest, smallest, candidates)
        self._law = Sphere()

    def plan(self, round: Round, phase: int, answers: Answers) -> Plan:
        """The points, then x."""
        if phase > 0:
            return Plan()
        candidates: list[Candidate] = [Probe(self._law, (term,)) for term in self._terms(round)]
        return Plan(round.queries(0, [*candidates, None]))

    def step(self, round: Round, answers: Answers, parameters: Parameters) -> dict[str, float]:
        """Move to the best; x wins its ties."""
        ids = round.ids(0, len(self.distances) + 1)
        wins = order_of(answers, ids).wins
        best = int(wins.argmax())
        moved = wins[best] > wins[-1]
        terms = [self._terms(round)[best]] if moved else []
        seeds, weights = np.array([s for s, _ in terms], np.int64), np.array([c for _, c in terms])
        parameters.apply(Direction((SeedTerms(self._law, seeds, weights),)) if moved else Direction())
        values = answers.values(ids)
        known = {} if np.isnan(values).all() else {"value": float(np.nanmin(values))}
        distance = float(round.radius * self.distances[best]) if moved else 0.0
        return {**known, "moved": float(moved), "distance": distance}

    def _terms(self, round: Round) -> list[tuple[int, float]]:
        length = math.sqrt(round.layout.dimension)  # of the law's noise
        seeds = round.seeds("point", len(self.distances))
        return list(zip(seeds, (round.radius * self.distances / length).tolist(), strict=True))
