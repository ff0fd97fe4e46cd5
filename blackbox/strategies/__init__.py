"""Strategies: ask and tell over queries."""

from blackbox.strategies.base import Strategy
from blackbox.strategies.gradient import GradientStrategy, LineSearch

__all__ = ["GradientStrategy", "LineSearch", "Strategy"]
