"""What a service or a program replied, and what becomes of it: see ``oracles.remote`` for what is agreed on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from blackbox.feedback import Cost, Failed, Feedback, Ranking
from oracles.asking import named
from oracles.door import Outcome, reason_of


class Nonsense(Exception):
    """A reply that isn't what was agreed on."""


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        body: the JSON value; None if there is none.
        error: why there is none.
        attempts: how often the other side may have worked on it, and so may charge for it; 0 if it was never reached.
    """

    body: Any = None
    error: Exception | None = None
    attempts: int = 1


def outcomes_of(reply: Reply, count: int) -> list[Outcome]:
    """One outcome a candidate of a reply with "values"."""
    if reply.error is not None:
        return [reply.error] * count
    values = reply.body.get("values") if isinstance(reply.body, dict) else None
    if not isinstance(values, list):
        return [Nonsense(f'expected {{"values": [...]}}, got {shown(reply.body)}')] * count
    if len(values) != count:
        return [Nonsense(f"{len(values)} values for {count} candidates")] * count
    return [_number(value) for value in values]


def decoded(text: bytes | str) -> Any:
    """JSON text as a value; raises Nonsense that shows the beginning of what it is instead."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        whole = text.decode(errors="replace") if isinstance(text, bytes) else text
        raise Nonsense(f"the reply is no JSON: {shown(whole) if whole.strip() else 'it is empty'}") from None


def encoded(message: Any) -> bytes:
    """A message as JSON; raises ValueError for what JSON can't hold, NaN among it."""
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode()


def shown(value: Any, length: int = 80) -> str:
    """The beginning of a value, in printable characters on one line."""
    text = value if isinstance(value, str) else json.dumps(value)
    line = "".join(c if c.isprintable() else " " for c in " ".join(text[: 4 * length].split()))
    return repr(line if len(line) <= length else line[:length] + "...")


def judged(ids: tuple[str, ...], reply: Reply, cost: Cost) -> Feedback:
    """A reply with "ranking" as feedback on these queries."""
    try:
        if reply.error is not None:
            raise reply.error
        ranking = reply.body.get("ranking") if isinstance(reply.body, dict) else None
        if not isinstance(ranking, list):
            raise Nonsense(f'expected {{"ranking": [...]}}, got {shown(reply.body)}')
        try:
            groups, skipped = named(ranking, ids)
        except (TypeError, ValueError) as error:
            raise Nonsense(f"no order of {len(ids)} candidates: {shown(ranking)} ({error})") from None
    except Exception as error:
        return Failed(ids, reason_of(error), cost)
    return Ranking(groups, skipped, cost=cost)


def _number(value: Any) -> Outcome:
    """A number, or numbers per example, as JSON gave them: text that reads like a number is none."""
    if value is None:
        return Nonsense("no value was given for this candidate (null)")
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        return Nonsense(f"{shown(value)} is no number")
    try:
        return np.asarray(value, dtype=np.float64)
    except OverflowError:
        return Nonsense(f"{shown(value)} is too large for a number")
