"""The inbox: rounds to be judged and the answers that people gave, in one SQLite file beside the journal.

Any number of processes and threads may use it at once (WAL mode). An answer that ``submit`` has returned for is on the
disk. Nothing is ever deleted: an answer that was taken back stays, marked as withdrawn. The journal is the truth about
the run; what lies here has merely not been acted on yet.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blackbox.errors import UserError
from blackbox.seeds import derive_seed

_TABLES = """
CREATE TABLE IF NOT EXISTS rounds (id TEXT PRIMARY KEY, opened REAL NOT NULL, closed REAL);
CREATE TABLE IF NOT EXISTS items (
    query TEXT PRIMARY KEY, round TEXT NOT NULL REFERENCES rounds(id), place INTEGER NOT NULL,
    artifact TEXT UNIQUE NOT NULL, media_type TEXT NOT NULL, data BLOB NOT NULL, meta TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS items_by_round ON items(round);
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY, round TEXT NOT NULL REFERENCES rounds(id), rater TEXT NOT NULL, token TEXT UNIQUE NOT NULL,
    groups TEXT NOT NULL, skipped TEXT NOT NULL, given REAL NOT NULL, sealed REAL, withdrawn REAL);
CREATE UNIQUE INDEX IF NOT EXISTS one_answer ON answers(round, rater) WHERE withdrawn IS NULL;
"""


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
    """

    query: str
    media_type: str
    data: bytes
    meta: dict[str, Any] = field(default_factory=dict)
    artifact: str = ""


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


class Inbox:
    """The file.

    Args:
        path: made if it isn't there.
        undo_seconds: how long an answer can be taken back; it is final after that, or once sealed.
    """

    def __init__(self, path: str | Path, undo_seconds: float = 10.0) -> None:
        self.path = Path(path)
        self.undo_seconds = undo_seconds
        with self._opened() as database:
            database.executescript(_TABLES)

    @contextmanager
    def _opened(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use, so that threads and forks share nothing."""
        database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            if not write:
                yield database
                return
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                database.execute("ROLLBACK")
                raise
        finally:
            database.close()

    def open_round(self, round_id: str, items: Sequence[Item]) -> None:
        """Put a round out to be judged, and close every other; what is known of it already is left as it is."""
        with self._opened(write=True) as database:
            now = time.time()
            database.execute("UPDATE rounds SET closed = ? WHERE id != ? AND closed IS NULL", (now, round_id))
            database.execute("INSERT OR IGNORE INTO rounds VALUES (?, ?, NULL)", (round_id, now))
            rows = [
                (i.query, round_id, n, secrets.token_urlsafe(16), i.media_type, i.data, json.dumps(i.meta))
                for n, i in enumerate(items)
            ]
            database.executemany("INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def close_round(self, round_id: str) -> None:
        """Take no more answers to a round."""
        with self._opened(write=True) as database:
            database.execute("UPDATE rounds SET closed = ? WHERE id = ? AND closed IS NULL", (time.time(), round_id))

    def known(self, round_id: str) -> list[str]:
        """The queries of a round that are shown already."""
        with self._opened() as database:
            return [
                q for (q,) in database.execute("SELECT query FROM items WHERE round = ? ORDER BY place", (round_id,))
            ]

    def opened(self, round_id: str) -> float | None:
        """When a round was opened, in seconds of the epoch."""
        with self._opened() as database:
            row = database.execute("SELECT opened FROM rounds WHERE id = ?", (round_id,)).fetchone()
        return None if row is None else float(row[0])

    def next_round(self, rater: str) -> Round | None:
        """The open round, if this rater hasn't answered it, in an order that is the rater's own."""
        with self._opened() as database:
            row = database.execute(
                "SELECT id FROM rounds WHERE closed IS NULL AND NOT EXISTS (SELECT 1 FROM answers "
                "WHERE round = rounds.id AND rater = ? AND withdrawn IS NULL) ORDER BY opened LIMIT 1",
                (rater,),
            ).fetchone()
        return None if row is None else self.round(row[0], rater)

    def round(self, round_id: str, rater: str = "") -> Round | None:
        """A round, open or not, in the order that is this rater's own."""
        with self._opened() as database:
            found = database.execute(
                "SELECT query, media_type, data, meta, artifact FROM items WHERE round = ? ORDER BY place", (round_id,)
            )
            items = [Item(q, media, data, json.loads(meta), artifact) for q, media, data, meta, artifact in found]
        seed = derive_seed(0, f"{rater} sees {round_id}")
        order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(items))
        return Round(round_id, tuple(items[i] for i in order)) if items else None

    def artifact(self, artifact_id: str) -> tuple[str, bytes] | None:
        """(media type, bytes) of what an opaque id stands for."""
        with self._opened() as database:
            row = database.execute("SELECT media_type, data FROM items WHERE artifact = ?", (artifact_id,)).fetchone()
        return None if row is None else (row[0], row[1])

    def submit(
        self, round_id: str, rater: str, groups: Sequence[Sequence[str]], skipped: Sequence[str], token: str
    ) -> int:
        """Keep an answer; its id. Queries that are not named count as skipped.

        Args:
            token: a word of the caller's that names this answer: sent again, it is the same answer.

        Raises:
            StaleRound: the round is over or unknown, or this rater has answered it.
            UserError: a query of another round, or named twice.
        """
        with self._opened(write=True) as database:
            again = database.execute("SELECT id FROM answers WHERE token = ?", (token,)).fetchone()
            if again is not None:
                return int(again[0])
            state = database.execute("SELECT closed FROM rounds WHERE id = ?", (round_id,)).fetchone()
            if state is None or state[0] is not None:
                raise StaleRound(f"Round {round_id} is over. The answer came too late and changed nothing.")
            queries = [q for (q,) in database.execute("SELECT query FROM items WHERE round = ?", (round_id,))]
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
        """Take an answer back; StaleRound once it is final, or the round over."""
        with self._opened(write=True) as database:
            changed = database.execute(
                "UPDATE answers SET withdrawn = ? WHERE id = ? AND rater = ? AND withdrawn IS NULL AND sealed IS NULL "
                "AND given > ? AND EXISTS (SELECT 1 FROM rounds WHERE id = round AND closed IS NULL)",
                (time.time(), answer_id, rater, time.time() - self.undo_seconds),
            )
            if changed.rowcount == 0:
                raise StaleRound("It is too late to take this answer back: it has been acted on.")

    def seal(self, rater: str) -> None:
        """Make a rater's answers final: they have gone on to the next round."""
        with self._opened(write=True) as database:
            database.execute("UPDATE answers SET sealed = ? WHERE rater = ? AND sealed IS NULL", (time.time(), rater))

    def final(self, round_id: str) -> list[Answer]:
        """The answers to a round that can't be taken back any more, in the order they were given."""
        with self._opened() as database:
            rows = database.execute(
                "SELECT id, round, rater, groups, skipped FROM answers WHERE round = ? AND withdrawn IS NULL "
                "AND (sealed IS NOT NULL OR given <= ?) ORDER BY id",
                (round_id, time.time() - self.undo_seconds),
            ).fetchall()
        return [
            Answer(i, r, rater, tuple(tuple(g) for g in json.loads(groups)), tuple(json.loads(skipped)))
            for i, r, rater, groups, skipped in rows
        ]
