"""Oracles: they judge candidates by numbers, by an order, or by asking people."""

from oracles.base import BaseOracle, HumanOracle, LocalOracle, Oracle, RankingOracle, ValueOracle
from oracles.cached import Cached
from oracles.derivative import DerivativeOracle
from oracles.function import FunctionOracle
from oracles.gradient import GradientOracle
from oracles.nodes import NodeOracle
from oracles.objective import ObjectiveOracle
from oracles.ranking import Pairwise, Ranked, Rater
from oracles.replayed import ReplayedComparisons, ReplayedRatings
from oracles.timed_out import TimedOut
from oracles.wrappers import Counted, Noisy, Retried, Wrapper

__all__ = [
    "BaseOracle",
    "Cached",
    "Counted",
    "DerivativeOracle",
    "FunctionOracle",
    "GradientOracle",
    "HumanOracle",
    "LocalOracle",
    "NodeOracle",
    "Noisy",
    "ObjectiveOracle",
    "Oracle",
    "Pairwise",
    "Ranked",
    "RankingOracle",
    "Rater",
    "ReplayedComparisons",
    "ReplayedRatings",
    "Retried",
    "TimedOut",
    "ValueOracle",
    "Wrapper",
]
