"""Coordinate-wise estimation: one difference along every coordinate that is asked about.

    forward   g = sum_{i in S} w_i [f(x + mu e_i) - f(x)] e_i / mu               |S| + 1 queries
    central   g = sum_{i in S} w_i [f(x + mu e_i) - f(x - mu e_i)] e_i / 2mu     2|S| queries

with S and w from a ``Selection``. Forward along all coordinates, and along those of a sparse mask, is DeepZero's
(arXiv:2310.02025). arXiv:1905.01332 bounds the errors: sqrt(d) L mu/2 forward, sqrt(d) M mu^2/6 central, for an
L-Lipschitz gradient and an M-Lipschitz Hessian. For a linear f and a uniform sample of n of d the variance is
(d - n)/n |g|^2.

Queries are planned by columns and the estimate is one indexed add a tensor, so hundreds of thousands of coordinates a
round are practical as far as the oracle is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from blackbox.direction import CoordinateTerms, Direction
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.estimators.facts import difference_facts, mean_of
from blackbox.estimators.selection import All, FloatArray, IntArray, Selection
from blackbox.feedback import Answers, Feedback, Values
from blackbox.layout import Layout
from blackbox.noise import Coordinate, Mask, RandomMask
from blackbox.probe import Probes, mirrored

_LAW = Coordinate()


class CoordinateWise(Estimator):
    """Differences along coordinates.

    Args:
        epsilon: the distance mu of the probes along a coordinate, in units of the parameters; positive.
        stencil: forward shares one base value; central costs twice as much and errs by O(mu^2) instead of O(mu).
        select: which coordinates of the population each round asks about; all if left out.
        tensors: regular expression, or several; the population is the tensors in whose names one is found. None is all.
        mask: the population is, of these, only what the mask keeps.
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Values})

    def __init__(
        self,
        epsilon: float = 1e-3,
        stencil: Literal["forward", "central"] = "forward",
        select: Selection | None = None,
        tensors: str | Sequence[str] | None = None,
        mask: RandomMask | Mask | None = None,
    ) -> None:
        if not epsilon > 0:
            raise UserError(f"epsilon is a distance and must be positive, not {epsilon}.")
        if stencil not in ("forward", "central"):
            raise UserError(f"stencil is 'forward' or 'central', not {stencil!r}.")
        self.epsilon = epsilon
        self.stencil = stencil
        self.select: Selection = select if select is not None else All()
        self.tensors = (tensors,) if isinstance(tensors, str) else None if tensors is None else tuple(tensors)
        self.mask = mask
        self._population: tuple[Layout, IntArray] | None = None

    def population(self, layout: Layout) -> IntArray:
        """int64 [m], ascending: positions of the coordinates in the concatenation of all tensors."""
        if self._population is None or self._population[0] != layout:
            self._population = layout, self._find_population(layout)
        return self._population[1]

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """Forward: the base, then x + mu e_i. Central: x + mu e_i, x - mu e_i, in turn."""
        if phase > 0:
            return Plan()
        population = self.population(round.layout)
        seeds = population[self.select.choose(round, len(population)).places].tolist()
        distance = self.epsilon / math.sqrt(round.layout.dimension)  # the law's z is sqrt(d) long
        if self.stencil == "central":
            return Plan(round.queries(0, mirrored(_LAW, seeds, distance)))
        # The base is a probe of coefficient 0, so that the plan stays one of columns.
        return Plan(round.queries(0, Probes(_LAW, (0, *seeds), (0.0, *(distance,) * len(seeds)))))

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """One ``CoordinateTerms`` a tensor; what failed is left out. The mean over examples follows the difference."""
        population = self.population(round.layout)
        choice = self.select.choose(round, len(population))
        places = choice.places
        count = 2 * len(places) if self.stencil == "central" else len(places) + 1
        values = answers.values(round.ids(0, count))
        root = math.sqrt(round.layout.dimension)
        step = self.epsilon / root * root  # what the displacement came to
        if self.stencil == "central":
            first, second, step = values[0::2], values[1::2], 2 * step
        else:
            first, second = values[1:], values[:1]
        slopes = mean_of((first - second) / step)
        known = ~np.isnan(slopes)
        self.select.learn(places, slopes, len(population))
        scaled = choice.answered(known) * slopes[known]
        info = {**difference_facts(values, slopes, first, second), "coordinates": float(known.sum())}
        return Estimate(coordinates(population[places[known]], scaled, round.layout), info)

    def state_dict(self) -> dict[str, Any]:
        """The selection's."""
        return self.select.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        self.select.load_state_dict(state)

    def _find_population(self, layout: Layout) -> IntArray:
        specs = [s for s in layout.specs if self.tensors is None or any(re.search(p, s.name) for p in self.tensors)]
        if not specs:
            some = ", ".join(s.name for s in layout.specs[:5])
            raise UserError(f"tensors: no name matches {list(self.tensors or ())}; the names begin with: {some}.")
        parts = []
        for spec in specs:
            index = torch.arange(spec.numel)
            kept = index if self.mask is None else index[self.mask.select(spec, index)]
            parts.append(kept.numpy() + spec.offset)
        population = np.concatenate(parts)
        if not len(population):
            raise UserError("mask: it keeps no coordinate of these tensors.")
        return population


def coordinates(index: IntArray, weights: FloatArray, layout: Layout) -> Direction:
    """Weights [n] at ascending positions [n] of the concatenation as a direction, one term a tensor that has any."""
    terms = []
    cuts = np.searchsorted(index, [spec.offset for spec in layout.specs] + [layout.dimension])
    for spec, low, high in zip(layout.specs, cuts, cuts[1:], strict=False):
        if high > low:
            terms.append(CoordinateTerms(spec.name, index[low:high] - spec.offset, weights[low:high]))
    return Direction(tuple(terms))
