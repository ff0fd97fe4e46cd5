"""Dense candidates: CMA-ES (the cmaes package) as a strategy of its own."""

import numpy as np
import torch
from cmaes import CMA

from blackbox import Parameters, Session, Values
from blackbox.estimators import Plan
from blackbox.probe import DenseCandidate
from blackbox.strategies import Strategy
from oracles.function import FunctionOracle


class CMAES(Strategy):
    accepts = frozenset({Values})

    def __init__(self, mean, sigma):
        self.cma = CMA(mean=mean, sigma=sigma, seed=5)
        self.generation = []

    def plan(self, round, phase, answers):
        if phase:
            return Plan()
        self.generation = [self.cma.ask() for _ in range(self.cma.population_size)]
        return Plan(round.queries(0, [DenseCandidate(x) for x in self.generation]))

    def step(self, round, answers, parameters):
        values = answers.values(round.ids(0, len(self.generation)))
        self.cma.tell(list(zip(self.generation, values.tolist(), strict=True)))
        parameters.assign({"x": torch.from_numpy(self.cma.mean)})
        parameters.version += 1
        return {"value": float(values.min())}


def test_cma_es_runs_through_the_session_and_minimises():
    parameters = Parameters.from_vector(np.full(5, 2.0))
    session, oracle = (
        Session(CMAES(np.full(5, 2.0), 1.0), parameters),
        FunctionOracle(lambda x: float((x**2).sum())),
    )
    for _ in range(120):
        oracle.submit(session.ask(), parameters)
        for feedback in oracle.poll():
            session.tell(feedback)
        session.advance()
    assert session.best is not None
    assert session.best.value < 1e-8
    assert np.allclose(session.best.point, 0, atol=1e-4)
    assert float((parameters.flat() ** 2).sum()) < 1e-6
