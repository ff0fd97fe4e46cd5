"""Where a run's people stand: rounds done, who has answered, what is being rendered."""

from __future__ import annotations

from dataclasses import dataclass

from oracles.human.history import CLOSED
from oracles.human.store import Inbox, others_at

RENDERING = "rendering"


@dataclass(frozen=True)
class Standing:
    """As one rater sees it.

    Attributes:
        open: the id of the open round.
        done: rounds that were judged to their end.
        mine: answers that this rater gave, in all.
        answered: answers to the open round.
        quorum: answers that a round waits for; None if nobody said.
        held: whether others hold the open round, so that this rater isn't needed now.
        rendering: (candidates rendered, of how many) while the next round is being made.
    """

    open: str | None
    done: int
    mine: int
    answered: int
    quorum: int | None
    held: bool
    rendering: tuple[int, int] | None


def standing(inbox: Inbox, rater: str) -> Standing:
    """Where things stand now."""
    quorum, rendering = inbox.rules.quorum, inbox.database.noted(RENDERING)
    with inbox.database.opened() as database:
        row = database.execute("SELECT id FROM rounds WHERE closed IS NULL ORDER BY opened LIMIT 1").fetchone()
        (done,) = database.execute(f"SELECT COUNT(*) FROM ({CLOSED})").fetchone()
        (mine,) = database.execute(
            "SELECT COUNT(*) FROM answers WHERE rater = ? AND withdrawn IS NULL", (rater,)
        ).fetchone()
        answered, answered_myself, others = 0, False, 0
        if row is not None:
            raters = database.execute("SELECT rater FROM answers WHERE round = ? AND withdrawn IS NULL", row).fetchall()
            answered, answered_myself = len(raters), (rater,) in raters
            others = others_at(database, row[0], rater)
    held = row is not None and not answered_myself and quorum is not None and others >= quorum
    now_rendering = None if rendering is None else (int(rendering[0]), int(rendering[1]))
    return Standing(row and str(row[0]), int(done), int(mine), answered, quorum, held, now_rendering)
