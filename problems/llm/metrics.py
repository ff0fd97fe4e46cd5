"""Accuracy, exact AUC, accuracy at the median threshold, and McNemar's exact test."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]
Flags = NDArray[np.bool_]


def accuracy(scores: Scores, labels: Labels) -> float:
    """Share of rows of `scores` [n, options] whose largest entry is at `labels` [n]."""
    return float(np.mean(scores.argmax(axis=1) == labels))


def auc(scores: Scores, positive: Flags) -> float:
    """Area under the ROC curve of `scores` [n]; a tied pair counts one half.

    Exact, by the ranks of Mann and Whitney: (R - p(p+1)/2) / (p n), R the rank sum of the p
    positives among p + n, ties at their mean rank. ValueError unless both classes occur.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        raise ValueError("AUC needs examples of both classes")
    rank_sum = float(stats.rankdata(scores)[positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def median_flags(scores: Scores) -> Flags:
    """True where a score [n] lies above the median of all of them: about half, whatever the bias.

    The fair zero-shot opponent: it uses no label, only that the classes are about balanced.
    """
    return np.asarray(scores > np.median(scores), dtype=np.bool_)


def median_accuracy(scores: Scores, positive: Flags) -> float:
    """Accuracy of `median_flags` against `positive` [n]."""
    return float(np.mean(median_flags(scores) == positive))


def mcnemar(first_correct: Flags, second_correct: Flags) -> float:
    """Two-sided exact p-value that two classifiers err equally often on the same examples.

    Only the examples on which exactly one is right count; under the null each side has half of
    them, a binomial law (McNemar 1947). 1.0 where they never differ.
    """
    first_only = int((first_correct & ~second_correct).sum())
    second_only = int((~first_correct & second_correct).sum())
    if first_only + second_only == 0:
        return 1.0
    return float(stats.binomtest(first_only, first_only + second_only, 0.5).pvalue)
