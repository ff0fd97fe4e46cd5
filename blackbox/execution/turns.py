"""Several calls that go on by turns: one waits at what it needs until all have come as far.

Each call runs in a thread of its own, so that it needs to know nothing about the others; but only one runs at a time,
and always in the same order, so a result depends on nothing but the calls.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch

from blackbox.interrupt import held_back


class _Abandoned(BaseException):
    """The calls were given up from outside: this one unwinds."""


class Turns:
    """Runs calls by turns over things of which one is there at a time.

    Args:
        bring: makes a thing be there, and the last one gone; called in the thread of ``run``, or, outside of it, in
            that of ``need``.

    Attributes:
        here: the thing that is there.
    """

    def __init__(self, bring: Callable[[object], None]) -> None:
        self.here: object = None
        self._bring = bring
        self._turn = threading.Condition()
        self._calls = threading.local()

    def need(self, thing: object) -> None:
        """Return once ``thing`` is there; for a call to say before it uses it."""
        if self.here is thing:
            return
        call: _Call | None = getattr(self._calls, "own", None)
        if call is None:
            self._fetch(thing)
        else:
            call.wait_for(thing)

    def run(self, calls: Sequence[Callable[[], None]], before: Callable[[int], None]) -> None:
        """Run them all to their ends; ``before(i)`` is called whenever the i-th is about to go on.

        The calls take care of their exceptions themselves. One that comes from outside (Ctrl-C) makes all unwind.
        """
        if len(calls) == 1:
            before(0)
            calls[0]()
            return
        running = [_Call(call, self._turn, self._calls) for call in calls]
        try:
            for number, call in enumerate(running):
                before(number)
                call.go_on()
            while waiting := [(number, call) for number, call in enumerate(running) if call.needs is not None]:
                thing = waiting[0][1].needs
                self._fetch(thing)
                for number, call in waiting:
                    if call.needs is thing:
                        before(number)
                        call.go_on()
        finally:
            with held_back():
                for call in running:
                    call.end()

    def _fetch(self, thing: object) -> None:
        self.here = None
        self._bring(thing)
        self.here = thing


class _Call:
    """One call in its thread."""

    def __init__(self, call: Callable[[], None], turn: threading.Condition, calls: threading.local) -> None:
        self.needs: object = None
        self._call, self._turn, self._calls = call, turn, calls
        self._has_turn = self._abandoned = self._ended = False
        self._state = _torch_state()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), daemon=True)
        self._thread.start()

    def go_on(self) -> None:
        """Let it run until it waits or has ended."""
        with self._turn:
            self._has_turn = True
            self._turn.notify_all()
            self._turn.wait_for(lambda: not self._has_turn)

    def wait_for(self, thing: object) -> None:
        """In its thread: give the turn away until ``thing`` is there."""
        self.needs = thing
        self._give_away()
        self.needs = None
        if self._abandoned:
            raise _Abandoned

    def end(self) -> None:
        """Make sure that it has ended; a call that has not is made to unwind."""
        with self._turn:
            self._turn.wait_for(lambda: not self._has_turn)  # an interruption may have come amid its turn
        self._abandoned = True
        while not self._ended:
            self.go_on()
        self._thread.join()

    def _run(self) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._has_turn)
        try:
            if not self._abandoned:
                self._calls.own = self
                with ExitStack() as state:
                    for part in self._state:
                        state.enter_context(part)
                    self._call()
        except _Abandoned:
            pass
        finally:
            self._ended = True
            with self._turn:
                self._has_turn = False
                self._turn.notify_all()

    def _give_away(self) -> None:
        with self._turn:
            self._has_turn = False
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._has_turn)


def _torch_state() -> list[torch.autocast | torch.set_grad_enabled]:
    """What torch keeps for each thread, as this one has it."""
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [
        torch.set_grad_enabled(torch.is_grad_enabled()),
        *(
            torch.autocast(
                kind,
                torch.get_autocast_dtype(kind),
                enabled=torch.is_autocast_enabled(kind),
                cache_enabled=torch.is_autocast_cache_enabled(),
            )
            for kind in kinds
        ),
    ]
