"""Preferences that people once recorded: a scoring model fitted to them, and the choice of a recorded item."""

from problems.preferences.items import RecordedItems
from problems.preferences.problem import Preferences

__all__ = ["Preferences", "RecordedItems"]
