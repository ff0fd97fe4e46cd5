"""People as an oracle: what they are shown, where their answers wait, and how those become rankings."""

from oracles.human.oracle import People
from oracles.human.store import Inbox, Item, StaleRound

__all__ = ["Inbox", "Item", "People", "StaleRound"]
