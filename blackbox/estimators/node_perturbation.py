"""Node perturbation: derivatives along all coordinates, from an oracle that displaces nodes (arXiv:2310.00965).

    g_i = D_i f(x)                                    forward: a node is displaced by mu
    g_i = [D_i f(x) + D_-i f(x)] / 2                  central: by mu and by -mu

The estimator asks for the slope along every coordinate, at the distance mu, and puts it there; it knows nothing of
layers. The oracle ``oracles.NodeOracle`` has layers: it displaces each output of a layer once, for all examples, and
finds the slopes of all of the layer's weights from the changes of the examples' losses and the layer's inputs. That
asks fewer questions than ``CoordinateWise``: as many as a layer has outputs, not weights. An oracle of values doesn't
fit. One of exact derivatives does, and needs a query for each coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.estimators.coordinate import CoordinateWise, coordinates
from blackbox.feedback import Answers, Feedback, Slopes
from blackbox.noise import Coordinate, Mask, RandomMask
from blackbox.probe import Probes, mirrored

_LAW = Coordinate()


class NodePerturbation(Estimator):
    """Slopes along coordinates.

    Args:
        epsilon: the distance mu by which a node (or, where the oracle asks one, a coordinate) is displaced, in its own
            units; positive.
        stencil: forward shares one base value; central asks twice as much and errs by O(mu^2) instead of O(mu).
        tensors: regular expression, or several: the tensors in whose names one is found. None is all.
        mask: of these, only what the mask keeps.
    """

    accepts: ClassVar[frozenset[type[Feedback]]] = frozenset({Slopes})

    def __init__(
        self,
        epsilon: float = 1e-3,
        stencil: Literal["forward", "central"] = "forward",
        tensors: str | Sequence[str] | None = None,
        mask: RandomMask | Mask | None = None,
    ) -> None:
        self._coordinates = CoordinateWise(epsilon, stencil, tensors=tensors, mask=mask)
        self.epsilon = epsilon
        self.stencil = stencil

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """Forward: mu e_i. Central: mu e_i, -mu e_i, in turn."""
        if phase > 0:
            return Plan()
        seeds = self._coordinates.population(round.layout).tolist()
        distance = self.epsilon / math.sqrt(round.layout.dimension)  # the law's z is sqrt(d) long
        if self.stencil == "central":
            return Plan(round.queries(0, mirrored(_LAW, seeds, distance)))
        return Plan(round.queries(0, Probes(_LAW, tuple(seeds), (distance,) * len(seeds))))

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """One ``CoordinateTerms`` a tensor; what failed is left out."""
        population = self._coordinates.population(round.layout)
        central = self.stencil == "central"
        slopes, values = answers.slopes(round.ids(0, len(population) * (2 if central else 1)))
        if central:
            slopes = (slopes[0::2] - slopes[1::2]) / 2
        root = math.sqrt(round.layout.dimension)
        slopes = slopes / (self.epsilon / root * root)  # what the displacement came to
        known = ~np.isnan(slopes)
        found, count = slopes[known], max(int(known.sum()), 1)
        told = values[~np.isnan(values)]
        info = {
            "value": float(told.mean()) if len(told) else float("nan"),
            "slope": math.sqrt(found @ found / count),
            "coordinates": float(known.sum()),
        }
        return Estimate(coordinates(population[known], found, round.layout), info)
