"""A plain Python function as an oracle."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cached_property, reduce
from typing import Any

from blackbox.errors import UserError
from blackbox.probe import ALL_DATA, Context
from oracles.asking import takes_context
from oracles.base import ValueOracle
from oracles.door import as_float64, reason_of


class FunctionOracle(ValueOracle):
    """Values of a function.

    Args:
        function: x -> number (or numbers per example, [batch]); or an import path "package.module:function".
            With a parameter named ``context`` it is given the query's Context.
        batched: the function takes all candidates [n, d] and gives [n] or [n, batch].
        library: "numpy" (float64 arrays) or "torch" (tensors on the parameters' device).

    Raises:
        UserError: the path leads nowhere, or to something that can't be called.
    """

    def __init__(self, function: Callable[..., Any] | str, batched: bool = False, library: str = "numpy") -> None:
        if library not in ("numpy", "torch"):
            raise UserError(f"library is 'numpy' or 'torch', not {library!r}.")
        self.function: Callable[..., Any] = import_function(function) if isinstance(function, str) else function
        if not callable(self.function):
            raise UserError(f"function: a {type(self.function).__name__} can't be called.")
        self.batched = batched
        self.library = library
        self.chunk = None if batched else 1

    def evaluate(self, candidates: Any, context: Context = ALL_DATA) -> Any:
        """The function's values of the candidates (one at a time unless it is batched)."""
        keywords = {"context": context} if self._wants_context else {}
        if self.batched:
            return self.function(candidates, **keywords)
        return as_float64(self.function(candidates[0], **keywords))[None]

    @cached_property
    def _wants_context(self) -> bool:
        return takes_context(self.function)


def import_function(path: str) -> Any:
    """What "package.module:name" names (the name may have dots); raises UserError where it leads nowhere."""
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise UserError(f"'{path}' is no import path; one looks like package.module:function.")
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # whatever a user's module raises while it is imported
        raise UserError(f"'{path}' can't be imported: {reason_of(error)}.") from error
    try:
        return reduce(getattr, name.split("."), imported)
    except AttributeError as error:
        raise UserError(f"'{path}' can't be imported: {module} has no '{name}'.") from error
