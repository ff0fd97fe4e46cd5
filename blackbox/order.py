"""What a round's answers say about the order of some queries, from any number of judges.

Every answer is a set of edges "better -> worse". A ranking gives one for each pair in different groups (a tie, and what
was skipped, gives none), a preference is one, and values give one for each pair that differs. Numbers are used for
their order alone; an order is never turned into numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blackbox.feedback import Answers, Preferences, Ranking

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """The pooled order of n queries.

    Attributes:
        wins: float64 [n], each query's out-degree minus its in-degree, summed over judges by weight.
        edges: |E|, likewise; 0 if nothing is known.
        weight: of all judges that said something about more than one of the queries.
    """

    wins: FloatArray
    edges: float
    weight: float

    @property
    def scores(self) -> FloatArray:
        """(out - in)/|E|, which sum to zero; zeros if nothing is known."""
        return self.wins / self.edges if self.edges else np.zeros_like(self.wins)

    @property
    def ranks(self) -> FloatArray:
        """Mean rank, 0 for a clear best and n - 1 for a clear worst; ties, and what is unknown, in the middle."""
        middle = (len(self.wins) - 1) / 2
        return middle - self.wins / (2 * self.weight) if self.weight else np.full(len(self.wins), middle)


def order_of(answers: Answers, ids: Sequence[str]) -> Order:
    """The order of ``ids`` by all answers that speak of them; what failed has no edges."""
    place = {one: i for i, one in enumerate(ids)}
    wins, edges, weight = np.zeros(len(ids)), 0.0, 0.0
    for ranking in answers.rankings:
        groups = [[place[i] for i in group if i in place] for group in ranking.groups]
        found = _add(wins, [group for group in groups if group], ranking.weight)
        edges, weight = edges + found, weight + (ranking.weight if found else 0.0)
    for preferences in answers.preferences:
        pairs = [(place[a], place[b]) for a, b in preferences.pairs if a in place and b in place]
        for better, worse in pairs:
            wins[better] += preferences.weight
            wins[worse] -= preferences.weight
        edges, weight = edges + preferences.weight * len(pairs), weight + (preferences.weight if pairs else 0.0)
    found = _add(wins, _groups_of(answers.values(ids)), 1.0)
    return Order(wins, edges + found, weight + (1.0 if found else 0.0))


def edge_scores(answers: Answers, ids: Sequence[str]) -> tuple[FloatArray, float]:
    """(out - in)/|E| of each query, and |E|."""
    order = order_of(answers, ids)
    return order.scores, order.edges


def _add(wins: FloatArray, groups: Sequence[Sequence[int]], weight: float) -> float:
    """Add the edges between groups (best first); how many there were, by weight."""
    sizes = [len(group) for group in groups]
    total, above, edges = sum(sizes), 0, 0.0
    for group, size in zip(groups, sizes, strict=True):
        below = total - above - size
        wins[list(group)] += weight * (below - above)
        edges += weight * size * below
        above += size
    return edges


def _groups_of(values: FloatArray) -> list[list[int]]:
    """Positions by value, lowest first, equal ones together; NaN (no answer) left out."""
    means = values if values.ndim == 1 else values.mean(1)
    known = [int(i) for i in np.argsort(means, kind="stable") if not np.isnan(means[i])]
    groups: list[list[int]] = []
    for i in known:
        if groups and means[groups[-1][0]] == means[i]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


ORDERED = (Ranking, Preferences)
"""The kinds of feedback that give an order and nothing else."""
