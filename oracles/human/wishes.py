"""What people ask of the search itself: to go on from a candidate of theirs, closer by or further afield.

A wish waits here until the run has moved on with it. It carries an id, by which the run's session knows one that it has
acted on; so a run that is killed in between neither loses it nor acts on it twice.
"""

from __future__ import annotations

import math
import secrets
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blackbox.errors import UserError
from oracles.human.store import Inbox, StaleRound

STEP = 1.4
LIMIT = 1000.0
MOST_NUMBERS = 1_000_000
"""A candidate of more numbers isn't kept, and can't be gone on from."""


@dataclass(frozen=True)
class Wish:
    """One wish.

    Attributes:
        id: names it for good.
        rater: who asked.
        radius: a factor on the search's radius.
        query: the candidate to go on from; None where only the radius was asked for.
        round: the round that was given up for it.
        given: when, in seconds of the epoch.
    """

    id: str
    rater: str
    radius: float
    query: str | None
    round: str | None
    given: float


class Wishes:
    """The wishes in an inbox."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox, self.database = inbox, inbox.database

    @property
    def factor(self) -> float:
        """The factor on the configured radius that all wishes make."""
        return math.prod(wish.radius for wish in self.all())

    def scale(self, rater: str, factor: float) -> float:
        """Ask for another radius from the next round on; the factor that all wishes make.

        Raises:
            UserError: the factor is not positive, or all together would pass 1000 or 1/1000.
        """
        if not 0 < factor < math.inf:
            raise UserError(f"A factor on the radius is positive, not {factor}.")
        with self.database.opened(write=True) as database:  # two at once would both pass the limit
            together = factor * math.prod(float(radius) for (radius,) in database.execute("SELECT radius FROM wishes"))
            if not 1 / LIMIT <= together <= LIMIT:
                raise UserError("That is as far as the radius goes: a factor of 1000 either way.")
            _add(database, rater, factor, None, None)
        return together

    def branch(self, rater: str, artifact: str) -> None:
        """Ask to go on from a candidate that was judged; the open round is closed at once.

        Its answers count if they are as many as the quorum: it was over then, and the wish comes after it.

        Raises:
            UserError: no such candidate, or its point isn't kept.
            StaleRound: it is still being judged.
        """
        quorum = self.inbox.rules.quorum
        with self.database.opened(write=True) as database:
            row = database.execute(
                "SELECT i.query, r.closed, s.point IS NOT NULL FROM items i JOIN rounds r ON r.id = i.round "
                "LEFT JOIN sources s ON s.query = i.query WHERE i.artifact = ?",
                (artifact,),
            ).fetchone()
            if row is None:
                raise UserError("There is no such candidate to go on from.")
            query, closed, has_point = row
            if closed is None:
                raise StaleRound("This candidate is being judged. Go on from it once its round is over.")
            if not has_point:
                raise UserError("The search can't go on from this candidate: its point isn't kept.")
            left = database.execute(
                "SELECT id FROM rounds WHERE closed IS NULL AND "
                "(SELECT COUNT(*) FROM answers WHERE round = rounds.id AND withdrawn IS NULL) < ?",
                (math.inf if quorum is None else quorum,),
            ).fetchone()
            database.execute("UPDATE rounds SET closed = ? WHERE closed IS NULL", (time.time(),))
            _add(database, rater, 1.0, query, left and left[0])

    def all(self, untaken: bool = False) -> list[Wish]:
        """The wishes in the order they were given."""
        where = "WHERE taken IS NULL" if untaken else ""
        with self.database.opened() as database:
            rows = database.execute(
                f"SELECT id, rater, radius, query, round, given FROM wishes {where} ORDER BY place"
            ).fetchall()
        return [Wish(*row) for row in rows]

    def take(self, ids: Iterable[str]) -> None:
        """The run has moved on with these."""
        with self.database.opened(write=True) as database:
            now = time.time()
            database.executemany("UPDATE wishes SET taken = ? WHERE id = ?", [(now, i) for i in ids])

    def closed_by(self, round_id: str) -> str | None:
        """Who had a round closed in order to go on from elsewhere; None if it ended otherwise, or goes on."""
        with self.database.opened() as database:
            row = database.execute("SELECT rater FROM wishes WHERE round = ?", (round_id,)).fetchone()
        return None if row is None else str(row[0])

    def point(self, wish: Wish) -> npt.NDArray[np.float64] | None:
        """The point [d] to go on from; None where only the radius was asked for."""
        with self.database.opened() as database:
            row = database.execute("SELECT point FROM sources WHERE query = ?", (wish.query,)).fetchone()
        return None if row is None else np.frombuffer(row[0], "<f8").astype(np.float64)


def _add(database: sqlite3.Connection, rater: str, radius: float, query: str | None, round_id: str | None) -> None:
    database.execute(
        "INSERT INTO wishes (id, rater, radius, query, round, given) VALUES (?, ?, ?, ?, ?, ?)",
        (secrets.token_urlsafe(12), rater, radius, query, round_id, time.time()),
    )
