"""An estimator that asks at an anchor x_0 while the run is at x_k (ZO-SVRG, arXiv:1805.10367)."""

import numpy as np
import torch

from blackbox import Parameters, Session, Values
from blackbox.direction import Direction, SeedTerms
from blackbox.estimators import Estimate, Estimator, Plan
from blackbox.execution import materialise
from blackbox.noise import Gaussian
from blackbox.optimizers import SGD, Schedule
from blackbox.probe import ALL_DATA, Probe
from blackbox.strategies import GradientStrategy

DATA = torch.randn(64, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class SVRG(Estimator):
    accepts = frozenset({Values})

    def next(self, round, phase, answers):
        if phase > 0:
            return Plan()
        pair = [Probe(Gaussian(), ((round.seed("probe"), 1e-4),)), None]
        here, there = round.queries(0, pair), round.queries(0, pair, base="x0", first=2)
        full = round.queries(0, pair, base="x0", context=ALL_DATA, first=4)
        return Plan((*here, *there, *full), anchors=("x0",) if round.step % 8 == 0 else ())

    def estimate(self, round, answers):
        v = answers.values(round.ids(0, 6)).reshape(3, 2)
        slopes = (v[:, 0] - v[:, 1]) / 1e-4
        seed = np.array([round.seed("probe")])
        weight = np.array([slopes[0] - slopes[1] + slopes[2]])
        return Estimate(Direction((SeedTerms(Gaussian(), seed, weight),)))


def test_control_variate_at_the_anchor_leaves_only_the_full_gradient_there():
    parameters = Parameters.from_vector(torch.ones(10, dtype=torch.float64))
    session = Session(GradientStrategy(SVRG(), SGD(0.01, Schedule("constant"))), parameters, seed=1)
    for _ in range(400):
        for query in session.ask():
            x = materialise([query], parameters)[0]
            rows = DATA if query.context is ALL_DATA else DATA[query.context.batch_seed % 64 :][:4]
            session.tell(Values((query.id,), np.array([float(((x - rows) ** 2).sum(1).mean())])))
        session.advance()
    assert set(parameters.anchors) == {"x0"}
    assert parameters.anchors["x0"][1] == 392  # taken at step 392, asked at until 399
    assert torch.linalg.norm(parameters.flat() - DATA.mean(0)) < 0.15
