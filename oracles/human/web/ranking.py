"""Ranking over HTTP: the open round, answers to it, and where things stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from blackbox.errors import UserError
from oracles.human.cards import Card, round_cards
from oracles.human.checks import Checks
from oracles.human.history import Pins
from oracles.human.standing import standing
from oracles.human.store import Inbox
from oracles.human.web.messages import CheckOrder, Message, Name, Order, Undo, read
from oracles.human.wishes import Wishes


def routes(inbox_of: Callable[[str], Inbox]) -> APIRouter:
    """What the board needs."""
    router = APIRouter(prefix="/api")

    @router.get("/round")
    def open_round(run: str, rater: Name) -> dict[str, Any]:
        """What there is to judge now: a check that is due, else the open round, else nothing."""
        inbox = inbox_of(run)
        check = Checks(inbox).due(rater)
        found = inbox.next_id(rater) if check is None else None
        shown: dict[str, Any] | None = None
        if check is not None:
            shown = {"check": check.id, "id": f"check {check.id}", "items": _items(inbox, rater, check.cards)}
        elif found is not None:
            cards = round_cards(inbox.database, found, rater)
            shown = {"check": None, "id": found, "items": _items(inbox, rater, cards)}
        return {"round": shown, "progress": _progress(inbox, rater)}

    @router.get("/progress")
    def progress(run: str, rater: Name, round: str = "") -> dict[str, Any]:
        """Where things stand; ``over`` says in words that a round has ended, and why."""
        inbox = inbox_of(run)
        found = _progress(inbox, rater)
        return {**found, "over": None if found["open"] == round else _why_over(inbox, round)}

    @router.post("/submit")
    def submit(order: Annotated[Order, Depends(read(Order))]) -> dict[str, Any]:
        inbox = inbox_of(order.run)
        query = {card.artifact: card.query for card in round_cards(inbox.database, order.round, order.rater)}
        try:
            groups = [[query[one] for one in group] for group in order.groups] if query else []
            skipped = [query[one] for one in order.skipped] if query else []
        except KeyError as error:
            raise UserError(f"Round {order.round} has no candidate {error}.") from None
        answer = inbox.submit(order.round, order.rater, groups, skipped, order.token)
        return {"answer": answer, "undo_seconds": inbox.rules.undo_seconds}

    @router.post("/check")
    def check(order: Annotated[CheckOrder, Depends(read(CheckOrder))]) -> dict[str, Any]:
        Checks(inbox_of(order.run)).answer(order.check, order.rater, order.groups)
        return {}

    @router.post("/undo")
    def undo(wanted: Annotated[Undo, Depends(read(Undo))]) -> dict[str, Any]:
        inbox_of(wanted.run).undo(wanted.answer, wanted.rater)
        return {}

    @router.post("/seal")
    def seal(message: Annotated[Message, Depends(read(Message))]) -> dict[str, Any]:
        inbox_of(message.run).seal(message.rater)
        return {}

    return router


def _items(inbox: Inbox, rater: str, cards: Sequence[Card]) -> list[dict[str, Any]]:
    pinned = {card.artifact for card in Pins(inbox).of(rater)}
    return [{"id": c.artifact, "media_type": c.media_type, "pinned": c.artifact in pinned} for c in cards]


def _progress(inbox: Inbox, rater: str) -> dict[str, Any]:
    now, wishes = standing(inbox, rater), Wishes(inbox)
    return {
        "open": now.open,
        "done": now.done,
        "mine": now.mine,
        "answered": now.answered,
        "quorum": now.quorum,
        "held": now.held,
        "rendering": now.rendering,
        "factor": wishes.factor,
        "factor_waits": any(wish.radius != 1 for wish in wishes.all(untaken=True)),
    }


def _why_over(inbox: Inbox, round_id: str) -> str:
    who = Wishes(inbox).closed_by(round_id)
    if who is None:
        return "This round is over: it has all the answers it needs."
    return f"This round is over: {who} went on from an earlier candidate."
