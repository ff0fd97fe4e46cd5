"""A black box behind HTTP: batches of candidates are posted as JSON, values or orders come back.

What is said is in ``oracles.remote``. Secrets are read from environment variables, whose names alone are saved with the
run. Certificates are verified, redirects are not followed, and nothing but JSON is sent.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import urlsplit

import numpy as np

from blackbox.errors import UserError
from blackbox.seeds import derive_seed
from oracles.posting import LOOPBACK, Broken, Poster, TooSlow, Trouble, Unreachable, place
from oracles.remote import Price, RemoteOracle, Stoppable
from oracles.replies import Nonsense, Reply, decoded, encoded, shown

__all__ = ["Broken", "HttpOracle", "HttpTransport", "Refused", "TooSlow", "Trouble", "Unreachable"]

_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_NOT_TAKEN = frozenset({429, 503})
"""Answers by which a service says that it did no work."""


class Refused(Trouble):
    """A reply whose status isn't success."""


class HttpTransport:
    """Posts JSON to one address and gives back the JSON of the reply.

    Args:
        url: https://..., or http://... (with secrets only to this machine).
        concurrency: requests under way at once at most.
        token_env: environment variable with a token, sent as ``Authorization: Bearer``.
        headers_env: further headers, each with the environment variable that holds its value.
        timeout: seconds that an attempt may take, from connecting to the last byte of the reply.
        attempts: how often a request is sent at most: again after a broken connection, a time-out and the statuses
            408, 429, 500, 502, 503, 504.
        backoff: seconds before the second attempt; doubled for each further one, less up to half at random.
        longest_wait: seconds; a service whose Retry-After asks for more isn't waited for.
        rate: requests a second at most, attempts included.
        seed: of the random part of the waits.

    Raises:
        UserError: numbers out of range, an address that isn't http(s) or holds a password.
    """

    def __init__(
        self,
        url: str,
        concurrency: int = 4,
        token_env: str | None = None,
        headers_env: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        attempts: int = 4,
        backoff: float = 0.5,
        longest_wait: float = 60.0,
        rate: float | None = None,
        seed: int = 0,
    ) -> None:
        self.url = _checked(url, bool(token_env or headers_env))
        for name, number, least in (
            ("concurrency", concurrency, 1),
            ("attempts", attempts, 1),
            ("backoff", backoff, 0),
        ):
            if not number >= least:
                raise UserError(f"{name} must be at least {least}, not {number}.")
        if not timeout > 0 or (rate is not None and not rate > 0):
            raise UserError(f"timeout and rate must be positive, not {timeout} and {rate}.")
        if not longest_wait >= 0:
            raise UserError(f"longest_wait is a number of seconds: 0 or more, not {longest_wait}.")
        for name in headers_env or ():
            if not name.isascii():
                raise UserError(f"headers_env: a header's name is plain ASCII, not {name!r}.")
        self.concurrency = concurrency
        self.token_env = token_env
        self.headers_env = dict(headers_env or {})
        self.timeout = timeout
        self.attempts = attempts
        self.backoff = backoff
        self.longest_wait = longest_wait
        self.seed = seed
        self._between = 0.0 if rate is None else 1 / rate
        self._lock = threading.Lock()
        self._next = 0.0
        self._sent = 0
        self._waits = Stoppable()
        self._poster: Poster | None = None
        self._secrets: list[str] = []

    def open(self) -> None:
        """Reads the secrets; raises UserError where a variable isn't set."""
        with self._lock:
            if self._poster is not None:
                return
            self._waits = Stoppable()
            headers = {"Content-Type": "application/json", "Accept": "application/json"}
            headers |= {header: self._secret(variable) for header, variable in self.headers_env.items()}
            if self.token_env:
                headers["Authorization"] = f"Bearer {self._secret(self.token_env)}"
            self._poster = Poster(self.url, headers, self.timeout)

    def send(self, message: object) -> Reply:
        """The reply to one JSON value, after as many attempts as it takes."""
        taken, waits = 0, self._waits
        try:
            data = encoded(message)
            with self._lock:
                self._sent += 1
                number = self._sent
            for attempt in range(self.attempts):
                self._wait_for_turn(waits)
                try:
                    return Reply(decoded(self._post(data)), attempts=taken + 1)
                except Trouble as error:
                    taken += error.taken
                    if not error.again or error.wait > self.longest_wait or attempt + 1 == self.attempts:
                        wait = f"; it asks to wait {error.wait:g} s" if error.wait > self.longest_wait else ""
                        tries = f" (tried {attempt + 1} times)" if attempt else ""
                        return Reply(error=type(error)(f"{error}{wait}{tries}"), attempts=taken)
                    waits.pause(max(error.wait, self._delay(number, attempt)))
        except Nonsense as error:
            return Reply(error=error, attempts=taken + 1)
        except Exception as error:
            return Reply(error=error, attempts=taken)
        raise AssertionError("every attempt ends by a reply or an error")

    def close(self) -> None:
        """Ends waits, drops connections."""
        self._waits.stop()
        with self._lock:
            poster, self._poster, self._secrets = self._poster, None, []
        if poster is not None:
            poster.close()

    def _post(self, data: bytes) -> bytes:
        """The body of a reply that says success."""
        poster = self._poster
        if poster is None:
            raise InterruptedError("the run has ended")
        try:
            reply = poster.post(data)
        except Trouble as error:
            raise type(error)(self._clean(str(error)), error.again, error.taken) from None
        body = self._clean(reply.body.decode(errors="replace"))
        if 300 <= reply.status < 400 and "Location" in reply.headers:
            where = place(reply.headers["Location"])
            raise Refused(f"HTTP {reply.status}: it redirects to {where}, which is not followed", again=False)
        if not 200 <= reply.status < 300:
            words = f": {shown(body)}" if body else ""
            wait = _retry_after(reply.headers.get("Retry-After"))
            again, taken = reply.status in _TRY_AGAIN, reply.status not in _NOT_TAKEN
            raise Refused(f"HTTP {reply.status}{words}", again, taken, wait)
        return body.encode()

    def _secret(self, variable: str) -> str:
        secret = os.environ.get(variable, "")
        if not (secret.isascii() and secret.isprintable() and secret):
            state = "holds what no header can hold" if secret else "is not set"
            raise UserError(f"The environment variable {variable} {state}; the oracle at {place(self.url)} needs it.")
        self._secrets.append(secret)
        return secret

    def _wait_for_turn(self, waits: Stoppable) -> None:
        if not self._between:
            return
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._between
        waits.pause(turn - time.monotonic())

    def _delay(self, number: int, attempt: int) -> float:
        chance = np.random.Generator(np.random.Philox(key=derive_seed(self.seed, "backoff", number, attempt)))
        return float(self.backoff * 2**attempt * chance.uniform(0.5, 1.0))

    def _clean(self, text: str) -> str:
        """Without the secrets, which a service may say back."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class HttpOracle(RemoteOracle):
    """Values or orders from a service.

    Args:
        url, concurrency, token_env, headers_env, timeout, attempts, backoff, longest_wait, rate, seed: as for
            HttpTransport.
        answers: "value" or "ranking".
        batch: candidates that one request holds at most; all that share a context if left out.
        price_per_query: what the service charges for a candidate; ``budget.money`` bounds the sum.
        price_per_request: what it charges for a request.
    """

    def __init__(
        self,
        url: str,
        answers: Literal["value", "ranking"] = "value",
        batch: int | None = None,
        concurrency: int = 4,
        token_env: str | None = None,
        headers_env: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        attempts: int = 4,
        backoff: float = 0.5,
        longest_wait: float = 60.0,
        rate: float | None = None,
        price_per_query: float = 0.0,
        price_per_request: float = 0.0,
        seed: int = 0,
    ) -> None:
        transport = HttpTransport(
            url, concurrency, token_env, headers_env, timeout, attempts, backoff, longest_wait, rate, seed
        )
        super().__init__(transport, answers, batch, Price(price_per_query, price_per_request))


def _checked(url: str, secret: bool) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"url: {error}.") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UserError("url must begin with https:// (or http://) and name a host.")
    if parts.username or parts.password:
        raise UserError("url holds a password, which would be saved with the run; use token_env or headers_env.")
    if secret and parts.scheme == "http" and host not in LOOPBACK:
        raise UserError(f"url: a token would travel to {host} unencrypted; use https.")
    return url


def _retry_after(text: str | None) -> float:
    """Seconds: the header holds a number of them, or a date; 0 if it holds neither."""
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds):
        return max(0.0, seconds)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0
