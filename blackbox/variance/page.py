"""ZO-PAGE: a recursive estimate with a full one by chance.

    v_k = g_all(x_k) with probability p, else g_I(x_k; u) - g_I(x_{k-1}; u) + v_{k-1}

PAGE is arXiv:2008.10898; here with zeroth-order estimates. The coin is a function of the run's seed and the step.
"""

from __future__ import annotations

from blackbox.errors import UserError
from blackbox.estimators.base import Estimator, Round
from blackbox.variance.parts import Part, Parts, over_all_data
from blackbox.variance.recursive import Recursive


class PAGE(Recursive):
    """The probabilistic gradient estimator.

    Args:
        estimator: of both terms that are subtracted, on the step's minibatch; linear in values.
        full: of the gradient over all data; ``estimator`` if left out.
        probability: p, of a full estimate, in (0, 1]. b / (n + b) spends as much on them as on the others.
    """

    def __init__(self, estimator: Estimator, full: Estimator | None = None, probability: float = 0.02) -> None:
        super().__init__(estimator, full)
        if not 0 < probability <= 1:
            raise UserError(f"probability must lie in (0, 1], not {probability}.")
        self.probability = probability

    def due(self, round: Round) -> bool:
        """A coin's toss."""
        return round.seed("page") < self.probability * 2.0**63

    def start(self, round: Round) -> Parts:
        """All data."""
        return Parts(round, [Part(self.full, over_all_data(round, "full"))])
