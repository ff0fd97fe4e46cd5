"""The consensus of several raters, against closed forms and against likelihoods written out here."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
from scipy.optimize import minimize

from blackbox.errors import UserError
from blackbox.feedback import Ranking
from oracles.human import aggregation
from oracles.human.aggregation import aggregate

choix = pytest.importorskip("choix", reason="a consensus needs the extra web")

METHODS = ("plackett-luce", "bradley-terry")


def order(text, **facts):
    """ "a b=c" best first."""
    return Ranking(tuple(tuple(group.split("=")) for group in text.split()), **facts)


def theta(rankings, method, alpha):
    ids = sorted({i for one in rankings for i in one.ids})
    return aggregation._fitted(rankings, ids, method, alpha)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("alpha", [0.01, 0.5])
def test_of_two_candidates_the_log_odds_with_alpha(method, alpha):
    """With strengths of mean 1 alpha adds 2 alpha wins each way."""
    rankings = [order("a b", weight=2.5), order("b a", weight=0.7), order("b a", weight=0.4)]
    a, b = theta(rankings, method, alpha)
    assert a - b == pytest.approx(math.log((2.5 + 2 * alpha) / (1.1 + 2 * alpha)), abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_one_rater_s_order_is_the_consensus(method):
    ranking = Ranking(tuple((f"0.0.{i}",) for i in np.random.default_rng(0).permutation(15)))
    assert aggregate([ranking], method).groups == ranking.groups


def test_top_k_of_m_are_k_choices():
    ours = theta([order("a b c=d=e"), order("c a b=d=e")], "plackett-luce", 0.1)
    data = [(0, [1, 2, 3, 4]), (1, [2, 3, 4]), (2, [0, 1, 3, 4]), (0, [1, 3, 4])]
    np.testing.assert_allclose(ours, choix.ilsr_top1(5, data, alpha=0.1), atol=1e-6)
    assert aggregate([order("a b c=d=e"), order("c a b=d=e")], "plackett-luce").groups[-1] == ("d", "e")


def test_pairs_are_those_of_choix_and_a_tie_is_half_a_win_each_way():
    ours = theta([order("a b c"), order("a c b")], "bradley-terry", 0.1)
    data = [(0, 1), (0, 2), (1, 2), (0, 1), (0, 2), (2, 1)]
    np.testing.assert_allclose(ours, choix.ilsr_pairwise(3, data, alpha=0.1), atol=1e-6)
    np.testing.assert_allclose(ours, theta([order("a b=c"), order("a b=c")], "bradley-terry", 0.1), atol=1e-9)


def test_weights_multiply_the_log_likelihood():
    """At a vanishing alpha the fit maximises sum_r w_r log P(order_r), here written out and given to scipy."""
    some = zip(itertools.permutations("abcd"), np.random.default_rng(1).uniform(0.2, 3, 24), strict=True)
    rankings = [order(" ".join(names), weight=float(w)) for names, w in some]

    def loss(free):
        value = dict(zip("abcd", [0, *free], strict=True))
        total = 0.0
        for one in rankings:
            names = [name for (name,) in one.groups]
            for n, name in enumerate(names):
                total -= one.weight * (value[name] - np.log(sum(np.exp(value[other]) for other in names[n:])))
        return total

    best = np.array([0, *minimize(loss, np.zeros(3), tol=1e-12).x])
    np.testing.assert_allclose(theta(rankings, "plackett-luce", 1e-9), best - best.mean(), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_weight_of_two_is_two_raters(method):
    heavy = [order("a b c=d", weight=2.0), order("d c a b")]
    twice = [order("a b c=d", rater="x"), order("a b c=d", rater="y"), order("d c a b")]
    np.testing.assert_allclose(theta(heavy, method, 0.1), theta(twice, method, 0.1), atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_known_strengths_are_found(method):
    """Drawn as Gumbel's maxima are: theta + noise, sorted. Pairs of such an order follow Bradley-Terry."""
    truth = np.array([1.2, 0.4, 0.0, -0.5, -1.1])
    draws = truth + np.random.default_rng(2).gumbel(size=(3000, 5))
    rankings = [Ranking(tuple(("abcde"[i],) for i in np.argsort(-row))) for row in draws]
    np.testing.assert_allclose(theta(rankings, method, 0.01), truth, atol=0.08)
    assert aggregate(rankings, method).groups == tuple((name,) for name in "abcde")


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_raters_never_matters(method):
    given = [
        order("a b c", rater="x", weight=0.3, cost={"queries": 3.0, "rankings": 1.0}),
        order("b=c a", rater="y", weight=1.7, cost={"queries": 0.0, "rankings": 1.0}),
        order("c a", skipped=("b",), rater="z", weight=0.9, cost={"rankings": 1.0, "minutes": 0.1}),
    ]
    found = [aggregate(list(some), method) for some in itertools.permutations(given)]
    assert all(one == found[0] for one in found)
    assert found[0].rater == "" and found[0].weight == pytest.approx(2.9)
    assert found[0].cost == {"queries": 3.0, "rankings": 3.0, "minutes": 0.1}


@pytest.mark.parametrize("method", METHODS)
def test_contrary_raters_tie(method):
    assert aggregate([order("a b"), order("b a")], method).groups == (("a", "b"),)
    groups = aggregate([order("a b c"), order("c b a")], method).groups
    assert groups == {"plackett-luce": (("b",), ("a", "c")), "bradley-terry": (("a", "b", "c"),)}[method]


def test_twice_second_is_ahead_of_first_and_last_by_sqrt_2_in_plackett_luce():
    """2 log(s/((2 + s)(1 + s))) is largest at s = sqrt(2)."""
    a, b, c = theta([order("a b c"), order("c b a")], "plackett-luce", 1e-9)
    assert b - a == pytest.approx(math.log(2) / 2, abs=1e-6) and a == pytest.approx(c, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_skipped_by_all_is_skipped_and_by_some_is_placed_by_the_others(method):
    given = [order("a b", skipped=("c", "d")), order("c a", skipped=("b", "d")), order("d", skipped=("a", "b", "c"))]
    found = aggregate(given, method)
    assert found.groups == (("c",), ("a",), ("b",)) and found.skipped == ("d",)  # d was compared with nobody
    assert aggregate([Ranking((), ("a", "b"))], method) == Ranking((), ("a", "b"))


@pytest.mark.parametrize(
    ("rankings", "settings", "words"),
    [
        ([], {}, "no ranking"),
        ([Ranking((("0.0.0",), ("0.0.1",))), Ranking((("1.0.0",),))], {}, "one round"),
        ([order("a b", weight=0.0)], {}, "weight must be positive"),
        ([order("a b")], {"method": "borda"}, "'plackett-luce' or 'bradley-terry', not 'borda'"),
        ([order("a b")], {"alpha": 0.0}, "alpha must be positive"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(rankings, settings, words):
    with pytest.raises(UserError, match=words):
        aggregate(rankings, **{"method": "plackett-luce", **settings})


def test_without_choix_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "choix", None)
    with pytest.raises(UserError, match=r"blackbox-zo\[web\]"):
        aggregate([order("a b")], "bradley-terry")
