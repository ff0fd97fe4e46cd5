"""Which coordinates a coordinate-wise round asks about, and by what each slope is multiplied.

    all           every coordinate, weight 1
    sample        n of m drawn without replacement, weight m/n (unbiased) or 1 (a mask that is redrawn each round)
    blocks        the next n, in turn or in an order that is redrawn each epoch; weight 1
    importance    n draws with replacement, p_i ~ |g_i| of past rounds mixed with a floor; weight (times drawn)/(n p_i)

Sampling proportionally to the slopes minimises the variance of the importance-weighted sum: sum_i g_i^2/(n p_i) is
least at p_i ~ |g_i| (Zhao and Zhang, arXiv:1401.2753, for examples instead of coordinates).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from blackbox.errors import UserError
from blackbox.estimators.base import Round
from blackbox.seeds import derive_seed

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The coordinates of one round.

    Attributes:
        places: int64 [n], distinct and ascending.
        weights: float64 [n], of their slopes.
        draws: int64 [n], how many draws of a sample each stands for; None if they are no sample.
    """

    places: IntArray
    weights: FloatArray
    draws: IntArray | None = None

    def answered(self, known: npt.NDArray[np.bool_]) -> FloatArray:
        """The weights of those that are ``known``; a sample stands for the population with fewer draws then."""
        weights = self.weights[known]
        if self.draws is None or known.all() or not len(weights):
            return weights
        return weights * float(self.draws.sum() / self.draws[known].sum())


class Selection(ABC):
    """Chooses among m coordinates, known by their places 0 .. m-1."""

    @abstractmethod
    def choose(self, round: Round, m: int) -> Choice:
        """The coordinates of a round; the same again until ``learn`` is called."""

    def learn(self, places: IntArray, slopes: FloatArray, m: int) -> None:
        """Told the slopes [n] that were found in a round; NaN where one is missing."""
        return

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""


class All(Selection):
    """Every coordinate, every round."""

    def choose(self, round: Round, m: int) -> Choice:
        """0 .. m-1, weight 1."""
        return Choice(np.arange(m), np.ones(m))


class Sample(Selection):
    """A uniform sample without replacement.

    Args:
        count: n, coordinates of one round.
        rescale: multiply by m/n, so that the mean of the estimate is the gradient. Without, the sample is a mask:
            the estimate is the gradient on it and 0 elsewhere.
    """

    def __init__(self, count: int, rescale: bool = True) -> None:
        self.count = _checked(count)
        self.rescale = rescale

    def choose(self, round: Round, m: int) -> Choice:
        """Drawn from the round's seed, in ascending order."""
        count = min(self.count, m)
        places = np.sort(_generator(round.seed("coordinates")).choice(m, count, replace=False, shuffle=False))
        if not self.rescale:
            return Choice(places, np.ones(count))
        return Choice(places, np.full(count, m / count), np.ones(count, np.int64))


class Blocks(Selection):
    """Blocks that cover every coordinate once an epoch; the last one of an epoch may be smaller.

    Args:
        count: n, coordinates of one block.
        shuffled: redraw the order of the coordinates each epoch; otherwise neighbours make a block.
    """

    def __init__(self, count: int, shuffled: bool = True) -> None:
        self.count = _checked(count)
        self.shuffled = shuffled
        self._order: tuple[tuple[int, int, int], IntArray] | None = None

    def choose(self, round: Round, m: int) -> Choice:
        """Block number (step mod blocks of an epoch), in ascending order; weight 1."""
        epoch, block = divmod(round.step, -(-m // self.count))
        low, high = block * self.count, min((block + 1) * self.count, m)
        if not self.shuffled:
            return Choice(np.arange(low, high), np.ones(high - low))
        key = (round.run_seed, epoch, m)
        if self._order is None or self._order[0] != key:
            self._order = key, _generator(derive_seed(round.run_seed, "blocks", epoch)).permutation(m)
        return Choice(np.sort(self._order[1][low:high]), np.ones(high - low))


class Importance(Selection):
    """Draws with replacement in proportion to the slopes of past rounds.

    Args:
        count: n, draws of one round. A coordinate drawn twice is asked about once, so queries may be fewer.
        floor: share of the draws that is uniform, in (0, 1]; bounds the weights by m/(n floor).
        memory: weight of the past in each coordinate's running mean of slopes' sizes, in [0, 1).

    Until a coordinate was asked about it counts as the mean of those that were. Its state is one float64 a coordinate.
    """

    def __init__(self, count: int, floor: float = 0.2, memory: float = 0.5) -> None:
        self.count = _checked(count)
        if not 0 < floor <= 1:
            raise UserError(f"floor is a share of the draws and must lie in (0, 1], not {floor}.")
        if not 0 <= memory < 1:
            raise UserError(f"memory must lie in [0, 1), not {memory}.")
        self.floor = floor
        self.memory = memory
        self._sizes: FloatArray | None = None  # NaN: never asked about

    def probabilities(self, m: int) -> FloatArray:
        """p [m]; uniform until something was learnt."""
        sizes = self._sizes
        if sizes is None or np.isnan(sizes).all():
            return np.full(m, 1.0 / m)
        sizes = np.where(np.isnan(sizes), np.nanmean(sizes), sizes)
        total = float(sizes.sum())
        shares = sizes / total if total > 0 else np.full(m, 1.0 / m)
        return self.floor / m + (1 - self.floor) * shares

    def choose(self, round: Round, m: int) -> Choice:
        """The distinct places of the draws, ascending, and how often each was drawn over n p."""
        p = self.probabilities(m)
        ends = np.cumsum(p)
        draws = _generator(round.seed("coordinates")).random(self.count) * ends[-1]
        places, times = np.unique(np.minimum(np.searchsorted(ends, draws, "right"), m - 1), return_counts=True)
        return Choice(places, times / (self.count * p[places]), times.astype(np.int64))

    def learn(self, places: IntArray, slopes: FloatArray, m: int) -> None:
        """size <- memory size + (1 - memory) |slope|, where a slope was found."""
        sizes = np.full(m, np.nan) if self._sizes is None else self._sizes.copy()
        found = ~np.isnan(slopes)
        at, new = places[found], np.abs(slopes[found])
        old = np.where(np.isnan(sizes[at]), new, sizes[at])
        sizes[at] = self.memory * old + (1 - self.memory) * new
        self._sizes = sizes

    def state_dict(self) -> dict[str, Any]:
        """The running means, float64 [m]; NaN for a coordinate never asked about."""
        return {} if self._sizes is None else {"sizes": torch.from_numpy(self._sizes.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        self._sizes = state["sizes"].double().numpy().copy() if "sizes" in state else None


def _checked(count: int) -> int:
    if count < 1:
        raise UserError(f"count is a number of coordinates and must be at least 1, not {count}.")
    return count


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))
