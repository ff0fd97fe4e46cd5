"""What the wrappers share: each is an estimator around an estimator, so they nest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np

from blackbox.direction import Direction
from blackbox.estimators.base import Estimate, Estimator
from blackbox.feedback import Feedback
from blackbox.noise import Law
from blackbox.variance.terms import laws_of, merged


class Wrapper(Estimator):
    """An estimator around another one; it takes what that one takes.

    Args:
        estimator: the one inside.
    """

    def __init__(self, estimator: Estimator) -> None:
        self.estimator = estimator

    @property
    def accepts(self) -> frozenset[type[Feedback]]:  # type: ignore[override]
        """What the estimator inside accepts."""
        return self.estimator.accepts

    @property
    def per_example(self) -> bool:  # type: ignore[override]
        """Whether the estimator inside wants values per example."""
        return self.estimator.per_example

    @cached_property
    def laws(self) -> Sequence[Law]:
        """The laws of the directions, of all estimators inside."""
        return list(dict.fromkeys(laws_of(self)))

    def state_dict(self) -> dict[str, Any]:
        """That of the estimator inside, if it has one."""
        inner = self.estimator.state_dict()
        return {"estimator": inner} if inner else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        self.estimator.load_state_dict(state.get("estimator", {}))


def mean_of(estimates: Sequence[Estimate], shares: Sequence[float] | None = None) -> Estimate:
    """The weighted mean of estimates; no direction if there is none."""
    if not estimates:
        return Estimate(Direction())
    weights = np.ones(len(estimates)) if shares is None else np.array(shares)
    weights = weights / weights.sum()
    terms = [t for w, e in zip(weights, estimates, strict=True) for t in (e.direction * float(w)).terms]
    proposals = tuple(proposal for estimate in estimates for proposal in estimate.proposals)
    return Estimate(merged(Direction(tuple(terms))), mean_info(estimates), proposals)


def mean_info(estimates: Sequence[Estimate]) -> dict[str, float]:
    """The mean of each fact that they have in common."""
    common = [key for key in estimates[0].info if all(key in estimate.info for estimate in estimates)]
    return {key: fmean(estimate.info[key] for estimate in estimates) for key in common}
