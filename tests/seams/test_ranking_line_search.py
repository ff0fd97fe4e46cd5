"""A line search by ranking plans after answers have come, at x + s * direction (ZO-RankSGD, arXiv:2303.03751)."""

from itertools import pairwise

import numpy as np

from blackbox import Parameters, Ranking, Session
from blackbox.direction import Direction, SeedTerms
from blackbox.estimators import Estimate, Estimator, Plan
from blackbox.noise import Gaussian
from blackbox.probe import Probe
from blackbox.strategies import GradientStrategy
from oracles.base import RankingOracle


class RankEstimator(Estimator):
    accepts = frozenset({Ranking})

    def next(self, round, phase, answers):
        seeds = [round.seed("probe", i) for i in range(8)]
        return Plan() if phase else Plan(round.queries(0, [Probe(Gaussian(), ((s, 0.1),)) for s in seeds]))

    def estimate(self, round, answers):
        order = [int(group[0].split(".")[2]) for group in answers.rankings[0].groups]
        weights = np.zeros(8)
        weights[order] = (2 * np.arange(8) - 7) / 28  # (in - out degree)/|E|: ascent of the value
        seeds = np.array([round.seed("probe", i) for i in range(8)])
        return Estimate(Direction((SeedTerms(Gaussian(), seeds, weights),)))


class LineSearch:
    accepts = frozenset({Ranking})

    def next(self, round, phase, first, estimate, answers):
        (term,) = estimate.direction.terms
        steps = [Probe(term.law, tuple(zip(term.seeds.tolist(), -s * term.weights, strict=True))) for s in (2.0, 0.5)]
        return Plan(round.queries(phase, [*steps, None])) if phase == first else Plan()

    def choose(self, round, first, estimate, answers):
        best = int(answers.rankings[-1].groups[0][0].split(".")[2])
        return estimate.direction * (-2.0, -0.5, 0.0)[best]

    def state_dict(self):
        return {}


class Judge(RankingOracle):
    def rank(self, candidates):
        return [int(i) for i in np.argsort((candidates**2).sum(1))]


def test_descent_by_orders_alone_with_a_line_search():
    parameters, judge = Parameters.from_vector(np.ones(20)), Judge()
    session = Session(GradientStrategy(RankEstimator(), line_search=LineSearch()), parameters)
    norms = [20.0]
    while session.steps < 60:
        judge.submit(session.ask(), parameters)
        for feedback in judge.poll():
            session.tell(feedback)
        if session.advance() is not None:
            norms.append(float((parameters.flat() ** 2).sum()))
    assert all(b <= a for a, b in pairwise(norms))  # the incumbent is among the choices
    assert norms[-1] < 0.25 * norms[0]
