"""Answers given before are given again, for nothing."""

from __future__ import annotations

import json
import weakref
from collections.abc import Hashable, Sequence

import numpy as np

from blackbox.errors import UserError
from blackbox.feedback import Cost, Failed, Feedback, Values
from blackbox.parameters import Parameters
from blackbox.probe import CURRENT, DenseCandidate, Payload, Query
from oracles.base import Oracle
from oracles.door import FloatArray
from oracles.wrappers import Wrapper


class Cached(Wrapper):
    """Remembers values by what was asked: candidate, the point it is relative to, context, fidelity.

    A hit costs {"queries": 0}. Failures aren't remembered. Dense and structured candidates don't depend on
    the present point, so they are found again at any version. Other parameters empty the cache. Around a
    noisy oracle it repeats the first draw.

    Args:
        oracle: one that answers Values and isn't evaluated in place.
        size: answers kept at most; the oldest goes first.
    """

    def __init__(self, oracle: Oracle, size: int = 100_000) -> None:
        super().__init__(oracle)
        self._need_values()
        self._refuse_in_place()
        if size < 1:
            raise UserError(f"size must be at least 1, not {size}.")
        self.size = size
        self._known: dict[Hashable, FloatArray] = {}
        self._asked: dict[str, Hashable] = {}
        self._same: dict[Hashable, list[str]] = {}
        self._ready: list[Feedback] = []
        self._owner: weakref.ref[Parameters] | None = None

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Asks the inner oracle only what isn't known, and equal questions once."""
        if self._owner is None or self._owner() is not parameters:
            self._owner = weakref.ref(parameters)
            for memory in (self._known, self._asked, self._same):
                memory.clear()
        misses, hits = [], []
        for query in queries:
            key = self._key(query, parameters)
            if key in self._known:
                hits.append((query.id, self._known[key]))
            elif query.id in self._asked:
                misses.append(query)  # asked before and still waiting: the inner oracle decides
            elif key in self._same:
                if query.id not in self._same[key]:
                    self._same[key].append(query.id)
            else:
                self._asked[query.id] = key
                self._same[key] = []
                misses.append(query)
        self._ready += _hits(hits)
        if misses:
            try:
                self.oracle.submit(misses, parameters)
            except BaseException:
                for query in misses:
                    self._same.pop(self._asked.pop(query.id, None), None)
                raise

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """Hits, and what the inner oracle answers."""
        ready, self._ready = self._ready, []
        for feedback in self.oracle.poll(0 if ready else timeout):
            ready.append(feedback)
            match feedback:
                case Values():
                    for query_id, value in zip(feedback.ids, feedback.values, strict=True):
                        ready += _hits([(twin, value) for twin in self._settle(query_id, value)])
                case Failed():
                    twins = tuple(twin for query_id in feedback.ids for twin in self._settle(query_id, None))
                    ready += [Failed(twins, feedback.reason, {"queries": 0})] if twins else []
        return ready

    def cost(self, queries: Sequence[Query]) -> Cost:
        """The cost of those that aren't known yet."""
        parameters = self._owner() if self._owner is not None else None
        if parameters is None:
            return super().cost(queries)
        return super().cost([q for q in queries if self._key(q, parameters) not in self._known])

    def _settle(self, query_id: str, value: FloatArray | None) -> list[str]:
        """Remember a value; the ids of the queries that waited for the same answer."""
        key = self._asked.pop(query_id, None)
        if key is None:
            return []
        if value is not None:
            self._known[key] = value
            if len(self._known) > self.size:
                del self._known[next(iter(self._known))]
        return self._same.pop(key, [])

    def _key(self, query: Query, parameters: Parameters) -> Hashable:
        candidate = query.candidate
        asked = (query.context, query.fidelity, self.per_example)
        match candidate:
            case DenseCandidate():
                return ("dense", candidate.values.tobytes(), *asked)
            case Payload():
                return (candidate.kind, json.dumps(candidate.data, sort_keys=True), *asked)
        if query.base == CURRENT:
            return (candidate, query.version, *asked)
        parameters.anchor(query.base)  # raises where there is none
        return (candidate, parameters.anchors[query.base][1], *asked)


def _hits(found: Sequence[tuple[str, FloatArray]]) -> list[Feedback]:
    """Remembered values as feedback; one each, as their batches may differ in size."""
    return [Values((query_id,), np.asarray(value)[None], {"queries": 0}) for query_id, value in found]
