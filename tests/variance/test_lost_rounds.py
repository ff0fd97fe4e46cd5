"""A round without answers, or one that was dropped, leaves no error behind in what is carried from step to step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from blackbox.estimators import CoordinateWise, Estimate, Estimator
from blackbox.execution import materialise
from blackbox.feedback import Failed, Values
from blackbox.optimizers import SGD, Schedule
from blackbox.parameters import Parameters
from blackbox.session import Session
from blackbox.steering import Steer
from blackbox.strategies import GradientStrategy
from blackbox.variance import PAGE, SPIDER, STORM, SVRG
from blackbox.variance.terms import vector

CURVATURE = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

WRAPPERS: dict[str, Callable[[Estimator], Estimator]] = {
    "svrg": lambda inner: SVRG(inner, every=4),
    "spider": lambda inner: SPIDER(inner, every=100),
    "storm": STORM,
    "page": lambda inner: PAGE(inner, probability=0.01),
}


@pytest.mark.parametrize("event", ["failed", "moved"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_with_exact_differences_every_later_estimate_is_the_gradient(
    name: str, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator = WRAPPERS[name](CoordinateWise(1e-5, "central"))
    parameters = Parameters.from_vector(np.ones(3))
    session = Session(GradientStrategy(estimator, SGD(0.1, Schedule("constant"))), parameters, seed=1)
    errors: list[float] = []
    whole = estimator.estimate

    def watched(round: Any, answers: Any) -> Estimate:
        found = whole(round, answers)
        gradient = CURVATURE * parameters.flat()
        errors.append(float((vector(found.direction, round.layout) - gradient).abs().max()))
        return found

    monkeypatch.setattr(estimator, "estimate", watched)
    for step in range(9):
        queries = list(session.ask())
        if step == 4 and event == "moved":
            session.steer(Steer(values=np.full(3, 5.0)))
        elif step == 4:
            session.tell(Failed(tuple(q.id for q in queries), "the service is out"))
            session.advance()
            errors.pop()
        else:
            points = materialise(queries, parameters)
            values = 0.5 * (CURVATURE * points**2).sum(1).numpy()
            session.tell(Values(tuple(q.id for q in queries), np.asarray(values)))
            session.advance()
    assert len(errors) == 8
    assert max(errors) < 1e-8
