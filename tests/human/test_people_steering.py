"""People who steer a run: each wish acted on once, whatever dies in between; orders made one; points and progress."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blackbox import Budget, Journal, Parameters, Ranking, Session, Status, UserError, run
from blackbox.estimators import RankEstimator
from blackbox.noise import Rademacher
from blackbox.strategies import GradientStrategy, RankLineSearch
from oracles.human import Inbox, People, Wishes, history
from oracles.human.aggregation import aggregate
from oracles.human.standing import standing

D, EPSILON = 4, 0.3


class Numbers:
    """Shows a vector as it is; ``seen`` is told before each."""

    def __init__(self) -> None:
        self.seen: Any = lambda: None

    def render(self, candidate: Any) -> Any:
        self.seen()
        return {"x": candidate.tolist()}


_opened: list[Journal] = []


@pytest.fixture(autouse=True)
def closed_journals() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def session(folder: Path) -> Session:
    estimator = RankEstimator(noise=Rademacher(), epsilon=EPSILON, probes=5)
    strategy = GradientStrategy(estimator, line_search=RankLineSearch(candidates=2))
    _opened.append(Journal(folder))
    return Session(strategy, Parameters.from_vector(np.full(D, 2.0)), journal=_opened[-1])


def people(folder: Path, **how: Any) -> People:
    oracle = People(Numbers(), **{"undo_seconds": 0, **how})
    oracle.attach(folder)
    return oracle


def life(folder: Path, oracle: People | None = None) -> Status:
    """One process: it ends where nobody has answered."""
    begun = session(folder)
    result = run(begun, oracle or people(folder), Budget(queries=100), on_pending="return")
    assert begun.journal is not None
    begun.journal.close()
    return result.status


def judge(inbox: Inbox, rater: str = "ann") -> None:
    found = inbox.next_round(rater)
    assert found is not None
    order = sorted(found.items, key=lambda item: sum(x * x for x in json.loads(item.data)["x"]))
    inbox.submit(found.id, rater, [[item.query] for item in order], [], f"{rater} {found.id}")


def points(inbox: Inbox) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of the open round [n, d]."""
    found = inbox.next_round("ann")
    assert found is not None
    return np.array([np.frombuffer(item.point, "<f8") for item in found.items])


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "journal.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_what_is_shown_and_the_point_that_is_kept_are_the_same(tmp_path: Path) -> None:
    life(tmp_path)
    found = Inbox(tmp_path / "inbox.sqlite").next_round("ann")
    assert found is not None
    for item in found.items:
        np.testing.assert_array_equal(np.frombuffer(item.point, "<f8"), json.loads(item.data)["x"])


@pytest.mark.parametrize("killed", ["nowhere", "before it was journaled", "after it was journaled"])
def test_going_on_from_an_earlier_one_happens_once(tmp_path: Path, killed: str) -> None:
    life(tmp_path)
    inbox = Inbox(tmp_path / "inbox.sqlite")
    judge(inbox)
    life(tmp_path)
    best = history(inbox)[0].best[0]
    wishes = Wishes(inbox)
    wishes.scale("bob", 0.5)
    wishes.branch("ann", best.artifact)
    point = wishes.point(wishes.all()[-1])
    assert point is not None
    if killed != "nowhere":
        oracle, begun = people(tmp_path), session(tmp_path)
        oracle.submit(begun.ask(), begun.parameters)
        asked = oracle.steering()
        assert [(one.by, one.radius, one.id) for one in asked] == [(w.rater, w.radius, w.id) for w in wishes.all()]
        if killed == "after it was journaled":
            assert [begun.steer(one) for one in asked] == [False, True]
        assert begun.journal is not None
        begun.journal.close()
    assert len(wishes.all(untaken=True)) == 2
    for _ in range(3):  # resumed again and again, it is not acted on again
        assert life(tmp_path) is Status.PENDING
        if killed != "after it was journaled":  # there no later round has shown yet that the run has gone on
            assert wishes.all(untaken=True) == []
        np.testing.assert_allclose(np.abs(points(inbox) - point), np.full((5, D), EPSILON / 2), rtol=1e-12)
    steered = records(tmp_path, "steered")
    assert [(record["by"], record["dropped"]) for record in steered] == [("bob", False), ("ann", True)]


def test_answers_to_a_round_that_was_given_up_never_reach_the_run(tmp_path: Path) -> None:
    life(tmp_path)
    inbox = Inbox(tmp_path / "inbox.sqlite")
    judge(inbox)
    oracle = people(tmp_path, quorum=2)
    begun = session(tmp_path)
    oracle.submit(begun.ask(), begun.parameters)
    judge(inbox, "bob")
    begun.tell_all(oracle.poll())
    begun.advance()
    oracle.submit(begun.ask(), begun.parameters)
    judge(inbox, "ann")
    Wishes(inbox).branch("bob", history(inbox)[0].best[0].artifact)
    assert oracle.poll() == [] and oracle.poll() == []
    assert [begun.steer(one) for one in oracle.steering()] == [True]
    oracle.submit(begun.ask(), begun.parameters)
    assert inbox.next_id("ann") == begun.ask()[0].id.rpartition(".")[0]
    assert Wishes(inbox).all(untaken=True) == [] and list(oracle.steering()) == []


