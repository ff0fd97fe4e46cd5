"""A control variate from a linear model of the function, along the same directions.

    g' = g - a (c - m)

m is a model of the gradient: the fading mean of past estimates. c is what the estimator inside makes of the linear
function <m, x> at the very candidates that were asked about, and needs no queries. As the estimator is unbiased on
linear functions, E c = m is known exactly, whatever its law and stencil. For a linear f, g' is an estimate of the
residual grad f - a m plus a m, so its variance is that of g times |grad f - a m|^2 / |grad f|^2.

The best coefficient is a* = Cov(g, c) / Var(c). It is estimated as sum w_i v_i / sum v_i^2 over the weights w of g
and v of c: both sums are in proportion to <grad f, m> and |m|^2, as covariance and variance are, for independent
directions. Taken from past rounds the estimate stays unbiased; taken from the round itself it is off by O(1/q), and
useless at q = 1, where it makes g' = a m for whatever direction was drawn.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from blackbox.direction import DenseTerm, Direction
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.execution.batched import materialise
from blackbox.feedback import Answers, Values
from blackbox.parameters import Parameters
from blackbox.probe import ids_of
from blackbox.variance.base import Wrapper
from blackbox.variance.parts import require_stateless, require_values
from blackbox.variance.terms import from_vector, merged, vector


class ControlVariate(Wrapper):
    """Subtracts what a linear model explains, and adds its expectation.

    The model is dense, and the candidates' displacements are made on the CPU: for vectors and small modules.

    Args:
        estimator: linear in values, and unbiased on linear functions.
        memory: weight of an estimate in the model against the one after it, in [0, 1). A single estimate errs by d/q
            times the gradient's square, so the mean is over many.
        coefficient: a: from past rounds ("running"), from the round itself ("round"), or a number.
    """

    def __init__(
        self, estimator: Estimator, memory: float = 0.99, coefficient: Literal["running", "round"] | float = "running"
    ) -> None:
        super().__init__(estimator)
        require_values("ControlVariate", estimator)
        require_stateless("ControlVariate", estimator)
        if not 0 <= memory < 1:
            raise UserError(f"memory is a share in [0, 1), not {memory}.")
        self.memory = memory
        self.coefficient = coefficient
        self.model: Tensor | None = None
        self._sums = (0.0, 0.0)
        self._total = 0.0

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """That of the estimator inside."""
        return self.estimator.next(round, phase, answers)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The corrected estimate; "coefficient" is a."""
        inner = self.estimator.estimate(round, answers)
        if answers.empty:
            return inner
        self._total = self.memory * self._total + 1.0
        if self.model is None:
            self.model = vector(inner.direction, round.layout)
            return Estimate(inner.direction, inner.info | {"coefficient": 0.0}, inner.proposals)
        response = self.estimator.estimate(round, self._linear(round, answers)).direction
        a = self._coefficient(_weights(inner.direction), _weights(response))
        model = from_vector(self.model, round.layout)
        corrected = merged(inner.direction + response * -a + model * a)
        self.model = self.model + (vector(corrected, round.layout) - self.model) / self._total
        return Estimate(corrected, inner.info | {"coefficient": a}, inner.proposals)

    def _linear(self, round: Round, answers: Answers) -> Answers:
        """What the answers would be, were the function <model, displacement>; failures stay failures."""
        assert self.model is not None
        zeros = {spec.name: torch.zeros(spec.shape, dtype=torch.float64) for spec in round.layout.specs}
        origin, found, phase = Parameters(zeros, fused=False), Answers(), 0
        while (plan := self.estimator.next(round, phase, answers)).queries:
            there = ~np.isnan(_means(answers.values(ids_of(plan.queries))))
            asked = [query for query, known in zip(plan.queries, there, strict=True) if known]
            if asked:
                found.add(Values(ids_of(asked), (materialise(asked, origin) @ self.model).numpy()))
            phase += 1
        return found

    def _coefficient(self, ours: np.ndarray, models: np.ndarray) -> float:
        now = (float(ours @ models), float(models @ models))
        before = self._sums
        self._sums = (self.memory * before[0] + now[0], self.memory * before[1] + now[1])
        if not isinstance(self.coefficient, str):
            return float(self.coefficient)
        over, under = before if self.coefficient == "running" else now
        return over / under if under > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """The model and the sums behind the coefficient."""
        return {"model": self.model, "sums": list(self._sums), "total": self._total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        self.model = state["model"]
        first, second = state["sums"]
        self._sums, self._total = (first, second), state["total"]


def _weights(direction: Direction) -> np.ndarray:
    """The weights of all terms; two estimates from the same queries have them in the same order."""
    if any(isinstance(term, DenseTerm) for term in direction.terms):
        raise UserError("ControlVariate needs an estimate of seeds or coordinates, but the one inside is dense.")
    weights = [term.weights for term in direction.terms if not isinstance(term, DenseTerm)]
    return np.concatenate(weights) if weights else np.zeros(0)


def _means(values: np.ndarray) -> np.ndarray:
    means: np.ndarray = values if values.ndim == 1 else values.mean(1)
    return means
