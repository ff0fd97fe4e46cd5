"""One HTTP request at a time-out for all of it, from connecting to the last byte of the reply.

A time-out of a single wait lets a service that sends a byte now and then take as long as it likes. So requests are
coroutines of one event loop, which runs in a thread of its own and drops those whose time is up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from oracles.door import reason_of
from oracles.replies import Nonsense

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LARGEST = 256 << 20


class Trouble(Exception):
    """Why an attempt came to nothing.

    Attributes:
        again: whether another attempt makes sense.
        taken: whether the service may have worked on it, and so may charge for it.
        wait: seconds that it asks to be left alone.
    """

    def __init__(self, words: str, again: bool = True, taken: bool = True, wait: float = 0.0) -> None:
        super().__init__(words)
        self.again, self.taken, self.wait = again, taken, wait


class Unreachable(Trouble):
    """Nobody answers there."""


class TooSlow(Trouble):
    """No whole reply in time."""


class Broken(Trouble):
    """The connection ended before the reply did."""


@dataclass(frozen=True)
class Response:
    """A whole reply, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Poster:
    """Posts to one address, over connections that are kept; any number of threads may use it at once.

    Args:
        url: the address.
        headers: of every request.
        timeout: seconds that a request may take, reply included.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        self.url, self.timeout = url, timeout
        # A proxy of the environment is for the world, not for this machine.
        outside = urlsplit(url).hostname not in LOOPBACK
        self._client = httpx.AsyncClient(headers=headers, timeout=None, trust_env=outside, follow_redirects=False)
        self._loop = asyncio.new_event_loop()
        self._lock, self._closed = threading.Lock(), False
        self._thread = threading.Thread(target=self._loop.run_forever, name="oracle-http", daemon=True)
        self._thread.start()

    def post(self, data: bytes) -> Response:
        """The reply.

        Raises:
            Trouble: there is none.
            Nonsense: it is too long.
            InterruptedError: this was closed meanwhile.
        """
        with self._lock:
            if self._closed:
                raise InterruptedError("the run has ended")
            reply = asyncio.run_coroutine_threadsafe(self._post(data), self._loop)
        try:
            return reply.result()
        except CancelledError:
            raise InterruptedError("the run has ended") from None

    def close(self) -> None:
        """Drop what is under way, and the connections."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _post(self, data: bytes) -> Response:
        reached, body, begun = False, bytearray(), False

        async def trace(event: str, _: object) -> None:
            nonlocal reached
            reached = reached or event.endswith("send_request_headers.started")

        try:
            async with (
                asyncio.timeout(self.timeout),
                self._client.stream("POST", self.url, content=data, extensions={"trace": trace}) as response,
            ):
                begun = True
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > _LARGEST:
                        raise Nonsense(f"the reply is longer than {_LARGEST >> 20} MiB")
        except TimeoutError:
            if not reached:
                where = place(self.url)
                raise Unreachable(f"{where} can't be reached within {self.timeout:g} s", taken=False) from None
            raise TooSlow(f"no {'whole ' if begun else ''}reply within {self.timeout:g} s") from None
        except httpx.ConnectError as error:
            raise Unreachable(f"{place(self.url)} can't be reached: {error}", taken=False) from None
        except httpx.HTTPError as error:
            raise Broken(f"the connection ended before the reply: {reason_of(error)}") from None
        return Response(response.status_code, response.headers, bytes(body))

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()


def place(url: str) -> str:
    """Scheme and host: a path or query may say more than a message should."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else "another path"
