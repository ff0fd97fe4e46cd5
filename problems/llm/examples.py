"""From rows of data to examples: the template's fields, and which answer is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blackbox.errors import UserError
from problems.llm.prompt import Prompt
from problems.llm.template import expand

Row = Mapping[str, Any]
NO_LABEL = ("-1", "-")  # what sets say where nobody agreed, or where the answer is withheld


@dataclass(frozen=True)
class Example:
    """The texts of the template's fields, and what is right.

    Attributes:
        fields: text (or list of texts) of each field.
        label: the class as an index into the prompt's labels; the first right one of `options`.
        options: the answers to choose from, or the texts that are right, the first of which is taught.
        right: the right ones among the options to choose from.
        row: all columns as the data has them, for an objective of one's own.
    """

    fields: Mapping[str, Any]
    label: int = 0
    options: tuple[str, ...] = ()
    right: tuple[int, ...] = ()
    row: Row = field(default_factory=dict, repr=False)


def make_examples(rows: Sequence[Row], prompt: Prompt, columns: Mapping[str, str], where: str) -> list[Example]:
    """An example of each row that has a label (`-1` and `-` stand for none).

    Args:
        rows: at least one.
        columns: field -> column; a dot leads into a column that is itself a table, as in `answers.text`.
        where: the data's name, for messages.

    Raises:
        UserError: a column that isn't there, a value that is missing, a label that no answer belongs to.
    """
    wanted = (*prompt.fields, *(["label"] if prompt.label_column else []))
    unknown = sorted(set(columns) - set(wanted))
    if unknown:
        raise UserError(f"columns: {unknown[0]!r} is not a field of the template ({', '.join(wanted)})")
    names = {name: _column(name, columns, prompt, rows[0], where) for name in wanted}
    examples = []
    for number, row in enumerate(rows, 1):
        place = f"data: {where}, example {number}"
        values = {name: _value(row, column) for name, column in names.items()}
        empty = [name for name, value in values.items() if value is None]
        if empty:
            raise UserError(f"{place}: no value for {names[empty[0]]!r}")
        label = values.pop("label") if prompt.label_column else None
        if label is not None and str(label) in NO_LABEL and str(label) not in prompt.labels:
            continue
        fields = {name: _texts(value) for name, value in values.items()}
        try:
            examples.append(_example(prompt, fields, label, row))
        except UserError as error:
            raise UserError(f"{place}: {str(error).removeprefix('data: ')}") from error
    return examples


def _example(prompt: Prompt, fields: Mapping[str, Any], label: Any, row: Row) -> Example:
    for name, value in fields.items():
        if not isinstance(value, str) and name in _own_fields(prompt):
            raise UserError(f"{name} is a list; only options and answer may have one")
    prompt.render(fields)  # a filter that does not fit is found now
    if prompt.answer is not None:
        answers = tuple(text for _, text in expand(prompt.answer, fields))
        if not any(text.strip() for text in answers):
            raise UserError("there is no answer")
        return Example(fields, options=answers, row=row)
    if prompt.options:
        options, right = _choices(prompt, fields, label)
        return Example(fields, right[0], options, right, row)
    text = str(label)
    if text not in prompt.labels:
        text = prompt.aliases.get(text, text)
    if text not in prompt.labels:
        raise UserError(f"label {label!r} is not in the verbalizer ({', '.join(prompt.labels)})")
    return Example(fields, prompt.labels.index(text), row=row)


def _own_fields(prompt: Prompt) -> tuple[str, ...]:
    return Prompt(prompt.template).fields


def _choices(prompt: Prompt, fields: Mapping[str, Any], label: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The options, each once, and the places of the right ones."""
    keyed: dict[str, str] = {}  # text -> what the label calls it
    for place, template in enumerate(prompt.options):
        for item, text in expand(template, fields):
            own = prompt.right[place] if isinstance(prompt.right, tuple) else str(place)
            keyed.setdefault(text, own if item is None else item)
    options = tuple(keyed)
    if prompt.right == "first":
        return _enough(options), (0,)
    wanted = {str(one).strip() for one in (label if isinstance(label, list | tuple) else [label])}
    right = tuple(i for i, text in enumerate(options) if keyed[text].strip() in wanted)
    if not right:
        known = ", ".join(map(repr, keyed.values()))
        raise UserError(f"label {label!r} names none of the options ({known})")
    if len(right) == len(options):
        raise UserError(f"all {len(options)} options are right: {options[0]!r} ...")
    return _enough(options), right


def _enough(options: tuple[str, ...]) -> tuple[str, ...]:
    if len(options) < 2:
        raise UserError(f"there are no two different options, only {options[0]!r}")
    return options


def _texts(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [str(item).strip() for item in value]
    return str(value).strip()


def _value(row: Any, column: str) -> Any:
    if isinstance(row, Mapping) and column in row:
        return row[column]
    first, dot, rest = column.partition(".")
    return _value(row[first], rest) if dot and isinstance(row, Mapping) and first in row else None


def _column(name: str, columns: Mapping[str, str], prompt: Prompt, row: Row, where: str) -> str:
    tried = [columns[name]] if name in columns else list(prompt.columns.get(name, (name,)))
    if name == "x" and name not in columns:
        tried += ["text", "sentence"]
    for column in tried:
        if column in row or _value(row, column) is not None:
            return column
    raise UserError(
        f"data: {where}: no column {' or '.join(map(repr, tried))} for {name!r}; there are "
        f"{', '.join(map(repr, row))}. Set columns: {{{name}: ...}}"
    )
