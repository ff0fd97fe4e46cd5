"""The inbox's SQLite file: its tables, and connections to it.

Tables are only ever added, and rows only marked, never deleted. So a file of an earlier version gains what it lacks
when it is opened; one of a later version is refused.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blackbox.errors import UserError

VERSION = 1

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

CREATE TABLE IF NOT EXISTS sources (query TEXT PRIMARY KEY REFERENCES items(query), digest TEXT NOT NULL, point BLOB);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL, noted REAL NOT NULL);
CREATE TABLE IF NOT EXISTS leases (round TEXT NOT NULL, rater TEXT NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (round, rater));
CREATE TABLE IF NOT EXISTS pins (
    id INTEGER PRIMARY KEY, query TEXT NOT NULL REFERENCES items(query), rater TEXT NOT NULL, given REAL NOT NULL,
    removed REAL);
CREATE UNIQUE INDEX IF NOT EXISTS one_pin ON pins(query, rater) WHERE removed IS NULL;
CREATE TABLE IF NOT EXISTS wishes (
    place INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, rater TEXT NOT NULL, radius REAL NOT NULL,
    query TEXT REFERENCES items(query), round TEXT, given REAL NOT NULL, taken REAL);
CREATE TABLE IF NOT EXISTS checks (
    id INTEGER PRIMARY KEY, rater TEXT NOT NULL, better TEXT NOT NULL, worse TEXT NOT NULL, offered REAL NOT NULL,
    said TEXT, agreed INTEGER, given REAL);
"""


class Database:
    """The file; made if it isn't there.

    Raises:
        UserError: it is something else, or was written by a later version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with self.opened() as database:
                (version,) = database.execute("PRAGMA user_version").fetchone()
                if version > VERSION:
                    raise UserError(f"{path} was written by a later version of blackbox. Use that one.")
                database.executescript(_TABLES)
                if version < VERSION:
                    database.execute(f"PRAGMA user_version = {VERSION}")
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path} can't be used as an inbox: {error}.") from error

    @contextmanager
    def opened(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use, so that threads and forks share nothing; writes are all or nothing."""
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

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name, instead of the one before."""
        with self.opened(write=True) as database:
            database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (name, json.dumps(value), time.time()))

    def noted(self, name: str) -> Any:
        """The value of a name; None if there is none."""
        with self.opened() as database:
            row = database.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])
