"""How well raters agree: Kendall's tau-b (Kendall 1945) between every two, over all rounds that both judged.

    tau_b = (C - D)/sqrt((C + D + T_x)(C + D + T_y))

C and D count pairs of one round's candidates that both order the same way and in opposite ways, T_x and T_y those that
only the one or only the other ties. Skipped candidates, and pairs that both tie, say nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from blackbox.feedback import Ranking


@dataclass(frozen=True)
class Agreement:
    """Two raters.

    Attributes:
        raters: their names.
        tau: Kendall's tau-b in [-1, 1]; NaN if one of them ties everything.
        rounds: rounds with at least two candidates that both judged.
        pairs: pairs of candidates in them.
    """

    raters: tuple[str, str]
    tau: float
    rounds: int
    pairs: int


def agreement(rankings: Iterable[Ranking]) -> list[Agreement]:
    """Every two raters who judged a round together, by name."""
    places: dict[str, dict[str, dict[str, int]]] = {}  # rater -> round -> query -> place
    for ranking in rankings:
        place = {query: n for n, group in enumerate(ranking.groups) for query in group}
        if place:
            round_id = next(iter(place)).rpartition(".")[0]
            places.setdefault(ranking.rater, {})[round_id] = place
    found = [_compare(first, second, places) for first, second in combinations(sorted(places), 2)]
    return [one for one in found if one.rounds]


def of_run(folder: Path) -> list[Agreement]:
    """``agreement`` of the rankings in a run's journal that were acted on."""
    path = folder / "journal.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    given: list[Ranking] = []
    for line in lines:
        if '"ranking"' not in line and '"retracted"' not in line:
            continue
        record = json.loads(line)
        if record["kind"] == "ranking":
            groups = tuple(tuple(group) for group in record["groups"])
            given.append(Ranking(groups, tuple(record["skipped"]), record["rater"], record["weight"]))
        elif record["kind"] == "retracted":
            given = [one for one in given if one.rater != record["rater"] or record["id"] not in one.ids]
    return agreement(given)


def _compare(first: str, second: str, places: dict[str, dict[str, dict[str, int]]]) -> Agreement:
    rounds = pairs = same = only_first = only_second = 0
    balance = 0
    for round_id in places[first].keys() & places[second].keys():
        one, other = places[first][round_id], places[second][round_id]
        both: Sequence[str] = sorted(one.keys() & other.keys())
        rounds += len(both) > 1
        for a, b in combinations(both, 2):
            x, y = _sign(one[a] - one[b]), _sign(other[a] - other[b])
            pairs += 1
            balance += x * y
            same += x != 0 and y != 0
            only_first += x == 0 and y != 0
            only_second += x != 0 and y == 0
    scale = math.sqrt((same + only_first) * (same + only_second))
    return Agreement((first, second), balance / scale if scale else math.nan, rounds, pairs)


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
