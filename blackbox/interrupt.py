"""Ctrl-C at a safe moment: what would leave tensors half moved is finished first."""

from __future__ import annotations

# The functions behind those of ``signal``, which spend ten times as long on turning numbers into enums.
import _signal  # type: ignore[import-not-found]
import threading
from collections.abc import Callable
from signal import SIGINT
from typing import Any

_NUMBER = int(SIGINT)


class held_back:
    """Within it an interruption (SIGINT) waits; it is raised at the end of the outermost block."""

    __slots__ = ("_handler", "_held")

    def __enter__(self) -> None:
        handler = _signal.getsignal(_NUMBER)
        self._handler: Callable[[int, Any], Any] | None = None
        self._held = False
        # Python delivers signals to the main thread only; a handler that isn't Python's can't be put back.
        if callable(handler) and threading.current_thread() is threading.main_thread():
            self._handler = handler
            _signal.signal(_NUMBER, self._hold)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._handler is None:
            return
        _signal.signal(_NUMBER, self._handler)
        if self._held and kind is None:
            self._handler(_NUMBER, None)

    def _hold(self, number: int, frame: Any) -> None:
        self._held = True
