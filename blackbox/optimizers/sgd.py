"""Plain descent along the estimate, streamed: theta <- (1 - lr wd) theta - lr sum_i w_i z(s_i).

No dense gradient ever exists; the update of a step of one seed may wait and be merged into the next step's first pass
over the weights.
"""

from __future__ import annotations

from blackbox.estimators.base import Estimate, Round
from blackbox.optimizers.base import Optimizer
from blackbox.parameters import Parameters, Update


class SGD(Optimizer):
    """Descent without state."""

    def step(self, estimate: Estimate, round: Round, parameters: Parameters) -> dict[str, float]:
        """As the base says; "lr" is in the log."""
        lr = self.lr * self.schedule.factor(round.progress)
        decay = {}
        if self.weight_decay > 0:
            decay = {s.name: 1.0 - lr * self.weight_decay for s in round.layout.specs if self.decays(s.name)}
        update = Update(estimate.direction * -lr, decay, round.seed("round") if parameters.rounds else 0)
        parameters.apply(update, defer=True)
        return {"lr": lr}
