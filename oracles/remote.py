"""Oracles outside this process: what is said to a service or a program, and how its word becomes feedback.

One JSON object goes out for candidates that share a context, one comes back:

    {"candidates": [[0.1, 0.2], ...], "context": {"batch_seed": 7}}      vectors, or objects for structured candidates
    {"values": [1.5, ...]}          one a candidate: a number, a list of numbers (one an example), null for none
    {"ranking": [2, [0, 1]]}        positions, best first; an inner list is a tie; left out is seen and not judged

A transport (``oracles.http``, ``oracles.command``) carries the objects; what came back is read in ``oracles.replies``.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.feedback import Cost, Failed, Feedback, Ranking, Values, add_cost
from blackbox.parameters import Parameters
from blackbox.probe import Query, ids_of
from oracles.asking import candidates_of, parts
from oracles.base import BaseOracle
from oracles.door import FloatArray, settle
from oracles.replies import Nonsense, Reply, decoded, encoded, judged, outcomes_of, shown

__all__ = [
    "Nonsense",
    "Price",
    "RemoteFunction",
    "RemoteOracle",
    "Reply",
    "Stoppable",
    "Transport",
    "decoded",
    "encoded",
    "outcomes_of",
    "shown",
]


class Transport(Protocol):
    """Carries JSON out and back, between ``open`` and ``close``; ``concurrency`` threads may call ``send`` at once."""

    concurrency: int

    def open(self) -> None:
        """Get ready, if it isn't yet; raises UserError where settings are mistaken."""

    def send(self, message: Any) -> Reply:
        """Send one JSON value and wait for the answer; what goes wrong is in the reply, not raised."""

    def close(self) -> None:
        """Give up what is under way."""


@dataclass(frozen=True)
class Price:
    """What a service charges, in whatever currency the budget is meant in.

    Args:
        per_query: for a candidate.
        per_request: for a request, however many candidates it holds.
    """

    per_query: float = 0.0
    per_request: float = 0.0

    def __post_init__(self) -> None:
        for name, price in (("price_per_query", self.per_query), ("price_per_request", self.per_request)):
            if not 0 <= price < math.inf:
                raise UserError(f"{name} must be 0 or more and finite, not {price}.")

    def cost(self, queries: float, requests: float) -> Cost:
        """{"queries"}, and {"money"} if there is a price."""
        cost: Cost = {"queries": queries}
        if self.per_query or self.per_request:
            cost["money"] = self.per_query * queries + self.per_request * requests
        return cost


@dataclass(frozen=True)
class _Request:
    queries: Sequence[Query]
    reply: Future[Reply]
    began: float


