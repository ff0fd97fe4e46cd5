"""Runs whose noise depends on the step, as seeds and scalars: rebuilt where seeds say all, refused where they don't."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch

from blackbox import Journal, Parameters, Session, Values
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference, Estimator, HiZOO
from blackbox.execution import WriteFree
from blackbox.noise import Gaussian, LowRank, Rademacher, Sparse
from blackbox.optimizers import SGD, FactorMomentum, Optimizer, Schedule
from blackbox.steplog import of_run, rebuild
from blackbox.strategies import GradientStrategy
from blackbox.testing.executions import values
from blackbox.testing.models import TinyObjective

CONSTANT = Schedule("constant")


def strategy(estimator: Estimator, optimizer: Optimizer) -> GradientStrategy:
    return GradientStrategy(estimator, optimizer)


def masked() -> GradientStrategy:
    law = Sparse(Rademacher(), density=0.4, keep="smallest", recompute=True)
    return strategy(CentralDifference(law, 1e-2, 2), SGD(0.2, CONSTANT))


def factored() -> GradientStrategy:
    law = LowRank(2, Gaussian(), refresh=3)
    return strategy(CentralDifference(law, 1e-2), FactorMomentum(0.05, CONSTANT))


def ran(folder: Path, made: GradientStrategy) -> Parameters:
    objective, execution = TinyObjective(), WriteFree()
    parameters = Parameters.from_module(objective.module)
    with closing(Journal(folder)) as journal:
        session = Session(made, parameters, journal=journal)
        for _ in range(8):
            queries = session.ask()
            told = values(execution.evaluate(objective, queries, parameters)).mean(1).numpy()
            session.tell(Values(tuple(q.id for q in queries), told))
            session.advance()
    return parameters


@pytest.mark.parametrize("make", [masked, factored])
def test_a_log_rebuilds_the_runs_bits(make, tmp_path: Path) -> None:
    end = ran(tmp_path, make())
    log = of_run(tmp_path, {}, make(), Parameters.from_module(TinyObjective().module))
    again = Parameters.from_module(TinyObjective().module)
    rebuild(log, make(), again)
    assert torch.equal(again.flat(), end.flat())


def test_what_was_learnt_on_the_way_is_not_in_the_seeds(tmp_path: Path) -> None:
    ran(tmp_path, strategy(HiZOO(1e-2), SGD(0.05, CONSTANT)))
    made = strategy(HiZOO(1e-2), SGD(0.05, CONSTANT))
    with pytest.raises(UserError, match="Export its weights"):
        of_run(tmp_path, {}, made, Parameters.from_module(TinyObjective().module))
