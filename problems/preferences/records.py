"""What people once said, as it was recorded: individual ratings of sentences, and paired comparisons.

Movie-review sentences: Hutto and Gilbert, "VADER", ICWSM 2014; the individual ratings behind the means that
``problems.llm.data.movie_reviews`` reads. The file doesn't name raters, but it shows sheets of 30 sentences: the number
of ratings is constant on each, and what the j-th ratings of neighbours have in common (their residuals from the
sentences' means correlate by .33) ends where a sheet does. The j-th rating of a sheet's sentences is therefore taken as
one person's.
"""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from blackbox.errors import UserError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SHEET = 30  # sentences


@dataclass(frozen=True, eq=False)
class Ratings:
    """Individual ratings.

    Attributes:
        items: n sentences, in the file's order.
        ratings: float64 [n, most raters of any], whole numbers from -4 (worst) to 4; NaN where there is none.
        sheets: int64 [n], the sheet each was rated on; column j of a sheet is one person.
    """

    items: tuple[str, ...]
    ratings: FloatArray
    sheets: IntArray

    @property
    def means(self) -> FloatArray:
        """Each item's mean rating [n]."""
        return np.asarray(np.nanmean(self.ratings, 1), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Recorded paired comparisons.

    Attributes:
        items: names of n items.
        features: float64 [n, d], where each lies in the space of candidates.
        pairs: int64 [m, 2], (better, worse); a tie is there both ways.
        raters: who said so, one a pair.
        unanswered: how many pairs were asked and not answered; they are in no pair.
    """

    items: tuple[str, ...]
    features: FloatArray
    pairs: IntArray
    raters: tuple[str, ...]
    unanswered: int = 0


def movie_review_ratings() -> Ratings:
    """10,605 sentences, 15 to 29 ratings each; fetched once. UserError if unreachable."""
    from problems.assets import data_file

    texts = [line.split("\t")[2] for line in data_file("movie-reviews").read_text(encoding="utf-8").splitlines()]
    lines = data_file("movie-review-ratings").read_text(encoding="utf-8").splitlines()
    given = [json.loads(line.split("\t")[3]) for line in lines]  # both files have the sentences in one order
    table = np.full((len(given), max(map(len, given))), np.nan)
    for row, ratings in zip(table, given, strict=True):
        row[: len(ratings)] = ratings
    items = tuple(" ".join(html.unescape(text).split()) for text in texts)
    return Ratings(items, table, np.arange(len(items)) // SHEET)


def load_comparisons(name: str, folder: str | Path) -> Comparisons:
    """Comparisons from tab-separated files in a folder.

    Args:
        name: "cems" (303 students compare six management schools, by `cems_schools.tsv` and `cems_preferences.tsv`;
            Dittrich, Hatzinger and Katzenbeisser 1998; features: which school it is) or "animation" (100 pairs of 200
            animations, by `animation_points.tsv` and `animation_comparisons.tsv`; qEUBO, arXiv:2303.15746; features:
            the five settings scaled to [0, 1]).

    Raises:
        UserError: an unknown name, or a file that isn't there or has other columns.
    """
    readers: Mapping[str, Callable[[Path], Comparisons]] = {"cems": _cems, "animation": _animation}
    if name not in readers:
        raise UserError(f"comparisons: {name!r} is not one of {', '.join(readers)}.")
    return readers[name](Path(folder).expanduser())


def _cems(folder: Path) -> Comparisons:
    schools = _read(folder / "cems_schools.tsv", ("LAT",))
    names = [str(row[""]) for row in schools]
    rows = _read(folder / "cems_preferences.tsv", ("student", "school1", "school2", "win1", "win2", "tied"))
    pairs: list[tuple[int, int]] = []
    raters: list[str] = []
    unanswered = 0
    for row in rows:
        if not row["win1"]:
            unanswered += 1
            continue
        first, second = names.index(row["school1"]), names.index(row["school2"])
        tied = float(row["tied"]) > 0
        said = [(first, second)] if tied or float(row["win1"]) else []
        said += [(second, first)] if tied or float(row["win2"]) else []
        pairs += said
        raters += [f"student {row['student']}"] * len(said)
    features = np.array([[float(row[name]) for name in names] for row in schools])
    return Comparisons(tuple(names), features, np.array(pairs, dtype=np.int64), tuple(raters), unanswered)


def _animation(folder: Path) -> Comparisons:
    axes = tuple(f"u{i}" for i in range(5))
    points = _read(folder / "animation_points.tsv", ("id", *axes))
    place = {row["id"]: i for i, row in enumerate(points)}
    rows = _read(folder / "animation_comparisons.tsv", ("winner", "loser"))
    pairs = np.array([(place[row["winner"]], place[row["loser"]]) for row in rows], dtype=np.int64)
    features = np.array([[float(row[axis]) for axis in axes] for row in points])
    return Comparisons(tuple(f"animation {one}" for one in place), features, pairs, ("person",) * len(rows))


def _read(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
    except OSError as error:
        raise UserError(f"comparisons: {path} cannot be read ({error.strerror}).") from error
    missing = [column for column in columns if not rows or column not in rows[0]]
    if missing:
        raise UserError(f"comparisons: {path} has no column {missing[0]!r}.")
    return rows
