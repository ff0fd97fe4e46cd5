"""A rehearsal: constructors are called for their checks alone, and left where something would be loaded.

``blackbox validate``, and a run before it touches its folder, find so what only a constructor can know. One that reads
files, loads a model or computes for long says where that begins, after its checks, by ``loading_begins()``. Components
of a user's own aren't called: nobody knows what they do.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from blackbox.config.block import Block
from blackbox.config.signature import OWN_PACKAGES
from blackbox.errors import UserError

_rehearsing: ContextVar[bool] = ContextVar("rehearsing", default=False)


class _Loading(BaseException):
    """A rehearsal has come to what would be loaded. No Exception, as constructors may catch those."""


class Unloaded:
    """Stands for what was not constructed; whoever wants to know more about it has come as far as a rehearsal goes."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """What isinstance looks at."""
        raise _Loading

    def __getattr__(self, name: str) -> Any:
        raise _Loading


def loading_begins() -> None:
    """Said by a constructor between its checks and what takes long; it goes no further in a rehearsal."""
    if _rehearsing.get():
        raise _Loading


def rehearse(block: Block, **injected: Any) -> Any:
    """What a block builds, or an ``Unloaded`` in its place; raises UserError where its values are refused."""
    token = _rehearsing.set(True)
    try:
        return _made(block, injected)
    finally:
        _rehearsing.reset(token)


def _made(block: Block, injected: dict[str, Any]) -> Any:
    arguments = {key: _value(value, injected) for key, value in block.arguments.items()}
    if str(block.target.__module__).split(".")[0] not in OWN_PACKAGES:
        return Unloaded()
    parts = [*arguments.values(), *injected.values()]
    try:
        return block.construct(arguments, injected)
    except _Loading:
        return Unloaded()
    except UserError as error:
        # A constructor that was given a stand-in may stumble over it, which is no mistake of the user's.
        if isinstance(error.__cause__, UserError) or not any(isinstance(part, Unloaded) for part in parts):
            raise
        return Unloaded()


def _value(value: Any, injected: dict[str, Any]) -> Any:
    if isinstance(value, Block):
        return _made(value, injected)
    if isinstance(value, list) and any(isinstance(item, Block) for item in value):
        return [_value(item, injected) for item in value]
    return value
