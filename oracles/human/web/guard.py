"""What stands before every request to the page: who may ask, from where, and how much they may send.

A secret token opens the door once; after that a cookie does, which scripts can't read and other sites can't send. What
changes anything also needs a header that only the page itself knows, so another site can't write in a rater's name.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Collection
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

MAX_BODY = 64 * 1024
CSRF_HEADER = "X-CSRF-Token"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class TooLong(Exception):
    """A body of more than MAX_BODY bytes."""


Handler = Callable[[Request], Awaitable[Response]]


class Guard:
    """Lets through whom it knows.

    Args:
        token: the secret of the link that the server printed.
        hosts: names and addresses, without port, under which the page may be reached (against DNS rebinding).
    """

    def __init__(self, token: str, hosts: Collection[str]) -> None:
        self._token = token
        self._hosts = frozenset(host.lower() for host in hosts)
        self._session = self._derived("session")
        self.csrf = self._derived("csrf")
        # Cookies don't tell ports apart; the name keeps two servers on one machine from overwriting each other's.
        self.cookie = f"blackbox-{self._derived('name')[:8]}"

    async def __call__(self, request: Request, handler: Handler) -> Response:
        """The answer of the handler, or a refusal; always with the headers that keep the page to itself."""
        response = self._refusal(request) or await handler(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def _derived(self, purpose: str) -> str:
        """A secret per purpose, so that no one of them gives away another or the token."""
        return hmac.new(self._token.encode(), purpose.encode(), hashlib.sha256).hexdigest()

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if (urlsplit(f"//{host}").hostname or "") not in self._hosts:
            return _no(400, "This address isn't one the server was told to answer under.")
        token = request.query_params.get("token")
        if request.url.path == "/" and token is not None:
            return self._admit(token)
        if not _same(request.cookies.get(self.cookie, ""), self._session):
            if request.url.path == "/" and request.headers.get("sec-fetch-site") == "cross-site":
                # After a link in a mail the browser holds a strict cookie back once; asked by ourselves it sends it.
                return HTMLResponse('<!doctype html><meta http-equiv="refresh" content="0">', 401)
            return _no(401, "Open the link with the token that `blackbox serve` printed.")
        if request.method not in ("GET", "HEAD"):
            origin = request.headers.get("origin", "")
            if origin.partition("://")[2] != host:
                return _no(403, "This request comes from another site.")
            if not _same(request.headers.get(CSRF_HEADER, ""), self.csrf):
                return _no(403, "This request doesn't come from the page. Reload it.")
        return None

    def _admit(self, token: str) -> Response:
        if not _same(token, self._token):
            return _no(403, "This token isn't the right one. Open the link that `blackbox serve` printed last.")
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(self.cookie, self._session, httponly=True, samesite="strict", path="/")
        return response


async def body_of(request: Request) -> bytes:
    """The body; TooLong as soon as it is longer than MAX_BODY, whatever its headers say."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise TooLong(f"An answer is at most {MAX_BODY} bytes.")
    return body


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _no(status: int, message: str) -> Response:
    return JSONResponse({"message": message}, status_code=status)
