"""From what a problem renders to bytes that a person can be shown."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from blackbox.errors import UserError

_SUFFIX = {
    "text/plain": "txt",
    "application/json": "json",
    "image/svg+xml": "svg",
    "audio/mpeg": "mp3",
    "audio/x-wav": "wav",
}


def file_of(problem: Any, candidate: Any) -> tuple[str, bytes]:
    """(media type, bytes) of a candidate: by ``render_file``, where a problem has files of its own, else ``render``."""
    own = getattr(problem, "render_file", None)
    return shown(own(candidate) if callable(own) else problem.render(candidate))


def suffix_of(media_type: str) -> str:
    """How the name of such a file ends, without the dot."""
    kind = media_type.partition(";")[0]
    return _SUFFIX.get(kind) or "".join(c for c in kind.partition("/")[2] if c.isalnum()) or "bin"


def shown(rendered: Any) -> tuple[str, bytes]:
    """(media type, bytes) of what ``problem.render`` gave.

    A uint8 array [h, w] or [h, w, 3 or 4] is an image (PNG), [t, h, w, 3] a clip (GIF); text is text; anything that is
    JSON, or an array of numbers, is shown as JSON; (media type, bytes) is taken as it is.

    Raises:
        UserError: none of these.
    """
    match rendered:
        case (str(media_type), bytes(data)):
            return media_type, data
        case str(text):
            return "text/plain; charset=utf-8", text.encode()
        case np.ndarray() if rendered.dtype == np.uint8 and rendered.ndim in (2, 3, 4):
            return _pictures(rendered)
        case np.ndarray():
            rendered = rendered.tolist()
    try:
        return "application/json", json.dumps(rendered, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise UserError(f"A {type(rendered).__name__} can't be shown to a person: {error}.") from error


def _pictures(array: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[str, bytes]:
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("Pictures need the package pillow.") from error
    out = io.BytesIO()
    if array.ndim < 4:
        Image.fromarray(array).save(out, "PNG")
        return "image/png", out.getvalue()
    first, *others = [Image.fromarray(frame) for frame in array]
    first.save(out, "GIF", save_all=True, append_images=others, duration=50, loop=0)
    return "image/gif", out.getvalue()
