"""ZO-SPIDER: a recursive estimate with a full one every so many steps.

    v_k = g_I(x_k; u) - g_I(x_{k-1}; u) + v_{k-1},    v_k = g_all(x_k) every ``every`` steps

SPIDER is arXiv:1807.01695, with coordinate-wise full estimates and random inner ones it is ZO-SPIDER-Coord
(arXiv:1910.12166, Algorithm 3). The step's length is the optimizer's business, as it is there.
"""

from __future__ import annotations

from blackbox.errors import UserError
from blackbox.estimators.base import Estimator, Round
from blackbox.variance.parts import Part, Parts, over_all_data
from blackbox.variance.recursive import Recursive


class SPIDER(Recursive):
    """The stochastic path-integrated differential estimator.

    Args:
        estimator: of both terms that are subtracted, on the step's minibatch; linear in values.
        full: of the gradient over all data; ``estimator`` if left out. Its errors last until the next one, so it
            should see many more directions: ``blocks``, or all coordinates.
        every: steps from one full estimate to the next.
    """

    def __init__(self, estimator: Estimator, full: Estimator | None = None, every: int = 50) -> None:
        super().__init__(estimator, full)
        if every < 1:
            raise UserError(f"every is a number of steps, at least 1, not {every}.")
        self.every = every

    def due(self, round: Round) -> bool:
        """Every so many steps."""
        return round.step % self.every == 0

    def start(self, round: Round) -> Parts:
        """All data."""
        return Parts(round, [Part(self.full, over_all_data(round, "full"))])
