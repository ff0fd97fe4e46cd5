"""A stand-in for people: two raters, late and partial, with a quorum; aggregation belongs to the oracle."""

import numpy as np
import pytest

from blackbox import Failed, Parameters, Preferences, Ranking, Session
from blackbox.direction import Direction, SeedTerms
from blackbox.errors import StaleAnswerError
from blackbox.estimators import Estimate, Estimator, Plan
from blackbox.noise import Gaussian
from blackbox.optimizers import SGD
from blackbox.probe import Probe
from blackbox.strategies import GradientStrategy


class Pairs(Estimator):
    accepts = frozenset({Preferences})

    def next(self, round, phase, answers):
        probes = [Probe(Gaussian(), ((round.seed("probe"), c),)) for c in (1.0, -1.0)]
        return Plan() if phase else Plan(round.queries(0, probes))

    def estimate(self, round, answers):
        up = round.ids(0, 1)[0]
        votes = sum(p.weight * (-1 if better == up else 1) for p in answers.preferences for better, _ in p.pairs)
        return Estimate(Direction((SeedTerms(Gaussian(), np.array([round.seed("probe")]), np.array([votes])),)))


class TwoRaters:
    answers = frozenset({Preferences, Failed})

    def __init__(self):
        self.inbox, self.open = {}, ()

    def submit(self, queries, parameters):
        self.open = tuple(q.id for q in queries)

    def vote(self, rater, better, worse):
        self.inbox[rater] = (better, worse)

    def poll(self, timeout=0.0):
        if len(self.inbox) < 2:
            return []
        return [Preferences((pair,), rater, weight=0.5) for rater, pair in self.inbox.items()]


def test_a_round_waits_for_both_raters_and_a_vote_can_be_taken_back_before_the_step():
    parameters, people = Parameters.from_vector([0.0, 0.0]), TwoRaters()
    session = Session(GradientStrategy(Pairs(), SGD(1.0)), parameters)
    people.submit(session.ask(), parameters)
    a, b = people.open
    people.vote("ann", a, b)
    assert not people.poll()
    assert [q.id for q in session.ask()] == [a, b]
    people.vote("bob", b, a)
    for feedback in [*people.poll(), *people.poll()]:  # delivered twice
        session.tell(feedback)
    session.retract(a, "bob")
    session.tell(Preferences(((a, b),), "bob", weight=0.5))
    assert session.advance() is not None
    assert parameters.flat().abs().sum() > 0  # both prefer a: the votes do not cancel
    with pytest.raises(StaleAnswerError, match=r"step 0.*step 1"):
        session.tell(Ranking(((a,), ("0.0.7",)), rater="ann"))
