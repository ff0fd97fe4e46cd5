"""People as an oracle: what they are shown, where their answers wait, and how those become rankings."""

from oracles.human.checks import Checks
from oracles.human.history import Pins, history
from oracles.human.oracle import People
from oracles.human.store import Inbox, Item, Rules, StaleRound
from oracles.human.wishes import Wishes

__all__ = ["Checks", "Inbox", "Item", "People", "Pins", "Rules", "StaleRound", "Wishes", "history"]
