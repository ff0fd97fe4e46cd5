"""The best so far: the winners of closed rounds, what people asked of the search in between, and what raters pinned."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blackbox.errors import UserError
from blackbox.feedback import Answers, Ranking
from blackbox.order import order_of
from oracles.human.cards import Card, cards_of
from oracles.human.store import Answer, Inbox, answer_of
from oracles.human.wishes import Wish, Wishes

CLOSED = """
SELECT id, closed FROM rounds WHERE closed IS NOT NULL AND id NOT IN (SELECT round FROM wishes WHERE round IS NOT NULL)
AND EXISTS (SELECT 1 FROM answers WHERE round = rounds.id AND withdrawn IS NULL) ORDER BY closed, rowid
"""
"""The rounds that were judged to their end."""


@dataclass(frozen=True)
class Past:
    """One closed round.

    Attributes:
        number: 1 is the first.
        raters: who judged it.
        best: the winner of the pooled order of its answers; several if they tie, none if nobody judged any.
        wishes: what people asked between the round before and this one's end.
    """

    number: int
    raters: tuple[str, ...]
    best: tuple[Card, ...]
    wishes: tuple[Wish, ...]


def history(inbox: Inbox, before: int | None = None, limit: int = 12) -> list[Past]:
    """Closed rounds, newest first: at most ``limit`` of those with a number below ``before``.

    Rounds that nobody answered, or that were closed to go on from elsewhere, aren't among them.
    """
    weights, wishes = inbox.rules.weights, Wishes(inbox).all()
    with inbox.database.opened() as database:
        closed = database.execute(CLOSED).fetchall()
        last = len(closed) if before is None else max(0, min(before - 1, len(closed)))
        found = []
        for number in range(last, max(0, last - limit), -1):
            round_id, ended = closed[number - 1]
            began = closed[number - 2][1] if number > 1 else 0.0
            answers = _answers(database, round_id)
            best = cards_of(database, _best(answers, weights))
            between = tuple(wish for wish in wishes if began <= wish.given < ended)
            found.append(Past(number, tuple(answer.rater for answer in answers), tuple(best), between))
    return found


def since(inbox: Inbox) -> list[Wish]:
    """What people asked since the last round of the history was closed."""
    with inbox.database.opened() as database:
        closed = database.execute(CLOSED).fetchall()
    return [wish for wish in Wishes(inbox).all() if not closed or wish.given >= closed[-1][1]]


def _answers(database: sqlite3.Connection, round_id: str) -> list[Answer]:
    rows = database.execute(
        "SELECT id, round, rater, groups, skipped FROM answers WHERE round = ? AND withdrawn IS NULL ORDER BY id",
        (round_id,),
    )
    return [answer_of(row) for row in rows.fetchall()]


def _best(answers: Sequence[Answer], weights: dict[str, float]) -> list[str]:
    """Who wins most pairs, over all raters; a round of a single candidate that was judged has it as its best."""
    ids = sorted({query for answer in answers for group in answer.groups for query in group})
    if not ids:
        return []
    rankings = [Ranking(a.groups, a.skipped, a.rater, weights.get(a.rater, 1.0)) for a in answers]
    wins = order_of(Answers(rankings), ids).wins
    return [ids[i] for i in np.flatnonzero(wins == wins.max())]


class Pins:
    """What raters want to find again; each sees their own."""

    def __init__(self, inbox: Inbox) -> None:
        self.database = inbox.database

    def add(self, rater: str, artifact: str) -> None:
        """Pin a candidate; UserError if there is none of that id. Pinned twice is pinned once."""
        with self.database.opened(write=True) as database:
            row = database.execute("SELECT query FROM items WHERE artifact = ?", (artifact,)).fetchone()
            if row is None:
                raise UserError("There is no such candidate to pin.")
            database.execute(
                "INSERT OR IGNORE INTO pins (query, rater, given) VALUES (?, ?, ?)", (row[0], rater, time.time())
            )

    def remove(self, rater: str, artifact: str) -> None:
        """Unpin a candidate; nothing happens if it wasn't pinned."""
        with self.database.opened(write=True) as database:
            database.execute(
                "UPDATE pins SET removed = ? WHERE rater = ? AND removed IS NULL "
                "AND query = (SELECT query FROM items WHERE artifact = ?)",
                (time.time(), rater, artifact),
            )

    def of(self, rater: str) -> list[Card]:
        """A rater's pins, newest first."""
        with self.database.opened() as database:
            rows = database.execute(
                "SELECT query FROM pins WHERE rater = ? AND removed IS NULL ORDER BY id DESC", (rater,)
            ).fetchall()
            return cards_of(database, [query for (query,) in rows])