class RemoteOracle(BaseOracle):
    """Sends candidates through a transport; several requests are under way at once, answers come as they arrive.

    ``poll`` waits for a request that is under way: the transport's time-outs see to it that it ends.

    Args:
        transport: carries the requests.
        answers: "value" or "ranking".
        batch: candidates that one request holds at most; all that share a context if left out. An order needs all.
        price: what asking costs.
    """

    def __init__(
        self,
        transport: Transport,
        answers: Literal["value", "ranking"] = "value",
        batch: int | None = None,
        price: Price | None = None,
    ) -> None:
        if answers not in ("value", "ranking"):
            raise UserError(f"answers is 'value' or 'ranking', not {answers!r}.")
        if batch is not None and batch < 1:
            raise UserError(f"batch is a number of candidates: at least 1, not {batch}.")
        if batch is not None and answers == "ranking":
            raise UserError("batch splits the candidates of a round, but an order needs them together; leave it out.")
        self.transport = transport
        self.answers = frozenset({Ranking if answers == "ranking" else Values, Failed})
        self.batch = batch
        self.price = price or Price()
        self._pool: ThreadPoolExecutor | None = None
        self._open: list[_Request] = []

    def attach(self, folder: Path) -> None:
        """Finds mistakes in the settings before the run begins."""
        self.transport.open()

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Sends; doesn't wait."""
        waiting = {i for request in self._open for i in ids_of(request.queries)}
        new = [query for query in queries if query.id not in waiting]
        if not new:
            return
        self.transport.open()
        pool = self._pool = self._pool or ThreadPoolExecutor(self.transport.concurrency, "oracle")
        for part, keywords in parts(new, True):
            candidates = candidates_of(part, parameters, "numpy")
            listed = candidates.tolist() if isinstance(candidates, np.ndarray) else candidates
            for start in range(0, len(part), self.batch or len(part)):
                stop = start + (self.batch or len(part))
                message = {"candidates": listed[start:stop], "context": keywords["context"].to_json()}
                reply = pool.submit(self.transport.send, message)
                self._open.append(_Request(part[start:stop], reply, time.perf_counter()))

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """All answers that have come; waits for the first if any is under way."""
        if not self._open:
            return []
        done, _ = wait([request.reply for request in self._open], return_when=FIRST_COMPLETED)
        arrived = [request for request in self._open if request.reply in done]
        self._open = [request for request in self._open if request.reply not in done]
        return [feedback for request in arrived for feedback in self._feedback(request, request.reply.result())]

    def cost(self, queries: Sequence[Query]) -> Cost:
        """If every request succeeds at once."""
        runs = [len(part) for part, _ in parts(queries, True)] if queries else []
        return self.price.cost(len(queries), sum(-(-run // (self.batch or run)) for run in runs))

    def close(self) -> None:
        """Gives up what is under way."""
        self.transport.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool, self._open = None, []

    def _feedback(self, request: _Request, reply: Reply) -> Sequence[Feedback]:
        queries, count = request.queries, len(request.queries)
        # Each query pays for the last attempt; ``extra`` is what the request as a whole, and attempts before, cost.
        price = self.price if reply.attempts else Price()
        earlier = max(reply.attempts - 1, 0)
        extra = price.cost(count * earlier, reply.attempts)
        extra["requests"] = reply.attempts
        extra["seconds"] = time.perf_counter() - request.began
        if reply.error is not None and earlier:
            extra["failed"] = count * earlier  # so that the share of failures doesn't look smaller by trying again

        def each(some: Sequence[Query]) -> Cost:
            return price.cost(len(some), 0)

        if Ranking in self.answers:
            cost = each(queries)
            add_cost(cost, extra)
            return [judged(ids_of(queries), reply, cost)]
        return settle(queries, outcomes_of(reply, count), each, extra, self.per_example)


@dataclass
class RemoteFunction:
    """The same services and programs as a plain function of a batch: inputs [n, ...] -> outputs [n, k].

    Inputs go out as nested lists under "candidates"; each of "values" is a list of k numbers. For a black box in the
    middle of something larger, such as the classifier behind a denoiser.

    Args:
        transport: carries the requests.
        batch: inputs that one request holds at most.
        price: what asking costs.

    Attributes:
        spent: {"queries", "requests"} and {"money"} if there is a price, failed attempts included.
    """

    transport: Transport
    batch: int = 64
    price: Price = field(default_factory=Price)
    spent: Cost = field(default_factory=dict)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs [n, k] in the inputs' dtype, on their device.

        Raises:
            Nonsense: outputs that aren't [n, k] finite numbers.
            Exception: what the transport says about a request that failed.
        """
        self.transport.open()
        flat = inputs.detach().cpu()
        parts = [flat[start : start + self.batch] for start in range(0, len(flat), self.batch)]
        messages = [{"candidates": part.tolist(), "context": {}} for part in parts]
        with ThreadPoolExecutor(self.transport.concurrency, "oracle") as pool:
            replies = list(pool.map(self.transport.send, messages))
        outcomes: list[FloatArray] = []
        for part, reply in zip(parts, replies, strict=True):
            cost = self.price.cost(len(part) * reply.attempts, reply.attempts)
            add_cost(self.spent, cost | {"requests": reply.attempts})
        for part, reply in zip(parts, replies, strict=True):
            for one in outcomes_of(reply, len(part)):
                if isinstance(one, Exception):
                    raise one
                outcomes.append(one)
        shapes = sorted({one.shape for one in outcomes})
        if len(shapes) != 1 or len(shapes[0]) != 1:
            raise Nonsense(f"outputs must be lists of k numbers each, but their shapes are {shapes}")
        outputs = torch.from_numpy(np.array(outcomes)).to(inputs.dtype).to(inputs.device)
        if not outputs.isfinite().all():
            raise Nonsense("outputs that are not finite")
        return outputs


class Stoppable:
    """Waits that ``close`` cuts short."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def pause(self, seconds: float) -> None:
        """Sleep; raises InterruptedError once stopped."""
        if self._stopped.wait(max(seconds, 0)):
            raise InterruptedError("the run ended while a request was waiting")

    def stop(self) -> None:
        """End all waits, those that begin later too."""
        self._stopped.set()
