"""ZO-signSGD: theta <- theta - lr sign(g).

Liu et al., "signSGD via zeroth-order oracle" (ICLR 2019), Algorithm 1: every element moves by the same length, whatever
the slope's, which shrugs off outliers among estimates. ``one-bit`` estimates with ``sgd`` are something else: there the
signs are those of the probes' differences.
"""

from __future__ import annotations

from blackbox.direction import DenseTerm, Direction
from blackbox.estimators.base import Estimate, Round
from blackbox.optimizers.base import Optimizer
from blackbox.optimizers.torch_adapter import dense_gradient
from blackbox.parameters import Parameters, Update


class SignSGD(Optimizer):
    """Descent along the signs of the estimate, made dense for the step; no state."""

    def step(self, estimate: Estimate, round: Round, parameters: Parameters) -> dict[str, float]:
        """As the base says; "lr" is in the log. Elements whose estimate is 0 stay."""
        lr = self.lr * self.schedule.factor(round.progress)
        gradient = dense_gradient(estimate, parameters)
        signs = Direction(tuple(DenseTerm(name, g.sign_(), -lr) for name, g in gradient.items()))
        decay = {s.name: 1.0 - lr * self.weight_decay for s in round.layout.specs if self.decays(s.name)}
        parameters.apply(Update(signs, decay, round.seed("round") if parameters.rounds else 0))
        return {"lr": lr}
