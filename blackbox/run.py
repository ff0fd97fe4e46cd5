"""run: drive a session with an oracle until a budget is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from blackbox.budget import Budget
from blackbox.config.fit import kinds_of, misfit
from blackbox.errors import UserError
from blackbox.feedback import Cost, Feedback
from blackbox.hooks import Hook
from blackbox.interrupt import exits_told
from blackbox.parameters import Parameters
from blackbox.probe import Query
from blackbox.result import Result, Status
from blackbox.session import Session
from blackbox.steering import Steer
from blackbox.watch import Plateau, Rounding

Metrics = Callable[[], dict[str, float]]


class Oracle(Protocol):
    """What ``run`` needs of an oracle; see ``oracles.base``."""

    answers: frozenset[type[Feedback]]

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Take queries to answer; idempotent by query id."""
        ...

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """Answers that have come; empty means not yet."""
        ...


@dataclass(frozen=True)
class Tolerance:
    """How many failures a run bears: at most ``share`` of the answers, once ``least`` have failed."""

    share: float = 0.2
    least: int = 10


def run(
    session: Session,
    oracle: Oracle,
    budget: Budget,
    hooks: Sequence[Hook] = (),
    on_pending: Literal["poll", "return"] = "poll",
    metrics: Metrics | None = None,
    evaluate_every: int = 0,
    checkpoint_every: int = 0,
    tolerance: Tolerance | None = None,
) -> Result:
    """Ask, evaluate, tell and step until the budget ends.

    Args:
        session: where the run stands; a resumed one goes on from there.
        oracle: gives the answers.
        budget: the limits; counted in answers by their cost, so a resumed run does not start anew.
        hooks: told of steps, evaluations and the end.
        on_pending: "poll" waits for answers, "return" gives status PENDING when none has come.
        metrics: held-out metrics of the present point, taken at the start, every ``evaluate_every`` steps and
            at the end; its time counts towards budget.minutes, its queries towards nothing.
        checkpoint_every: steps between checkpoints; 0 is none (the journal alone resumes a run, by replay).
        tolerance: how many failed answers are borne.

    Raises:
        UserError: the oracle's answers and the strategy's do not fit.
    """
    check_fit(session, oracle)
    estimator = getattr(session.strategy, "estimator", None)
    if estimator is not None and hasattr(oracle, "per_example"):
        oracle.per_example = estimator.per_example
    return _Run(session, oracle, budget, hooks, metrics, tolerance or Tolerance()).until_done(
        on_pending, evaluate_every, checkpoint_every
    )


def check_fit(session: Session, oracle: Oracle) -> None:
    """Refuse an oracle whose answers the strategy cannot use, and name those that could."""
    estimator = getattr(session.strategy, "estimator", None)
    kind, judge = ("strategy", session.strategy) if estimator is None else ("estimator", estimator)
    accepts, answers = kinds_of(session.strategy, "accepts"), kinds_of(oracle, "answers")
    why = misfit(kind, type(judge).__name__, accepts, type(oracle).__name__, answers)
    if why is not None:
        raise UserError(why)


