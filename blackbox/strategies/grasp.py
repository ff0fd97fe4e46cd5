"""ZO-GraSP: how much of each layer is worth asking about, from values alone (DeepZero, arXiv:2310.02025, section 4).

GraSP (arXiv:2002.07376, eq. 8) scores each weight at initialisation by what removing it does to the gradient's flow:

    score = -theta * H g,      the highest scores are pruned

with the Hessian-vector product by finite differences of estimated gradients,

    H g = (g(theta + c g) - g(theta)) / c,      c = distance / |g|

along the same directions and on the same data in both, so that what the estimates have in common cancels. One
threshold over all layers decides; only each layer's share of what is kept goes into the training, where ``LayerShares``
draws masks at these shares. The two gradients take the first two steps of a run; the weights are back at theta, bit for
bit, when training begins with the third.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from blackbox.direction import Direction
from blackbox.errors import UserError
from blackbox.estimators.base import Estimator, Plan, Round
from blackbox.estimators.coordinate import CoordinateWise
from blackbox.estimators.layer_shares import LayerShares, prunable
from blackbox.feedback import Answers
from blackbox.layout import Layout
from blackbox.optimizers.base import Optimizer
from blackbox.parameters import Parameters
from blackbox.probe import Context
from blackbox.strategies.gradient import GradientStrategy
from blackbox.variance.parts import Part, Parts, require_stateless

_START = "before pruning"


class GraSP(GradientStrategy):
    """Descent along masked coordinates whose shares by layer come from ZO-GraSP.

    Args:
        estimator: coordinate, with ``select: {type: layer-shares, ...}``, whose ``keep`` is the share of all.
        optimizer: applies the estimates.
        score: the estimator of the two gradients, which must keep no state; DeepZero takes 192 random directions.
        distance: between the two points, in units of the parameters.

    Attributes:
        scores: -theta * H g, float64 [d], once it is known (not kept over a restart).
    """

    def __init__(self, estimator: Estimator, optimizer: Optimizer, score: Estimator, distance: float = 0.1) -> None:
        super().__init__(estimator, optimizer)
        if not isinstance(estimator, CoordinateWise) or not isinstance(estimator.select, LayerShares):
            raise UserError("grasp finds shares for `estimator: {type: coordinate, select: {type: layer-shares}}`.")
        if not distance > 0:
            raise UserError(f"distance must be positive, not {distance}.")
        require_stateless("grasp", score)
        self.score = score
        self.distance = distance
        self.scores: Tensor | None = None
        self._select: LayerShares = estimator.select
        self._first: Tensor | None = None
        self._context: Context | None = None

    def plan(self, round: Round, phase: int, answers: Answers) -> Plan:
        """Steps 0 and 1: the score's queries. From step 2: the estimator's."""
        if round.step > 1:
            return super().plan(round, phase, answers)
        anchors = (_START,) if round.step == 0 and phase == 0 else ()
        return self._both(round).next(phase, answers, anchors)

    def step(self, round: Round, answers: Answers, parameters: Parameters) -> dict[str, float]:
        """Step 0 moves along g, step 1 moves back and sets the shares; then as in the base."""
        if round.step > 1:
            return super().step(round, answers, parameters)
        (estimate,) = self._both(round).estimates(answers)
        gradient = _dense(estimate.direction if estimate is not None else Direction(), parameters)
        length = float((gradient if self._first is None else self._first).norm())
        if not length > 0:
            raise UserError("grasp: the estimated gradient at the first weights is 0, so nothing can be scored.")
        info = dict(estimate.info) if estimate is not None else {}
        if round.step == 0:
            assert estimate is not None
            self._first, self._context = gradient, round.context
            parameters.apply(estimate.direction * (self.distance / length))
            return info
        assert self._first is not None
        parameters.assign(parameters.anchor(_START))
        parameters.drop_anchor(_START)
        parameters.version += 1
        theta = parameters.flat().to(gradient)
        self.scores = -theta * (gradient - self._first) * (length / self.distance)
        self._select.shares = shares_of(self.scores, round.layout, self._select.keep)
        self._first = None
        return info

    def state_dict(self) -> dict[str, Any]:
        """As the base says; between the two steps, the first gradient and its data besides."""
        state = super().state_dict()
        if self._first is not None and self._context is not None:
            state |= {"first": self._first, "context": self._context.to_json()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        super().load_state_dict(state)
        self._first = state["first"].double() if "first" in state else None
        self._context = _context(state["context"]) if "context" in state else None

    def _both(self, round: Round) -> Parts:
        """The directions and the data of step 0, in both."""
        first = replace(round, step=0, context=self._context if round.step and self._context else round.context)
        return Parts(round, [Part(self.score, first)])


def shares_of(scores: Tensor, layout: Layout, keep: float) -> dict[str, float]:
    """Each prunable tensor's share of what stays when one threshold keeps the lowest scores [d] of them all."""
    rows = {s.name: scores[s.offset : s.offset + s.numel] for s in layout.specs if prunable(s)}
    if not rows:
        return {}
    every = torch.cat(list(rows.values()))
    count = max(round(keep * len(every)), 1)
    kept = torch.zeros(len(every), dtype=torch.bool)
    kept[every.argsort(stable=True)[:count].cpu()] = True
    parts = torch.split(kept, [len(one) for one in rows.values()])
    return {name: float(part.double().mean()) for name, part in zip(rows, parts, strict=True)}


def _dense(direction: Direction, parameters: Parameters) -> Tensor:
    """A direction as one vector, float64 [d]."""
    zeros = {name: torch.zeros(t.shape, dtype=torch.float64, device=t.device) for name, t in parameters.raw.items()}
    scratch = Parameters(zeros, fused=parameters.fused)
    scratch.apply(direction)
    return scratch.flat()


def _context(fields: dict[str, Any]) -> Context:
    indices = fields.get("indices")
    return Context(fields.get("batch_seed"), None if indices is None else tuple(indices), fields.get("reset_seed"))
