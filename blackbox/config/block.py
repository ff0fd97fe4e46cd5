"""Blocks: one component and its arguments, checked, defaults filled in; built later, perhaps repeatedly."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blackbox.config.registry import BASES, INJECTED, explain, find, imported, kind_of
from blackbox.config.signature import REQUIRED, Field, check, signature
from blackbox.config.source import Cursor, a, describe, nearest
from blackbox.errors import UserError


@dataclass(frozen=True)
class Block:
    """A component to be built.

    Attributes:
        kind: its kind in the table; "" for a class that an annotation names outright (a schedule).
        name: what `type` says; "" if there is no `type`.
        target: the class or function.
        arguments: value of every key, defaults filled in; nested blocks are Blocks.
        injected: parameters that other blocks fill, and whether ``build`` must be given them.
        fixed: arguments that are no keys (the function behind a function oracle).
    """

    kind: str
    name: str
    target: Callable[..., Any]
    arguments: Mapping[str, Any]
    injected: Mapping[str, bool]
    fixed: Mapping[str, Any]
    cursor: Cursor

    def build(self, **injected: Any) -> Any:
        """Construct the component; only those of ``injected`` that it takes are passed on.

        Raises:
            UserError: its constructor refused the values; the message names the place in the configuration.
        """
        return self.construct({key: _build(value, injected) for key, value in self.arguments.items()}, injected)

    def construct(self, arguments: Mapping[str, Any], injected: Mapping[str, Any]) -> Any:
        """As ``build``, from arguments that are built already."""
        given = {key: injected[key] for key in self.injected if key in injected}
        try:
            return self.target(**arguments, **self.fixed, **given)
        except UserError as error:
            raise self.cursor.error(str(error), self._blamed(str(error))) from error
        except Exception as error:  # raised for values the user wrote, often by the user's own class
            raise self.cursor.error(f"{self.label} could not be made: {explain(error)}.") from error

    def _blamed(self, message: str) -> Any:
        """The first of the keys given that a constructor's complaint speaks of; None if it speaks of none."""
        value = self.cursor.value
        given = [str(key) for key in value if key != "type"] if isinstance(value, dict) else []
        spoken = [word for word in re.findall(r"\w+", message) if word in given]
        return spoken[0] if spoken else None

    @property
    def nested(self) -> list[Block]:
        """The blocks directly inside."""
        values = (v if isinstance(v, list) else [v] for v in self.arguments.values())
        return [item for value in values for item in value if isinstance(item, Block)]

    def wants(self, name: str) -> bool | None:
        """Whether it, or a block inside it, must (True) or may (False) be given ``name``; None: it can't."""
        wishes = [self.injected.get(name), *(block.wants(name) for block in self.nested)]
        return None if all(w is None for w in wishes) else any(wishes)

    @property
    def label(self) -> str:
        """The class's name."""
        return str(getattr(next(iter(self.fixed.values()), self.target), "__name__", self.name))

    def dump(self) -> dict[str, Any]:
        """The block as YAML values, defaults included; parsing them again gives this block."""
        head = {"type": self.name} if self.name else {}
        return head | {key: _plain(value) for key, value in self.arguments.items() if _plain(value) is not REQUIRED}


def parse_block(cursor: Cursor, kind: str) -> Block:
    """A short name, or a mapping with `type` and the arguments; raises UserError."""
    value = cursor.value
    key = None if isinstance(value, str) else "type"
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, dict):
        raise cursor.error(f"got {describe(value)}, needs the name of {a(kind)}, or a mapping with `type`.")
    name = value.get("type")
    if name is None:
        hint = nearest(next((k for k in value if "type" in str(k)), ""), ["type"])
        raise cursor.error(f"which {kind}? The key `type` is missing.{hint}")
    if not isinstance(name, str):
        raise cursor.error(f"got {describe(name)}, needs the name of {a(kind)}.", "type")
    try:
        target = find(kind, name)
    except UserError as error:
        raise cursor.error(str(error), key) from error
    fixed: dict[str, Any] = {}
    if kind == "oracle" and not inspect.isclass(target):
        function = find(kind, "function")
        first = next(iter(inspect.signature(function).parameters))
        target, fixed = function, {first: target}
    _check_kind(target, kind, cursor)
    return _arguments(cursor.with_value(value), kind, name, target, fixed)


