"""A round's queries in portions over several places, each with its own copy of the problem.

What ``workers`` (processes of this machine) and ``ray`` (actors of a Ray cluster) share. Each place builds its copy
from a YAML block. Before a round's first portion it gets the weights, and anchors that are asked about, as raw bytes;
then portions of queries go to whoever is free. A place that is lost is replaced and its portion asked again, whole: a
portion's answers come in one message or not at all, so none is lost or doubled.

The portions don't depend on how many places there are, and neither do their answers: with the same ``chunk`` and
``threads`` any number and kind of them gives the same bits. Where each query is evaluated by itself (write-free), the
bits are those of a single process of that many threads, whatever the chunk.
"""

from __future__ import annotations

import sys
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.execution.base import Execution, Outcome
from blackbox.execution.wire import Message, encode
from blackbox.objective import Objective
from blackbox.parameters import Parameters
from blackbox.probe import CURRENT, Queries, Query, by_context

Start = dict[str, Any]
"""What a place is to build."""


class Place(ABC):
    """Somewhere with a copy of the problem.

    Attributes:
        start: what it was told to build.
        informed: whether it has this round's weights.
    """

    def __init__(self, start: Start) -> None:
        self.start = start
        self.informed = False

    @abstractmethod
    def begin(self) -> None:
        """Have the problem built; doesn't wait for it."""

    @abstractmethod
    def await_built(self) -> None:
        """Raises UserError if the problem can't be built, or the place is lost before it is."""

    @abstractmethod
    def give(self, weights: Any, portion: Message) -> None:
        """Hand over a portion, and the weights before the first of a round. A loss is found out later."""

    @abstractmethod
    def take(self) -> Message | None:
        """The answer that has come; None if the place is lost. Raises UserError if it refused."""

    @abstractmethod
    def end(self) -> None:
        """Give it up, whatever it is at."""

    def replace(self) -> None:
        """Begin anew, and wait until it is there."""
        self.end()
        self.informed = False
        self.begin()
        self.await_built()


