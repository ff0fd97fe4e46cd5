"""Forward parallelisation (DeepZero, arXiv:2310.02025, section 4): a round's queries over local processes.

Each process builds its own copy of the problem from a YAML block; nothing is pickled. Before a round's first portion it
gets the weights, and anchors that are asked about, as raw bytes; then portions of queries go to whoever is free. A
process that dies is started again and its portion is asked again, whole: a portion's answers come in one message or not
at all, so none is lost or doubled.

The portions don't depend on how many processes there are, and neither do their answers: with the same ``chunk`` and
``threads`` any number of processes gives the same bits. Where each query is evaluated by itself (write-free, in place),
the bits are those of a single process of that many threads, whatever the chunk.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.execution.base import Execution, Outcome
from blackbox.execution.wire import Message, encode, receive, send
from blackbox.objective import Objective
from blackbox.parameters import Parameters
from blackbox.probe import CURRENT, Queries, Query, by_context

Start = dict[str, Any]
"""The first message: what a process is to build."""


class Workers(Execution):
    """Queries over processes of this machine.

    Args:
        count: processes.
        chunk: queries of a portion. Each portion pays for one base evaluation where the execution inside shares one.
        inside: the execution of each process, a name or a block; the problem's natural one if left out. Not in-place,
            which leaves rounding behind.
        problem: the block from which a process builds the problem; the problem's own ``recipe`` if left out.
        threads: of each process.
        attempts: how often a portion is given to a process before its queries fail.
    """

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
        if self.inside is not None and self.inside.get("type") in ("in-place", "workers"):
            raise UserError(f"inside: {self.inside['type']} can't be the execution inside a worker process.")
        self.problem = None if problem is None else dict(problem)
        self._processes: list[_Process] = []
        weakref.finalize(self, _end, self._processes)

    def __deepcopy__(self, memo: dict[int, Any]) -> Workers:
        """Processes of its own."""
        return Workers(self.count, self.chunk, self.inside, self.problem, self.threads, self.attempts)

    @property
    def pids(self) -> list[int]:
        """The processes that are there now."""
        return [process.pid for process in self._processes]

    def settings(self) -> dict[str, Any]:
        """What can change bits; the number of processes can't."""
        return super().settings() | {"chunk": self.chunk, "threads": self.threads, "inside": self.inside or "auto"}

    def close(self) -> None:
        """End the processes; the next evaluation starts new ones."""
        _end(self._processes)

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
            found = self._round([encode(portion) for portion in portions], _weights(queries, parameters))
        except BaseException:
            self.close()  # a process may be busy with a portion that nobody waits for any more
            raise
        if all(isinstance(part, Tensor) for part in found):
            return torch.cat([part for part in found if isinstance(part, Tensor)])
        return [outcome for part in found for outcome in part]

    def _start(self, objective: Objective, parameters: Parameters) -> None:
        problem = self.problem if self.problem is not None else getattr(objective, "recipe", None)
        if problem is None:
            raise UserError(
                f"workers: {type(objective).__name__} has no `recipe`, so say in the execution's block from what a "
                "process builds it: `problem: {type: ..., ...}`."
            )
        if callable(getattr(objective, "take_cost", None)):
            raise UserError(
                f"workers: {type(objective).__name__} counts its cost itself, which processes can't add up."
            )
        start: Start = {
            "problem": problem,
            "inside": self.inside,
            "threads": self.threads,
            "folders": [folder for folder in sys.path if folder],
            "tensors": {spec.name: spec.shape for spec in parameters.layout.specs},
        }
        if any(process.start != start for process in self._processes):
            self.close()
        new = [_Process(start) for _ in range(self.count - len(self._processes))]
        self._processes += new
        for process in new:  # all build their problem at the same time
            process.await_built()
        for process in self._processes:
            process.informed = False

    def _round(self, portions: Sequence[Message], weights: Message) -> list[Sequence[Outcome] | Tensor]:
        """Every portion's outcomes."""
        found: dict[int, Sequence[Outcome] | Tensor] = {}
        waiting, tried = deque(range(len(portions))), [0] * len(portions)
        busy: dict[Connection, tuple[_Process, int]] = {}

        def give(process: _Process) -> None:
            if waiting:
                number = waiting.popleft()
                tried[number] += 1
                busy[process.connection] = process, number
                process.give(weights, portions[number])

        for process in self._processes:
            give(process)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                process, number = busy.pop(ready)
                answer = process.take()
                if answer is not None:
                    found[number] = _unpacked(*answer)
                else:
                    process.restart()
                    if tried[number] < self.attempts:
                        waiting.appendleft(number)
                    else:
                        gone = RuntimeError(f"the worker process died {self.attempts} times on these queries")
                        found[number] = [gone] * len(portions[number][1]["counts"])
                give(process)
        return [found[number] for number in range(len(portions))]


class _Process:
    """One process and the connection to it."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.informed = False
        self._process, self.connection = _spawn(start)

    def await_built(self) -> None:
        """Raises UserError if it can't build the problem, or isn't there any more."""
        answer = self.take()
        if answer is None:
            code = self._process.wait()
            raise UserError(f"workers: a process ended with code {code} before it had built its problem.")

    @property
    def pid(self) -> int:
        return self._process.pid

    def restart(self) -> None:
        self.end()
        self.informed = False
        self._process, self.connection = _spawn(self.start)
        self.await_built()

    def give(self, weights: Message, portion: Message) -> None:
        """Hand over a portion, and the weights before the first of a round. A process that died is found out later."""
        try:
            if not self.informed:
                send(self.connection, weights[0], weights[1])
                receive(self.connection)
                self.informed = True
            send(self.connection, {"kind": "ask", **portion[0]}, portion[1])
        except (EOFError, OSError):
            pass

    def take(self) -> Message | None:
        """The answer that is there; None if the process is gone. Raises UserError if it refused."""
        try:
            answer = receive(self.connection)
        except (EOFError, OSError):
            return None
        if "refused" in answer[0]:
            raise UserError(answer[0]["refused"])
        return answer

    def end(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.wait()


def _spawn(start: Start) -> tuple[subprocess.Popen[bytes], Connection]:
    """A process that is told to build the problem."""
    ours, theirs = socket.socketpair()
    environment = {**os.environ, "OMP_NUM_THREADS": str(start["threads"])}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "blackbox.execution.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a problem prints is no answer
            env={**environment, "PYTHONPATH": os.pathsep.join(start["folders"])},
            start_new_session=True,  # Ctrl-C is for the process that asks
        )
    connection = Connection(ours.detach())
    with suppress(OSError):  # if it is gone already, waiting for its answer says so
        send(connection, start)
    return process, connection


def _end(processes: list[_Process]) -> None:
    for process in processes:
        process.end()
    processes.clear()


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
