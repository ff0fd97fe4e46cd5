"""A ranking oracle of one's own: a class with one method that puts candidates in order."""

import numpy as np
from numpy.typing import NDArray

from oracles import RankingOracle


class Crispest(RankingOracle):
    """Prefers the mixture (flour, water, fat) that comes crispest out of the oven; orders only the best three."""

    def rank(self, candidates: NDArray[np.float64]) -> list[int | list[int]]:
        """Candidates [n, 3] -> positions, best first; the last group is those behind the best three."""
        ideal = np.array([0.6, 0.3, 0.1])
        order: list[int] = np.argsort(((candidates - ideal) ** 2).sum(1)).tolist()
        return [*order[:3], order[3:]]