class Spread(Execution):
    """Queries over places.

    Args:
        count: places.
        chunk: queries of a portion. Each portion pays for one base evaluation where the execution inside shares one.
        inside: the execution of each place, a name or a block; the problem's natural one if left out. Not in-place,
            which leaves rounding behind.
        problem: the block from which a place builds the problem; the problem's own ``recipe`` if left out.
        threads: of each place.
        attempts: how often a portion is given to a place before its queries fail.
    """

    name: str
    """What messages call this execution."""

    def __init__(
        self,
        count: int = 2,
        chunk: int = 1024,
        inside: str | Mapping[str, Any] | None = None,
        problem: Mapping[str, Any] | None = None,
        threads: int = 1,
        attempts: int = 3,
    ) -> None:
        for name, value in (("count", count), ("chunk", chunk), ("threads", threads), ("attempts", attempts)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}.")
        self.count, self.chunk, self.threads, self.attempts = count, chunk, threads, attempts
        inside = {"type": inside} if isinstance(inside, str) else inside
        self.inside: dict[str, Any] | None = None if inside is None else dict(inside)
        if self.inside is not None and self.inside.get("type") in ("in-place", "workers", "ray"):
            raise UserError(f"inside: {self.inside['type']} can't be the execution inside of {self.name}.")
        self.problem = None if problem is None else dict(problem)
        self._places: list[Place] = []
        weakref.finalize(self, _end, self._places)

    @abstractmethod
    def _place(self, start: Start) -> Place:
        """A place that has been begun."""

    @abstractmethod
    def _ready(self, busy: Sequence[Any]) -> Sequence[Place]:
        """Those of the busy places that have answered or are lost; waits for the first."""

    def _shared(self, weights: Message) -> Any:
        """The weights as ``Place.give`` wants them."""
        return weights

    def settings(self) -> dict[str, Any]:
        """What can change bits; the number of places can't."""
        return super().settings() | {"chunk": self.chunk, "threads": self.threads, "inside": self.inside or "auto"}

    def close(self) -> None:
        """Give the places up; the next evaluation begins new ones."""
        _end(self._places)

    def evaluate(self, objective: Objective, queries: Sequence[Query], parameters: Parameters) -> list[Outcome]:
        """As the base says."""
        return list(self.evaluate_together(objective, queries, parameters))

    def evaluate_together(
        self, objective: Objective, queries: Sequence[Query], parameters: Parameters
    ) -> list[Outcome] | Tensor:
        """One tensor if every portion's answers came as one."""
        portions = [
            same[start : start + self.chunk]
            for _, same in by_context(queries)
            for start in range(0, len(same), self.chunk)
        ]
        try:
            self._start(objective, parameters)
            weights = self._shared(_weights(queries, parameters))
            found = self._round([encode(portion) for portion in portions], weights)
        except BaseException:
            self.close()  # a place may be busy with a portion that nobody waits for any more
            raise
        if all(isinstance(part, Tensor) for part in found):
            return torch.cat([part for part in found if isinstance(part, Tensor)])
        return [outcome for part in found for outcome in part]

    def _start(self, objective: Objective, parameters: Parameters) -> None:
        problem = self.problem if self.problem is not None else getattr(objective, "recipe", None)
        if problem is None:
            raise UserError(
                f"{self.name}: {type(objective).__name__} has no `recipe`, so say in the execution's block from what "
                "its copies are built: `problem: {type: ..., ...}`."
            )
        if callable(getattr(objective, "take_cost", None)):
            raise UserError(
                f"{self.name}: {type(objective).__name__} counts its cost itself, which copies of it can't add up."
            )
        start: Start = {
            "problem": problem,
            "inside": self.inside,
            "threads": self.threads,
            "folders": [folder for folder in sys.path if folder],
            "tensors": {spec.name: spec.shape for spec in parameters.layout.specs},
        }
        if any(place.start != start for place in self._places):
            _end(self._places)
        new = [self._place(start) for _ in range(self.count - len(self._places))]
        self._places += new
        for place in new:  # all build their problem at the same time
            place.await_built()
        for place in self._places:
            place.informed = False

    def _round(self, portions: Sequence[Message], weights: Any) -> list[Sequence[Outcome] | Tensor]:
        """Every portion's outcomes."""
        found: dict[int, Sequence[Outcome] | Tensor] = {}
        waiting, tried = deque(range(len(portions))), [0] * len(portions)
        busy: dict[Place, int] = {}

        def give(place: Place) -> None:
            if waiting:
                number = waiting.popleft()
                tried[number] += 1
                busy[place] = number
                place.give(weights, portions[number])

        for place in self._places:
            give(place)
        while busy:
            for place in self._ready(list(busy)):
                number = busy.pop(place)
                answer = place.take()
                if answer is not None:
                    found[number] = _unpacked(*answer)
                else:
                    place.replace()
                    if tried[number] < self.attempts:
                        waiting.appendleft(number)
                    else:
                        gone = RuntimeError(f"the worker process died {self.attempts} times on these queries")
                        found[number] = [gone] * len(portions[number][1]["counts"])
                give(place)
        return [found[number] for number in range(len(portions))]


def _end(places: list[Place]) -> None:
    for place in places:
        place.end()
    places.clear()


def _weights(queries: Sequence[Query], parameters: Parameters) -> Message:
    """The present point and the anchors that are asked about, copied: "0/name", "1/name", ..., the present one last."""
    bases = [queries.base] if isinstance(queries, Queries) else [query.base for query in queries]
    anchors = [name for name in dict.fromkeys(bases) if name != CURRENT]
    points = [*(parameters.anchor(name) for name in anchors), parameters.tensors]
    tensors = {f"{number}/{name}": t for number, point in enumerate(points) for name, t in point.items()}
    return {"kind": "weights", "anchors": anchors}, tensors


def _unpacked(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Sequence[Outcome] | Tensor:
    if header["together"]:
        return tensors["values"]
    errors = header["errors"]
    return [RuntimeError(errors[str(i)]) if str(i) in errors else tensors[str(i)] for i in range(header["count"])]
