"""The session: ask and tell over a strategy and its parameters, with a journal from which it can be resumed.

    queries = session.ask()        # the same ones again until they are answered
    session.tell(feedback)         # in any order, in parts
    session.retract("12.0.3")      # before the step is made
    step = session.advance()       # acts on complete answers; a dict once a step was made

The journal holds what was asked (the plan's inputs, not its queries), what was told and what was stepped. Resuming is
the last checkpoint plus a replay of the journal; nothing answered is asked again, and the bits are those of a run that
was never interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blackbox import checkpoint
from blackbox.errors import JournalError, StaleAnswerError, UserError
from blackbox.estimators.base import Plan, Round
from blackbox.feedback import Answers, Cost, Failed, Feedback, Preferences, Ranking, Values, add_cost
from blackbox.journal import SCHEMA, Journal, Record
from blackbox.parameters import Parameters
from blackbox.probe import Context, DenseCandidate, Query
from blackbox.records import from_record, to_record
from blackbox.result import Best
from blackbox.seeds import derive_seed
from blackbox.strategies.base import Strategy

_KEEP_POINT_UP_TO = 10_000

Replay = Callable[[Sequence[Query], Parameters], None]


@dataclass
class _Phase:
    """The open phase of the open round."""

    round: Round
    number: int
    queries: dict[str, Query]
    anchors: tuple[str, ...] = ()
    asked: bool = False
    feedback: list[Feedback] = field(default_factory=list)
    unanswered: dict[str, None] = field(default_factory=dict)


class Session:
    """Ask and tell.

    Args:
        strategy: plans queries and moves the parameters.
        parameters: what is tuned.
        seed: the run's seed; every random choice derives from it.
        journal: where the run is recorded; None keeps it in memory only.
        settings: facts that could change the bits of the run, written to the journal's header and compared on resume.
        inexact: accept other settings on resume.
        replay: called with the queries of a phase whose answers are replayed (``Oracle.replay``).

    Raises:
        JournalError: the journal belongs to another run: other seed, tensors or settings.
    """

    def __init__(
        self,
        strategy: Strategy,
        parameters: Parameters,
        seed: int = 0,
        journal: Journal | None = None,
        settings: dict[str, Any] | None = None,
        inexact: bool = False,
        replay: Replay | None = None,
    ) -> None:
        self.strategy = strategy
        self.parameters = parameters
        self.seed = seed
        self.journal = journal
        self.steps = 0
        self.spent: Cost = {}
        self.seconds = 0.0
        self.best: Best | None = None
        self.reasons: list[str] = []
        self.evaluated: dict[int, dict[str, float]] = {}
        self.saved_at: int | None = None
        self._phase: _Phase | None = None
        self._answers = Answers()
        self._told: dict[str, None] = {}
        self._replay = replay
        if journal is not None:
            header = {
                "kind": "header",
                "schema": SCHEMA,
                "seed": seed,
                "tensors": {s.name: list(s.shape) for s in parameters.layout.specs},
                "settings": settings or {},
            }
            if journal.records:
                self._resume(journal, header, inexact)
            else:
                journal.append(header, durable=True)

    @property
    def between_rounds(self) -> bool:
        """True if no query is open."""
        return self._phase is None or not self._phase.asked

    # -- asking ------------------------------------------------------------------------------------------------

    def preview(self, progress: float = 0.0) -> list[Query]:
        """What ``ask`` would return, without committing to it."""
        if self._phase is None:
            context = Context(
                batch_seed=derive_seed(self.seed, "batch", self.steps),
                reset_seed=derive_seed(self.seed, "reset", self.steps),
            )
            layout, version = self.parameters.layout, self.parameters.version
            self._open(Round(self.steps, version, self.seed, context, layout, progress), 0)
        assert self._phase is not None
        return [self._phase.queries[i] for i in self._phase.unanswered]

    def ask(self, progress: float = 0.0) -> list[Query]:
        """The unanswered queries of the open round, planning one if none is open; idempotent.

        Args:
            progress: share of the budget spent, for the schedules of a newly planned round.
        """
        queries = self.preview(progress)
        phase = self._phase
        assert phase is not None
        if not phase.asked:
            self._record(
                {"kind": "asked", "step": phase.round.step, "phase": phase.number, "progress": phase.round.progress}
            )
            self._commit(phase)
        return queries

    def _open(self, round: Round, number: int) -> None:
        plan = self.strategy.plan(round, number, self._answers)
        if number == 0 and not plan.queries:
            raise UserError(f"{type(self.strategy).__name__} planned no query for step {round.step}.")
        self._phase = self._phase_of(plan, round, number) if plan.queries else None

    def _phase_of(self, plan: Plan, round: Round, number: int) -> _Phase:
        queries = {q.id: q for q in plan.queries}
        return _Phase(round, number, queries, plan.anchors, unanswered=dict.fromkeys(queries))

    def _commit(self, phase: _Phase) -> None:
        for name in phase.anchors:
            self.parameters.take_anchor(name)
        phase.asked = True

    # -- telling -----------------------------------------------------------------------------------------------

    def tell(self, feedback: Feedback) -> None:
        """Take an answer. Answers already given are dropped; they may come in any order and in parts.

        Raises:
            StaleAnswerError: a query that is not open: of an earlier version, or never asked.
            UserError: a kind of feedback the strategy does not accept.
        """
        phase = self._phase
        ids = feedback.ids
        if phase is None or not phase.asked or any(i not in phase.queries for i in ids):
            self._refuse_stale(ids)
            return
        if not isinstance(feedback, Failed) and type(feedback) not in self.strategy.accepts:
            names = ", ".join(sorted(kind.__name__ for kind in self.strategy.accepts))
            raise UserError(f"{type(self.strategy).__name__} needs {names}, but got {type(feedback).__name__}.")
        if _is_repeat(feedback, phase):
            return
        assert self._phase is not None
        if self.journal is not None:
            everything = ids == tuple(phase.queries)
            record = to_record(feedback, self.journal, omit_ids=everything)
            self._record(record, durable=isinstance(feedback, Ranking | Preferences))
        self._receive(feedback, phase)

    def retract(self, query_id: str, rater: str = "") -> None:
        """Take back the answers to a query (by one rater) before the step is made.

        Raises:
            StaleAnswerError: the query is not open any more, or was not answered.
        """
        phase = self._phase
        given = [] if phase is None else [f for f in phase.feedback if _is_about(f, query_id, rater)]
        if phase is None or not given:
            raise StaleAnswerError(f"There is no answer to query {query_id} that could still be retracted.")
        self._record({"kind": "retracted", "id": query_id, "rater": rater}, durable=True)
        self._take_back(phase, given)

    def _refuse_stale(self, ids: Sequence[str]) -> None:
        if all(i in self._told for i in ids):
            return  # a repeat of what the last rounds already acted on
        now = self.parameters.version
        unknown = next(i for i in ids if self._phase is None or i not in self._phase.queries)
        step = unknown.split(".")[0]
        raise StaleAnswerError(
            f"Query {unknown} belongs to step {step}; the parameters are at version {now}, step {self.steps}. "
            "It was refused and changes nothing."
        )

    def _receive(self, feedback: Feedback, phase: _Phase) -> None:
        phase.feedback.append(feedback)
        for i in feedback.ids:
            phase.unanswered.pop(i, None)
        add_cost(self.spent, feedback.cost)
        if "queries" not in feedback.cost:
            add_cost(self.spent, {"queries": len(feedback.ids)})
        if isinstance(feedback, Failed):
            add_cost(self.spent, {"failed": len(feedback.ids)})
            self.reasons = [*self.reasons[-4:], f"query {feedback.ids[0]}: {feedback.reason}"]
        elif isinstance(feedback, Values):
            self._note_best(feedback, phase)

    def _take_back(self, phase: _Phase, given: Sequence[Feedback]) -> None:
        phase.feedback = [f for f in phase.feedback if f not in given]
        covered = {i for f in phase.feedback for i in f.ids}
        phase.unanswered = {i: None for i in phase.queries if i not in covered}

    def _note_best(self, feedback: Values, phase: _Phase) -> None:
        means = feedback.values if feedback.values.ndim == 1 else feedback.values.mean(1)
        index = int(np.argmin(means))
        value = float(means[index])
        if self.best is not None and value >= self.best.value:
            return
        query = phase.queries[feedback.ids[index]]
        point = None
        if self.parameters.module is None and self.parameters.dimension <= _KEEP_POINT_UP_TO:
            from blackbox.execution.batched import materialise

            if not isinstance(query.candidate, DenseCandidate):
                point = materialise([query], self.parameters)[0].tolist()
            else:
                point = query.candidate.values.tolist()
        self.best = Best(value, query, point)

    # -- stepping ----------------------------------------------------------------------------------------------

    def advance(self) -> dict[str, float] | None:
        """Act on complete answers: plan the round's next phase, or end the round with a step.

        Returns:
            The strategy's facts if a step was made, else None.
        """
        phase = self._phase
        if phase is None or not phase.asked or phase.unanswered:
            return None
        for feedback in phase.feedback:
            self._answers.add(feedback)
        self._told = dict.fromkeys([*list(self._told)[-256:], *phase.queries])
        round = phase.round
        self._open(round, phase.number + 1)
        if self._phase is not None:
            return None
        info = self.strategy.step(round, self._answers, self.parameters)
        self.steps += 1
        self._answers = Answers()
        self._record({"kind": "stepped", "step": self.steps, "version": self.parameters.version})
        return info

    def flush(self) -> None:
        """Carry out a deferred update now, and say so in the journal: where it happens can change bits."""
        if self.parameters.pending is not None:
            self._record({"kind": "flushed"})
            self.parameters.flush()

    def note_evaluation(self, metrics: dict[str, float], seconds: float) -> None:
        """Record metrics taken at the present step."""
        self.evaluated[self.steps] = metrics
        self._record({"kind": "evaluated", "step": self.steps, "metrics": metrics, "seconds": seconds})

    def save(self, seconds: float, keep: int = 2) -> Path | None:
        """Write a checkpoint beside the journal (between rounds only); older ones beyond ``keep`` are removed."""
        if self.journal is None or not self.between_rounds:
            return None
        self.saved_at = self.steps
        self.flush()
        path = self.journal.folder / "checkpoints" / f"step-{self.steps:08d}.safetensors"
        checkpoint.save(path, self._state(seconds))
        self._record({"kind": "checkpoint", "step": self.steps, "file": path.name}, durable=True)
        for old in sorted(path.parent.glob("step-*.safetensors"))[:-keep]:
            old.unlink()
        return path

    def _record(self, record: Record, durable: bool = False) -> None:
        if self.journal is not None:
            self.journal.append(record, durable)

    def _state(self, seconds: float) -> dict[str, Any]:
        return {
            "tensors": self.parameters.tensors,
            "anchors": {name: [ts, version] for name, (ts, version) in self.parameters.anchors.items()},
            "version": self.parameters.version,
            "strategy": self.strategy.state_dict(),
            "spent": self.spent,
            "seconds": seconds,
            "evaluated": {str(step): metrics for step, metrics in self.evaluated.items()},
        }

    # -- resuming ----------------------------------------------------------------------------------------------

    def _resume(self, journal: Journal, header: Record, inexact: bool) -> None:
        have = journal.records[0]
        _compare(have, header, inexact, journal.path)
        records = journal.records[1:]
        start = self._load_checkpoint(journal, records)
        self.journal = None  # what is replayed is in the journal already
        for record in records[start:]:
            self._replay_record(record, journal)
        self.journal = journal

    def _load_checkpoint(self, journal: Journal, records: Sequence[Record]) -> int:
        """Load the newest checkpoint that is there; the index of the first record after it."""
        for index in range(len(records) - 1, -1, -1):
            record = records[index]
            if record["kind"] != "checkpoint":
                continue
            path = journal.folder / "checkpoints" / record["file"]
            if path.exists():
                state = checkpoint.load(path)
                self.parameters.assign(state["tensors"])
                for name, (tensors, version) in state["anchors"].items():
                    here = {n: t.to(self.parameters.device) for n, t in tensors.items()}
                    self.parameters.anchors[name] = (here, version)
                self.parameters.version = state["version"]
                self.strategy.load_state_dict(state["strategy"])
                self.saved_at = record["step"]
                self.steps, self.spent, self.seconds = record["step"], state["spent"], state["seconds"]
                self.evaluated = {int(step): metrics for step, metrics in state["evaluated"].items()}
                return index + 1
        return 0

    def _replay_record(self, record: Record, journal: Journal) -> None:
        match record["kind"]:
            case "asked":
                self.advance()
                self.preview(record["progress"])
                phase = self._phase
                if phase is None or (phase.round.step, phase.number) != (record["step"], record["phase"]):
                    raise JournalError(
                        f"{journal.path} cannot be replayed: it asks step {record['step']}, phase "
                        f"{record['phase']}, where the strategy is elsewhere. Was the configuration changed?"
                    )
                if not phase.asked:
                    self._commit(phase)
            case "values" | "ranking" | "preferences" | "failed":
                assert self._phase is not None
                if self._replay is not None and not self._phase.feedback:
                    self._replay(list(self._phase.queries.values()), self.parameters)
                feedback = from_record(record, journal, tuple(self._phase.queries))
                self._receive(feedback, self._phase)
            case "retracted":
                assert self._phase is not None
                given = [f for f in self._phase.feedback if _is_about(f, record["id"], record["rater"])]
                self._take_back(self._phase, given)
            case "stepped":
                self.advance()
            case "flushed":
                self.parameters.flush()
            case "evaluated":
                self.evaluated[record["step"]] = record["metrics"]
                self.seconds = record["seconds"]
            case _:
                pass


def _is_repeat(feedback: Feedback, phase: _Phase) -> bool:
    """Values and failures count once a query; a ranking once a rater."""
    if isinstance(feedback, Ranking | Preferences):
        return any(type(f) is type(feedback) and f.ids == feedback.ids and f.rater == feedback.rater
                   for f in phase.feedback if isinstance(f, Ranking | Preferences))
    return all(i not in phase.unanswered for i in feedback.ids)


def _is_about(feedback: Feedback, query_id: str, rater: str) -> bool:
    return query_id in feedback.ids and getattr(feedback, "rater", "") == rater


def _compare(have: Record, want: Record, inexact: bool, path: Path) -> None:
    for key, what in (("seed", "another seed"), ("tensors", "other tensors")):
        if have[key] != want[key]:
            raise JournalError(f"{path} was written with {what}: it has {have[key]}, this run {want[key]}.")
    if have["settings"] != want["settings"] and not inexact:
        keys = sorted(have["settings"].keys() | want["settings"].keys())
        first = next(k for k in keys if have["settings"].get(k) != want["settings"].get(k))
        raise JournalError(
            f"{path} was written with {first} = {have['settings'].get(first)}, now it is "
            f"{want['settings'].get(first)}; the resumed run could differ in its last bits. "
            "Resume with --inexact to accept that."
        )
