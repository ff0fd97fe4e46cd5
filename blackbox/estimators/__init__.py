"""Estimators: noise x stencil, from answers to a direction."""

from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.estimators.two_point import CentralDifference, ForwardDifference, TwoPoint

__all__ = ["CentralDifference", "Estimate", "Estimator", "ForwardDifference", "Plan", "Round", "TwoPoint"]
