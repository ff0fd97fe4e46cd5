"""Newton's method by blocks of coordinates, and in the span of past displacements. For many dimensions, without noise.

Parabolas through three values along every coordinate i of a block B of b, about x with f(x) known:

    c_i = [f(x + h_i e_i) + f(x - h_i e_i) - 2 f(x)] / h_i^2      s_i = [f(x + h_i e_i) - f(x - h_i e_i)] / 2 h_i
    t_i = -s_i / c_i where c_i > 0, else 2 |h_i| downhill         x <- x + a t, a = 1 unless that disappoints

The model's gain is -sum (s_i t_i + c_i t_i^2 / 2). Where the gain comes within a tenth of it the curvatures are
trusted: the next block uses those it has, at half the price, s_i = [f(x + h_i e_i) - f(x)] / h_i - c_i h_i / 2, and for
coordinates not yet seen the geometric mean of the last block's, if those were nearly alike. The h_i follow the lengths
of the steps. So a separable quadratic takes 2d queries at most, and the first block moves already.

Coordinates in turn are slow along a valley aslant to them. After every sweep f is therefore minimised in the span of
the last sweeps' displacements: gradient and Hessian by differences in an orthogonal basis, Newton's step with the
absolute eigenvalues, and again while it gains. Descent by coordinates is surveyed by Wright, "Coordinate descent
algorithms" (arXiv:1502.04759); minimising in such a span is after Conn, Gould, Sartenaer & Toint, "On iterated-subspace
minimization methods for nonlinear optimization" (1996). Every step is to a point that was asked, so f never rises.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from blackbox.errors import UserError
from blackbox.estimators.base import Plan, Round
from blackbox.feedback import Answers, Values
from blackbox.order import FloatArray
from blackbox.parameters import Parameters
from blackbox.seeds import derive_seed
from blackbox.strategies.base import Strategy
from blackbox.strategies.parabolas import Block, Near, Span, Steps
from blackbox.strategies.vectors import assign, means_of, vector_of

_SHORTER = (0.5, 0.25, 0.1, 0.03, 2.0)
_ALONG = (1.0, 0.5, 0.25, 0.1, 0.02, 2.0, 4.0)
_NARROWEST, _WIDEST = 1e-5, 1e2  # of a width, in first widths
_TRUST = 0.1
_ALIKE = 0.5  # the standard deviation of the logarithms of curvatures up to which a mean stands for others
_ENOUGH = 4  # curvatures that tell
_AGAIN = 3


class CoordinateNewton(Strategy):
    """Descent by blocks of coordinates with parabolic steps, accelerated in the span of past displacements.

    Args:
        width: distance of the first probes along a coordinate, in units of the parameters: of the order of the distance
            to go, hardly smaller; positive.
        block: coordinates of one round; a third of the root of d if left out.
        memory: displacements whose span is searched after every sweep; d/12 at most, at least 1. 0 is none.
    """

    accepts = frozenset({Values})

    def __init__(self, width: float, block: int | None = None, memory: int = 8) -> None:
        if not 0 < width < math.inf:
            raise UserError(f"width is a distance and must be positive and finite, not {width}.")
        if block is not None and block < 1:
            raise UserError(f"block must be at least 1, not {block}.")
        if memory < 0:
            raise UserError(f"memory must be at least 0, not {memory}.")
        self.width, self.block, self.memory = width, block, memory
        self._restart(np.zeros(0))

    def _restart(self, x: FloatArray) -> None:
        d = len(x)
        self._x, self._value = x, math.nan
        self._widths, self._curvatures = np.full(d, self.width), np.full(d, math.nan)
        self._trusted = False
        self._typical = math.nan  # the curvature of a coordinate that is not known, if it can be guessed
        self._sweep = self._place = self._again = 0
        self._begun, self._value_begun = x.copy(), math.nan
        self._displacements = np.zeros((0, d))  # [k, d], oldest first
        self._open: Steps = Block(np.zeros(0, np.int64), np.zeros(0), None)  # until a round is planned

    def begin(self, parameters: Parameters) -> None:
        """Nothing is known about the present point."""
        self._restart(vector_of(parameters, "Newton's method by coordinates"))

    def plan(self, round: Round, phase: int, answers: Answers) -> Plan:
        """Probes; then the step that they suggest; then shorter ones and a longer one, where it disappoints."""
        if phase == 0:
            self._open = self._subspace() if self._again else self._block(round)
            changes = self._open.probes()
            if math.isnan(self._value):
                changes.append((0, 0.0))
            return Plan(round.queries(phase, Near(self._x, changes)))
        opened = self._open
        if phase == 1:
            found = means_of(answers, round.ids(0, opened.count + math.isnan(self._value)))
            if math.isnan(self._value):
                self._value = float(found[-1])
            opened.fit(found[: opened.count], self._value)
            if not opened.step.any():
                return Plan()
            return self._trying(round, phase, _ALONG if opened.in_span else (1.0,))
        if phase == 2 and not opened.in_span:
            (value,) = means_of(answers, round.ids(1, 1))
            gain = self._value - value
            if not (gain > 0 and abs(gain - opened.gain) <= 0.5 * abs(opened.gain)):  # NaN too
                return self._trying(round, phase, _SHORTER)
        return Plan()

    def _trying(self, round: Round, phase: int, factors: tuple[float, ...]) -> Plan:
        self._open.tried += [(phase, i, factor) for i, factor in enumerate(factors)]
        changes = [(self._open.places, factor * self._open.step) for factor in factors]
        return Plan(round.queries(phase, Near(self._x, changes)))

    def step(self, round: Round, answers: Answers, parameters: Parameters) -> dict[str, float]:
        """Move to the best point tried, if it is better than x. "value" is f(x)."""
        opened, before = self._open, self._value
        factor, gain = self._best_try(round, answers)
        if gain > 0:
            self._x = self._x.copy()
            self._x[opened.places] += factor * opened.step  # the bits that were asked about
            self._value -= gain
        if opened.in_span:
            self._again = self._again + 1 if gain > 0.2 * (self._value_begun - self._value) else 0
            if self._again > _AGAIN or not self._again:
                self._next_sweep()
        else:
            self._learn(round, factor, gain)
        assign(parameters, self._x)
        known = {} if math.isnan(self._value) else {"value": self._value}
        gained = 0.0 if math.isnan(before) else gain
        return {**known, "gain": gained, "width": float(np.abs(self._widths).mean())}

    def _best_try(self, round: Round, answers: Answers) -> tuple[float, float]:
        """(the factor of the best step, what it gained); (0, 0) if none gained."""
        best = (0.0, 0.0)
        for phase, i, factor in self._open.tried:
            (value,) = means_of(answers, (f"{round.step}.{phase}.{i}",))
            if (gain := self._value - float(value)) > best[1]:
                best = (factor, gain)
        return best

    # -- blocks ----------------------------------------------------------------------------------------------

    def _block(self, round: Round) -> Block:
        d = len(self._x)
        if self._place == 0:
            self._begun, self._value_begun = self._x, self._value
        order = np.random.default_rng(derive_seed(round.run_seed, "sweep", self._sweep)).permutation(d)
        size = self.block or max(1, int(math.sqrt(d) / 3 + 0.5))
        places = order[self._place : self._place + size]
        curvatures = np.where(self._curvatures[places] > 0, self._curvatures[places], self._typical)
        trusted = self._trusted and bool((curvatures > 0).all())
        return Block(places, self._widths[places], curvatures if trusted else None)

    def _learn(self, round: Round, factor: float, gain: float) -> None:
        """Curvatures, widths, trust; and whether the sweep is over."""
        opened = self._open
        assert isinstance(opened, Block)
        if math.isnan(self._value_begun):
            self._value_begun = self._value + gain
        self._trusted = factor == 1.0 and abs(opened.gain - gain) <= _TRUST * gain
        self._curvatures[opened.places] = opened.curvatures
        if opened.measured:
            self._typical = _typical(opened.curvatures)
        width, length = np.abs(opened.widths), np.abs(opened.step) * (factor or _SHORTER[3])
        new = np.where(length <= 3 * width, np.clip(length, width / 3, 3 * width), length / 2)
        new = np.where(opened.flat, 3 * width, new)
        signs = np.random.default_rng(round.seed("signs")).choice([-1.0, 1.0], len(new))
        self._widths[opened.places] = np.clip(new, _NARROWEST * self.width, _WIDEST * self.width) * signs
        self._place += len(opened.places)
        if self._place >= len(self._x):
            self._end_sweep()

    def _end_sweep(self) -> None:
        moved = self._x - self._begun
        keep = min(self.memory, max(1, len(self._x) // 12))
        if moved.any() and keep:
            self._displacements = np.concatenate([self._displacements, moved[None]])[-keep:]
            self._again = 1
        else:
            self._next_sweep()

    def _next_sweep(self) -> None:
        self._sweep, self._place, self._again = self._sweep + 1, 0, 0

    # -- the span of the displacements -----------------------------------------------------------------------

    def _subspace(self) -> Span:
        basis, r = np.linalg.qr(self._displacements[::-1].T)  # newest first
        lengths = np.abs(np.diag(r))
        kept = lengths > 1e-10 * lengths.max()
        return Span(basis[:, kept] * np.maximum(lengths[kept], 1e-3 * lengths.max()))

    # -- state -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, what it has learnt, and the place in the sweep."""
        arrays = {name: torch.from_numpy(getattr(self, f"_{name}").copy()) for name in _ARRAYS}
        values = {name: None if math.isnan(v := getattr(self, f"_{name}")) else v for name in _VALUES}
        return {**arrays, **values, **{name: getattr(self, f"_{name}") for name in _COUNTS}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        for name in _ARRAYS:
            setattr(self, f"_{name}", state[name].numpy().copy())
        for name in _VALUES:
            setattr(self, f"_{name}", math.nan if state[name] is None else state[name])
        for name in _COUNTS:
            setattr(self, f"_{name}", state[name])


def _typical(curvatures: FloatArray) -> float:
    """Their geometric mean if they are nearly alike; else NaN."""
    if len(curvatures) < _ENOUGH or not (curvatures > 0).all():
        return math.nan
    logarithms = np.log(curvatures)
    return math.exp(logarithms.mean()) if logarithms.std() <= _ALIKE else math.nan


_ARRAYS = ("x", "widths", "curvatures", "begun", "displacements")
_VALUES = ("value", "value_begun", "typical")
_COUNTS = ("trusted", "sweep", "place", "again")
