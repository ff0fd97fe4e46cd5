"""Feedback as journal records and back."""

from __future__ import annotations

from typing import Any

from blackbox.feedback import Failed, Feedback, Gradients, Preferences, Ranking, Slopes, Values
from blackbox.journal import Journal


def to_record(feedback: Feedback, journal: Journal, omit_ids: bool = False) -> dict[str, Any]:
    """A JSON record; ``omit_ids`` where the answer is to all queries of the phase, in order."""
    record: dict[str, Any] = {} if omit_ids else {"ids": feedback.ids}
    if feedback.cost:
        record["cost"] = feedback.cost
    match feedback:
        case Values():
            return {"kind": "values", "values": journal.pack(feedback.values), **record}
        case Slopes():
            packed = {"slopes": journal.pack(feedback.slopes), "values": journal.pack(feedback.values)}
            return {"kind": "slopes", **packed, **record}
        case Gradients():
            packed = {name: journal.pack(gradient) for name, gradient in feedback.gradients.items()}
            return {"kind": "gradients", "values": journal.pack(feedback.values), "gradients": packed, **record}
        case Failed():
            return {"kind": "failed", "reason": feedback.reason, **record}
        case Ranking():
            record = {k: v for k, v in record.items() if k != "ids"}
            shape = {"groups": feedback.groups, "skipped": feedback.skipped}
            return {"kind": "ranking", **shape, "rater": feedback.rater, "weight": feedback.weight, **record}
        case Preferences():
            record = {k: v for k, v in record.items() if k != "ids"}
            body = {"pairs": feedback.pairs, "rater": feedback.rater, "weight": feedback.weight}
            return {"kind": "preferences", **body, **record}


def from_record(record: dict[str, Any], journal: Journal, ids: tuple[str, ...]) -> Feedback:
    """The feedback of a record; ``ids`` are the phase's, for records that leave theirs out."""
    ids = tuple(record.get("ids", ids))
    cost = record.get("cost", {})
    match record["kind"]:
        case "values":
            return Values(ids, journal.unpack(record["values"]), cost)
        case "slopes":
            return Slopes(ids, journal.unpack(record["slopes"]), journal.unpack(record["values"]), cost)
        case "gradients":
            gradients = {name: journal.unpack(packed) for name, packed in record["gradients"].items()}
            return Gradients(ids, journal.unpack(record["values"]), gradients, cost)
        case "failed":
            return Failed(ids, record["reason"], cost)
        case "ranking":
            groups = tuple(tuple(group) for group in record["groups"])
            return Ranking(groups, tuple(record["skipped"]), record["rater"], record["weight"], cost)
        case _:
            pairs = tuple((better, worse) for better, worse in record["pairs"])
            return Preferences(pairs, record["rater"], record["weight"], cost)
