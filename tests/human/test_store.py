"""The inbox: nothing submitted is lost, nothing late or repeated changes anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from blackbox.errors import UserError
from oracles.human.store import Inbox, Item, Rules, StaleRound

QUERIES = ["0.0.0", "0.0.1", "0.0.2"]


def items(queries: list[str]) -> list[Item]:
    return [Item(query, "text/plain", f"this is {query}".encode()) for query in queries]


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    box = Inbox(tmp_path / "inbox.sqlite")
    box.rules = Rules(undo_seconds=60)
    box.open_round("0.0", items(QUERIES))
    return box


def test_each_rater_sees_all_in_an_order_of_their_own_that_stays(inbox: Inbox) -> None:
    orders = set()
    for rater in "abcdefgh":
        seen = inbox.next_round(rater)
        assert seen is not None and sorted(i.query for i in seen.items) == QUERIES
        assert inbox.next_round(rater) == seen
        orders.add(tuple(i.query for i in seen.items))
    assert len(orders) > 2


def test_artifacts_are_found_by_ids_that_say_nothing(inbox: Inbox) -> None:
    seen = inbox.next_round("ann")
    assert seen is not None
    for item in seen.items:
        assert item.query not in item.artifact and len(item.artifact) >= 20
        assert inbox.artifact(item.artifact) == ("text/plain", f"this is {item.query}".encode())
    assert inbox.artifact("0.0.0") is None and inbox.artifact("../journal.jsonl") is None


def test_an_answer_is_final_once_sealed_and_not_before(inbox: Inbox) -> None:
    inbox.submit("0.0", "ann", [["0.0.2"], ["0.0.0"]], [], "t1")
    assert inbox.final("0.0") == [] and inbox.next_round("ann") is None
    inbox.seal("ann")
    (answer,) = inbox.final("0.0")
    assert (answer.groups, answer.skipped) == ((("0.0.2",), ("0.0.0",)), ("0.0.1",))


def test_an_answer_is_final_when_it_cannot_be_undone_any_more(tmp_path: Path) -> None:
    box = Inbox(tmp_path / "inbox.sqlite")
    box.rules = Rules(undo_seconds=0.2)
    box.open_round("0.0", items(QUERIES))
    answer = box.submit("0.0", "ann", [["0.0.2"]], [], "t1")
    assert box.final("0.0") == []
    time.sleep(0.25)
    assert len(box.final("0.0")) == 1
    with pytest.raises(StaleRound, match="too late"):
        box.undo(answer, "ann")


def test_what_was_taken_back_can_be_answered_again(inbox: Inbox) -> None:
    first = inbox.submit("0.0", "ann", [["0.0.0"]], [], "t1")
    with pytest.raises(StaleRound):
        inbox.undo(first, "bob")  # not his
    inbox.undo(first, "ann")
    assert inbox.next_round("ann") is not None
    inbox.submit("0.0", "ann", [["0.0.1"]], [], "t2")
    inbox.seal("ann")
    assert [answer.groups for answer in inbox.final("0.0")] == [(("0.0.1",),)]


def test_late_and_repeated_answers_change_nothing(inbox: Inbox) -> None:
    first = inbox.submit("0.0", "ann", [["0.0.0"]], [], "t1")
    assert inbox.submit("0.0", "ann", [["0.0.0"]], [], "t1") == first  # the same answer, sent twice
    with pytest.raises(StaleRound, match="answered round"):
        inbox.submit("0.0", "ann", [["0.0.1"]], [], "t2")
    inbox.open_round("1.0", items(["1.0.0", "1.0.1"]))
    with pytest.raises(StaleRound, match="is over"):
        inbox.submit("0.0", "bob", [["0.0.1"]], [], "t3")
    with pytest.raises(StaleRound, match="is over"):
        inbox.submit("9.9", "bob", [], [], "t4")
    with pytest.raises(StaleRound):
        inbox.undo(first, "ann")
    inbox.seal("ann")
    assert [answer.groups for answer in inbox.final("0.0")] == [(("0.0.0",),)]


@pytest.mark.parametrize("groups", [[["0.0.0"], ["0.0.0"]], [["1.0.0"]], [["0.0.0", "0.0.0"]]])
def test_queries_of_another_round_or_named_twice_are_refused(inbox: Inbox, groups: list[list[str]]) -> None:
    with pytest.raises(UserError, match="at most once"):
        inbox.submit("0.0", "ann", groups, [], "t")
    inbox.seal("ann")
    assert inbox.final("0.0") == []


def test_many_raters_at_once_lose_nothing(inbox: Inbox) -> None:
    def answer(number: int) -> None:
        for _ in range(3):  # impatient
            inbox.submit("0.0", f"rater {number}", [["0.0.1"]], [], f"token {number}")
        inbox.seal(f"rater {number}")

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.rater for answer in inbox.final("0.0")) == sorted(f"rater {n}" for n in range(20))


KILLED = """
import os, signal, sys
from oracles.human.store import Inbox
box = Inbox(sys.argv[1])
box.submit("0.0", "ann", [["0.0.2"], ["0.0.1"]], [], "token")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_submitted_survives_a_kill(inbox: Inbox) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(inbox.path)], env=os.environ, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    again = Inbox(inbox.path)
    again.seal("ann")
    (answer,) = again.final("0.0")
    assert answer.groups == (("0.0.2",), ("0.0.1",)) and answer.rater == "ann"
