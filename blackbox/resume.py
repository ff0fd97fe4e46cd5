"""Taking a run up again: the last checkpoint, then a replay of the journal's records after it.

Nothing that the journal holds an answer to is asked again, and every pass over the tensors is repeated in its
place.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from blackbox import checkpoint, steering
from blackbox.errors import JournalError
from blackbox.journal import SCHEMA, Journal, Record
from blackbox.phase import Told
from blackbox.probe import Context, DenseCandidate, Payload, Probe, Query
from blackbox.records import from_record
from blackbox.result import Best

if TYPE_CHECKING:
    from blackbox.session import Session


def state_of(session: Session, seconds: float) -> dict[str, Any]:
    """What a checkpoint holds."""
    parameters = session.parameters
    return {
        "tensors": parameters.tensors,
        "anchors": {name: [ts, version] for name, (ts, version) in parameters.anchors.items()},
        "version": parameters.version,
        "strategy": session.strategy.state_dict(),
        "spent": session.spent,
        "seconds": seconds,
        "evaluated": {str(step): metrics for step, metrics in session.evaluated.items()},
        "best": session.best and _best_to_json(session.best),
        "forgiven": session.forgiven,
        "radius": session.radius,
        "steered": sorted(session.steered),
        "memory": session.memory,
    }


def take_up(session: Session, journal: Journal, settings: dict[str, Any], inexact: bool) -> None:
    """Begin an empty journal, or bring a new session to where the journal ends.

    Raises:
        JournalError: the journal belongs to another run, or the strategy does not come by what it says.
    """
    tensors = {spec.name: list(spec.shape) for spec in session.parameters.layout.specs}
    header = {"kind": "header", "schema": SCHEMA, "seed": session.seed, "tensors": tensors, "settings": settings}
    if not journal.records:
        journal.append(header, durable=True)
        return
    _compare(journal.records[0], header, inexact, journal.path)
    records = journal.records[1:]
    # Known before any pass is made: tensors that are displaced in place are, from the first query on.
    session.parameters.in_place = any(record["kind"] == "in-place" for record in records)
    if session.parameters.in_place and session._replay is not None:
        session._replay((), session.parameters)
    start = _load_checkpoint(session, journal, records)
    session.history.extend(
        record.get("value", float("nan"))
        for record in records[:start]
        if record["kind"] == "stepped" or record.get("dropped", False)
    )
    for ids in _told(records[:start])[-Told.PHASES :]:
        session._told.add(ids)
    for record in records[start:]:
        _replay(session, record, journal)


def replay(session: Session, journal: Journal) -> None:
    """Take a new session, which has no journal, through all that a journal holds, whatever checkpoints there are.

    Raises:
        JournalError: the strategy does not come by what the journal says.
    """
    for record in journal.records[1:]:
        _replay(session, record, journal)


def _load_checkpoint(session: Session, journal: Journal, records: Sequence[Record]) -> int:
    """Load the newest checkpoint that is there; the index of the first record after it."""
    for index in range(len(records) - 1, -1, -1):
        record = records[index]
        path = journal.folder / "checkpoints" / record.get("file", "")
        if record["kind"] == "checkpoint" and path.exists():
            _load(session, record, checkpoint.load(path))
            return index + 1
    return 0


def _load(session: Session, record: Record, state: dict[str, Any]) -> None:
    parameters = session.parameters
    parameters.assign(state["tensors"])
    for name, (tensors, version) in state["anchors"].items():
        parameters.anchors[name] = ({n: t.to(parameters.device) for n, t in tensors.items()}, version)
    parameters.version = state["version"]
    session.strategy.load_state_dict(state["strategy"])
    session.steps = session.saved_at = record["step"]
    session.spent, session.seconds = state["spent"], state["seconds"]
    session.evaluated = {int(step): metrics for step, metrics in state["evaluated"].items()}
    session.best = state["best"] and _best_from_json(state["best"])
    session.forgiven = state["forgiven"]
    session.radius, session.steered = state.get("radius", 1.0), set(state.get("steered", ()))
    session.memory = state.get("memory")


def _told(records: Sequence[Record]) -> list[frozenset[str]]:
    """The queries of each phase; an answer that leaves out its ids was to all of them, in order."""
    phases: list[set[str]] = []
    stem = ""
    for record in records:
        match record:
            case {"kind": "asked"}:
                stem = f"{record['step']}.{record['phase']}."
                phases.append(set())
            case {"kind": "values" | "slopes" | "gradients" | "failed", "ids": ids}:
                phases[-1].update(ids)
            case {"kind": "values" | "slopes" | "gradients", "values": packed}:
                count = packed["shape"][0] if isinstance(packed, dict) else len(packed)
                phases[-1].update(f"{stem}{i}" for i in range(count))
            case {"kind": "ranking"}:
                phases[-1].update(*record["groups"], record["skipped"])
            case {"kind": "preferences"}:
                phases[-1].update(*record["pairs"])
    return [frozenset(ids) for ids in phases]


def _replay(session: Session, record: Record, journal: Journal) -> None:
    match record["kind"]:
        case "asked":
            session.advance()
            session.preview(record["progress"])
            phase = session._phase
            if phase is None or (phase.round.step, phase.number) != (record["step"], record["phase"]):
                raise _elsewhere(journal, f"asks step {record['step']}, phase {record['phase']}")
            session.ask(record["progress"])
            phase.repeated = False
        case "values" | "slopes" | "gradients" | "ranking" | "preferences" | "failed":
            if session._phase is None:
                raise _elsewhere(journal, "holds an answer")
            feedback = from_record(record, journal, session._phase.ids)
            session._receive(feedback, session._phase)
            if not session._phase.unanswered:
                session.repeat_passes()
        case "retracted":
            session.retract(record["id"], record["rater"])
        case "memory":
            session.memory = record["memory"]
        case "steered":
            steering.act_on(steering.from_record(record, journal), session)
        case "stepped":
            session.facts = session.advance()
            if session.steps != record["step"] or session.parameters.version != record["version"]:
                raise _elsewhere(journal, f"ends step {record['step']} at version {record['version']}")
            session.seconds = record.get("seconds", session.seconds)
        case "flushed":
            if session._phase is not None and session._phase.feedback:
                session.repeat_passes()
            session.parameters.settle()
        case "evaluated":
            session.evaluated[record["step"]] = record["metrics"]
            session.seconds = record["seconds"]
        case "forgiven":
            session.forgiven = dict(session.spent)
        case _:
            pass


def _elsewhere(journal: Journal, what: str) -> JournalError:
    return JournalError(
        f"{journal.path} cannot be replayed: it {what}, where the strategy is elsewhere. Was the configuration changed?"
    )


def _compare(have: Record, want: Record, inexact: bool, path: Any) -> None:
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


# -- the lowest value's query as JSON -----------------------------------------------------------------------


def _best_to_json(best: Best) -> dict[str, Any]:
    query = best.query
    facts = {"id": query.id, "base": query.base, "version": query.version, "fidelity": query.fidelity}
    match query.candidate:
        case Probe(law, terms):
            described = _described(law)
            candidate: dict[str, Any] = {"law": described or law.tag, "terms": terms}
        case DenseCandidate(values):
            candidate = {"values": values.tolist()}
        case Payload(kind, data):
            candidate = {"kind": kind, "data": data}
        case None:
            candidate = {}
    context = query.context.to_json()
    return {"value": best.value, "point": best.point, **facts, "candidate": candidate, "context": context}


def _best_from_json(state: dict[str, Any]) -> Best:
    import numpy as np

    match state["candidate"]:
        case {"law": dict(law), "terms": terms}:
            candidate: Any = Probe(_built(law), tuple((seed, weight) for seed, weight in terms))
        case {"law": tag, "terms": terms}:
            candidate = Payload("probe", {"law": tag, "terms": terms})
        case {"values": values}:
            candidate = DenseCandidate(np.array(values, dtype=np.float64))
        case {"kind": kind, "data": data}:
            candidate = Payload(kind, data)
        case _:
            candidate = None
    context = dict(state["context"])
    if "indices" in context:
        context["indices"] = tuple(context["indices"])
    query = Query(state["id"], candidate, state["base"], state["version"], Context(**context), state["fidelity"])
    return Best(state["value"], query, partial(state.get, "point"))


def _described(value: Any) -> dict[str, Any] | None:
    """A dataclass of numbers, words and such dataclasses; None if it holds anything else."""
    if not is_dataclass(value):
        return None
    found: dict[str, Any] = {"type": [type(value).__module__, type(value).__qualname__]}
    for one in fields(value):
        inner = getattr(value, one.name)
        plain = inner is None or isinstance(inner, bool | int | float | str)
        told = inner if plain else _described(inner)
        if told is None and inner is not None:
            return None
        found[one.name] = told
    return found


def _built(described: Mapping[str, Any]) -> Any:
    """What ``_described`` was given. The strategy's laws have been imported; nothing else may be."""
    module, name = described["type"]
    kind = getattr(sys.modules[module], name)
    arguments = {key: inner for key, inner in described.items() if key != "type"}
    return kind(**{key: _built(v) if isinstance(v, dict) else v for key, v in arguments.items()})
