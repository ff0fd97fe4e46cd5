"""Learning-rate schedules: a factor of the base rate as a function of the share of the budget spent.

Linear decay is the default: it is the best choice for the last iterate in the worst case (arXiv:2310.07831).
"""

from __future__ import annotations

import math
from typing import Literal

from blackbox.errors import UserError

Shape = Literal["constant", "linear", "cosine"]


class Schedule:
    """A factor in [0, 1].

    Args:
        shape: "constant", "linear" (1 to 0) or "cosine" (1 to 0, half a wave).
        warmup: share of the budget over which the factor first rises from 0 to 1.
    """

    def __init__(self, shape: Shape = "linear", warmup: float = 0.0) -> None:
        if shape not in ("constant", "linear", "cosine"):
            raise UserError(f"A schedule is constant, linear or cosine, not '{shape}'.")
        if not 0.0 <= warmup < 1.0:
            raise UserError(f"warmup is a share of the budget in [0, 1), not {warmup}.")
        self.shape = shape
        self.warmup = warmup

    def factor(self, progress: float) -> float:
        """The factor at ``progress`` in [0, 1]."""
        if progress < self.warmup:
            return progress / self.warmup
        rest = min(1.0, (progress - self.warmup) / (1.0 - self.warmup))
        match self.shape:
            case "linear":
                return 1.0 - rest
            case "cosine":
                return 0.5 * (1.0 + math.cos(math.pi * rest))
            case _:
                return 1.0
