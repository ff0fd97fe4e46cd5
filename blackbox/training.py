"""Runs of problems that train themselves: their own steps, with the budget, folder and resumption of every run.

Where backpropagation goes through a black box (``blackbox.opaque``), a step's gradient is no answer that a strategy
could work with, so the problem makes its steps. The journal holds what each of them spent; a run that was killed goes
on from its newest checkpoint and makes the steps after that again, bit for bit. What they ask again is spent again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from blackbox import checkpoint
from blackbox.budget import Budget
from blackbox.errors import JournalError
from blackbox.feedback import Cost, add_cost
from blackbox.hooks import Hook
from blackbox.interrupt import held_back
from blackbox.journal import SCHEMA, Journal, Record
from blackbox.parameters import Parameters
from blackbox.result import Result, Status
from blackbox.watch import Plateau


class Trainable(Protocol):
    """A problem that trains itself."""

    @property
    def steps(self) -> int:
        """All that it wants to make."""
        ...

    @property
    def queries(self) -> int:
        """How often anything was asked so far, for whatever purpose."""
        ...

    def parameters(self) -> Parameters:
        """The tensors that a step moves."""
        ...

    def begin(self, seed: int) -> None:
        """Everything random in the steps derives from this seed and the step's number."""
        ...

    def step_cost(self, step: int) -> Cost:
        """What a step will cost, {"queries", "examples", ...}, if nothing fails."""
        ...

    def prepare_step(self, step: int) -> Any:
        """Ask what there is to ask, for ``make_step``. Nothing moves, so it may fail or be interrupted."""
        ...

    def make_step(self, prepared: Any) -> dict[str, float]:
        """Move by what was prepared; facts for the log: "value" is the loss."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """JSON values and tensors that a resumed training needs besides the parameters."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        ...


