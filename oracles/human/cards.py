"""What a desk needs to know of items without loading them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from oracles.human.database import Database
from oracles.human.store import shuffled

_CARDS = """
SELECT i.query, i.round, i.artifact, i.media_type, r.closed IS NULL, s.point IS NOT NULL, EXISTS (
    SELECT 1 FROM rounds o JOIN items j ON j.round = o.id JOIN sources t ON t.query = j.query
    WHERE o.closed IS NULL AND o.id != i.round AND t.digest = s.digest)
FROM items i JOIN rounds r ON r.id = i.round LEFT JOIN sources s ON s.query = i.query
"""


@dataclass(frozen=True)
class Card:
    """One item.

    Attributes:
        query: the query's id; not for a rater's eyes, as it tells the place in the round.
        round: the round's id.
        artifact: the opaque id.
        media_type: of what is shown.
        open: whether its round is being judged.
        has_point: whether its point is kept, to go on from it.
        shown_again: whether the same bytes are among the candidates of the open round. To show it as an earlier best
            would tell which candidate of the open round that is.
    """

    query: str
    round: str
    artifact: str
    media_type: str
    open: bool
    has_point: bool
    shown_again: bool


def round_cards(database: Database, round_id: str, rater: str) -> list[Card]:
    """A round in the order that is this rater's own, as ``Inbox.round`` gives it; empty if it is unknown."""
    with database.opened() as connection:
        rows = connection.execute(f"{_CARDS} WHERE i.round = ? ORDER BY i.place", (round_id,)).fetchall()
    return shuffled([_card(row) for row in rows], f"{rater} sees {round_id}")


def card_of(database: Database, artifact: str) -> Card | None:
    """What an opaque id stands for."""
    with database.opened() as connection:
        row = connection.execute(f"{_CARDS} WHERE i.artifact = ?", (artifact,)).fetchone()
    return None if row is None else _card(row)


def cards_of(connection: sqlite3.Connection, queries: Sequence[str]) -> list[Card]:
    """The cards of some queries, in their order."""
    marks = ", ".join("?" * len(queries))
    rows = connection.execute(f"{_CARDS} WHERE i.query IN ({marks})", list(queries)).fetchall()
    found = {row[0]: _card(row) for row in rows}
    return [found[query] for query in queries if query in found]


def _card(row: Sequence[object]) -> Card:
    query, round_id, artifact, media_type, is_open, has_point, again = row
    return Card(str(query), str(round_id), str(artifact), str(media_type), bool(is_open), bool(has_point), bool(again))
