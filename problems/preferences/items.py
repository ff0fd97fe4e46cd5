"""The choice of a recorded item by what people said when they compared such items two by two.

A candidate is a point, and stands for the item nearest to it. ``oracles.ReplayedComparisons`` asks the people; the
objective for comparison is the share of its comparisons that an item won.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from blackbox.config.rehearsal import loading_begins
from blackbox.errors import UserError
from blackbox.probe import Context
from problems.base import VectorProblem
from problems.preferences.records import FloatArray, IntArray, load_comparisons


class RecordedItems(VectorProblem):
    """Items that people compared.

    Args:
        comparisons: `cems` (six management schools, compared by 303 students) or `animation` (200 animations,
            compared by one person in 100 pairs).
        folder: where the tab-separated files lie, see ``problems.preferences.records.load_comparisons``.
        start: the starting point [d]; the middle of all items if left out.

    Raises:
        UserError: records that can't be read, or a starting point of another dimension.
    """

    maximize = True

    def __init__(self, comparisons: str, folder: str, start: Sequence[float] | None = None) -> None:
        loading_begins()
        self.records = load_comparisons(comparisons, folder)
        middle = self.records.features.mean(0)
        point = middle if start is None else np.array(start, dtype=np.float64)
        if point.shape != middle.shape:
            raise UserError(f"start: the items have {len(middle)} features, so give as many numbers, not {len(point)}.")
        self.start = torch.from_numpy(point)
        self.shares = _shares(self.records.pairs, len(self.records.items))
        self._said: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for rater, (better, worse) in zip(self.records.raters, self.records.pairs.tolist(), strict=True):
            self._said[rater][better].append(worse)

    def __call__(self, candidates: Tensor, context: Context) -> Tensor:
        """Points [n, d] -> the share of comparisons won by the nearest item [n]; a tie is half a win."""
        return torch.from_numpy(self.shares[self.nearest(candidates.cpu().double().numpy())])

    def nearest(self, candidates: FloatArray) -> IntArray:
        """Points [n, d] -> the nearest item of each, int64 [n]; the first of several."""
        apart = candidates[:, None] - self.records.features
        return np.asarray((apart**2).sum(2).argmin(1), dtype=np.int64)

    def recorded_comparisons(self, candidates: FloatArray, context: Context) -> Mapping[str, list[tuple[int, int]]]:
        """Each person's comparisons of the items that candidates [n, d] stand for, as positions (better, worse)."""
        places: dict[int, list[int]] = defaultdict(list)
        for position, item in enumerate(self.nearest(candidates).tolist()):
            places[item].append(position)
        found = {}
        for rater, beaten in self._said.items():
            found[rater] = [
                (first, second)
                for better in places.keys() & beaten.keys()
                for worse in beaten[better]
                for first in places[better]
                for second in places.get(worse, ())
            ]
        return found

    def metrics(self, split: str = "test") -> dict[str, float]:
        """The present item's share of comparisons won, and its place by that share (1 is the best); no split."""
        here = self.shares[self.nearest(self.parameters().flat().double().cpu().numpy()[None])[0]]
        return {"share_won": float(here), "place": float(1 + (self.shares > here).sum())}

    def render(self, candidate: Sequence[float]) -> str:
        """The name of the item that a candidate stands for."""
        return self.records.items[int(self.nearest(np.asarray(candidate, dtype=np.float64)[None])[0])]


def _shares(pairs: IntArray, items: int) -> FloatArray:
    """The share of each item's comparisons that it won; a tie, there both ways, is half a win; 0 if never asked."""
    wins, losses = np.bincount(pairs[:, 0], minlength=items), np.bincount(pairs[:, 1], minlength=items)
    shares: FloatArray = wins / np.maximum(wins + losses, 1)
    return shares
