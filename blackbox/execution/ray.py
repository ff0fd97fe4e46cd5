"""A round's queries over the actors of a Ray cluster (Moritz et al. 2018, arXiv:1712.05889), which may span machines.

As ``workers``, and with the same bits; Ray carries the messages in place of sockets. They are the same byte strings, so
what Ray pickles to carry them holds no object of ours. How portions are handed out is in ``blackbox.execution.spread``.

Without an address a cluster is started on this machine, which listens on 127.0.0.1 alone, asks for a random token and
reports nothing to anybody. It ends with ``close``, or with this process.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import random
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from blackbox.errors import UserError
from blackbox.execution.spread import Place, Spread, Start
from blackbox.execution.wire import Message, packed, unpacked

_OF_A_CLUSTER_HERE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the only switch by which Ray takes 127.0.0.1 for a node's address
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
}
"""Ray reads these when it is imported."""


class RayActors(Spread):
    """Queries over Ray's actors.

    Args:
        count: actors. Of a cluster that is there each takes ``threads`` CPUs, and is waited for until they are free.
        chunk, inside, problem, threads, attempts: as for ``Spread``.
        address: a cluster that is there, as ``ray.init`` takes it ("auto", "ray://host:10001"); on its machines this
            package must be installed. Left out: one that this process is connected to already, or a new one here.
        gpus: of the cluster's GPUs, what each actor takes, perhaps a fraction; at 0 it sees none.

    Raises:
        UserError: ray isn't installed; numbers out of range.
    """

    name = "ray"

    def __init__(
        self,
        count: int = 2,
        chunk: int = 1024,
        inside: str | Mapping[str, Any] | None = None,
        problem: Mapping[str, Any] | None = None,
        threads: int = 1,
        attempts: int = 3,
        address: str | None = None,
        gpus: float = 0.0,
    ) -> None:
        super().__init__(count, chunk, inside, problem, threads, attempts)
        if not gpus >= 0:
            raise UserError(f"gpus must be 0 or more, not {gpus}.")
        if sys.modules.get("ray", self) is None or importlib.util.find_spec("ray") is None:
            raise UserError("The execution ray needs the extra ray: pip install 'blackbox-zo[ray]'.")
        self.address, self.gpus = address, gpus
        self._own = False

    def __deepcopy__(self, memo: dict[int, Any]) -> RayActors:
        """Actors of its own."""
        made_of = (self.count, self.chunk, self.inside, self.problem, self.threads, self.attempts)
        return RayActors(*made_of, self.address, self.gpus)

    @property
    def pids(self) -> list[int]:
        """The actors' processes, on whatever machines."""
        return [place.pid for place in self._places if isinstance(place, _Actor)]

    def close(self) -> None:
        """As the base says; a cluster that was started here ends too."""
        super().close()
        if self._own:
            self._own = False
            _ray().shutdown()

    def _start(self, *what: Any) -> None:
        if "ray" not in sys.modules and self.address is None:
            os.environ.update({**_OF_A_CLUSTER_HERE, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
        if not _ray().is_initialized():
            super().close()  # what is left of a cluster that has ended
            with _as_before():
                self._connect()
        super()._start(*what)

    def _connect(self) -> None:
        how: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if self.address is not None:
            try:
                _ray().init(address=self.address, **how)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(f"ray: no cluster answers at '{self.address}': {error}.") from error
            return
        if any(os.environ.get(name) != value for name, value in _OF_A_CLUSTER_HERE.items()):
            raise UserError(
                "ray was imported before, so a cluster of this process would be open to the network. Import it later, "
                "or connect to a cluster yourself, by ray.init or the key `address`."
            )
        self._own = True
        # The machine may have fewer processors than that; how many processes it bears is for the user to say.
        _ray().init(num_cpus=self.count * self.threads, include_dashboard=False, **how)

    def _place(self, start: Start) -> Place:
        actor = _Actor(start, 0 if self._own else self.threads, self.gpus)
        actor.begin()
        return actor

    def _ready(self, busy: Sequence[_Actor]) -> Sequence[Place]:
        by_answer = {actor.answer: actor for actor in busy}
        done, _ = _ray().wait(list(by_answer))
        return [by_answer[one] for one in done]

    def _shared(self, weights: Message) -> Any:
        """One copy a machine."""
        return _ray().put(packed(*weights))


class _Actor(Place):
    """One actor, and the answer that it is at."""

    answer: Any
    _seat: Any

    def __init__(self, start: Start, cpus: int, gpus: float) -> None:
        super().__init__(start)
        self._takes = {"num_cpus": cpus, "num_gpus": gpus}

    def begin(self) -> None:
        self._seat = _ray().remote(Seat).options(**self._takes).remote(json.dumps(self.start).encode())
        self.answer = self._seat.built.remote()

    def await_built(self) -> None:
        if self.take() is None:
            raise UserError("ray: an actor ended before it had built its problem.")

    @property
    def pid(self) -> int:
        return int(_ray().get(self._seat.pid.remote()))

    def give(self, weights: Any, portion: Message) -> None:
        asked = packed({"kind": "ask", **portion[0]}, portion[1])
        self.answer = self._seat.evaluate.remote(asked, None if self.informed else weights)
        self.informed = True

    def take(self) -> Message | None:
        try:
            answer = unpacked(*_ray().get(self.answer))
        except _ray().exceptions.RayActorError:
            return None
        if "refused" in answer[0]:
            raise UserError(answer[0]["refused"])
        return answer

    def end(self) -> None:
        with suppress(Exception):  # the cluster may have ended before it
            _ray().kill(self._seat)


class Seat:
    """What an actor is: a worker without a socket. Byte strings in, byte strings out."""

    def __init__(self, start: bytes) -> None:
        from blackbox.execution.worker import Worker

        self._refused: dict[str, Any] = {}
        try:
            self._worker = Worker(json.loads(start))
        except UserError as error:
            self._refused = {"refused": str(error)}

    def built(self) -> tuple[bytes, bytes]:
        """Whether the problem could be built."""
        return packed(self._refused)

    def pid(self) -> int:
        """Its process."""
        return os.getpid()

    def evaluate(self, asked: tuple[bytes, bytes], weights: tuple[bytes, bytes] | None) -> tuple[bytes, bytes]:
        """The answers to a portion, at new weights if there are any."""
        if weights is not None:
            self._worker.answer(*unpacked(*weights))
        return packed(*self._worker.answer(*unpacked(*asked)))


def _ray() -> Any:
    """The package, imported when it is needed: that takes seconds."""
    return importlib.import_module("ray")


@contextmanager
def _as_before() -> Iterator[None]:
    """Ray draws from Python's global generator, and makes SIGTERM its own."""
    drawn = random.getstate()
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if main else None
    try:
        yield
    finally:
        random.setstate(drawn)
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)
