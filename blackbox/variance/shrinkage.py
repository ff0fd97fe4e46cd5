"""Shrinkage: a shorter estimate has a smaller error.

An unbiased g with variance V = E|g - grad|^2 has the least mean squared error at f g with

    f = |grad|^2 / (|grad|^2 + V),        and that error is f V

With repeats = 1 f is the closed form for a linear function: q / (d + q - 1) for directions of fixed length (signs,
sphere, coordinates), q / (d + q + 1) for Gaussian ones. That is a constant, the same as a smaller learning rate: of
use where the length itself matters (a table, a clip, a line search), not in descent.

With repeats >= 2 it is estimated: the mean of <g_i, g_j> over i != j is unbiased for |grad|^2 (all noise is
independent, that of the data too if every repeat has its own batch), and f is the ratio of its fading mean to that of
|mean g|^2, cut to [0, 1]: the positive-part James-Stein rule with an estimated variance. It falls where noise swamps
the slope, so it acts as a step size that adapts.
"""

from __future__ import annotations

from typing import Any

import torch

from blackbox.direction import Direction, SeedTerms
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers
from blackbox.noise import Gaussian, Sphere
from blackbox.variance.average import repeated
from blackbox.variance.base import Wrapper, mean_of
from blackbox.variance.parts import require_stateless
from blackbox.variance.terms import merged, vector


class Shrinkage(Wrapper):
    """The (mean) estimate times a factor in [0, 1].

    From two repeats on the estimates are made dense, on the CPU: for vectors and small modules.

    Args:
        estimator: unbiased, as far as it goes.
        repeats: 1 for the closed form; from 2 on the factor is estimated from as many estimates a step.
        own_batches: let every repeat have a minibatch of its own instead of the step's.
        memory: share of the past in the sums behind an estimated factor, in [0, 1).
    """

    def __init__(self, estimator: Estimator, repeats: int = 1, own_batches: bool = False, memory: float = 0.9) -> None:
        super().__init__(estimator)
        if repeats < 1:
            raise UserError(f"repeats must be at least 1, not {repeats}.")
        if not 0 <= memory < 1:
            raise UserError(f"memory is a share in [0, 1), not {memory}.")
        if repeats > 1:
            require_stateless("Shrinkage", estimator)
        self.repeats = repeats
        self.own_batches = own_batches
        self.memory = memory
        self._sums = (0.0, 0.0)

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """That of the estimator inside, or of all repeats side by side."""
        if self.repeats == 1:
            return self.estimator.next(round, phase, answers)
        return repeated(self.estimator, round, self.repeats, self.own_batches).next(phase, answers)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The shrunken estimate; "shrinkage" is the factor."""
        if self.repeats == 1:
            whole = self.estimator.estimate(round, answers)
            factor = closed_form(whole.direction, round.layout.dimension)
        else:
            parts = repeated(self.estimator, round, self.repeats, self.own_batches).estimates(answers)
            found = [estimate for estimate in parts if estimate is not None]
            whole = mean_of(found)
            factor = self._estimated([vector(one.direction, round.layout) for one in found])
        return Estimate(whole.direction * factor, whole.info | {"shrinkage": factor}, whole.proposals)

    def _estimated(self, vectors: list[torch.Tensor]) -> float:
        n = len(vectors)
        if n > 1:
            matrix = torch.stack(vectors)
            squares = float(matrix.square().sum())
            total = float(matrix.sum(0).square().sum())
            now = ((total - squares) / (n * (n - 1)), total / n**2)
            self._sums = (self.memory * self._sums[0] + now[0], self.memory * self._sums[1] + now[1])
        signal, length = self._sums
        return min(1.0, max(0.0, signal / length)) if length > 0 else 1.0

    def state_dict(self) -> dict[str, Any]:
        """The sums behind an estimated factor."""
        return super().state_dict() | ({"sums": list(self._sums)} if self.repeats > 1 else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        super().load_state_dict(state)
        if "sums" in state:
            first, second = state["sums"]
            self._sums = (first, second)


def closed_form(direction: Direction, dimension: int) -> float:
    """The best factor for a linear function, by the number and law of the directions; 1 where they are no seeds."""
    terms = merged(direction).terms
    seeds = [term for term in terms if isinstance(term, SeedTerms)]
    q = sum(len(term.seeds) for term in seeds)
    if q == 0 or len(seeds) < len(terms):
        return 1.0
    gaussian = any(isinstance(term.law, Gaussian) and not isinstance(term.law, Sphere) for term in seeds)
    return q / (dimension + q + (1 if gaussian else -1))
