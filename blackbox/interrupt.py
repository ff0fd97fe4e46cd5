"""Ctrl-C, SIGTERM and sys.exit amid a run.

An interruption waits for a safe moment: what would leave tensors half moved is finished first.
"""

from __future__ import annotations

# The functions behind those of ``signal``, which spend ten times as long on turning numbers into enums.
import _signal  # type: ignore[import-not-found]
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGINT, SIGTERM
from typing import Any

from blackbox.errors import UserError

_NUMBER = int(SIGINT)
_ENDING = int(SIGTERM)


class held_back:
    """Within it an interruption (SIGINT) waits; it is raised at the end of the outermost block."""

    __slots__ = ("_handler", "_held")

    def __enter__(self) -> None:
        handler = _signal.getsignal(_NUMBER)
        self._handler: Callable[[int, Any], Any] | None = None
        self._held = 0
        # Python delivers signals to the main thread only; a handler that isn't Python's can't be put back.
        if callable(handler) and threading.current_thread() is threading.main_thread():
            self._handler = handler
            _signal.signal(_NUMBER, self._hold)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._handler is None:
            return
        _signal.signal(_NUMBER, self._handler)
        if self._held and kind is None:
            self._handler(self._held, None)

    def _hold(self, number: int, frame: Any) -> None:
        self._held = number


@dataclass
class Ending:
    """Whether SIGTERM came."""

    came: bool = False


@contextmanager
def terminable() -> Iterator[Ending]:
    """Within it SIGTERM interrupts as Ctrl-C does, so that a run which is ended by it says how to go on.

    It goes the way of SIGINT, and so waits where that waits (``held_back``); also where SIGINT itself is ignored, as in
    what a shell runs in the background. Off the main thread it does nothing.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    former = _signal.getsignal(_NUMBER), _signal.getsignal(_ENDING)

    def interrupt(number: int, frame: Any) -> None:
        if number == _ENDING:
            raise KeyboardInterrupt
        if callable(former[0]):
            former[0](number, frame)

    def end(number: int, frame: Any) -> None:
        ending.came = True
        _signal.getsignal(_NUMBER)(number, frame)

    if former[1] is not None and (callable(former[0]) or former[0] == _signal.SIG_IGN):
        _signal.signal(_NUMBER, interrupt)
        _signal.signal(_ENDING, end)
    try:
        yield ending
    finally:
        for number, handler in zip((_NUMBER, _ENDING), former, strict=True):
            if handler is not None:  # one that isn't Python's can't be put back
                _signal.signal(number, handler)


@contextmanager
def exits_told() -> Iterator[None]:
    """Raises UserError in place of SystemExit, which would end a run without a word."""
    try:
        yield
    except SystemExit as error:
        code = "" if error.code is None else repr(error.code)
        raise UserError(
            f"sys.exit({code}) was called while the run was going, by its problem, its oracle or a hook. Raise an "
            "exception instead: it fails that query alone."
        ) from error
