"""The same model fitted to numbers: least squares on the mean ratings, by the same people of the same sentences."""

from __future__ import annotations

import numpy as np

from problems.preferences.problem import Preferences
from problems.preferences.records import FloatArray, IntArray

RIDGES = (0.0, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def mean_ratings(problem: Preferences, split: str = "test", within_sheets: bool = False) -> dict[str, float]:
    """Kendall's tau of the fit on a split, and the ridge that was chosen on the validation split.

    Args:
        problem: untouched by this.
        split: what tau is of.
        within_sheets: as for ``fit``.
    """
    weights, ridge = fit(problem, within_sheets)
    return {"tau": problem.tau(weights, split), "ridge": ridge}


def fit(problem: Preferences, within_sheets: bool = False) -> tuple[FloatArray, float]:
    """Weights [d] and their ridge, as a multiple of the number of sentences, chosen by tau on the validation split.

    Args:
        problem: whose features and ratings.
        within_sheets: take each sheet's mean off its features and ratings first, which leaves only what people
            said about sentences of one sheet. That is what an order by one person can tell.
    """
    items = problem.items("train")
    features, values = problem.features[items], problem.judgements.mean(1)
    values = values - values.mean()
    if within_sheets:
        sheets = problem.records.sheets[items]
        features, values = _centred(features, sheets), _centred(values[:, None], sheets)[:, 0]
    moments, aims = features.T @ features / len(values), features.T @ values / len(values)
    fits = [(np.linalg.lstsq(moments + ridge * np.eye(len(aims)), aims)[0], ridge) for ridge in RIDGES]
    return max(fits, key=lambda one: problem.tau(one[0], "validation"))


def _centred(rows: FloatArray, sheets: IntArray) -> FloatArray:
    """Rows [n, k] less the mean of those of their sheet."""
    _, place, count = np.unique(sheets, return_inverse=True, return_counts=True)
    sums = np.zeros((len(count), rows.shape[1]))
    np.add.at(sums, place, rows)
    centred: FloatArray = rows - (sums / count[:, None])[place]
    return centred
