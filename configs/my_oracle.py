"""An oracle of one's own: a class with one method; its arguments are keys of the `oracle` block."""

import numpy as np
from numpy.typing import NDArray

from oracles import ValueOracle


class Throw(ValueOracle):
    """How far from a target a ball lands, by its velocity forwards and upwards (m/s)."""

    def __init__(self, target: float = 30.0) -> None:
        self.target = target

    def evaluate(self, candidates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Candidates [n, 2] -> squared misses [n]; lower is better."""
        forwards, upwards = candidates.T
        misses: NDArray[np.float64] = 2 * forwards * upwards / 9.81 - self.target
        return misses**2