@pytest.mark.parametrize("undo_seconds", [0, 60])
def test_a_round_with_its_quorum_counts_before_a_wish_that_comes_as_it_closes(
    tmp_path: Path, undo_seconds: float
) -> None:
    how = {"quorum": 2, "undo_seconds": undo_seconds}
    life(tmp_path, people(tmp_path, **how))
    inbox = Inbox(tmp_path / "inbox.sqlite")
    for rater in ("ann", "bob"):
        judge(inbox, rater)
    inbox.close_round("0.0")
    life(tmp_path, people(tmp_path, **how))
    for rater in ("ann", "bob"):  # nobody has asked the inbox yet when the wish comes
        judge(inbox, rater)
    branched = history(inbox)[0].best[0].artifact
    Wishes(inbox).branch("eve", branched)
    point = Wishes(inbox).point(Wishes(inbox).all()[-1])
    assert point is not None
    life(tmp_path, people(tmp_path, **how))
    assert [record["rater"] for record in records(tmp_path, "ranking")] == ["ann", "bob"] * 2
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    last = len(kinds) - 1 - kinds[::-1].index("ranking")
    (steered,) = records(tmp_path, "steered")
    assert "steered" in kinds[last:]
    if not steered["dropped"]:
        assert kinds[kinds.index("steered") - 1] == "stepped"
    np.testing.assert_allclose(np.abs(points(inbox) - point), np.full((5, D), EPSILON), rtol=1e-12)
    before = (tmp_path / "journal.jsonl").read_text()
    life(tmp_path, people(tmp_path, **how))  # resumed, it stands where it stood
    assert (tmp_path / "journal.jsonl").read_text().startswith(before)
    np.testing.assert_allclose(np.abs(points(inbox) - point), np.full((5, D), EPSILON), rtol=1e-12)


def test_a_wish_of_the_radius_leaves_the_open_round_alone(tmp_path: Path) -> None:
    life(tmp_path)
    inbox = Inbox(tmp_path / "inbox.sqlite")
    before = points(inbox)
    Wishes(inbox).scale("ann", 2.0)
    life(tmp_path)
    np.testing.assert_array_equal(points(inbox), before)
    while (inbox.next_id("ann") or "0").startswith("0"):
        judge(inbox)
        life(tmp_path)
    spread = points(inbox)
    np.testing.assert_allclose(np.ptp(spread, axis=0).max(), 4 * EPSILON, rtol=1e-12)


def test_what_lies_in_a_module_or_is_too_large_keeps_no_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        module = torch.nn.Linear(2, 1)
    parameters = Parameters.from_module(module)
    strategy = GradientStrategy(RankEstimator(epsilon=EPSILON, probes=3), line_search=RankLineSearch())
    oracle, inbox = people(tmp_path), Inbox(tmp_path / "inbox.sqlite")
    oracle.submit(Session(strategy, parameters).ask(), parameters)
    assert all(item.point == b"" for item in getattr(inbox.next_round("ann"), "items"))  # noqa: B009
    monkeypatch.setattr("oracles.human.oracle.MOST_NUMBERS", D - 1)
    oracle = people(tmp_path / "large")
    begun = session(tmp_path / "large")
    oracle.submit(begun.ask(), begun.parameters)
    assert all(item.point == b"" for item in getattr(oracle.inbox.next_round("ann"), "items"))  # noqa: B009


def test_progress_while_a_round_is_rendered(tmp_path: Path) -> None:
    oracle, told = people(tmp_path), []
    oracle.problem.seen = lambda: told.append(standing(oracle.inbox, "ann").rendering)
    begun = session(tmp_path)
    oracle.submit(begun.ask(), begun.parameters)
    assert told == [(n, 5) for n in range(1, 6)] and standing(oracle.inbox, "ann").rendering is None
    oracle.inbox.database.note("rendering", [2, 5])  # killed amid it
    people(tmp_path)
    assert standing(oracle.inbox, "ann").rendering is None


@pytest.mark.parametrize("method", ["plackett-luce", "bradley-terry"])
def test_orders_of_several_are_made_one(tmp_path: Path, method: Any) -> None:
    pytest.importorskip("choix", reason="a consensus needs the extra web")
    oracle, begun = people(tmp_path, quorum=3, aggregation=method, weights={"bob": 2.0}), session(tmp_path)
    oracle.submit(begun.ask(), begun.parameters)
    queries = [query.id for query in begun.ask()]
    orders = {"ann": [0, 1, 2, 3, 4], "bob": [1, 0, 2, 4, 3], "cem": [2, 1, 0, 3, 4]}
    given = []
    for rater, order in orders.items():
        groups = tuple((queries[i],) for i in order)
        oracle.inbox.submit("0.0", rater, groups, [], f"a token of {rater}")
        given.append(Ranking(groups, (), rater, 2.0 if rater == "bob" else 1.0))
    (one,) = oracle.poll()
    assert isinstance(one, Ranking) and one.rater == "" and one.groups == aggregate(given, method).groups
    assert one.cost == {"queries": 5.0, "rankings": 3.0} and one.groups[0] == (queries[1],)
    begun.tell_all([one])
    assert begun.advance() is None and begun.spent["queries"] == 5


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"lease_minutes": 0}, "lease_minutes must be positive"),
        ({"check_every": -1}, "check_every is a number of rounds"),
        ({"aggregation": "vote"}, "'vote' is not one of pooled, plackett-luce, bradley-terry"),
    ],
)
def test_mistakes_are_told_in_words(how: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        People(Numbers(), **how)
