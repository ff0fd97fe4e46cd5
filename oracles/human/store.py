"""The inbox: rounds to be judged and the answers that people gave, in one SQLite file beside the journal.

Any number of processes and threads may use it at once (WAL mode). An answer that ``submit`` has returned for is on the
disk. Nothing is ever deleted: an answer that was taken back stays, marked as withdrawn. The journal is the truth about
the run; what lies here has merely not been acted on yet.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from blackbox.errors import UserError
from blackbox.seeds import derive_seed
from oracles.human.database import Database

T = TypeVar("T")


class StaleRound(UserError):
    """An answer that comes too late: the round is over, or this rater has answered it. It changed nothing."""


@dataclass(frozen=True)
class Item:
    """What a person is shown of one query.

    Attributes:
        query: the query's id.
        media_type: such as "image/png", "text/plain" or "application/json".
        data: the bytes.
        meta: facts about it, as JSON values.
        artifact: an id that says nothing about the query; the inbox gives it.
        point: float64 [d] as little-endian bytes, for going on from it; empty if it isn't kept.
    """

    query: str
    media_type: str
    data: bytes
    meta: dict[str, Any] = field(default_factory=dict)
    artifact: str = ""
    point: bytes = b""


@dataclass(frozen=True)
class Round:
    """Candidates that are judged together, in the order in which one rater sees them."""

    id: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Answer:
    """A rater's order: query ids, best first, an inner group is a tie; ``skipped`` were seen and not judged."""

    id: int
    round: str
    rater: str
    groups: tuple[tuple[str, ...], ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Rules:
    """What the oracle asks of every desk. It lies in the inbox, so that no two programs can differ about it.

    Attributes:
        undo_seconds: how long an answer can be taken back; it is final after that, once sealed, or with the round.
        quorum: how many raters hold a round at once; None for any number.
        lease_minutes: how long a rater holds a round without answering.
        check_every: answered rounds between two checks of a rater's consistency; 0 for none.
        weights: what each rater's word counts, by name; 1 for those who aren't named.
    """

    undo_seconds: float = 10.0
    quorum: int | None = None
    lease_minutes: float = 10.0
    check_every: int = 0
    weights: dict[str, float] = field(default_factory=dict)


class Inbox:
    """The file; made if it isn't there. UserError if it is no inbox, or a later version's."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.database = Database(path)

    @property
    def rules(self) -> Rules:
        """The rules in the file; the defaults if nobody has laid any down."""
        return Rules(**(self.database.noted("rules") or {}))

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self.database.note("rules", asdict(rules))

    # --- rounds ------------------------------------------------------------------------------------------------------

    def open_round(self, round_id: str, items: Sequence[Item]) -> None:
        """Put a round out to be judged, and close every other; what is known of it already is left as it is."""
        rows = [
            (i.query, round_id, n, secrets.token_urlsafe(16), i.media_type, i.data, json.dumps(i.meta))
            for n, i in enumerate(items)
        ]
        sources = [(i.query, hashlib.sha256(i.data).hexdigest(), i.point or None) for i in items]
        with self.database.opened(write=True) as database:
            now = time.time()
            database.execute("UPDATE rounds SET closed = ? WHERE id != ? AND closed IS NULL", (now, round_id))
            database.execute("INSERT OR IGNORE INTO rounds VALUES (?, ?, NULL)", (round_id, now))
            database.executemany("INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            database.executemany("INSERT OR IGNORE INTO sources VALUES (?, ?, ?)", sources)

    def close_round(self, round_id: str) -> None:
        """Take no more answers to a round."""
        with self.database.opened(write=True) as database:
            database.execute("UPDATE rounds SET closed = ? WHERE id = ? AND closed IS NULL", (time.time(), round_id))

    def known(self, round_id: str) -> list[str]:
        """The queries of a round that are shown already."""
        with self.database.opened() as database:
            return _queries(database, round_id)

    def point(self, query: str) -> bytes:
        """The point of a query that was shown, as in ``Item``; empty if it isn't kept."""
        with self.database.opened() as database:
            row = database.execute("SELECT point FROM sources WHERE query = ?", (query,)).fetchone()
        return b"" if row is None or row[0] is None else bytes(row[0])

    def opened(self, round_id: str) -> float | None:
        """When a round was opened, in seconds of the epoch."""
        with self.database.opened() as database:
            row = database.execute("SELECT opened FROM rounds WHERE id = ?", (round_id,)).fetchone()
        return None if row is None else float(row[0])

    def next_id(self, rater: str) -> str | None:
        """The open round, if this rater hasn't answered it and there is a seat at it, which is theirs from now on.

        As many raters as the quorum hold a round at once: those who answered it, and those who were shown it and
        haven't held it for longer than a lease.
        """
        rules = self.rules
        with self.database.opened(write=True) as database:
            row = database.execute(
                "SELECT id FROM rounds WHERE closed IS NULL AND NOT EXISTS (SELECT 1 FROM answers "
                "WHERE round = rounds.id AND rater = ? AND withdrawn IS NULL) ORDER BY opened LIMIT 1",
                (rater,),
            ).fetchone()
            if row is None or rules.quorum is None:
                return None if row is None else str(row[0])
            if others_at(database, row[0], rater) >= rules.quorum:
                return None
            now = time.time()
            database.execute(
                "INSERT INTO leases VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET until = excluded.until WHERE until <= ?",
                (row[0], rater, now + 60 * rules.lease_minutes, now),
            )
            return str(row[0])

    def next_round(self, rater: str) -> Round | None:
        """As ``next_id``, with all that is shown, in an order that is the rater's own."""
        found = self.next_id(rater)
        return None if found is None else self.round(found, rater)

    def round(self, round_id: str, rater: str = "") -> Round | None:
        """A round, open or not, in the order that is this rater's own."""
        with self.database.opened() as database:
            found = database.execute(
                "SELECT i.query, media_type, data, meta, artifact, point FROM items i "
                "LEFT JOIN sources s ON s.query = i.query WHERE round = ? ORDER BY place",
                (round_id,),
            )
            items = [Item(q, kind, data, json.loads(meta), a, point or b"") for q, kind, data, meta, a, point in found]
        return Round(round_id, tuple(shuffled(items, f"{rater} sees {round_id}"))) if items else None

    def artifact(self, artifact_id: str) -> tuple[str, bytes] | None:
        """(media type, bytes) of what an opaque id stands for."""
        with self.database.opened() as database:
            row = database.execute("SELECT media_type, data FROM items WHERE artifact = ?", (artifact_id,)).fetchone()
        return None if row is None else (row[0], row[1])

    # --- answers -----------------------------------------------------------------------------------------------------

    def submit(
        self, round_id: str, rater: str, groups: Sequence[Sequence[str]], skipped: Sequence[str], token: str
    ) -> int:
        """Keep an answer; its id. Queries that are not named count as skipped. No lease is needed.

        Args:
            token: a word of the caller's that names this answer: sent again, it is the same answer.

        Raises:
            StaleRound: the round is over or unknown, or this rater has answered it.
            UserError: a query of another round, or named twice.
        """
        with self.database.opened(write=True) as database:
            again = database.execute("SELECT id FROM answers WHERE token = ?", (token,)).fetchone()
            if again is not None:
                return int(again[0])
            state = database.execute("SELECT closed FROM rounds WHERE id = ?", (round_id,)).fetchone()
            if state is None or state[0] is not None:
                raise StaleRound(f"Round {round_id} is over. The answer came too late and changed nothing.")
            queries = _queries(database, round_id)
            named = [query for group in groups for query in group] + list(skipped)
            if len(set(named)) < len(named) or not set(named) <= set(queries):
                raise UserError(f"An answer to round {round_id} names each of its queries at most once; got {named}.")
            left = [query for query in queries if query not in named]
            body = json.dumps([list(group) for group in groups if group]), json.dumps([*skipped, *left])
            try:
                row = database.execute(
                    "INSERT INTO answers (round, rater, token, groups, skipped, given) VALUES (?, ?, ?, ?, ?, ?)",
                    (round_id, rater, token, *body, time.time()),
                )
            except sqlite3.IntegrityError:
                raise StaleRound(f"{rater or 'This rater'} has answered round {round_id} before.") from None
            assert row.lastrowid is not None
            return row.lastrowid

    def undo(self, answer_id: int, rater: str) -> None:
        """Take an answer back, and keep the seat; StaleRound once it is final, or the round over."""
        rules, now = self.rules, time.time()
        with self.database.opened(write=True) as database:
            changed = database.execute(
                "UPDATE answers SET withdrawn = ? WHERE id = ? AND rater = ? AND withdrawn IS NULL AND sealed IS NULL "
                "AND given > ? AND EXISTS (SELECT 1 FROM rounds WHERE id = round AND closed IS NULL)",
                (now, answer_id, rater, now - rules.undo_seconds),
            )
            if changed.rowcount == 0:
                raise StaleRound("It is too late to take this answer back: it has been acted on.")
            database.execute(
                "INSERT OR REPLACE INTO leases SELECT round, rater, ? FROM answers WHERE id = ?",
                (now + 60 * rules.lease_minutes, answer_id),
            )

    def seal(self, rater: str) -> None:
        """Make a rater's answers final: they have gone on to the next round."""
        with self.database.opened(write=True) as database:
            database.execute("UPDATE answers SET sealed = ? WHERE rater = ? AND sealed IS NULL", (time.time(), rater))

    def final(self, round_id: str) -> list[Answer]:
        """The answers to a round that can't be taken back any more, in the order they were given."""
        undo_seconds = self.rules.undo_seconds
        with self.database.opened() as database:
            rows = database.execute(
                "SELECT a.id, round, rater, groups, skipped FROM answers a JOIN rounds r ON r.id = round "
                "WHERE round = ? AND withdrawn IS NULL AND (sealed IS NOT NULL OR given <= ? OR closed IS NOT NULL) "
                "ORDER BY a.id",
                (round_id, time.time() - undo_seconds),
            ).fetchall()
        return [answer_of(row) for row in rows]


def answer_of(row: Sequence[Any]) -> Answer:
    """The answer of a row (id, round, rater, groups, skipped)."""
    i, round_id, rater, groups, skipped = row
    return Answer(i, round_id, rater, tuple(tuple(g) for g in json.loads(groups)), tuple(json.loads(skipped)))


def shuffled(things: Sequence[T], purpose: str) -> list[T]:
    """An order that depends on the purpose alone."""
    order = np.random.Generator(np.random.Philox(key=derive_seed(0, purpose))).permutation(len(things))
    return [things[i] for i in order]


def others_at(database: sqlite3.Connection, round_id: str, rater: str) -> int:
    """How many others answered a round or hold it."""
    row = database.execute(
        "SELECT COUNT(*) FROM (SELECT rater FROM answers WHERE round = ? AND withdrawn IS NULL "
        "UNION SELECT rater FROM leases WHERE round = ? AND until > ?) WHERE rater != ?",
        (round_id, round_id, time.time(), rater),
    ).fetchone()
    return int(row[0])


def _queries(database: sqlite3.Connection, round_id: str) -> list[str]:
    return [q for (q,) in database.execute("SELECT query FROM items WHERE round = ? ORDER BY place", (round_id,))]
