"""What lies in the inbox besides rounds and answers: rules, seats, checks; and files of other versions."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from blackbox.errors import UserError
from oracles.human import Checks, Inbox, Item, Rules, StaleRound
from oracles.human.standing import standing

QUERIES = ["0.0.0", "0.0.1", "0.0.2"]


def items(queries: list[str]) -> list[Item]:
    return [Item(query, "text/plain", f"this is {query}".encode()) for query in queries]


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    box = Inbox(tmp_path / "inbox.sqlite")
    box.open_round("0.0", items(QUERIES))
    return box


def judged(inbox: Inbox, number: int, rater: str, order: list[int]) -> None:
    """A round that this rater has put in an order, and that is over."""
    inbox.open_round(f"{number}.0", items([f"{number}.0.{i}" for i in range(3)]))
    inbox.submit(f"{number}.0", rater, [[f"{number}.0.{i}"] for i in order], [], f"{rater} {number}")
    inbox.close_round(f"{number}.0")


# --- files of other versions -----------------------------------------------------------------------------------------

OLD = """
CREATE TABLE rounds (id TEXT PRIMARY KEY, opened REAL NOT NULL, closed REAL);
CREATE TABLE items (
    query TEXT PRIMARY KEY, round TEXT NOT NULL REFERENCES rounds(id), place INTEGER NOT NULL,
    artifact TEXT UNIQUE NOT NULL, media_type TEXT NOT NULL, data BLOB NOT NULL, meta TEXT NOT NULL);
CREATE TABLE answers (
    id INTEGER PRIMARY KEY, round TEXT NOT NULL REFERENCES rounds(id), rater TEXT NOT NULL, token TEXT UNIQUE NOT NULL,
    groups TEXT NOT NULL, skipped TEXT NOT NULL, given REAL NOT NULL, sealed REAL, withdrawn REAL);
