"""Runs of a problem that trains itself, on descent along x^2/2, whose every point is known."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from blackbox import checkpoint
from blackbox.budget import Budget
from blackbox.hooks import Hook, MetricsFile
from blackbox.journal import Journal
from blackbox.parameters import Parameters
from blackbox.result import Result, Status
from blackbox.training import Training


class Halving:
    """x <- x/2; a step asks three times. It fails, or is interrupted, at a step once."""

    def __init__(self, fails_at: int = -1, error: type[BaseException] = ValueError) -> None:
        self.tensors = Parameters.from_vector(torch.tensor([8.0]))
        self.fails_at, self.error = fails_at, error
        self.queries, self.steps = 0, 6
        self.made: list[int] = []

    def parameters(self) -> Parameters:
        return self.tensors

    def begin(self, seed: int) -> None:
        self.seed = seed

    def step_cost(self, step: int) -> dict[str, float]:
        return {"queries": 3, "examples": 10}

    def prepare_step(self, step: int) -> int:
        self.queries += 2
        if step == self.fails_at:
            raise self.error("no answer")
        self.queries += 1
        return step

    def make_step(self, step: int) -> dict[str, float]:
        self.made.append(step)
        x = self.tensors.tensors["x"]
        x /= 2
        return {"value": float(x)}

    def state_dict(self) -> dict[str, Any]:
        return {"made": self.made}

    def load_state_dict(self, state: Any) -> None:
        self.made = list(state["made"])


def run(folder: Path, problem: Halving, budget: Budget | None = None, **options: Any) -> Result:
    with closing(Journal(folder)) as journal:
        return Training(problem, journal, 1, {}).run(budget or Budget(steps=100), **options)


def x_of(problem: Halving) -> float:
    return float(problem.tensors.flat())


@pytest.mark.parametrize(
    ("budget", "status", "steps"),
    [
        (Budget(steps=100), Status.STEPS, 6),
        (Budget(steps=4), Status.STEPS, 4),
        (Budget(queries=14), Status.QUERIES, 4),
        (Budget(examples=50), Status.EXAMPLES, 5),
        (Budget(target=1.5), Status.TARGET, 3),
        (Budget(minutes=1e-9), Status.TIME, 0),
    ],
    ids=str,
)
def test_it_stops_where_the_budget_says(budget, status, steps, tmp_path):
    problem = Halving()
    result = run(tmp_path, problem, budget)
    assert (result.status, result.steps, x_of(problem)) == (status, steps, 8 / 2**steps)
    assert result.cost.get("queries", 0) == problem.queries == 3 * steps


def test_a_plateau_counts_what_earlier_lives_saw(tmp_path):
    class Flat(Halving):
        def make_step(self, step: int) -> dict[str, float]:
            return {**super().make_step(step), "value": 1.0}

    whole = run(tmp_path / "whole", Flat(), Budget(plateau=3))
    assert whole.status is Status.PLATEAU and whole.steps < 6
    run(tmp_path / "cut", Flat(), Budget(steps=2))
    assert run(tmp_path / "cut", Flat(), Budget(plateau=3)).steps == whole.steps


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, Status.FAILURES), (KeyboardInterrupt, Status.INTERRUPTED)], ids=str
)
def test_a_failure_or_an_interruption_keeps_the_last_whole_step_and_is_paid_for(error, status, tmp_path):
    first, second = Halving(3, error), Halving()
    result = run(tmp_path, first, checkpoint_every=100)
    assert result.status is status and result.steps == 3 and result.cost["queries"] == 11
    assert result.reasons == (("step 3: ValueError: no answer",) if error is ValueError else ())
    again = run(tmp_path, second)
    assert again.status is Status.STEPS and x_of(second) == 8 / 2**6 and second.made == list(range(6))
    assert again.cost["queries"] == 11 + 9 and again.cost["examples"] == 60 and again.cost["failed"] == 1


def test_an_interruption_within_a_move_comes_after_it(tmp_path):
    class Interrupted(Halving):
        def make_step(self, step: int) -> dict[str, float]:
            if step == 2:
                signal.raise_signal(signal.SIGINT)
            return super().make_step(step)

    first, second = Interrupted(), Halving()
    result = run(tmp_path, first)
    assert result.status is Status.INTERRUPTED and result.steps == 3 and x_of(first) == 1.0
    assert run(tmp_path, second).cost["queries"] == 18 and x_of(second) == 8 / 2**6


def test_checkpoints_metrics_and_evaluations_come_when_they_are_due_and_once(tmp_path):
    problem, looked = Halving(), []

    def metrics() -> dict[str, float]:
        looked.append(x_of(problem))
        return {"x": x_of(problem)}

    options: dict[str, Any] = {"metrics": metrics, "evaluate_every": 2, "checkpoint_every": 4}
    run(tmp_path, problem, Budget(steps=3), hooks=[MetricsFile(tmp_path)], **options)
    problem = Halving()
    result = run(tmp_path, problem, hooks=[MetricsFile(tmp_path)], **options)
    assert looked == [8.0, 2.0, 1.0, 0.5, 0.125] and result.metrics == {"x": 0.125}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    saved = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert saved == [f"step-{step:08d}.safetensors" for step in (3, 4, 6)]
    assert float(checkpoint.load(tmp_path / "checkpoints" / saved[0])["tensors"]["x"]) == 1.0


def test_a_hook_may_stop_it(tmp_path):
    class Stop(Hook):
        def on_step(self, record: dict[str, Any]) -> bool:
            return bool(record["step"] == 2)

    result = run(tmp_path, Halving(), hooks=[Stop()])
    assert result.status is Status.STOPPED and result.steps == 2
