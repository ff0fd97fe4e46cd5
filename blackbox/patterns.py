"""Regular expressions of tensors' names, checked where they are given."""

from __future__ import annotations

import re
from collections.abc import Iterable

from blackbox.errors import UserError


def checked(patterns: Iterable[str], key: str) -> tuple[str, ...]:
    """The patterns; raises UserError for one that is no regular expression."""
    found = tuple(patterns)
    for pattern in found:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{key}: {pattern!r} is no regular expression: {error}.") from error
    return found
