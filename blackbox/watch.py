"""What a run watches for as it goes: a plateau, differences lost in rounding."""

from __future__ import annotations

import math
import warnings


class Rounding:
    """Warns once if more than a twentieth of the run's differences so far are as small as float32 rounding.

    A single one is chance: some difference in a long run comes close to zero.
    """

    def __init__(self, silent: bool) -> None:
        self._silent = silent
        self._near = 0.0
        self._steps = 0

    def note(self, share: float) -> None:
        """The share of one step's probes."""
        self._near += share
        self._steps += 1
        if self._near > 0.05 * self._steps and not self._silent:
            self._silent = True
            warnings.warn(
                f"By step {self._steps} of this session, {self._near / self._steps:.0%} of the differences between "
                "two values are within a few units in the last place of float32: they may be rounding rather than "
                "slope. Raise epsilon, or evaluate in float32 if that is done in bfloat16.",
                stacklevel=2,
            )


class Plateau:
    """No new lowest smoothed value for ``patience`` steps."""

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self._mean: float | None = None
        self._lowest = math.inf
        self._since = 0

    def reached(self, value: float) -> bool:
        """Take one step's value, NaN if it has none."""
        if self.patience is None or math.isnan(value):
            return False
        weight = 2.0 / (self.patience + 1)
        self._mean = value if self._mean is None else (1 - weight) * self._mean + weight * value
        if self._mean < self._lowest:
            self._lowest, self._since = self._mean, 0
        else:
            self._since += 1
        return self._since >= self.patience
