"""People as an oracle, from a simulated rater's chair."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.console  # noqa: F401 (draws a random number when it is first imported)

from blackbox import Budget, Failed, Journal, Parameters, Ranking, Session, Status, UserError, run
from blackbox.cli.main import main
from blackbox.cli.rank import parse_order
from blackbox.estimators import RankEstimator
from blackbox.strategies import GradientStrategy, RankLineSearch
from oracles.human import Checks, Inbox, Item, People, Rules
from oracles.human.showing import shown


class Numbers:
    """Shows a vector as it is."""

    def render(self, candidate: Any) -> Any:
        if candidate[0] > 50:
            raise ValueError("nothing to see")
        return {"x": candidate.tolist()}


def session(folder: Path) -> Session:
    strategy = GradientStrategy(RankEstimator(epsilon=0.3, probes=6), line_search=RankLineSearch(candidates=2))
    _opened.append(Journal(folder))
    return Session(strategy, Parameters.from_vector(np.full(4, 2.0)), journal=_opened[-1])


_opened: list[Journal] = []


@pytest.fixture(autouse=True)
def closed_journals() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def people(folder: Path, **how: Any) -> People:
    oracle = People(Numbers(), undo_seconds=how.pop("undo_seconds", 0), **how)
    oracle.attach(folder)
    return oracle


def judge(folder: Path, rater: str = "ann") -> bool:
    """Order the open round by the length of what is shown; False if there is none."""
    inbox = Inbox(folder / "inbox.sqlite")
    found = inbox.next_round(rater)
    if found is None:
        return False
    order = sorted(found.items, key=lambda item: sum(x * x for x in json.loads(item.data)["x"]))
    inbox.submit(found.id, rater, [[item.query] for item in order], [], f"{rater} {found.id}")
    return True


def life(folder: Path, queries: int, **how: Any) -> tuple[Status, Any]:
    """One process that ends where nobody has answered."""
    begun = session(folder)
    result = run(begun, people(folder, **how), Budget(queries=queries), on_pending="return")
    assert begun.journal is not None
    begun.journal.close()
    return result.status, result.parameters.flat()


def test_the_process_may_end_and_come_back_for_every_answer(tmp_path: Path) -> None:
    lives = 0
    while (ended := life(tmp_path, 200))[0] is Status.PENDING:
        lives += 1
        assert judge(tmp_path)
    assert lives > 30 and ended[0] is Status.QUERIES
    assert float(ended[1].norm()) < 0.5 * 4.0


def test_a_round_waits_for_its_quorum_and_carries_names_and_weights(tmp_path: Path) -> None:
    begun, oracle = session(tmp_path), people(tmp_path, quorum=2, weights={"bob": 3.0})
    oracle.submit(begun.ask(), begun.parameters)
    judge(tmp_path, "ann")
    assert oracle.poll() == []
    judge(tmp_path, "bob")
    answers = oracle.poll()
    assert [(one.rater, one.weight) for one in answers if isinstance(one, Ranking)] == [("ann", 1), ("bob", 3)]
    assert [one.cost["queries"] for one in answers] == [6, 0]
    assert not judge(tmp_path, "cem")  # closed
    begun.tell_all(answers)
    assert begun.advance() is None and len(begun.ask()) == 4  # on to the line search


def test_a_deadline_goes_on_with_fewer_answers_but_never_with_none(tmp_path: Path) -> None:
    begun, oracle = session(tmp_path), people(tmp_path, quorum=2, deadline_minutes=0.2 / 60)
    oracle.submit(begun.ask(), begun.parameters)
    time.sleep(0.25)
    assert oracle.poll() == []
    judge(tmp_path)
    assert len(oracle.poll()) == 1


def test_an_answer_is_acted_on_when_it_cannot_be_taken_back(tmp_path: Path) -> None:
    begun, oracle = session(tmp_path), people(tmp_path, undo_seconds=30)
    oracle.submit(begun.ask(), begun.parameters)
    judge(tmp_path)
    assert oracle.poll() == []
    Inbox(tmp_path / "inbox.sqlite").seal("ann")
    assert len(oracle.poll()) == 1


def test_killed_between_inbox_and_journal_nothing_is_asked_twice(tmp_path: Path) -> None:
    begun, oracle = session(tmp_path), people(tmp_path)
    oracle.submit(begun.ask(), begun.parameters)
    judge(tmp_path)
    (lost,) = oracle.poll()  # handed out, but never told
    assert begun.journal is not None
    begun.journal.close()
    again = session(tmp_path)
    revived = people(tmp_path)
    revived.submit(again.ask(), again.parameters)
    assert revived.poll() == [lost]


def test_what_cannot_be_shown_has_failed(tmp_path: Path) -> None:
    parameters = Parameters.from_vector(np.array([50.1, 0, 0, 0]))
    begun = Session(GradientStrategy(RankEstimator(epsilon=1.0, probes=6), line_search=RankLineSearch()), parameters)
    oracle = people(tmp_path)
    oracle.submit(begun.ask(), parameters)
    failed = oracle.poll()
    assert failed and all(isinstance(one, Failed) and one.reason == "ValueError: nothing to see" for one in failed)
    judge(tmp_path)
    (ranking,) = oracle.poll()
    assert {i for one in (*failed, ranking) for i in one.ids} == {q.id for q in begun.ask()}


def test_files_go_out_and_answers_come_in(tmp_path: Path) -> None:
    begun, oracle = session(tmp_path), people(tmp_path, exchange=True)
    oracle.submit(begun.ask(), begun.parameters)
    queries, answers = tmp_path / "exchange" / "queries", tmp_path / "exchange" / "answers"
    out = json.loads((queries / "0.0.json").read_text())
    sizes = {i["id"]: sum(x * x for x in json.loads((queries / i["file"]).read_text())["x"]) for i in out["items"]}
    assert len(sizes) == 6 and all("0.0." not in one for one in sizes)
    order = sorted(sizes, key=lambda one: sizes[one])
    bad = [
        "not JSON",
        json.dumps({"round": "0.0"}),
        json.dumps({"round": "0.0", "rater": "bob", "groups": [["nobody"]]}),
        json.dumps({"round": "7.0", "rater": "bob", "groups": [[order[0]]]}),
        json.dumps({"round": "0.0", "rater": "bob", "groups": [[order[0]], [order[0]]]}),
    ]
    for number, text in enumerate(bad):
        (answers / f"bad{number}.json").write_text(text)
    assert oracle.poll() == [] and not list(answers.iterdir())
    reasons = [path.read_text() for path in sorted((tmp_path / "exchange" / "refused").glob("*.txt"))]
    expected = ["Expecting value", "An answer is", "no item 'nobody'", "7.0 is over", "at most once"]
    assert len(reasons) == 5 and all(words in reason for words, reason in zip(expected, reasons, strict=True))
    (answers / "good.json").write_text(json.dumps({"round": "0.0", "rater": "ann", "groups": [[i] for i in order[:2]]}))
    (ranking,) = oracle.poll()
    assert isinstance(ranking, Ranking) and len(ranking.groups) == 2 and len(ranking.skipped) == 4
    items = Inbox(tmp_path / "inbox.sqlite").round("0.0")
    assert items is not None
    query_of = {item.artifact: item.query for item in items.items}
    assert ranking.groups == tuple((query_of[one],) for one in order[:2])
    assert [path.name for path in (tmp_path / "exchange" / "taken").iterdir()] == ["good.json"]


def test_each_kind_of_thing_is_shown_as_what_it_is() -> None:
    assert shown("hello") == ("text/plain; charset=utf-8", b"hello")
    assert shown({"a": 1}) == ("application/json", b'{"a": 1}')
    assert shown(np.array([1.5, 2.0])) == ("application/json", b"[1.5, 2.0]")
    assert shown(("audio/wav", b"RIFF")) == ("audio/wav", b"RIFF")
    image = pytest.importorskip("PIL.Image", reason="pictures are written by pillow")
    import io

    for array in (np.arange(12, dtype=np.uint8).reshape(3, 4), np.arange(36, dtype=np.uint8).reshape(3, 4, 3)):
        media_type, data = shown(array)
        assert media_type == "image/png"
        np.testing.assert_array_equal(np.asarray(image.open(io.BytesIO(data))), array)
    media_type, data = shown(np.zeros((5, 3, 4, 3), dtype=np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None])
    assert media_type == "image/gif" and image.open(io.BytesIO(data)).n_frames == 5
    with pytest.raises(UserError, match="object can't be shown"):
        shown(object())


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"quorum": 0}, "quorum is a number of raters"),
        ({"deadline_minutes": 0}, "deadline_minutes must be positive"),
        ({"undo_seconds": -1}, "undo_seconds must be 0 or more"),
        ({"weights": {"ann": 0}}, "weights must be positive"),
    ],
)
def test_mistakes_are_told_in_words(how: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        People(Numbers(), **how)


@pytest.mark.parametrize(
    ("text", "order"), [("2 1=3", [[1], [0, 2]]), ("3,1,2", [[2], [0], [1]]), (" 1 ", [[0]]), ("1=2=3", [[0, 1, 2]])]
)
def test_orders_are_read(text: str, order: list[list[int]]) -> None:
    assert parse_order(text, 3) == order


@pytest.mark.parametrize(
    ("text", "words"), [("", "Nothing"), ("4", "1 to 3"), ("1 1", "twice"), ("a", "no number"), ("0", "1 to 3")]
)
def test_other_orders_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_order(text, 3)


CONFIG = """
problem: {type: control, environment: CartPole-v1}
oracle: {type: people}
estimator: {type: rank-es, epsilon: 0.5, probes: 1}
optimizer: {type: sgd, lr: 1.0}
budget: {queries: 4}
run: {on_pending: return, folder: RUNS, name: people}
"""


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0)


def test_a_person_at_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Run, rank (one typo, one undo), resume, rank, resume: two rounds of two clips."""
    pytest.importorskip("pygame", reason="CartPole is drawn by pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    config = tmp_path / "people.yaml"
    config.write_text(CONFIG.replace("RUNS", str(tmp_path)))
    assert command("run", str(config)) == 0
    assert "Resume with" in capsys.readouterr().err
    folder = str(tmp_path / "people")
    said = iter(["5", "1 2", "u", "2 1", "", "s", ""])
    monkeypatch.setattr("typer.prompt", lambda *_, **__: next(said))
    assert command("rank", folder, "--rater", "ann") == 0
    out = capsys.readouterr().out
    assert ".gif" in out and "Candidates have the numbers 1 to 2." in out and "Nothing is waiting for you." in out
    assert command("run", folder, "--resume") == 0
    assert command("rank", folder, "--rater", "ann") == 0
    assert command("run", folder, "--resume") == 0
    records = [json.loads(line) for line in (tmp_path / "people" / "journal.jsonl").read_text().splitlines()]
    rankings = [record for record in records if record["kind"] == "ranking"]
    assert [(len(r["groups"]), len(r["skipped"]), r["rater"]) for r in rankings] == [(2, 0, "ann"), (0, 2, "ann")]
    assert next(said, None) is None
    assert command("rank", str(tmp_path)) == 2


def test_a_check_and_a_full_house_at_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    inbox = Inbox(tmp_path / "inbox.sqlite")
    inbox.rules = Rules(quorum=1, check_every=1)
    for number in range(2):
        inbox.open_round(
            f"{number}.0", [Item(f"{number}.0.{i}", "text/plain", b"%d words" % (2 * number + i)) for i in range(2)]
        )
        if number == 0:
            inbox.submit("0.0", "ann", [["0.0.1"], ["0.0.0"]], [], "ann's token of round 0")
    said = iter(["9", "1 2", "q"])
    monkeypatch.setattr("typer.prompt", lambda *_, **__: next(said))
    assert command("rank", str(tmp_path), "--rater", "ann") == 0
    out = capsys.readouterr().out
    assert "A short check between rounds" in out and "Candidates have the numbers 1 to 2." in out and "Round 1.0" in out
    assert [one.asked for one in Checks(inbox).consistency()] == [1] and inbox.final("1.0") == []
    assert command("rank", str(tmp_path), "--rater", "bob") == 0
    assert "Others are ranking this round." in capsys.readouterr().out


def test_a_file_of_the_same_name_in_each_round_is_an_answer_to_each(tmp_path: Path) -> None:
    begun, oracle = session(tmp_path), people(tmp_path, exchange=True)
    for _ in range(3):
        oracle.submit(begun.ask(), begun.parameters)
        (round_id,) = {q.id.rpartition(".")[0] for q in begun.ask()}
        out = json.loads((tmp_path / "exchange" / "queries" / f"{round_id}.json").read_text())
        order = {"round": round_id, "rater": "ann", "groups": [[item["id"]] for item in out["items"]]}
        (tmp_path / "exchange" / "answers" / "ann.json").write_text(json.dumps(order))
        (ranking,) = oracle.poll()
        begun.tell(ranking)
        begun.advance()


def test_another_runs_answers_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    first, oracle = session(tmp_path / "first"), people(tmp_path / "shared")
    oracle.submit(first.ask(), first.parameters)
    assert judge(tmp_path / "shared") and oracle.poll()
    strategy = GradientStrategy(RankEstimator(epsilon=0.3, probes=6), line_search=RankLineSearch(candidates=2))
    second = Session(strategy, Parameters.from_vector(np.full(4, -7.0)), seed=1)
    with pytest.raises(UserError):
        people(tmp_path / "shared").submit(second.ask(), second.parameters)
