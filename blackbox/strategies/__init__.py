"""Strategies: ask and tell over queries."""

from blackbox.strategies.base import Strategy
from blackbox.strategies.cma import CMAES
from blackbox.strategies.gld import GLD
from blackbox.strategies.gradient import GradientStrategy, LineSearch
from blackbox.strategies.line_search import RankLineSearch
from blackbox.strategies.preferential import PreferentialBayes
from blackbox.strategies.trajectory import TrajectoryProcess

__all__ = [
    "CMAES",
    "GLD",
    "GradientStrategy",
    "LineSearch",
    "PreferentialBayes",
    "RankLineSearch",
    "Strategy",
    "TrajectoryProcess",
]
