"""A query that takes too long is a failure, and the run goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue

from blackbox.errors import UserError
from blackbox.execution import InPlace, WriteFree
from blackbox.feedback import Failed, Feedback, Values
from blackbox.parameters import Parameters
from blackbox.probe import Query
from oracles.base import Oracle
from oracles.wrappers import Wrapper

_PAUSE = 0.002


class TimedOut(Wrapper):
    """Gives every query (of an oracle that only ranks: every round) so many seconds, then answers Failed.

    Queries are asked one after another, each in a thread of its own; an oracle that is fast because it takes
    many at once loses that. Python can't stop a thread: a call that hangs is left behind, holds its memory
    until it returns, and its late answer is dropped. So the oracle must bear being asked again meanwhile, as
    functions, programs and services do. A module's forward doesn't, and is refused.

    Args:
        oracle: any but an ObjectiveOracle over a module.
        seconds: the time of one query.
    """

    def __init__(self, oracle: Oracle, seconds: float) -> None:
        super().__init__(oracle)
        if not seconds > 0:
            raise UserError(f"seconds must be positive, not {seconds}.")
        if isinstance(self.execution, InPlace | WriteFree):
            raise UserError(
                "TimedOut can't interrupt the forward of a module, whose weights the next query needs. "
                "Use it around functions, programs and services."
            )
        self.seconds = seconds
        self._ready: list[Feedback] = []

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Waits for each answer, or for its time to run out."""
        waiting = {query_id for feedback in self._ready for query_id in feedback.ids}
        new = [query for query in queries if query.id not in waiting]
        for part in [[query] for query in new] if Values in self.answers else [new] if new else []:
            self._ready += self._ask(part, parameters)

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """All answers since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def _ask(self, queries: list[Query], parameters: Parameters) -> list[Feedback]:
        given_up = threading.Event()
        arrived: SimpleQueue[Feedback | BaseException | None] = SimpleQueue()
        worker = threading.Thread(
            target=self._work, args=(queries, parameters, arrived, given_up), daemon=True, name="oracle"
        )
        began = time.monotonic()
        worker.start()
        feedback: list[Feedback] = []
        try:
            while True:
                left = began + self.seconds - time.monotonic()
                one = arrived.get(timeout=max(left, 0))
                if one is None:
                    return feedback
                if isinstance(one, BaseException):
                    raise one
                feedback.append(one)
        except Empty:
            answered = {query_id for one in feedback for query_id in one.ids}
            late = [query for query in queries if query.id not in answered]
            cost = self.cost(late) | {"seconds": time.monotonic() - began}
            reason = f"TimedOut: no answer within {self.seconds:g} seconds"
            return [*feedback, Failed(tuple(query.id for query in late), reason, cost)]
        finally:
            given_up.set()

    def _work(
        self,
        queries: list[Query],
        parameters: Parameters,
        arrived: SimpleQueue[Feedback | BaseException | None],
        given_up: threading.Event,
    ) -> None:
        """Puts answers to these queries (others are late ones of calls left behind), then None."""
        try:
            self.oracle.submit(queries, parameters)
            left = {query.id for query in queries}
            while left and not given_up.is_set():
                for feedback in self.oracle.poll(_PAUSE):
                    if left.intersection(feedback.ids):
                        left.difference_update(feedback.ids)
                        arrived.put(feedback)
                if left:
                    time.sleep(_PAUSE)
            arrived.put(None)
        except BaseException as error:
            arrived.put(error)
