"""run: budgets, reasons to stop, and going on after each of them."""

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blackbox.budget import Budget
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference
from blackbox.feedback import Failed, Feedback, Ranking, Values
from blackbox.hooks import Hook, MetricsFile
from blackbox.journal import Journal
from blackbox.noise import Gaussian
from blackbox.optimizers import SGD
from blackbox.parameters import Parameters
from blackbox.probe import Query
from blackbox.result import Result, Status
from blackbox.run import Tolerance, run
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from oracles.base import RankingOracle, ValueOracle


class Bowl(ValueOracle):
    """The squared distance; what ``before`` does comes first."""

    def __init__(self, before: Callable[[int], None] = lambda calls: None) -> None:
        self.asked: list[str] = []
        self.calls = 0
        self.before = before

    def answer(self, queries: Sequence[Query], parameters: Parameters) -> Sequence[Feedback]:
        self.asked += [query.id for query in queries]
        return super().answer(queries, parameters)

    def evaluate(self, candidates: Any) -> Any:
        self.calls += 1
        self.before(self.calls)
        return (candidates**2).sum(1)


class Later(Bowl):
    """Answers only when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Feedback] = []
        self.open = False

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        held = {i for feedback in self.held for i in feedback.ids}
        super().submit([query for query in queries if query.id not in held], parameters)

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        self.held += super().poll(timeout)
        ready, self.held = (self.held, []) if self.open else ([], self.held)
        return ready


def start(folder: Path | None = None, lr: float = 0.02) -> Session:
    strategy = GradientStrategy(CentralDifference(Gaussian(), 1e-3, probes=2), SGD(lr))
    journal = Journal(folder) if folder is not None else None
    return Session(strategy, Parameters.from_vector([1.0, -2.0, 3.0]), journal=journal)


def go(folder: Path, oracle: Bowl | None = None, **more: Any) -> Result:
    """Begin or resume the run in a folder, in a session of its own."""
    session = start(folder)
    try:
        result = run(session, oracle or Bowl(), **({"budget": Budget(steps=8)} | more))
        result.parameters.flush()
        return result
    finally:
        assert session.journal is not None
        session.journal.close()


def bits(result: Result) -> bytes:
    return bytes(result.parameters.flat().numpy().tobytes())


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """The end of the run that nothing interrupts."""
    return bits(go(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("budget", "status", "steps"),
    [
        (Budget(queries=11), Status.QUERIES, 2),
        (Budget(queries=12), Status.QUERIES, 3),
        (Budget(queries=3), Status.QUERIES, 0),
        (Budget(steps=2), Status.STEPS, 2),
        (Budget(minutes=1e-9), Status.TIME, 0),
    ],
)
def test_a_round_that_would_exceed_the_budget_is_not_asked(budget: Budget, status: Status, steps: int) -> None:
    oracle = Bowl()
    result = run(start(), oracle, budget)
    assert (result.status, result.steps, len(oracle.asked)) == (status, steps, 4 * steps)
    assert result.cost.get("queries", 0) == 4 * steps


def test_budgets_count_what_the_oracle_says_a_query_costs() -> None:
    class Costly(Bowl):
        def cost(self, queries: Sequence[Query]) -> dict[str, float]:
            return {"queries": len(queries), "examples": 10.0 * len(queries), "tokens": 7.0 * len(queries)}

    result = run(start(), Costly(), Budget(examples=119))
    assert (result.status, result.cost["examples"], result.steps) == (Status.EXAMPLES, 80, 2)
    assert run(start(), Costly(), Budget(tokens=28)).steps == 1


def test_cache_hits_cost_nothing_and_failed_attempts_count() -> None:
    class Remembered(Bowl):
        def cost(self, queries: Sequence[Query]) -> dict[str, float]:
            return {"queries": 0}

    assert run(start(), Remembered(), Budget(queries=1, steps=5)).status is Status.STEPS

    def fails(calls: int) -> None:
        if calls % 3 == 2:  # one of the single evaluations after a failed batch
            raise ValueError("no")

    result = run(start(), Bowl(fails), Budget(queries=40), tolerance=Tolerance(share=1.0))
    assert result.cost["failed"] > 0
    assert result.cost["queries"] >= result.cost["failed"] + 4


def test_an_oracle_that_does_not_fit_is_refused() -> None:
    class Order(RankingOracle):
        def rank(self, candidates: Any) -> Any:
            return [0, 1, 2, 3]

    with pytest.raises(
        UserError,
        match=r"CentralDifference needs Values, but Order answers Ranking\. "
        "Estimators that accept Ranking: rank, rank-es, one-bit",
    ):
        run(start(), Order(), Budget(steps=1))

    class Ranked(CentralDifference):
        accepts = frozenset({Ranking, Failed})  # that both may fail is no fit

    strategy = GradientStrategy(Ranked(), SGD(0.1))
    words = r"Ranked needs Ranking, but Bowl answers Values\. Estimators that accept Values: central, forward"
    with pytest.raises(UserError, match=words):
        run(Session(strategy, Parameters.from_vector([1.0])), Bowl(), Budget(steps=1))


@pytest.mark.parametrize(
    ("scale", "dtype", "warned"),
    [
        (1e-7, torch.float32, True),
        (1e-3, torch.float32, False),
        (0.0, torch.float32, False),
        (1e-7, torch.float64, False),
    ],
)
def test_differences_as_small_as_rounding_are_warned_about_once(scale: float, dtype: torch.dtype, warned: bool) -> None:
    class Slight(Bowl):
        def evaluate(self, candidates: Any) -> Any:
            return 1.0 + scale * np.sign(candidates[:, 0] - 1.0)

    strategy = GradientStrategy(CentralDifference(epsilon=1e-2), SGD(1e-3))
    session = Session(strategy, Parameters.from_vector(torch.ones(3, dtype=dtype)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(session, Slight(), Budget(steps=4))
    assert ["Raise epsilon" in str(one.message) for one in caught] == [True] * warned


def test_too_many_failures_stop_the_run_which_goes_on_once_the_oracle_is_mended(tmp_path: Path) -> None:
    def broken(calls: int) -> None:
        raise ConnectionError("no route to host")

    result = go(tmp_path, Bowl(broken), tolerance=Tolerance(share=0.2, least=6))
    assert result.status is Status.FAILURES
    assert not result.status.finished
    assert "ConnectionError: no route to host" in result.reasons[0]
    assert result.steps < 8
    mended = go(tmp_path, Bowl(), tolerance=Tolerance(share=0.2, least=6))
    assert (mended.status, mended.steps) == (Status.STEPS, 8)
    assert mended.cost["failed"] == result.cost["failed"]


def test_a_run_that_waits_returns_and_a_new_session_goes_on_with_the_same_bits(tmp_path: Path, whole: bytes) -> None:
    result = go(tmp_path / "run", Later(), on_pending="return")
    assert (result.status, result.steps) == (Status.PENDING, 0)
    oracle = Later()
    oracle.open = True
    assert bits(go(tmp_path / "run", oracle, on_pending="return")) == whole


def test_a_pending_session_goes_on_where_it_is(whole: bytes) -> None:
    oracle, session = Later(), start()
    for _ in range(3):
        assert run(session, oracle, Budget(steps=8), on_pending="return").status is Status.PENDING
    assert len(oracle.asked) == 4
    oracle.open = True
    assert bits(run(session, oracle, Budget(steps=8), on_pending="return")) == whole


def test_the_target_ends_a_run_and_a_run_killed_there_ends_there_too(tmp_path: Path) -> None:
    result = go(tmp_path, budget=Budget(target=11.0))
    assert result.status is Status.TARGET
    assert result.best is not None
    assert result.best.value <= 11.0
    again = go(tmp_path, budget=Budget(target=11.0))
    assert (again.status, again.steps, bits(again)) == (Status.TARGET, result.steps, bits(result))


def test_a_plateau_ends_a_run_at_the_same_step_however_often_it_is_resumed(tmp_path: Path) -> None:
    budget = Budget(plateau=6, steps=200)
    oracle = Bowl()
    oracle.evaluate = lambda x: (np.round(x) ** 2).sum(1)  # type: ignore[method-assign,assignment]
    result = run(start(), oracle, budget)
    assert result.status is Status.PLATEAU
    assert 6 <= result.steps < 200
    again = None
    for stop in range(2, result.steps + 4, 2):
        again = go(tmp_path, oracle, budget=Budget(plateau=6, steps=stop), checkpoint_every=5)
    assert again is not None
    assert (again.status, again.steps) == (Status.PLATEAU, result.steps)


@pytest.mark.parametrize("call", [1, 3, 8])
def test_ctrl_c_in_the_oracle_leaves_a_run_that_ends_as_if_uninterrupted(
    tmp_path: Path, whole: bytes, call: int
) -> None:
    def interrupts(calls: int) -> None:
        if calls == call:
            raise KeyboardInterrupt

    result = go(tmp_path / "run", Bowl(interrupts), checkpoint_every=2)
    assert (result.status, result.steps) == (Status.INTERRUPTED, call - 1)
    assert bits(go(tmp_path / "run", checkpoint_every=2)) == whole


def test_ctrl_c_waits_until_the_step_is_whole(whole: bytes) -> None:
    session, oracle = start(), Bowl()
    original = session.strategy.step

    def interrupted(*args: Any) -> dict[str, float]:
        if session.steps == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return original(*args)

    session.strategy.step = interrupted  # type: ignore[method-assign,assignment]
    result = run(session, oracle, Budget(steps=8))
    assert (result.status, result.steps, result.parameters.version) == (Status.INTERRUPTED, 4, 4)
    assert bits(run(session, oracle, Budget(steps=8))) == whole


def test_the_result_is_the_present_point_and_best_the_lowest_answer() -> None:
    session, oracle = start(lr=3.0), Bowl()  # far too large: the walk diverges
    seen: list[float] = []
    oracle.evaluate = lambda x: seen.extend((x**2).sum(1)) or (x**2).sum(1)  # type: ignore[method-assign,assignment,func-returns-value]
    result = run(session, oracle, Budget(steps=5))
    assert result.best is not None
    assert result.best.value == min(seen)
    assert result.best.point is not None
    assert sum(x * x for x in result.best.point) == pytest.approx(min(seen))
    assert float(result.parameters.flat().square().sum()) > result.best.value
    assert result.journal is None


def test_a_hook_can_stop_a_run(tmp_path: Path, whole: bytes) -> None:
    class Quits(Hook):
        def on_step(self, record: dict[str, Any]) -> bool:
            return bool(record["step"] == 3)

    result = go(tmp_path / "run", hooks=[Quits()])
    assert (result.status, result.steps) == (Status.STOPPED, 3)
    assert bits(go(tmp_path / "run", hooks=[Quits()])) == whole


def test_the_metrics_file_has_every_step_and_evaluation_once(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    more: dict[str, Any] = {"metrics": lambda: {"m": 1.0, "undefined": float("nan")}, "evaluate_every": 3}
    go(tmp_path, hooks=[file], budget=Budget(steps=4), **more)
    lines = file.path.read_text().splitlines()
    file.path.write_text("\n".join(lines[:-2]) + "\n" + lines[-1][:9])  # the last step is missing, a line torn
    go(tmp_path, hooks=[MetricsFile(tmp_path)], **more)
    found = [(r["kind"], r["step"]) for r in map(json.loads, file.path.read_text().splitlines())]
    assert sorted(found) == sorted([*(("step", i) for i in range(1, 9)), *(("evaluation", i) for i in (0, 3, 6, 8))])


def test_a_run_killed_in_the_middle_ends_as_one_never_killed_and_asks_nothing_twice(
    tmp_path: Path, whole: bytes
) -> None:
    folder, asked = tmp_path / "run", []

    def dies(calls: int) -> None:
        if calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(2):
        child = os.fork()
        if child == 0:
            go(folder, Bowl(dies), checkpoint_every=3)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        records = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
        asked.append(sum(record["kind"] == "values" for record in records))
    oracle = Bowl()
    assert bits(go(folder, oracle, checkpoint_every=3)) == whole
    assert asked == [2, 4]
    assert oracle.asked == [f"{step}.0.{i}" for step in range(4, 8) for i in range(4)]


def test_answers_of_an_inbox_that_come_again_after_a_resume_are_dropped(tmp_path: Path) -> None:
    class Inbox(Bowl):
        kept: list[Feedback] = []

        def poll(self, timeout: float = 0) -> Sequence[Feedback]:
            self.kept += super().poll(timeout)
            return list(self.kept)  # all that it ever got

    Inbox.kept = []
    go(tmp_path, Inbox(), budget=Budget(steps=2), checkpoint_every=1)
    result = go(tmp_path, Inbox(), budget=Budget(steps=5), checkpoint_every=1)
    assert (result.steps, result.cost["queries"]) == (5, 20)
    assert all(isinstance(feedback, Values) for feedback in Inbox.kept)


@pytest.mark.parametrize("wanted", [False, True])
def test_the_oracle_is_told_whether_values_per_example_are_wanted(wanted: bool) -> None:
    class Exampled(CentralDifference):
        per_example = wanted

    oracle = Bowl()
    oracle.per_example = not wanted
    run(Session(GradientStrategy(Exampled(), SGD(0.1)), Parameters.from_vector([1.0])), oracle, Budget(steps=1))
    assert oracle.per_example is wanted
