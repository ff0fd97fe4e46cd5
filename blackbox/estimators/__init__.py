"""Estimators: noise x stencil, from answers to a direction."""

from blackbox.estimators.ars import AugmentedRandomSearch
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.estimators.comparison import OneBit
from blackbox.estimators.coordinate import CoordinateWise
from blackbox.estimators.curvature_scaled import CurvatureScaled
from blackbox.estimators.evolution import RankEvolution
from blackbox.estimators.forward_gradient import ForwardGradient
from blackbox.estimators.fzoo import SpreadNormalized
from blackbox.estimators.guided import Guided
from blackbox.estimators.hessian_diagonal import HessianDiagonal
from blackbox.estimators.history_aligned import HistoryAligned
from blackbox.estimators.hizoo import HiZOO
from blackbox.estimators.hybrid import Hybrid
from blackbox.estimators.node_perturbation import NodePerturbation
from blackbox.estimators.orthogonal import Orthogonal
from blackbox.estimators.ranking import RankEstimator
from blackbox.estimators.regression import Regression
from blackbox.estimators.self_guided import SelfGuided
from blackbox.estimators.two_point import CentralDifference, ForwardDifference, TwoPoint

__all__ = [
    "AugmentedRandomSearch",
    "CentralDifference",
    "CoordinateWise",
    "CurvatureScaled",
    "Estimate",
    "Estimator",
    "ForwardDifference",
    "ForwardGradient",
    "Guided",
    "HessianDiagonal",
    "HiZOO",
    "HistoryAligned",
    "Hybrid",
    "NodePerturbation",
    "OneBit",
    "Orthogonal",
    "Plan",
    "RankEstimator",
    "RankEvolution",
    "Regression",
    "Round",
    "SelfGuided",
    "SpreadNormalized",
    "TwoPoint",
]
