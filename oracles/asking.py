"""From queries to what a method is called with, and from positions back to ids."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from blackbox.errors import UserError
from blackbox.execution.batched import materialise
from blackbox.parameters import Parameters
from blackbox.probe import Payload, Probes, Queries, Query

Groups = Sequence[int | Sequence[int]]
"""Positions, best first; an inner list is a tie; positions left out were skipped."""


def parts(queries: Sequence[Query], by_context: bool) -> list[tuple[Sequence[Query], dict[str, Any]]]:
    """Runs of queries that one call can take, with its keyword arguments: vectors apart from payloads."""
    if isinstance(queries, Queries) and isinstance(queries.candidates, Probes):
        return [(queries, {"context": queries.context} if by_context else {})]

    def key(query: Query) -> tuple[bool, Any]:
        return isinstance(query.candidate, Payload), query.context if by_context else None

    return [(list(run), {"context": context} if by_context else {}) for (_, context), run in groupby(queries, key)]


def candidates_of(queries: Sequence[Query], parameters: Parameters, library: str) -> Any:
    """Vectors [n, d] (float64 array, or tensor), or a list of n dicts if the queries are payloads."""
    if isinstance(queries[0].candidate, Payload):
        return [dict(query.candidate.data) for query in queries if isinstance(query.candidate, Payload)]
    if library not in ("numpy", "torch"):
        raise UserError(f"library is 'numpy' or 'torch', not {library!r}.")
    vectors = materialise(queries, parameters)
    return vectors if library == "torch" else vectors.cpu().double().numpy()


def takes_context(function: Callable[..., Any]) -> bool:
    """Whether a function has a parameter named ``context``."""
    try:
        return "context" in inspect.signature(function).parameters
    except (ValueError, TypeError):  # some builtins have no signature
        return False


def named(groups: Groups, ids: Sequence[str]) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Positions -> (groups of ids, skipped ids); ValueError for a position out of range or named twice."""
    left = dict(enumerate(ids))
    order = []
    for entry in groups:
        members: Any = entry if np.ndim(entry) else [entry]
        try:
            group = tuple(left.pop(operator.index(position)) for position in members)
        except KeyError as error:
            raise ValueError(f"position {error} is named twice, or isn't one of 0 to {len(ids) - 1}") from None
        if group:
            order.append(group)
    return tuple(order), tuple(left.values())
