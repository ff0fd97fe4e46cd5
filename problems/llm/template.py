"""Templates: text with the data's fields in braces, and filters that fit a field into its sentence.

A filter stands behind a colon, several are separated by bars, one with arguments comes last:

| filter | what it does |
| --- | --- |
| `lower` | small letters throughout |
| `capital` | a capital first letter |
| `small` | small letters in the first word, unless that is I |
| `bare` | without spaces and the mark at the end of the sentence |
| `question` | with a question mark at the end |
| `before(_)`, `after(_)` | what comes before, or after, the first `_` |
| `replace(a,b)` | `b` in place of every `a`; `b` may be a field in braces |
| `choose(a=x,b=y)` | `x` where the field is `a`, `y` where it is `b` |
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blackbox.errors import UserError


def fields_of(template: str) -> tuple[str, ...]:
    """Names of the fields, in order of their first use, those in a filter's arguments too."""
    found: dict[str, None] = {}
    for _, name, spec, _ in string.Formatter().parse(template):
        if name:
            found.setdefault(name)
        if spec:
            found.update(dict.fromkeys(fields_of(spec)))
    return tuple(found)


def fill(template: str, fields: Mapping[str, str]) -> str:
    """The template filled in. UserError where a filter does not fit the text."""
    return template.format(**{name: _Text(value) for name, value in fields.items()})


def expand(template: str, fields: Mapping[str, str | Sequence[str]]) -> list[tuple[str | None, str]]:
    """The template filled in once, or once for each item of the one field that is a list.

    Returns:
        (item, text) for each; the item is None where there is no list.
    """
    lists = [name for name in fields_of(template) if not isinstance(fields[name], str)]
    if len(lists) > 1:
        raise UserError(f"template: {template!r} has two lists, {lists[0]!r} and {lists[1]!r}; one is all it may have")
    plain = {name: value for name, value in fields.items() if isinstance(value, str)}
    if not lists:
        return [(None, fill(template, plain))]
    return [(item, fill(template, {**plain, lists[0]: item})) for item in fields[lists[0]]]


class _Text(str):
    """Text that knows the filters as its format."""

    def __format__(self, spec: str) -> str:
        text = str(self)
        if not spec:
            return text
        names, parenthesis, rest = spec.partition("(")
        *plain, last = names.split("|")
        for name in plain if parenthesis else [*plain, last]:
            text = _named(_PLAIN, name)(text)
        if parenthesis:
            if not rest.endswith(")"):
                raise ValueError(f"{spec!r} does not end in a parenthesis")
            text = _named(_WITH_ARGUMENTS, last)(text, rest[:-1])
        return text


def _named(filters: Mapping[str, Any], name: str) -> Any:
    if name not in filters:
        raise ValueError(f"there is no filter {name!r} like that; there are {', '.join(FILTERS)}")
    return filters[name]


def _small(text: str) -> str:
    first, space, rest = text.partition(" ")
    return text if first == "I" else first.lower() + space + rest


def _bare(text: str) -> str:
    text = text.rstrip()
    return text[:-1] if text.endswith((".", "?", "!")) else text


def _parts(text: str, mark: str) -> tuple[str, str]:
    before, found, after = text.partition(mark)
    if text and not found:
        raise UserError(f"data: there is no {mark!r} in {text!r}")
    return before, after


def _replace(text: str, arguments: str) -> str:
    old, _, new = arguments.partition(",")
    return text.replace(old, new) if old else text


def _choose(text: str, arguments: str) -> str:
    known = dict(part.split("=", 1) for part in arguments.split(","))
    if text and text not in known:
        raise UserError(f"data: {text!r} is not one of {', '.join(known)}")
    return known.get(text, "")


_PLAIN: Mapping[str, Callable[[str], str]] = {
    "lower": str.lower,
    "capital": lambda text: text[:1].upper() + text[1:],
    "small": _small,
    "bare": _bare,
    "question": lambda text: text if text.endswith("?") else text + "?",
}
_WITH_ARGUMENTS: Mapping[str, Callable[[str, str], str]] = {
    "before": lambda text, mark: _parts(text, mark)[0],
    "after": lambda text, mark: _parts(text, mark)[1],
    "replace": _replace,
    "choose": _choose,
}
FILTERS = (*_PLAIN, *_WITH_ARGUMENTS)