class _Run:
    def __init__(
        self,
        session: Session,
        oracle: Oracle,
        budget: Budget,
        hooks: Sequence[Hook],
        metrics: Metrics | None,
        tolerance: Tolerance,
    ) -> None:
        self.session, self.oracle, self.budget = session, oracle, budget
        self.hooks, self.metrics, self.tolerance = hooks, metrics, tolerance
        self.plateau = Plateau(budget.plateau)
        # Values at float64 parameters are float64 themselves, and far from rounding.
        self.rounding = Rounding(all(t.dtype == torch.float64 for t in session.parameters.raw.values()))
        self._detail = ""
        self._began = time.monotonic() - session.seconds

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def until_done(self, on_pending: str, evaluate_every: int, checkpoint_every: int) -> Result:
        for hook in self.hooks:
            hook.on_start(self.session.steps, self.session.spent)
        try:
            with exits_told():
                status = self._loop(on_pending, evaluate_every, checkpoint_every)
                if status.finished:
                    self._evaluate()
            if status.finished:
                self.session.flush()
                if checkpoint_every:
                    self.session.save(self.seconds)
        except KeyboardInterrupt:
            # The bits are left as a kill would leave them: the journal has all, nothing is flushed early.
            self.session.abandon()
            status = Status.INTERRUPTED
        if status is Status.FAILURES:
            self.session.forgive()
        result = self._result(status)
        for hook in self.hooks:
            hook.on_end(result.message)
        return result

    def _loop(self, on_pending: str, evaluate_every: int, checkpoint_every: int) -> Status:
        session = self.session
        if session.memory is not None and hasattr(self.oracle, "recall"):
            self.oracle.recall(session.memory)
        self._evaluate(only_at_start=True)
        stop = self._catch_up()
        while True:
            self._do_what_is_due(evaluate_every, checkpoint_every)
            stop = stop or self._judge()
            if stop is not None:
                return stop
            if session.between_rounds:
                self._steer()
            progress = self.budget.progress(session.spent, self.seconds / 60, session.steps)
            queries = session.preview(progress)
            if queries:
                cost = self._cost(queries)
                stop = self.budget.exceeded_by(session.spent, cost, self.seconds / 60, session.steps)
                if stop is not None:
                    self._detail = (not session.spent and self.budget.too_small_for(cost)) or ""
                    return stop
                for portion in session.portions(progress):
                    self.oracle.submit(portion, session.parameters)
            answers, moved = self.oracle.poll(0), False
            # Answers that are there come before what people ask for besides: a round that is complete counts.
            while queries and not answers and not (moved := self._steer()):
                session.note_waiting()
                if on_pending == "return":
                    return Status.PENDING
                answers = self.oracle.poll(1.0)
            if moved:  # the round is gone, and what was answered with it
                continue
            session.tell_all(answers, getattr(self.oracle, "take_memory", lambda: None)())
            self._take_notes()
            stop = self._judge()
            if stop is not None:
                return stop
            session.seconds = self.seconds
            facts = session.advance()
            if facts is not None:
                stop = self._after_step(facts)

    def _steer(self) -> bool:
        """Do what people ask for besides answering; whether the open round is gone with it."""
        requests: Sequence[Steer] = getattr(self.oracle, "steering", tuple)()
        dropped = [self.session.steer(request) for request in requests]
        return any(dropped)

    def _take_notes(self) -> None:
        notes: Sequence[str] = getattr(self.oracle, "take_notes", tuple)()
        for words in notes:
            self.session.note(words)
            for hook in self.hooks:
                hook.on_note(words)

    def _catch_up(self) -> Status | None:
        """What the last life may have died before: telling of its last step, stopping where it had to."""
        session, reached = self.session, False
        for value in session.history if self.budget.plateau is not None else ():
            reached = self.plateau.reached(value)
        if session.facts is not None:
            record = self._record_of(session.facts)
            for hook in self.hooks:
                hook.on_replay(record)
        return Status.PLATEAU if reached and session.between_rounds else None

    def _cost(self, queries: Sequence[Query]) -> Cost:
        estimate = getattr(self.oracle, "cost", None)
        cost: Cost = {"queries": len(queries)}
        return cost | (estimate(queries) if callable(estimate) else {})

    def _do_what_is_due(self, evaluate_every: int, checkpoint_every: int) -> None:
        # Asked at the top of the loop rather than after a step: a run killed in between does it on resuming.
        session = self.session
        if session.steps == 0 or not session.between_rounds:
            return
        if evaluate_every and session.steps % evaluate_every == 0:
            self._evaluate()
        if checkpoint_every and session.steps % checkpoint_every == 0 and session.saved_at != session.steps:
            session.save(self.seconds)

    def _after_step(self, facts: dict[str, float]) -> Status | None:
        self.rounding.note(facts.get("near_rounding", 0.0))
        record = self._record_of(facts) if self.hooks else {}
        stopped = [hook.on_step(record) for hook in self.hooks]
        if any(stopped):
            return Status.STOPPED
        if self.plateau.reached(facts.get("value", math.nan)):
            return Status.PLATEAU
        return None

    def _record_of(self, facts: dict[str, float]) -> dict[str, Any]:
        session, device = self.session, self.session.parameters.device
        memory = {"peak_memory": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}
        return {
            "step": session.steps,
            "queries": session.spent.get("queries", 0),
            "seconds": round(self.seconds, 3),
            "progress": self.budget.progress(session.spent, self.seconds / 60, session.steps),
            **memory,
            **facts,
        }

    def _judge(self) -> Status | None:
        session, target = self.session, self.budget.target
        if target is not None and session.best is not None and session.best.value <= target:
            return Status.TARGET
        failed, asked = (session.spent.get(coin, 0) - session.forgiven.get(coin, 0) for coin in ("failed", "queries"))
        if failed >= self.tolerance.least and failed > self.tolerance.share * asked:
            return Status.FAILURES
        return None

    def _evaluate(self, only_at_start: bool = False) -> None:
        session = self.session
        if self.metrics is None or session.steps in session.evaluated or (only_at_start and session.steps > 0):
            return
        session.flush()
        metrics = {name: value for name, value in self.metrics().items() if math.isfinite(value)}
        record = {
            "step": session.steps,
            "queries": session.spent.get("queries", 0),
            "seconds": round(self.seconds, 3),
            **metrics,
        }
        for hook in self.hooks:
            hook.on_evaluate(record)
        session.note_evaluation(metrics, self.seconds)

    def _result(self, status: Status) -> Result:
        session = self.session
        metrics = session.evaluated[max(session.evaluated)] if session.evaluated else {}
        return Result(
            status=status,
            parameters=session.parameters,
            best=session.best,
            cost={**session.spent, "wall_seconds": self.seconds},
            steps=session.steps,
            metrics=metrics,
            journal=session.journal.path if session.journal is not None else None,
            reasons=tuple(session.reasons) if status is Status.FAILURES else (),
            detail=self._detail,
        )
