"""Accuracy, cross-entropy, exact AUC, the median threshold, McNemar's exact test; exact match and F1 of texts."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
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


def cross_entropy(scores: Scores, labels: Labels) -> float:
    """Mean of -log softmax(`scores` [n, options]) at `labels` [n], in float64."""
    wide = scores.astype(np.float64)
    chosen = np.take_along_axis(wide, labels[:, None], axis=1)[:, 0]
    return float(np.mean(np.logaddexp.reduce(wide, axis=1) - chosen))


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


def normalised(text: str) -> str:
    """An answer as SQuAD (arXiv:1606.05250) compares it: small letters, no punctuation, no articles, single spaces."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(text: str, references: Sequence[str]) -> float:
    """1 if the text is one of the references, both normalised, else 0."""
    return float(any(normalised(text) == normalised(reference) for reference in references))


def f1(text: str, references: Sequence[str]) -> float:
    """The best F1 of the text's words against those of one of the references, all normalised; 0 to 1.

    Words are counted with their repetitions. Of two texts without words F1 is 1, of one 0.
    """
    return max(_f1(normalised(text).split(), normalised(reference).split()) for reference in references)


def _f1(words: Sequence[str], wanted: Sequence[str]) -> float:
    if not words or not wanted:
        return float(words == wanted)
    common = sum((Counter(words) & Counter(wanted)).values())
    return 2 * common / (len(words) + len(wanted))


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
