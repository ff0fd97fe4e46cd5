"""The mean of several estimates: variance falls as 1 / repeats.

With directions alone, ``probes`` of the estimator does the same. Repeats on batches of their own reduce the noise of
the data as well, at no more queries.
"""

from __future__ import annotations

from dataclasses import replace

from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers
from blackbox.seeds import derive_seed
from blackbox.variance.base import Wrapper, mean_of
from blackbox.variance.parts import Part, Parts, require_stateless


class Average(Wrapper):
    """The mean over repeats.

    Args:
        estimator: asked in every repeat, along new directions.
        repeats: how many.
        own_batches: let every repeat have a minibatch of its own instead of the step's.
    """

    def __init__(self, estimator: Estimator, repeats: int = 4, own_batches: bool = False) -> None:
        super().__init__(estimator)
        if repeats < 1:
            raise UserError(f"repeats must be at least 1, not {repeats}.")
        require_stateless("Average", estimator)
        self.repeats = repeats
        self.own_batches = own_batches

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """All repeats side by side."""
        return repeated(self.estimator, round, self.repeats, self.own_batches).next(phase, answers)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The mean over the repeats that have an answer."""
        parts = repeated(self.estimator, round, self.repeats, self.own_batches)
        return mean_of([estimate for estimate in parts.estimates(answers) if estimate is not None])


def repeated(estimator: Estimator, round: Round, repeats: int, own_batches: bool) -> Parts:
    """Parts that differ in their directions, and perhaps in their batches."""
    rounds = [replace(round, run_seed=derive_seed(round.run_seed, "repeat", i)) for i in range(repeats)]
    if own_batches:
        rounds = [replace(r, context=replace(r.context, batch_seed=r.seed("batch"))) for r in rounds]
    return Parts(round, [Part(estimator, one) for one in rounds])
