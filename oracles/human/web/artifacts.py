"""Artifacts over HTTP: by opaque id, in part if a player asks for a part, and as a file to save."""

from __future__ import annotations

import re
from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from oracles.human.showing import suffix_of
from oracles.human.store import Inbox

_SHOWN = ("image/", "audio/", "video/")
# An artifact opened on its own (an SVG, say) runs nothing and loads nothing.
_SANDBOX = {"Content-Security-Policy": "default-src 'none'; sandbox", "Accept-Ranges": "bytes"}


def routes(inbox_of: Callable[[str], Inbox]) -> APIRouter:
    """The one address of all artifacts."""
    router = APIRouter()

    @router.get("/artifact/{run}/{artifact}")
    def artifact(request: Request, run: str, artifact: str, save: bool = False) -> Response:
        found = inbox_of(run).artifact(artifact)
        if found is None:
            return JSONResponse({"message": "There is no such artifact."}, status_code=404)
        media_type, data = found
        headers = dict(_SANDBOX)
        if save:  # the name tells no more than the id does
            name = "".join(c for c in artifact if c.isalnum())[:8]
            headers["Content-Disposition"] = f'attachment; filename="blackbox-{name}.{suffix_of(media_type)}"'
        # Whatever isn't a picture, a sound or a film is text to the browser, never a document of its own.
        shown = media_type if media_type.startswith(_SHOWN) else "text/plain; charset=utf-8"
        part = _range(request.headers.get("range", ""), len(data))
        if part is None:
            return Response(data, media_type=shown, headers=headers)
        first, last = part
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return Response(data[first : last + 1], 206, headers, shown)

    return router


def _range(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a range that can be given; None for all (which any other may be answered with)."""
    match = re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", header.strip())
    if match is None:
        return None
    first, last = int(match[1]), min(int(match[2] or size), size - 1)
    return (first, last) if first <= last else None
