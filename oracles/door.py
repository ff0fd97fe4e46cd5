"""The door: raw outcomes become feedback here, and nothing that isn't a finite number passes as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from blackbox.feedback import Cost, Failed, Feedback, Values, add_cost
from blackbox.probe import Context, Query, ids_of

FloatArray = npt.NDArray[np.float64]

Outcome = FloatArray | Exception
"""What became of one query: a value (0-d), values per example ([batch]), or why there is none."""


def settle(
    queries: Sequence[Query],
    outcomes: Sequence[Outcome] | FloatArray,
    cost: Callable[[Sequence[Query]], Cost],
    extra: Cost,
    per_example: bool,
) -> list[Feedback]:
    """Outcomes as feedback: Values of those that succeeded, a Failed with its reason for each other.

    Args:
        queries: n queries.
        outcomes: one a query; an array [n] or [n, batch] where none failed.
        cost: what queries cost by themselves; failed ones are paid for too.
        extra: costs of the whole, such as seconds; they go to the first answer.
        per_example: keep [batch]; otherwise it becomes its mean, in float64.

    There is one Values, unless per-example values of several batch sizes are asked for. Within a context the
    sizes must agree: those unlike the most common one fail.
    """
    whole = _stack(outcomes)
    if whole is not None and whole.ndim == 2 and not per_example:
        with np.errstate(invalid="ignore", over="ignore"):
            whole = whole.mean(1)
    if whole is not None and np.isfinite(whole).all():
        return [Values(ids_of(queries), whole, _sum(cost(queries), extra))]
    with np.errstate(invalid="ignore", over="ignore"):
        feedback = _one_by_one(queries, outcomes, cost, per_example)
    feedback[0] = replace(feedback[0], cost=_sum(feedback[0].cost, extra))
    return feedback


def as_float64(values: Any) -> FloatArray:
    """Numbers of any kind (list, array, tensor on any device) as float64; raises what numpy raises."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def reason_of(error: BaseException) -> str:
    """The words of an exception: "ValueError: what it said"."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def exited(error: SystemExit) -> Exception:
    """What ``sys.exit`` in an oracle's own code is: a failure like any other, not the end of the run."""
    return RuntimeError(f"sys.exit({'' if error.code is None else repr(error.code)}) was called")


def _stack(outcomes: Sequence[Outcome] | FloatArray) -> FloatArray | None:
    """The usual case, all of one shape, as an array; None if it isn't that."""
    try:
        whole = np.asarray(outcomes, dtype=np.float64)
    except (TypeError, ValueError):  # an exception among them, or several shapes
        return None
    return whole if whole.ndim in (1, 2) and whole.size else None


def _one_by_one(
    queries: Sequence[Query],
    outcomes: Sequence[Outcome] | FloatArray,
    cost: Callable[[Sequence[Query]], Cost],
    per_example: bool,
) -> list[Feedback]:
    usual = _usual_shapes(queries, outcomes)
    good: dict[tuple[int, ...], tuple[list[Query], list[FloatArray]]] = {}
    failed: list[Feedback] = []
    for query, outcome in zip(queries, outcomes, strict=True):
        reason = _objection(outcome, usual.get(query.context))
        if reason is not None or isinstance(outcome, Exception):
            failed.append(Failed((query.id,), reason or "", cost([query])))
            continue
        value = outcome if per_example else outcome.mean()
        asked, rows = good.setdefault(np.shape(value), ([], []))
        asked.append(query)
        rows.append(value)
    values: list[Feedback] = [
        Values(tuple([query.id for query in asked]), np.array(rows, dtype=np.float64), cost(asked))
        for asked, rows in good.values()
    ]
    return values + failed


def _usual_shapes(queries: Sequence[Query], outcomes: Sequence[Outcome] | FloatArray) -> dict[Context, tuple[int, ...]]:
    """The most common shape in each context; the first of several equally common."""
    counts: dict[Context, Counter[tuple[int, ...]]] = {}
    for query, outcome in zip(queries, outcomes, strict=True):
        if not isinstance(outcome, Exception):
            counts.setdefault(query.context, Counter())[outcome.shape] += 1
    return {context: counter.most_common(1)[0][0] for context, counter in counts.items()}


def _objection(outcome: Outcome, usual: tuple[int, ...] | None) -> str | None:
    """Why an outcome is no value; None if it is one."""
    if isinstance(outcome, Exception):
        return reason_of(outcome)
    shape = list(outcome.shape)
    if outcome.ndim > 1 or outcome.size == 0:
        return f"wrong shape: {shape} is neither one value nor one per example"
    if outcome.shape != usual:
        return f"wrong shape: {shape}, where others in this context have {list(usual or ())}"
    if not np.isfinite(outcome).all():
        bad = outcome[~np.isfinite(outcome)] if outcome.ndim else outcome[None]
        where = f" ({len(bad)} of {outcome.size} examples)" if outcome.ndim else ""
        return f"not finite: {float(bad[0])}{where}"
    if not np.isfinite(outcome.mean()):
        return "not finite: the mean over the examples overflows"
    return None


def _sum(first: Cost, second: Cost) -> Cost:
    total = dict(first)
    add_cost(total, second)
    return total