INSERT INTO rounds VALUES ('0.0', 1.0, NULL);
INSERT INTO items VALUES ('0.0.0', '0.0', 0, 'opaque', 'text/plain', 'old', '{}');
"""


def test_a_file_of_the_first_version_goes_on(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "inbox.sqlite") as database:
        database.executescript(OLD)
    database.close()
    inbox = Inbox(tmp_path / "inbox.sqlite")
    found = inbox.next_round("ann")
    assert found is not None and [item.point for item in found.items] == [b""]
    inbox.submit("0.0", "ann", [["0.0.0"]], [], "a token")
    inbox.seal("ann")
    assert len(inbox.final("0.0")) == 1 and inbox.rules == Rules()
    assert standing(inbox, "ann").answered == 1 and Checks(inbox).due("ann") is None


def test_a_later_version_and_what_is_no_inbox_are_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "later.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(UserError, match="later version"):
        Inbox(tmp_path / "later.sqlite")
    (tmp_path / "words.sqlite").write_text("no database at all " * 100)
    with pytest.raises(UserError, match="can't be used as an inbox"):
        Inbox(tmp_path / "words.sqlite")


# --- rules and seats -------------------------------------------------------------------------------------------------


def test_one_file_one_set_of_rules(inbox: Inbox) -> None:
    inbox.rules = Rules(undo_seconds=3, quorum=2, weights={"ann": 2.0})
    assert Inbox(inbox.path).rules == Rules(undo_seconds=3, quorum=2, weights={"ann": 2.0})


def test_at_most_the_quorum_hold_a_round(inbox: Inbox) -> None:
    inbox.rules = Rules(quorum=2, lease_minutes=10)
    assert [inbox.next_id(rater) for rater in ("ann", "bob", "cem", "ann")] == ["0.0", "0.0", None, "0.0"]
    assert standing(inbox, "cem").held and not standing(inbox, "bob").held
    answer = inbox.submit("0.0", "ann", [["0.0.1"]], [], "ann's token")
    assert inbox.next_id("cem") is None  # one has answered, one holds it
    inbox.undo(answer, "ann")
    assert inbox.next_id("cem") is None and inbox.next_id("ann") == "0.0"


def test_a_seat_is_free_again_when_its_lease_ends(inbox: Inbox) -> None:
    inbox.rules = Rules(quorum=1, lease_minutes=0.3 / 60)
    assert inbox.next_id("ann") == "0.0" and inbox.next_id("bob") is None
    time.sleep(0.35)
    assert inbox.next_id("bob") == "0.0" and inbox.next_id("ann") is None
    inbox.submit("0.0", "ann", [["0.0.1"]], [], "ann's token")  # late, but the round is open
    inbox.seal("ann")
    assert [answer.rater for answer in inbox.final("0.0")] == ["ann"]


def test_looking_again_does_not_lengthen_a_lease(inbox: Inbox) -> None:
    inbox.rules = Rules(quorum=1, lease_minutes=0.5 / 60)
    for _ in range(3):
        assert inbox.next_id("ann") == "0.0"
        time.sleep(0.18)
    assert inbox.next_id("bob") == "0.0"


def test_an_answer_in_its_time_of_grace_counts_once_the_round_is_closed(inbox: Inbox) -> None:
    inbox.rules = Rules(undo_seconds=60)
    inbox.submit("0.0", "ann", [["0.0.1"]], [], "ann's token")
    assert inbox.final("0.0") == []
    inbox.close_round("0.0")
    assert [answer.rater for answer in inbox.final("0.0")] == ["ann"]


# --- checks ----------------------------------------------------------------------------------------------------------


def test_checks_come_every_so_many_rounds_and_are_of_ones_own_strict_order(inbox: Inbox) -> None:
    inbox.rules = Rules(check_every=2)
    checks = Checks(inbox)
    for number in range(1, 7):
        before = checks.due("ann")
        judged(inbox, number, "ann", [2, 0, 1])
        due = checks.due("ann")
        if number % 2:
            assert due is None and before is None
            continue
        assert due is not None and checks.due("ann") == due and checks.due("bob") is None
        queries = {card.query for card in due.cards}
        assert len(queries) == 2 and len({query[0] for query in queries}) == 1
        worth = [{"2": 0, "0": 1, "1": 2}[card.query[-1]] for card in due.cards]
        agrees = number != 4
        order = sorted(range(2), key=worth.__getitem__, reverse=not agrees)
        checks.answer(due.id, "ann", [[due.cards[i].artifact] for i in order])
        checks.answer(due.id, "ann", [[due.cards[i].artifact] for i in order])  # sent twice
        with pytest.raises(StaleRound):
            checks.answer(due.id, "ann", [])
    assert [(one.rater, one.agreed, one.asked) for one in checks.consistency()] == [("ann", 2, 3)]
    assert all(len(inbox.final(f"{number}.0")) == 1 for number in range(1, 7))


def test_a_check_shows_nothing_that_the_open_round_shows(inbox: Inbox) -> None:
    """The best so far comes again in the open round, under another name, as a line search shows it."""
    inbox.rules = Rules(check_every=2)
    checks = Checks(inbox)
    judged(inbox, 1, "ann", [0, 1, 2])
    judged(inbox, 2, "ann", [0, 1, 2])
    again = [Item(f"3.0.{i}", "text/plain", f"this is 1.0.{i}".encode()) for i in (0, 1)]
    inbox.open_round("3.0", again)
    assert checks.due("ann") is None  # every pair of round 1 has one of them
    inbox.open_round("4.0", again[:1])  # is empty: the queries are those of round 3
    inbox.open_round("5.0", [Item("5.0.0", "text/plain", b"this is 1.0.0")])
    due = checks.due("ann")
    assert due is not None and {card.query for card in due.cards} == {"1.0.1", "1.0.2"}
    inbox.open_round("6.0", [Item("6.0.0", "text/plain", b"this is 1.0.2")])
    assert checks.due("ann") is None  # it waits
    inbox.open_round("7.0", [Item("7.0.0", "text/plain", b"new")])
    assert checks.due("ann") == due


def test_a_tie_is_no_agreement_and_what_is_skipped_is_not_counted(inbox: Inbox) -> None:
    inbox.rules = Rules(check_every=1)
    checks = Checks(inbox)
    for number, said in enumerate(("tie", "skip"), 1):
        judged(inbox, number, "ann", [0, 1, 2])
        due = checks.due("ann")
        assert due is not None
        checks.answer(due.id, "ann", [[card.artifact for card in due.cards]] if said == "tie" else [])
    assert [(one.agreed, one.asked) for one in checks.consistency()] == [(0, 1)]


def test_ties_give_no_check_and_foreign_candidates_are_refused(inbox: Inbox) -> None:
    inbox.rules = Rules(check_every=1)
    inbox.submit("0.0", "ann", [QUERIES], [], "all tied")
    inbox.close_round("0.0")
    assert Checks(inbox).due("ann") is None
    judged(inbox, 1, "ann", [0, 1, 2])
    judged(inbox, 2, "ann", [0, 1, 2])
    due = Checks(inbox).due("ann")
    assert due is not None
    with pytest.raises(UserError, match="has no candidate"):
        Checks(inbox).answer(due.id, "ann", [["nobody"]])
    with pytest.raises(StaleRound, match="no such check"):
        Checks(inbox).answer(due.id, "bob", [])
