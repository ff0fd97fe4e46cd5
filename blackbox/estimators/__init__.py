"""Estimators: noise x stencil, from answers to a direction."""

from blackbox.estimators.ars import AugmentedRandomSearch
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.estimators.comparison import OneBit
from blackbox.estimators.evolution import RankEvolution
from blackbox.estimators.ranking import RankEstimator
from blackbox.estimators.two_point import CentralDifference, ForwardDifference, TwoPoint

__all__ = [
    "AugmentedRandomSearch",
    "CentralDifference",
    "Estimate",
    "Estimator",
    "ForwardDifference",
    "OneBit",
    "Plan",
    "RankEstimator",
    "RankEvolution",
    "Round",
    "TwoPoint",
]