def parse_class(cursor: Cursor, target: type) -> Block:
    """A block whose class is known from an annotation: a mapping of arguments. A scalar, or `type`,
    stands for the first of them (`schedule: cosine`)."""
    value, fields = cursor.value, signature(target).fields
    first = next(iter(fields), "")
    if not isinstance(value, dict):
        value = {first: value}
    elif "type" in value and "type" not in fields:
        value = {first if key == "type" else key: item for key, item in value.items()}
    return _arguments(cursor.with_value(value), "", "", target, {})


def _check_kind(target: Any, kind: str, cursor: Cursor) -> None:
    if BASES[kind] and inspect.isclass(target):
        base = imported(BASES[kind])
        if not getattr(base, "_is_protocol", False) and not issubclass(target, base):
            raise cursor.error(f"{target.__name__} is no {kind}: it does not extend {base.__name__}.", "type")
    if kind == "oracle" and not callable(getattr(target, "submit", None)):
        raise cursor.error(
            f"{target.__name__} is no oracle: it has no `submit`. Extend one of the classes in oracles.base, "
            "or give a plain function.",
            "type",
        )
    if inspect.isabstract(target):
        missing = ", ".join(sorted(target.__abstractmethods__))
        raise cursor.error(f"{target.__name__} is abstract; it still needs: {missing}.", "type")


def _arguments(cursor: Cursor, kind: str, name: str, target: Any, fixed: Mapping[str, Any]) -> Block:
    accepted = signature(target, (*INJECTED.get(kind, ()), *fixed))
    label = name or getattr(target, "__name__", "this")
    arguments: dict[str, Any] = {}
    for key in cursor.value:
        if key == "type" and name:
            continue
        if key in accepted.fields:
            arguments[key] = parse_value(cursor.child(key), accepted.fields[key])
        elif accepted.open and isinstance(key, str):
            arguments[key] = cursor.value[key]
        elif key in accepted.injected:
            raise cursor.error(f"`{key}` is a block of its own, at the top of the file.", key)
        else:
            keys = ", ".join(accepted.fields) or "none"
            raise cursor.error(f"there is no such key.{nearest(key, accepted.fields)} Keys of {label}: {keys}.", key)
    missing = [f.name for f in accepted.fields.values() if f.default is REQUIRED and f.name not in arguments]
    if missing:
        raise cursor.error(f"{label} needs {' and '.join(f'`{m}`' for m in missing)}.")
    filled = {f.name: arguments.pop(f.name, f.default) for f in accepted.fields.values()} | arguments
    injected = {key: needed for key, needed in accepted.injected.items() if key not in fixed}
    return Block(kind, name, target, filled, injected, fixed, cursor)


def parse_value(cursor: Cursor, field: Field) -> Any:
    """The value of one key: plain, a nested block, or a list of blocks."""
    value = cursor.value
    if value is None and field.optional:
        return None
    if field.nested:
        if field.many and isinstance(value, list):
            return [_nested(cursor.child(i), field) for i in range(len(value))]
        if not field.many and (field.plain is None or isinstance(value, dict)):
            return _nested(cursor, field)
        if field.plain is not None and isinstance(value, str):
            try:
                return check(field, cursor)
            except UserError:
                return _nested(cursor, field)
    if field.plain is None:
        raise cursor.error(f"got {describe(value)}, needs {field.text}.")
    return check(field, cursor)


def _nested(cursor: Cursor, field: Field) -> Block:
    annotation = field.nested[0]
    kind = kind_of(annotation)
    if kind is None:
        return parse_class(cursor, annotation)
    block = parse_block(cursor, kind)
    # A protocol's members were looked at already; issubclass refuses those that hold more than methods.
    classes = tuple(c for c in field.nested if not getattr(c, "_is_protocol", False))
    if classes and inspect.isclass(block.target) and not issubclass(block.target, classes):
        raise cursor.error(f"{block.label} does not fit here; needs {field.text}.")
    return block


def _build(value: Any, injected: Mapping[str, Any]) -> Any:
    if isinstance(value, Block):
        return value.build(**injected)
    if isinstance(value, list) and any(isinstance(item, Block) for item in value):
        return [_build(item, injected) for item in value]
    return value


def _plain(value: Any) -> Any:
    """As YAML values; REQUIRED for what has none (a default that is an object)."""
    if isinstance(value, Block):
        return value.dump()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else REQUIRED
