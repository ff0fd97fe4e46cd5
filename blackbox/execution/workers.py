"""Forward parallelisation (DeepZero, arXiv:2310.02025, section 4): a round's queries over local processes.

Each process is a child of this one and talks to it over a socket; nothing is pickled. How portions are handed out, and
why the bits don't depend on the number of processes, is in ``blackbox.execution.spread``.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from blackbox.errors import UserError
from blackbox.execution.spread import Place, Spread, Start
from blackbox.execution.wire import Message, receive, send


class Workers(Spread):
    """Queries over processes of this machine.

    Args:
        count: processes.
        chunk, inside, problem, threads, attempts: as for ``Spread``.
    """

    name = "workers"

    def __deepcopy__(self, memo: dict[int, Any]) -> Workers:
        """Processes of its own."""
        return Workers(self.count, self.chunk, self.inside, self.problem, self.threads, self.attempts)

    @property
    def pids(self) -> list[int]:
        """The processes that are there now."""
        return [place.pid for place in self._places if isinstance(place, _Process)]

    def _place(self, start: Start) -> Place:
        process = _Process(start)
        process.begin()
        return process

    def _ready(self, busy: Sequence[_Process]) -> Sequence[Place]:
        by_connection = {process.connection: process for process in busy}
        return [by_connection[one] for one in wait(list(by_connection)) if isinstance(one, Connection)]


class _Process(Place):
    """One process and the connection to it."""

    connection: Connection
    _process: subprocess.Popen[bytes]

    def begin(self) -> None:
        self._process, self.connection = _spawn(self.start)

    def await_built(self) -> None:
        answer = self.take()
        if answer is None:
            code = self._process.wait()
            raise UserError(f"workers: a process ended with code {code} before it had built its problem.")

    @property
    def pid(self) -> int:
        return self._process.pid

    def give(self, weights: Message, portion: Message) -> None:
        try:
            if not self.informed:
                send(self.connection, weights[0], weights[1])
                receive(self.connection)
                self.informed = True
            send(self.connection, {"kind": "ask", **portion[0]}, portion[1])
        except (EOFError, OSError):
            pass

    def take(self) -> Message | None:
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
