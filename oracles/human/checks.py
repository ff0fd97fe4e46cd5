"""Does a rater agree with themself? Now and then two candidates that they put in order come again, as if new.

What they say then is kept here and nowhere else: it never reaches the run.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from blackbox.errors import UserError
from blackbox.seeds import derive_seed
from oracles.human.cards import Card, cards_of
from oracles.human.store import Inbox, StaleRound, answer_of, shuffled


@dataclass(frozen=True)
class Check:
    """Two candidates that a rater ordered strictly once, in an order that tells nothing."""

    id: int
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Consistency:
    """How often a rater, asked again, said the same. A tie is no agreement; a skipped check isn't counted."""

    rater: str
    agreed: int
    asked: int


class Checks:
    """The checks in an inbox."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox, self.database = inbox, inbox.database

    def due(self, rater: str) -> Check | None:
        """The check that this rater is to be offered now; the same one until it is answered."""
        every = self.inbox.rules.check_every
        if every == 0:
            return None
        with self.database.opened(write=True) as database:
            row = database.execute(
                "SELECT id, better, worse FROM checks WHERE rater = ? AND given IS NULL", (rater,)
            ).fetchone() or self._new(database, rater, every)
            if row is None or set(row[1:]) & _before_everyone(database):
                return None
            return Check(row[0], tuple(cards_of(database, shuffled(row[1:], f"{rater} checks {row[0]}"))))

    def _new(self, database: sqlite3.Connection, rater: str, every: int) -> tuple[int, str, str] | None:
        asked = database.execute("SELECT better, worse FROM checks WHERE rater = ?", (rater,)).fetchall()
        rows = database.execute(
            "SELECT a.id, round, rater, groups, skipped FROM answers a JOIN rounds r ON r.id = round "
            "WHERE rater = ? AND withdrawn IS NULL AND closed IS NOT NULL ORDER BY a.id",
            (rater,),
        ).fetchall()
        if len(rows) // every <= len(asked):
            return None
        answers = [answer_of(row) for row in rows]
        earlier = answers[:-1] or answers  # the last round is still before everyone's eyes
        orders = [answer.groups for answer in earlier]
        pairs = [(a, b) for groups in orders for g, h in combinations(groups, 2) for a in g for b in h]
        shown = _before_everyone(database)
        pairs = [pair for pair in pairs if pair not in asked and not set(pair) & shown]
        if not pairs:
            return None
        draw = np.random.Generator(np.random.Philox(key=derive_seed(0, f"check {len(asked)} of {rater}")))
        better, worse = pairs[draw.integers(len(pairs))]
        made = database.execute(
            "INSERT INTO checks (rater, better, worse, offered) VALUES (?, ?, ?, ?)",
            (rater, better, worse, time.time()),
        )
        assert made.lastrowid is not None
        return made.lastrowid, better, worse

    def answer(self, check: int, rater: str, artifacts: Sequence[Sequence[str]]) -> None:
        """Keep what a rater said: groups of opaque ids, best first; none if they can't say.

        Raises:
            StaleRound: there is no such check, or it was answered with something else.
            UserError: it names what isn't in the check.
        """
        with self.database.opened(write=True) as database:
            row = database.execute(
                "SELECT better, worse, said FROM checks WHERE id = ? AND rater = ?", (check, rater)
            ).fetchone()
            if row is None:
                raise StaleRound("There is no such check.")
            better, worse, before = row
            query = {card.artifact: card.query for card in cards_of(database, [better, worse])}
            try:
                said = [[query[one] for one in group] for group in artifacts if group]
            except KeyError as error:
                raise UserError(f"This check has no candidate {error}.") from None
            if before is not None:
                if json.loads(before) == said:
                    return  # the same answer, sent twice
                raise StaleRound("This check was answered before.")
            named = [one for group in said for one in group]
            if len(set(named)) < len(named):
                raise UserError("An answer names a candidate at most once.")
            agreed = said == [[better], [worse]] if len(named) == 2 else None
            database.execute(
                "UPDATE checks SET said = ?, agreed = ?, given = ? WHERE id = ?",
                (json.dumps(said), agreed, time.time(), check),
            )

    def consistency(self) -> list[Consistency]:
        """Every rater who answered a check, by name."""
        with self.database.opened() as database:
            rows = database.execute(
                "SELECT rater, SUM(agreed), COUNT(*) FROM checks WHERE agreed IS NOT NULL GROUP BY rater ORDER BY rater"
            ).fetchall()
        return [Consistency(rater, int(agreed), int(asked)) for rater, agreed, asked in rows]


def _before_everyone(database: sqlite3.Connection) -> set[str]:
    """Queries that look like one of the open round: the best so far often comes again, to be compared with."""
    rows = database.execute(
        "SELECT s.query FROM sources s WHERE s.digest IN (SELECT digest FROM sources JOIN items USING (query) "
        "JOIN rounds r ON r.id = round WHERE closed IS NULL)"
    )
    return {query for (query,) in rows}
