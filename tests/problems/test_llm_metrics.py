"""Metrics against brute force and scipy."""

import numpy as np
import pytest
from scipy import stats

from problems.llm import metrics


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_auc_is_the_share_of_ordered_pairs_with_ties_at_one_half(levels: int) -> None:
    generator = np.random.default_rng(levels)
    scores = generator.integers(levels, size=83).astype(float)
    positive = generator.random(83) < 0.3
    pairs = scores[positive][:, None] - scores[~positive][None, :]
    brute = ((pairs > 0).sum() + 0.5 * (pairs == 0).sum()) / pairs.size
    assert metrics.auc(scores, positive) == pytest.approx(brute, abs=1e-12)


def test_auc_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="both classes"):
        metrics.auc(np.zeros(3), np.ones(3, dtype=bool))


def test_accuracy_takes_the_largest_score() -> None:
    scores = np.array([[1.0, 2.0, 0.0], [5.0, 2.0, 0.0], [0.0, 0.1, 0.2]])
    assert metrics.accuracy(scores, np.array([1, 1, 2])) == pytest.approx(2 / 3)


def test_median_threshold_removes_a_constant_bias() -> None:
    generator = np.random.default_rng(0)
    positive = np.arange(200) % 2 == 1
    scores = np.where(positive, 1.0, -1.0) + 0.1 * generator.standard_normal(200)
    assert metrics.median_accuracy(scores + 100.0, positive) == 1.0
    assert metrics.median_flags(scores).sum() == 100
    assert not metrics.median_flags(np.zeros(4)).any()


def test_mcnemar_counts_only_disagreements() -> None:
    first = np.array([True] * 9 + [False] * 2 + [True] * 50 + [False] * 7)
    second = np.array([False] * 9 + [True] * 2 + [True] * 50 + [False] * 7)
    expected = stats.binomtest(9, 11, 0.5).pvalue
    # By hand: twice the tail of Binomial(11, 1/2) from 9 on, (55 + 11 + 1) / 2048.
    assert expected == pytest.approx(2 * 67 / 2048)
    assert metrics.mcnemar(first, second) == pytest.approx(expected, rel=1e-12)
    assert metrics.mcnemar(second, first) == pytest.approx(expected, rel=1e-12)
    assert metrics.mcnemar(first, first) == 1.0
