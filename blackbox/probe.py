"""What is asked: a displacement (Probe), a dense candidate or a structured payload, wrapped in a Query.

A candidate is seeds and coefficients, not a vector: theta + sum_i c_i z(s_i). A query is therefore small enough to
keep, to send to a worker, or to answer days later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from blackbox.noise.base import Law

CURRENT = "current"
"""Name of the base every query has unless it names an anchor."""


@dataclass(frozen=True, slots=True)
class Context:
    """Which data a query is evaluated on; only the problem resolves it. All fields None = all training data.

    Attributes:
        batch_seed: seed of a minibatch the problem draws.
        indices: explicit example indices.
        reset_seed: seed of anything else random in an evaluation (episode resets, dropout in train mode).
    """

    batch_seed: int | None = None
    indices: tuple[int, ...] | None = None
    reset_seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Only the fields that are set."""
        fields = {"batch_seed": self.batch_seed, "indices": self.indices, "reset_seed": self.reset_seed}
        return {key: value for key, value in fields.items() if value is not None}


ALL_DATA = Context()


# Probes and queries are made by the hundred thousand, and a frozen dataclass takes four times as long to make. They are
# values all the same: compared and hashed as such, and never written to.
@dataclass(slots=True, unsafe_hash=True)
class Probe:
    """The displacement sum_i c_i z(s_i) of one law; ``terms`` holds the pairs (seed s_i, coefficient c_i)."""

    law: Law
    terms: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, eq=False)
class DenseCandidate:
    """A candidate given whole: ``values`` float64 [d], replacing the (vector) parameters of the base."""

    values: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Payload:
    """A structured candidate (program, permutation, table ...) as JSON data of a named type."""

    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)


Candidate = Probe | DenseCandidate | Payload | None
"""None is the base itself, undisplaced."""


@dataclass(slots=True, unsafe_hash=True)
class Query:
    """One question.

    Attributes:
        id: unique in the run: "step.phase.index".
        candidate: what is asked about; None asks about the base itself.
        base: CURRENT or the name of an anchor.
        version: the parameters' version the query was planned at; answers to another version are stale.
        context: the data to evaluate on.
        fidelity: 1.0 is the full evaluation; smaller means a cheaper, coarser answer is welcome.
    """

    id: str
    candidate: Candidate
    base: str = CURRENT
    version: int = 0
    context: Context = ALL_DATA
    fidelity: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Probes(Sequence[Probe]):
    """Probes of one law and one term each, by columns: probe i is coefficients[i] z(seeds[i])."""

    law: Law
    seeds: tuple[int, ...]
    coefficients: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.seeds)

    @overload
    def __getitem__(self, at: int) -> Probe: ...
    @overload
    def __getitem__(self, at: slice) -> Probes: ...
    def __getitem__(self, at: int | slice) -> Probe | Probes:
        if isinstance(at, slice):
            return Probes(self.law, self.seeds[at], self.coefficients[at])
        return Probe(self.law, ((self.seeds[at], self.coefficients[at]),))


def mirrored(law: Law, seeds: Sequence[int], distance: float) -> Probes:
    """x + c z_i, x - c z_i, in turn."""
    return Probes(law, tuple([seed for seed in seeds for _ in range(2)]), (distance, -distance) * len(seeds))


@dataclass(frozen=True, slots=True, eq=False)
class Queries(Sequence[Query]):
    """Queries that share base, version and context; each is made when it is looked at."""

    ids: tuple[str, ...]
    candidates: Sequence[Candidate]
    base: str = CURRENT
    version: int = 0
    context: Context = ALL_DATA

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, at: int) -> Query: ...
    @overload
    def __getitem__(self, at: slice) -> Queries: ...
    def __getitem__(self, at: int | slice) -> Query | Queries:
        if isinstance(at, slice):
            return Queries(self.ids[at], self.candidates[at], self.base, self.version, self.context)
        return Query(self.ids[at], self.candidates[at], self.base, self.version, self.context)


def ids_of(queries: Sequence[Query]) -> tuple[str, ...]:
    """The queries' ids."""
    return queries.ids if isinstance(queries, Queries) else tuple([query.id for query in queries])


def by_context(queries: Sequence[Query]) -> Iterator[tuple[Context, Sequence[Query]]]:
    """Runs of queries that share a context."""
    if isinstance(queries, Queries):
        yield queries.context, queries
        return
    for context, same in groupby(queries, attrgetter("context")):
        yield context, list(same)
