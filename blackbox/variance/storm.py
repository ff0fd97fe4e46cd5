"""ZO-STORM: momentum that is corrected for having moved.

    v_k = g_I(x_k; u) + (1 - a) (v_{k-1} - g_I(x_{k-1}; u))

STORM is arXiv:1905.10018, with zeroth-order estimates it is the estimate of Acc-ZOM (arXiv:2008.08170). It needs no
estimate over all data: errors fade by 1 - a a step. With v_{k-1} alone in the bracket it would be plain momentum,
which lags behind; a = 1 is the estimator inside.
"""

from __future__ import annotations

from blackbox.errors import UserError
from blackbox.estimators.base import Estimator, Round
from blackbox.variance.parts import Part, Parts, over_all_data
from blackbox.variance.recursive import Recursive


class STORM(Recursive):
    """Stochastic recursive momentum.

    Args:
        estimator: of both terms, on the step's minibatch; linear in values.
        full: of the first estimate, over all data; if left out, it is ``estimator`` on the first minibatch.
        forget: a, in (0, 1].
    """

    def __init__(self, estimator: Estimator, full: Estimator | None = None, forget: float = 0.1) -> None:
        super().__init__(estimator, full)
        if not 0 < forget <= 1:
            raise UserError(f"forget must lie in (0, 1], not {forget}.")
        self.forget = forget
        self.keep = 1.0 - forget

    def due(self, round: Round) -> bool:
        """Never again."""
        return False

    def start(self, round: Round) -> Parts:
        """All data if there is an estimator for it, else the step's minibatch."""
        batch = self.full is self.estimator
        return Parts(round, [Part(self.full, round if batch else over_all_data(round, "full"))])
