"""Ctrl-C at a safe moment: what would leave tensors half moved is finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_back() -> Iterator[None]:
    """Within it an interruption (SIGINT) waits; it is raised at the end of the outermost block."""
    handler = signal.getsignal(signal.SIGINT)
    # Python delivers signals to the main thread only; a handler that isn't Python's can't be put back.
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if held:
        handler(held[0], None)
