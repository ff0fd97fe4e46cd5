"""The best so far over HTTP, and what people ask of the search from there.

Nothing here tells a candidate of the open round from another: its items appear only among the pins of the rater who
pinned them, and an earlier candidate that is shown again in it is held back until it is over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from oracles.human.cards import Card
from oracles.human.history import Pins, history, since
from oracles.human.store import Inbox
from oracles.human.web.messages import Branch, Name, Pin, Radius, read
from oracles.human.wishes import STEP, Wish, Wishes

PAGE = 12


def routes(inbox_of: Callable[[str], Inbox]) -> APIRouter:
    """What the history panel and the steering need."""
    router = APIRouter(prefix="/api")

    @router.get("/history")
    def best_so_far(
        run: str, rater: Name, before: Annotated[int | None, Query(ge=1, le=10**9)] = None
    ) -> dict[str, Any]:
        """Closed rounds, newest first, a page at a time; the first page also has the pins and the latest wishes."""
        inbox = inbox_of(run)
        pins = Pins(inbox).of(rater)
        pinned = {card.artifact for card in pins}
        past = history(inbox, before, PAGE)
        rounds = [
            {
                "number": one.number,
                "raters": one.raters,
                "best": [_shown(card, pinned) for card in one.best],
                "wishes": _words(one.wishes),
            }
            for one in past
        ]
        more = past[-1].number if past and past[-1].number > 1 else None
        if before is not None:
            return {"rounds": rounds, "more": more}
        return {
            "rounds": rounds,
            "more": more,
            "pins": [_shown(c, pinned) for c in pins],
            "wishes": _words(since(inbox)),
        }

    @router.post("/pin")
    def pin(wanted: Annotated[Pin, Depends(read(Pin))]) -> dict[str, Any]:
        pins = Pins(inbox_of(wanted.run))
        (pins.add if wanted.pinned else pins.remove)(wanted.rater, wanted.artifact)
        return {}

    @router.post("/radius")
    def radius(wanted: Annotated[Radius, Depends(read(Radius))]) -> dict[str, Any]:
        step = STEP if wanted.wish == "wilder" else 1 / STEP
        return {"factor": Wishes(inbox_of(wanted.run)).scale(wanted.rater, step)}

    @router.post("/branch")
    def branch(wanted: Annotated[Branch, Depends(read(Branch))]) -> dict[str, Any]:
        Wishes(inbox_of(wanted.run)).branch(wanted.rater, wanted.artifact)
        return {}

    return router


def _shown(card: Card, pinned: Collection[str]) -> dict[str, Any]:
    if card.shown_again:
        return {"hidden": True}
    return {
        "id": card.artifact,
        "media_type": card.media_type,
        "pinned": card.artifact in pinned,
        "open": card.open,
        "has_point": card.has_point,
    }


def _words(wishes: Sequence[Wish]) -> list[str]:
    """What was asked, newest first; several steps of the radius by one person in a row are one."""
    told: list[tuple[str, float | None]] = []
    for wish in wishes:
        if wish.query is None and told and told[-1][0] == wish.rater and told[-1][1] is not None:
            told[-1] = (wish.rater, told[-1][1] * wish.radius)
        else:
            told.append((wish.rater, wish.radius if wish.query is None else None))
    return [_told(who, factor) for who, factor in reversed(told)]


def _told(who: str, factor: float | None) -> str:
    if factor is None:
        return f"{who} went on from an earlier candidate"
    if 0.99 < factor < 1.01:
        return f"{who} changed the radius and changed it back"
    return f"{who} asked for {'wilder' if factor > 1 else 'closer'} candidates: radius times {factor:.2g}"
