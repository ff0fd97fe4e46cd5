"""Gradient and diagonal of the Hessian from three values a direction; the step is the one divided by the other.

    s_i = [f(x + mu z_i) - f(x - mu z_i)]/(2 mu)                    g = (1/q) sum_i s_i z_i
    c_i = [f(x + mu z_i) - 2 f(x) + f(x - mu z_i)]/mu^2             h = (1/q) sum_i (c_i - c) (z_i^2 - 1)/2
    direction = g / max(|h averaged over rounds|, floor)^power

z is Gaussian: E (z^T H z)(z_j^2 - 1)/2 = H_jj, from Stein's identity. With random signs z_j^2 is 1, and a curvature
along z says the trace and no more, so the law is no choice here. c, the mean curvature of the rounds before, is a
control variate: E (z_j^2 - 1) = 0, so h stays unbiased, and the square of the trace drops out of its variance, which
falls from about (tr H)^2/2 to |H|_F^2 a coordinate and probe. The relative of language models is HiZOO
(arXiv:2402.15173), which also probes in the preconditioned space.

It pays where parameters are few, curvatures differ by orders of magnitude along them, and values are exact enough for a
second difference: rounding errors are divided by mu^2. After N probes the error of h_j is about |H|_F/sqrt(N), so
curvatures below that aren't told from it; the step along them is the shorter for it.

State and direction are dense: one float32 a parameter each, on the CPU, where the noise is drawn once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from blackbox.direction import DenseTerm, Direction
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.estimators.curvature import CurvatureStencil
from blackbox.estimators.two_point import FloatArray
from blackbox.feedback import Answers, Feedback, Values
from blackbox.layout import Layout
from blackbox.noise import Gaussian

_PIECE = 1 << 20
"""Elements of noise drawn at a time."""


class HessianDiagonal(Estimator):
    """Descent preconditioned by an estimate of the Hessian's diagonal.

    Args:
        epsilon: the distance mu of the probes, in units of the parameters; positive.
        probes: q, antithetic pairs of one round, which takes 2q + 1 queries.
        floor: least curvature divided by, in units of the value over the parameters' squared; positive.
        memory: weight of the past in the running mean of h, in [0, 1); rounds before the first are no part of it.
        power: 1 is Newton's step along the diagonal, 0.5 milder, 0 the plain gradient.
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Values})

    def __init__(
        self,
        epsilon: float = 1e-2,
        probes: int = 4,
        floor: float = 1.0,
        memory: float = 0.99,
        power: float = 1.0,
    ) -> None:
        self.stencil = CurvatureStencil(epsilon, probes)
        if not floor > 0:
            raise UserError(f"floor is the least curvature divided by and must be positive, not {floor}.")
        if not 0 <= memory < 1:
            raise UserError(f"memory must lie in [0, 1), not {memory}.")
        if not 0 <= power <= 1:
            raise UserError(f"power must lie in [0, 1], not {power}.")
        self.noise = Gaussian()
        self.epsilon = epsilon
        self.probes = probes
        self.floor = floor
        self.memory = memory
        self.power = power
        self._sums: dict[str, Tensor] = {}  # running sums of h, to be divided by the weight below
        self._weight = 0.0
        self._curvature: float | None = None  # c

    def diagonal(self, layout: Layout) -> dict[str, Tensor]:
        """h averaged over rounds, by tensor: float32, of its shape; 0 before anything is known."""
        divisor = self._weight or 1.0
        return {s.name: (self._sum(s.name, s.numel) / divisor).view(s.shape) for s in layout.specs}

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """The base, then x + mu z_i, x - mu z_i, in turn."""
        return self.stencil.plan(round, phase, self.noise)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The preconditioned direction, dense; "curvature" is the mean along the probes. Failed pairs are left out."""
        slopes, curvatures, info = self.stencil.measured(round, answers)
        known, curved = ~np.isnan(slopes), ~np.isnan(curvatures)
        if not known.any():
            return Estimate(Direction(), info)
        along = np.where(known, slopes, 0.0) / known.sum()
        excess = np.zeros(self.probes)
        past, learns = self._curvature, False
        if past is not None and curved.any():
            learns = True
            excess = np.where(curved, curvatures - past, 0.0) / (2 * curved.sum())
            self._weight = self.memory * self._weight + (1 - self.memory)
        direction = Direction(tuple(self._terms(round, along, excess, learns)))
        if curved.any():
            mean = info["curvature"]
            self._curvature = mean if past is None else self.memory * past + (1 - self.memory) * mean
        return Estimate(direction, info)

    def state_dict(self) -> dict[str, Any]:
        """The running sums, their weight, and c."""
        sums = {name: total.clone() for name, total in self._sums.items()}
        return {"sums": sums, "weight": self._weight, "curvature": self._curvature}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        self._sums = {name: total.clone() for name, total in state["sums"].items()}
        self._weight, self._curvature = state["weight"], state["curvature"]

    def _terms(self, round: Round, along: FloatArray, excess: FloatArray, learns: bool) -> Iterator[DenseTerm]:
        """g over h, tensor by tensor, drawing the noise once; the running sums are brought up to date on the way."""
        seeds = round.seeds("probe", self.probes)
        slopes, surplus = torch.from_numpy(along), torch.from_numpy(excess)
        for spec in round.layout.specs:
            total, out = self._sum(spec.name, spec.numel), torch.empty(spec.numel)
            width = max(_PIECE // self.probes, 64)
            for start in range(0, spec.numel, width):
                piece = slice(start, min(start + width, spec.numel))
                noise = self.noise.sample(seeds, spec, piece.start, piece.stop).double()
                if learns:
                    total[piece] *= self.memory
                    total[piece] += (1 - self.memory) * (surplus @ (noise.square() - 1))
                curvature = (total[piece].double() / (self._weight or 1.0)).abs().clamp(min=self.floor)
                out[piece] = slopes @ noise / curvature**self.power
            yield DenseTerm(spec.name, out.view(spec.shape))

    def _sum(self, name: str, numel: int) -> Tensor:
        return self._sums.setdefault(name, torch.zeros(numel))
