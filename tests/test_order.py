"""What answers say about an order, against counting edges one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox.feedback import Answers, Failed, Preferences, Ranking, Values
from blackbox.order import edge_scores, order_of


def ids(count: int) -> tuple[str, ...]:
    return tuple(f"0.0.{i}" for i in range(count))


@st.composite
def rankings(draw: st.DrawFn) -> tuple[int, Ranking]:
    """A ranking with ties and skipped items, of m items."""
    m = draw(st.integers(1, 8))
    level = draw(st.lists(st.integers(0, 4), min_size=m, max_size=m))  # 4: skipped
    groups = tuple(tuple(f"0.0.{i}" for i in range(m) if level[i] == g) for g in range(4))
    skipped = tuple(f"0.0.{i}" for i in range(m) if level[i] == 4)
    return m, Ranking(tuple(g for g in groups if g), skipped, weight=draw(st.sampled_from([0.5, 1.0, 2.0])))


@given(st.lists(rankings(), min_size=1, max_size=3))
def test_scores_are_degrees_over_edges_counted_one_by_one(several: list[tuple[int, Ranking]]) -> None:
    m = max(count for count, _ in several)
    wins, edges = np.zeros(m), 0.0
    for _, ranking in several:
        for better, worse in itertools.combinations(ranking.groups, 2):
            for a, b in itertools.product(better, worse):
                wins[int(a[4:])] += ranking.weight
                wins[int(b[4:])] -= ranking.weight
                edges += ranking.weight
    scores, found = edge_scores(Answers(r for _, r in several), ids(m))
    assert found == pytest.approx(edges)
    np.testing.assert_allclose(scores, wins / edges if edges else wins, atol=1e-12)
    assert scores.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("m", "k"), [(6, 6), (6, 3), (15, 15), (15, 5), (15, 1), (2, 1)])
def test_closed_form_of_an_m_k_ranking(m: int, k: int) -> None:
    order = np.random.Generator(np.random.Philox(m)).permutation(m)
    best = [(f"0.0.{i}",) for i in order[:k]]
    rest = tuple(f"0.0.{i}" for i in order[k:])
    scores, edges = edge_scores(Answers([Ranking((*best, rest) if rest else tuple(best))]), ids(m))
    assert edges == k * m - (k * k + k) / 2
    expected = [(m - 1 - 2 * r) / edges for r in range(k)] + [-k / edges] * (m - k)
    np.testing.assert_allclose(scores[order], expected)


def test_values_are_an_order_and_equal_ones_tie() -> None:
    scores, edges = edge_scores(Answers([Values(ids(4), np.array([3.0, 1.0, 1.0, 2.0]))]), ids(4))
    assert edges == 5
    np.testing.assert_allclose(scores * 5, [-3, 2, 2, -1])


def test_what_failed_has_no_edges_and_what_is_not_asked_about_is_left_out() -> None:
    answers = Answers([Values(("0.0.0", "0.0.2", "0.1.0"), np.array([1.0, 2.0, 0.0])), Failed(("0.0.1",), "broken")])
    order = order_of(answers, ids(3))
    np.testing.assert_allclose(order.wins, [1, 0, -1])
    assert order.edges == 1


def test_mean_ranks_share_ties_and_pool_raters_by_weight() -> None:
    ranking = Ranking((("0.0.2",), ("0.0.0", "0.0.1")))
    np.testing.assert_allclose(order_of(Answers([ranking]), ids(3)).ranks, [1.5, 1.5, 0])
    other = Ranking((("0.0.0",), ("0.0.1",), ("0.0.2",)), rater="b", weight=3.0)
    np.testing.assert_allclose(order_of(Answers([ranking, other]), ids(3)).ranks, [1.5 / 4, (1.5 + 3) / 4, 6 / 4])
    np.testing.assert_allclose(order_of(Answers([]), ids(3)).ranks, [1, 1, 1])


def test_pairs_named_both_ways_cancel() -> None:
    pairs = Preferences((("0.0.0", "0.0.1"), ("0.0.1", "0.0.0"), ("0.0.0", "0.0.2")))
    order = order_of(Answers([pairs]), ids(3))
    np.testing.assert_allclose(order.wins, [1, 0, -1])
    assert order.edges == 3
