"""Antithetic pairs: each direction z is asked with -z as well.

    g' = (g(z) + g(-z)) / 2

What is even in z cancels: the curvature along z, and the noise of a base value that all probes share. Around a
forward difference this is the central difference, at 2q + 1 queries. On a linear function nothing is gained: the same
queries spent on new directions would halve the variance. It is sound where z and -z are equally likely, as they are
under every built-in law but ``coordinate``, where the mean is over the directions' choice alone and is sound too.
"""

from __future__ import annotations

from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers
from blackbox.probe import Probe
from blackbox.variance.base import Wrapper, mean_of
from blackbox.variance.parts import Part, Parts, require_stateless


class Antithetic(Wrapper):
    """The mean over z and -z.

    Args:
        estimator: one that asks along z only, such as a forward difference.
    """

    def __init__(self, estimator: Estimator) -> None:
        super().__init__(estimator)
        require_stateless("Antithetic", estimator)

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """Both sides; a shared base value is asked once.

        Raises:
            UserError: the estimator inside asks both sides itself, or about candidates that have no mirror image.
        """
        plan = self._parts(round).next(phase, answers)
        terms = [query.candidate.terms for query in plan.queries if isinstance(query.candidate, Probe)]
        if len(set(terms)) < len(terms):
            raise UserError(
                f"Antithetic around {type(self.estimator).__name__}: it asks along z and -z already, so every query "
                "would be asked twice. Leave antithetic out, or put a one-sided estimator inside."
            )
        return plan

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The mean of the two sides; a direction of which one side failed is left out."""
        return mean_of([estimate for estimate in self._parts(round).estimates(answers) if estimate is not None])

    def _parts(self, round: Round) -> Parts:
        return Parts(round, [Part(self.estimator, round), Part(self.estimator, round, mirrored=True)], paired=True)