class Training:
    """One run of a ``Trainable``.

    Args:
        problem: at its starting point.
        journal: of the run's folder; one that holds records is gone on with.
        seed: of the run.
        settings: facts that could change the bits of the run, compared on resume.
        inexact: resume although they changed.

    Attributes:
        step: steps made.
        spent: cost of the run, over all its lives.

    Raises:
        JournalError: the journal is of another run, or of other settings.
    """

    def __init__(
        self, problem: Trainable, journal: Journal, seed: int, settings: Mapping[str, Any], inexact: bool = False
    ) -> None:
        self.problem, self.journal = problem, journal
        self.step = 0
        self.spent: Cost = {}
        self.seconds = 0.0
        self.evaluated: dict[int, dict[str, float]] = {}
        self.values: dict[int, float] = {}
        self._saved = -1
        problem.begin(seed)
        header = {"kind": "header", "schema": SCHEMA, "training": True, "seed": seed, "settings": dict(settings)}
        if not journal.records:
            journal.append(header, durable=True)
            return
        _compare(journal, header, inexact)
        for record in journal.records[1:]:
            if "spent" in record:  # of steps that will be made again, too: it was spent
                self.spent, self.seconds = dict(record["spent"]), record["seconds"]
            if record["kind"] == "trained" and "value" in record:
                self.values[record["step"]] = record["value"]
        self._take_up(_newest(journal))

    def run(
        self,
        budget: Budget,
        hooks: Sequence[Hook] = (),
        metrics: Callable[[], dict[str, float]] | None = None,
        evaluate_every: int = 0,
        checkpoint_every: int = 100,
    ) -> Result:
        """Make steps until all are made or the budget ends. Whatever ends it, the last whole step is saved."""
        began, plateau, reasons = time.monotonic() - self.seconds, Plateau(budget.plateau), list[str]()
        for hook in hooks:
            hook.on_start(self.step, self.spent)
        status: Status | None = None
        for step in range(self.step):
            plateau.reached(self.values.get(step, math.nan))
        try:
            self._evaluate(metrics, hooks)
            while status is None:
                status = self._judge(budget, (time.monotonic() - began) / 60)
                if status is not None:
                    break
                facts = self._make_step(began)
                record = self._record(budget, facts)
                stops = [hook.on_step(record) for hook in hooks]
                if any(stops):
                    status = Status.STOPPED
                elif plateau.reached(facts.get("value", math.nan)):
                    status = Status.PLATEAU
                if evaluate_every and self.step % evaluate_every == 0:
                    self._evaluate(metrics, hooks)
                if checkpoint_every and self.step % checkpoint_every == 0:
                    self.save()
            self._evaluate(metrics, hooks)
        except KeyboardInterrupt:
            status = Status.INTERRUPTED
        except Exception as error:  # the black box failed, or is gone: what was reached is kept
            status, reasons = Status.FAILURES, [f"step {self.step}: {type(error).__name__}: {error}"]
        self.seconds = time.monotonic() - began
        self.save()
        cost = {**self.spent, "wall_seconds": self.seconds}
        asked_nothing = status.finished and not self.spent and self.step < self.problem.steps
        detail = (asked_nothing and budget.too_small_for(self.problem.step_cost(self.step))) or ""
        last = self.evaluated[max(self.evaluated)] if self.evaluated else {}
        result = Result(
            status, self.problem.parameters(), None, cost, self.step, last, self.journal.path, tuple(reasons), detail
        )
        for hook in hooks:
            hook.on_end(result.message)
        return result

    def save(self) -> None:
        """Write a checkpoint of the last whole step, unless there is one."""
        if self._saved == self.step:
            return
        state = {
            "tensors": self.problem.parameters().tensors,
            "problem": self.problem.state_dict(),
            "evaluated": {str(step): metrics for step, metrics in self.evaluated.items()},
        }
        path = self.journal.folder / "checkpoints" / f"step-{self.step:08d}.safetensors"
        checkpoint.save(path, state)
        self.journal.append({"kind": "checkpoint", "step": self.step, "file": path.name}, durable=True)
        self._saved = self.step

    def _make_step(self, began: float) -> dict[str, float]:
        before, expected = self.problem.queries, self.problem.step_cost(self.step)

        def pay(kind: str, cost: Cost, facts: Mapping[str, float]) -> None:
            add_cost(self.spent, {**cost, "queries": self.problem.queries - before})
            self.seconds = time.monotonic() - began
            record = {"kind": kind, "step": self.step, "spent": self.spent, "seconds": self.seconds}
            self.journal.append({**record, **facts})

        try:
            prepared = self.problem.prepare_step(self.step)
        except BaseException:  # what it asked is spent all the same
            pay("failed", {"failed": 1.0}, {})
            raise
        with held_back():  # an interruption finds the step made and counted, or neither
            facts = self.problem.make_step(prepared)
            pay("trained", expected, facts)
            self.values[self.step] = facts.get("value", math.nan)
            self.step += 1
        return facts

    def _judge(self, budget: Budget, minutes: float) -> Status | None:
        value = self.values.get(self.step - 1)
        if budget.target is not None and value is not None and value <= budget.target:
            return Status.TARGET
        if self.step >= self.problem.steps:
            return Status.STEPS
        return budget.exceeded_by(self.spent, self.problem.step_cost(self.step), minutes, self.step)

    def _record(self, budget: Budget, facts: Mapping[str, float]) -> Record:
        share = max(budget.progress(self.spent, self.seconds / 60, self.step), self.step / self.problem.steps)
        queries = self.spent.get("queries", 0)
        head = {"step": self.step, "queries": queries, "seconds": round(self.seconds, 3), "progress": share}
        return {**head, **facts}

    def _evaluate(self, metrics: Callable[[], dict[str, float]] | None, hooks: Sequence[Hook]) -> None:
        """Metrics of the present point, once; what they ask counts towards nothing."""
        if metrics is None or self.step in self.evaluated:
            return
        self.evaluated[self.step] = metrics()
        head = {"step": self.step, "queries": self.spent.get("queries", 0), "seconds": round(self.seconds, 3)}
        for hook in hooks:
            hook.on_evaluate({**head, **self.evaluated[self.step]})

    def _take_up(self, path: Path | None) -> None:
        if path is None:
            return
        state = checkpoint.load(path)
        self.problem.parameters().assign(state["tensors"])
        self.problem.load_state_dict(state["problem"])
        self.evaluated = {int(step): metrics for step, metrics in state["evaluated"].items()}
        self.step = self._saved = int(path.stem.removeprefix("step-"))


def _newest(journal: Journal) -> Path | None:
    """The newest checkpoint that is there."""
    names = [record["file"] for record in reversed(journal.records) if record["kind"] == "checkpoint"]
    return next((path for name in names if (path := journal.folder / "checkpoints" / name).exists()), None)


def _compare(journal: Journal, header: Record, inexact: bool) -> None:
    saved = journal.records[0]
    if not saved.get("training") or saved["seed"] != header["seed"]:
        raise JournalError(f"{journal.path} is of another run: another kind, or another seed.")
    both = {**saved["settings"], **header["settings"]}
    changed = [key for key in both if saved["settings"].get(key) != header["settings"].get(key)]
    if changed and not inexact:
        words = "; ".join(f"{k} was {saved['settings'].get(k)}, now {header['settings'].get(k)}" for k in changed)
        raise JournalError(f"{journal.path}: what could change the bits is not as it was: {words}. Use --inexact.")
