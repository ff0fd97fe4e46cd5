"""One consensus order from several raters' rankings of a round, by the library choix.

Every candidate i has a strength exp(theta_i), and i is chosen from a set S with probability

    exp(theta_i) / sum_{j in S} exp(theta_j)        Luce 1959, Plackett 1975; for two, Bradley & Terry 1952

The strengths are fitted by iterative Luce spectral ranking (Maystre & Grossglauser 2015, "Fast and accurate inference
of Plackett-Luce models"), and the candidates are put in the order of their strengths; the numbers go no further.

*Plackett-Luce.* Whoever is in a group was chosen over all later groups: one top-1 observation from itself and those. So
the best k of m, then a rest without an order, are k observations. Members of a group say nothing about each other.

*Bradley-Terry.* Every two candidates in different groups are a win. There is no model of ties: a tie is half a win each
way.

A rater's weight multiplies the log-likelihood of what the rater said: weight 2 is the same answer given by two raters.
For pairs choix takes weighted counts. For choices it takes none; but a step of spectral ranking sees observations only
through its Markov chain's rates, to which a choice of i from S adds weight/sum_S at each (j, i). A table of pairs with
weight (exp(theta_i) + exp(theta_j))/sum_S wins of i over j gives the same rates, so choix takes the step from that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from types import ModuleType
from typing import Literal

import numpy as np
import numpy.typing as npt

from blackbox.errors import UserError
from blackbox.feedback import Cost, Ranking, add_cost

FloatArray = npt.NDArray[np.float64]

TIE = 1e-6
"""Candidates whose theta differs by at most this from the best of their group are tied; the fit is to 1e-8."""

_TOLERANCE, _ITERATIONS = 1e-8, 10_000


def aggregate(
    rankings: Sequence[Ranking], method: Literal["plackett-luce", "bradley-terry"], alpha: float = 0.01
) -> Ranking:
    """The consensus of one round's rankings.

    Args:
        rankings: of the candidates of one round; at least one. Their order never matters.
        method: "plackett-luce" or "bradley-terry".
        alpha: regularisation, positive: as if every two candidates had also won alpha (exp(theta_i) + exp(theta_j))
            times against each other, with strengths of mean 1. Without it who always wins has an infinite strength. It
            is also all that connects candidates which no chain of comparisons connects.

    Returns:
        The order, of rater "", with the sum of the weights and of the costs. Who was compared with nobody is skipped;
        who was skipped by some is placed by what the others said.

    Raises:
        UserError: no ranking, rankings of several rounds, a weight or alpha that isn't positive, an unknown method,
            no package choix, or a fit that doesn't converge.
    """
    if method not in ("plackett-luce", "bradley-terry"):
        raise UserError(f"method is 'plackett-luce' or 'bradley-terry', not {method!r}.")
    if not 0 < alpha < math.inf:
        raise UserError(f"alpha must be positive and finite, not {alpha}.")
    _check(rankings)
    given = sorted(rankings, key=lambda one: (one.rater, one.groups, one.skipped, one.weight))
    cost: Cost = {}
    for ranking in given:
        add_cost(cost, ranking.cost)
    weight = sum(ranking.weight for ranking in given)
    judged = {i for one in given if sum(map(len, one.groups)) > 1 for group in one.groups for i in group}
    skipped = {i for one in given for i in one.ids} - judged
    ids = sorted(judged)
    theta = _fitted(given, ids, method, alpha) if ids else np.zeros(0)
    return Ranking(_groups(ids, theta), tuple(sorted(skipped)), "", weight, cost)


def _check(rankings: Sequence[Ranking]) -> None:
    if not rankings:
        raise UserError("There is no ranking to make a consensus of.")
    rounds = {i.rpartition(".")[0] for one in rankings for i in one.ids}
    if len(rounds) > 1:
        raise UserError(f"A consensus is of one round's rankings; these are of {', '.join(sorted(rounds))}.")
    wrong = [one for one in rankings if not 0 < one.weight < math.inf]
    if wrong:
        raise UserError(f"A rater's weight must be positive and finite; that of '{wrong[0].rater}' is not.")


def _fitted(rankings: Sequence[Ranking], ids: Sequence[str], method: str, alpha: float) -> FloatArray:
    """theta of every candidate, float64 [n], centred."""
    choix, place = _choix(), {one: n for n, one in enumerate(ids)}
    orders = [([[place[i] for i in g if i in place] for g in one.groups], one.weight) for one in rankings]
    try:
        if method == "plackett-luce":
            return _plackett_luce(choix, orders, len(ids), alpha)
        wins = _wins(orders, len(ids))
        theta: FloatArray = choix.ilsr_pairwise_dense(wins, alpha, max_iter=_ITERATIONS, tol=_TOLERANCE)
        return theta
    except RuntimeError as error:
        raise UserError(f"No consensus was found ({error}). A larger alpha makes that easier.") from error


def _wins(orders: Sequence[tuple[list[list[int]], float]], n: int) -> FloatArray:
    """[n, n]: by how much weight i won against j."""
    wins = np.zeros((n, n))
    for groups, weight in orders:
        for above, below in combinations(groups, 2):
            wins[np.ix_(above, below)] += weight
        for group in groups:
            for a, b in combinations(group, 2):
                wins[a, b] += weight / 2
                wins[b, a] += weight / 2
    return wins


def _plackett_luce(
    choix: ModuleType, orders: Sequence[tuple[list[list[int]], float]], n: int, alpha: float
) -> FloatArray:
    choices = [
        (winner, np.array(later), weight)
        for groups, weight in orders
        for number, group in enumerate(groups)
        if (later := [i for below in groups[number + 1 :] for i in below])
        for winner in group
    ]
    theta = np.zeros(n)
    for _ in range(_ITERATIONS):
        strength = np.exp(theta)
        wins = np.zeros((n, n))
        for winner, losers, weight in choices:
            of_two = strength[winner] + strength[losers]
            wins[winner, losers] += weight * of_two / (strength[winner] + strength[losers].sum())
        step: FloatArray = choix.lsr_pairwise_dense(wins, alpha, theta) - theta
        theta = theta + step
        if np.abs(step).sum() <= _TOLERANCE:
            return theta
    raise RuntimeError(f"Did not converge after {_ITERATIONS} iterations")


def _groups(ids: Sequence[str], theta: FloatArray) -> tuple[tuple[str, ...], ...]:
    groups: list[list[int]] = []
    for i in np.argsort(-theta, kind="stable").tolist():
        if groups and theta[groups[-1][0]] - theta[i] <= TIE:
            groups[-1].append(i)
        else:
            groups.append([i])
    return tuple(tuple(sorted(ids[i] for i in group)) for group in groups)


def _choix() -> ModuleType:
    try:
        import choix
    except ModuleNotFoundError as error:
        raise UserError(f"A consensus needs the extra web: pip install 'blackbox-zo[web]' ({error}).") from error
    return choix
