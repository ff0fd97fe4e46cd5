"""Policies judged by whole episodes in gymnasium environments."""

from problems.control.problem import Control

__all__ = ["Control"]
