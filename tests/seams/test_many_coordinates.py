"""Coordinates by the hundred thousand: one indexed add, not that many passes."""

import numpy as np
import torch

from blackbox import Parameters, Session, Values
from blackbox.direction import CoordinateTerms, Direction
from blackbox.estimators import Estimate, Estimator, Plan
from blackbox.optimizers import SGD, Schedule
from blackbox.probe import Payload
from blackbox.strategies import GradientStrategy

D = 200_000
WEIGHT = torch.arange(1.0, D + 1, dtype=torch.float64) / D


class CoordinateWise(Estimator):
    """Forward differences along half of the coordinates; one query stands for a block of them."""

    accepts = frozenset({Values})

    def next(self, round, phase, answers):
        return Plan() if phase else Plan(round.queries(0, [Payload("coordinates", {"of": "x", "every": 2})]))

    def estimate(self, round, answers):
        slopes = answers.values(round.ids(0, 1))[0]
        return Estimate(Direction((CoordinateTerms("x", np.arange(0, D, 2), slopes),)))


def test_a_hundred_thousand_coordinates_move_by_one_indexed_add():
    parameters = Parameters.from_vector(torch.ones(D, dtype=torch.float64))
    session = Session(GradientStrategy(CoordinateWise(), SGD(0.5, Schedule("constant"))), parameters)
    x = parameters.flat()
    (query,) = session.ask()
    forward = (WEIGHT * ((x + 1e-6) ** 2 - x**2) / 1e-6)[:: query.candidate.data["every"]]
    session.tell(Values((query.id,), forward.numpy()[None]))
    with torch.profiler.profile() as profile:
        session.advance()
    assert [e.count for e in profile.key_averages() if e.key == "aten::index_add_"] == [1]
    moved = parameters.flat()
    assert torch.equal(moved[1::2], x[1::2])
    assert torch.allclose(moved[::2], (1 - WEIGHT)[::2], atol=1e-5)
