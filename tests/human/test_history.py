"""The best so far, pins and wishes, as the inbox keeps them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from blackbox.errors import UserError
from oracles.human import Inbox, Item, Pins, Rules, StaleRound, Wishes, history
from oracles.human.cards import card_of
from oracles.human.history import since


def opened(inbox: Inbox, number: int, points: bool = True) -> list[str]:
    """An open round of three; the artifacts."""
    items = [
        Item(
            f"{number}.0.{i}",
            "text/plain",
            f"{number} {i}".encode(),
            point=np.array([number, i], dtype="<f8").tobytes() if points else b"",
        )
        for i in range(3)
    ]
    inbox.open_round(f"{number}.0", items)
    found = inbox.round(f"{number}.0")
    assert found is not None
    return [item.artifact for item in sorted(found.items, key=lambda item: item.query)]


def judge(inbox: Inbox, number: int, rater: str, *groups: list[int]) -> None:
    named = [[f"{number}.0.{i}" for i in group] for group in groups]
    inbox.submit(f"{number}.0", rater, named, [], f"{rater} {number}")


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "inbox.sqlite")


def best(inbox: Inbox) -> list[list[str]]:
    return [[card.query for card in past.best] for past in history(inbox)]


def test_the_best_is_who_wins_most_pairs_by_weight(inbox: Inbox) -> None:
    opened(inbox, 0)
    judge(inbox, 0, "ann", [0], [1], [2])  # wins, of each: 2 0 -2
    judge(inbox, 0, "bob", [1], [2], [0])  # -2 2 0
    inbox.close_round("0.0")
    assert best(inbox) == [["0.0.1"]]
    inbox.rules = Rules(weights={"ann": 3.0})  # 6-2, 0+2, -6
    assert best(inbox) == [["0.0.0"]]


def test_ties_and_rounds_without_an_order(inbox: Inbox) -> None:
    for number, groups in enumerate(([[0, 2], [1]], [])):
        opened(inbox, number)
        judge(inbox, number, "ann", *groups)
    opened(inbox, 2)
    judge(inbox, 2, "ann", [1])
    assert best(inbox) == [[], ["0.0.0", "0.0.2"]]  # the last one is open
    opened(inbox, 3)  # and this one nobody answers
    opened(inbox, 4)
    assert best(inbox) == [["2.0.1"], [], ["0.0.0", "0.0.2"]]
    assert [past.number for past in history(inbox)] == [3, 2, 1]
    assert [past.number for past in history(inbox, before=3, limit=1)] == [2]
    assert history(inbox, before=1) == []


def test_a_wish_is_there_until_the_run_has_gone_on_with_it(inbox: Inbox) -> None:
    first = opened(inbox, 0)
    judge(inbox, 0, "ann", [0], [1, 2])
    second = opened(inbox, 1)
    wishes = Wishes(inbox)
    with pytest.raises(StaleRound, match="being judged"):
        wishes.branch("ann", second[0])
    wishes.scale("bob", 1.4)
    wishes.branch("ann", first[2])
    scaled, branched = wishes.all(untaken=True)
    assert (scaled.rater, scaled.radius, scaled.query) == ("bob", 1.4, None) and wishes.point(scaled) is None
    point = wishes.point(branched)
    assert point is not None and point.dtype == np.float64 and point.tolist() == [0.0, 2.0]
    assert inbox.next_id("ann") is None and wishes.closed_by("1.0") == "ann" and wishes.closed_by("0.0") is None
    with pytest.raises(StaleRound, match="is over"):
        judge(inbox, 1, "bob", [0])
    wishes.take([scaled.id])
    assert wishes.all(untaken=True) == [branched] and wishes.factor == 1.4
    assert [wish.rater for wish in since(inbox)] == ["bob", "ann"]
    opened(inbox, 2)
    judge(inbox, 2, "ann", [1], [0, 2])
    inbox.close_round("2.0")
    assert [(past.number, len(past.wishes)) for past in history(inbox)] == [(2, 2), (1, 0)]


def test_what_can_not_be_wished_for_is_refused_in_words(inbox: Inbox) -> None:
    artifacts = opened(inbox, 0, points=False)
    inbox.close_round("0.0")
    wishes = Wishes(inbox)
    with pytest.raises(UserError, match="point isn't kept"):
        wishes.branch("ann", artifacts[0])
    with pytest.raises(UserError, match="no such candidate"):
        wishes.branch("ann", "nobody")
    with pytest.raises(UserError, match="positive"):
        wishes.scale("ann", 0.0)
    with pytest.raises(UserError, match="as far as"):
        wishes.scale("ann", 1001.0)
    assert wishes.all() == []


def test_two_clicks_at_once_do_not_pass_the_limit_together(inbox: Inbox) -> None:
    wishes, together = Wishes(inbox), threading.Barrier(8)

    def click() -> bool:
        together.wait()
        try:
            wishes.scale("ann", 100.0)
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        clicked = [one.result() for one in [pool.submit(click) for _ in range(8)]]
    assert clicked.count(True) == 1 and wishes.factor == 100.0


def test_pins_are_each_raters_own(inbox: Inbox) -> None:
    first, second = opened(inbox, 0), opened(inbox, 1)
    pins = Pins(inbox)
    for artifact in (first[1], second[0], first[1]):
        pins.add("ann", artifact)
    assert [card.artifact for card in pins.of("ann")] == [second[0], first[1]] and pins.of("bob") == []
    pins.remove("bob", second[0])
    pins.remove("ann", second[0])
    pins.remove("ann", second[0])
    assert [card.artifact for card in pins.of("ann")] == [first[1]]
    pins.add("ann", second[0])
    assert len(pins.of("ann")) == 2
    with pytest.raises(UserError, match="no such candidate"):
        pins.add("ann", "nobody")


def test_a_card_knows_whether_it_is_shown_again(inbox: Inbox) -> None:
    artifacts = opened(inbox, 0)
    inbox.open_round("1.0", [Item("1.0.0", "text/plain", b"0 2"), Item("1.0.1", "text/plain", b"new")])
    cards = [card_of(inbox.database, artifact) for artifact in artifacts]
    assert [card is not None and card.shown_again for card in cards] == [False, False, True]
    inbox.close_round("1.0")
    card = card_of(inbox.database, artifacts[2])
    assert card is not None and not card.shown_again and card.has_point and not card.open
    assert card_of(inbox.database, "nobody") is None
