"""Prompts: a template with named fields, and what may be answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blackbox.errors import UserError
from problems.llm.tasks import TASKS, Task
from problems.llm.template import fields_of, fill

KINDS = {"verbalizer": "llm-classification", "options": "llm-choice", "answer": "llm-generation"}
"""What a prompt may have -> the problem that takes it."""

MASK_FIELD, MASK = "{mask}", "[MASK]"
"""In a template as it is written, and as it is kept."""


@dataclass(frozen=True)
class Prompt:
    """A template such as `{x} It was` and the answer of each label, in the order of the classes.

    With two labels the second is the positive one. Labels are compared as text, so `1` in YAML
    and `1` in a csv file are the same. A prompt with `options` or with an `answer` (see
    `problems.llm.tasks.Task`) has no labels.
    """

    template: str
    labels: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    right: str | tuple[str, ...] | None = None
    answer: str | None = None
    stop: str | None = None
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    hub: str | None = None
    hub_splits: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the data columns that the template and the answers use, in order."""
        return tuple(dict.fromkeys(name for text in self._templates for name in fields_of(text)))

    @property
    def label_column(self) -> bool:
        """Whether the data has a column that says which answer is right."""
        return self.answer is None and self.right != "first"

    def render(self, fields: Mapping[str, Any]) -> str:
        """The template filled in."""
        return fill(self.template, {name: value for name, value in fields.items() if isinstance(value, str)})

    @property
    def _templates(self) -> tuple[str, ...]:
        return (self.template, *self.options, *([self.answer] if self.answer is not None else []))


def make_prompt(
    template: str,
    verbalizer: Mapping[Any, str] | None = None,
    options: Sequence[str] | None = None,
    right: str | Sequence[Any] | None = None,
    answer: str | None = None,
    stop: str | None = None,
    form: str = "verbalizer",
    masked: bool = False,
) -> Prompt:
    """Prompt of a task that is built in, or of a template of one's own; what is given goes before the task's.

    Args:
        template: the name of a task, or text with fields in braces.
        verbalizer, options, right, answer, stop: as in `problems.llm.tasks.Task`.
        form: which of verbalizer, options and answer is wanted.
        masked: for a masked model; the template says by `{mask}` where the answer stands.

    Raises:
        UserError: unknown name, malformed template, missing, too small or repeating answers.
    """
    given = {"verbalizer": verbalizer, "options": options, "answer": answer}
    foreign = [name for name, value in given.items() if value is not None and name != form]
    if foreign:
        raise UserError(f"{foreign[0]}: {KINDS[form]} takes {form} instead; for {foreign[0]} use {KINDS[foreign[0]]}")
    task = _find(template, form)
    text = _with_mask(template, task) if masked else task.template
    if not masked and MASK_FIELD in text:
        raise UserError(
            f"template: {MASK_FIELD} is for masked models, type: llm-masked; a causal one answers at the end"
        )
    named = {str(label): value for label, value in (verbalizer or task.verbalizer or {}).items()}
    choices = tuple(options if options is not None else task.options or ())
    prompt = Prompt(
        text,
        tuple(named) if form == "verbalizer" else (),
        tuple(named.values()) if form == "verbalizer" else (),
        choices if form == "options" else (),
        _right(right if right is not None else None if options is not None else task.right),
        (answer if answer is not None else task.answer) if form == "answer" else None,
        stop if stop is not None else task.stop,
        task.columns,
        task.aliases,
        task.hub,
        task.splits,
    )
    _check_templates(prompt)
    {"verbalizer": _check_verbalizer, "options": _check_options, "answer": _check_answer}[form](prompt)
    return prompt


def _with_mask(template: str, task: Task) -> str:
    """The template with `MASK` where the answer of a masked model stands."""
    text = task.masked if template in TASKS else template
    if text is None:
        raise UserError(f"template: {template} has no form for masked models; write one with {MASK_FIELD}")
    if text.count(MASK_FIELD) != 1:
        raise UserError(
            f"template: a masked model's needs {MASK_FIELD} once, where the answer stands, such as "
            f"'{{x}} It was {MASK_FIELD}.', not {text!r}"
        )
    return text.replace(MASK_FIELD, MASK)


def _find(template: str, form: str) -> Task:
    if template not in TASKS:
        if "{" not in template:
            fits = [name for name, task in TASKS.items() if getattr(task, form) is not None]
            raise UserError(
                f"template: {template!r} is neither built in ({', '.join(fits)}) nor has it a "
                "field; a template of your own names the data's columns, such as '{x} It was'"
            )
        return Task(template)
    task = TASKS[template]
    if getattr(task, form) is None:
        own = next(name for name in KINDS if getattr(task, name) is not None)
        raise UserError(f"template: {template} is a task of {own}; use type: {KINDS[own]}")
    return task


def _right(right: str | Sequence[Any] | None) -> str | tuple[str, ...] | None:
    if right is None or right == "first":
        return right
    if isinstance(right, str):
        raise UserError(f"right: {right!r} is neither `first` nor a list: what the column `label` says for each option")
    return tuple(str(value) for value in right)


def _check_templates(prompt: Prompt) -> None:
    for text in prompt._templates:
        try:
            fill(text, dict.fromkeys(fields_of(text), ""))
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            raise UserError(
                f"template: {text!r} is malformed ({error}); write fields as {{name}} and a literal brace twice"
            ) from error
    if not fields_of(prompt.template):
        raise UserError(f"template: {prompt.template!r} has no named field; it would ignore the data")


def _check_verbalizer(prompt: Prompt) -> None:
    shown = dict(zip(prompt.labels, prompt.answers, strict=True))
    if not shown:
        raise UserError(
            "verbalizer: a template of your own needs the answer of each label, such as {0: ' terrible', 1: ' great'}"
        )
    if len(prompt.answers) < 2 or len(set(prompt.answers)) < len(prompt.answers):
        raise UserError(f"verbalizer: needs two or more distinct answers, got {shown}")
    if not all(isinstance(answer, str) and answer.strip() for answer in prompt.answers):
        raise UserError(f"verbalizer: every answer must be text, got {shown}")


def _check_options(prompt: Prompt) -> None:
    options, right = prompt.options, prompt.right
    if not options:
        raise UserError("options: a template of your own needs the answers to choose from, such as [' {a}', ' {b}']")
    if any(not fields_of(option) for option in options):
        raise UserError(f"options: each needs a field, got {list(options)}; for fixed answers use llm-classification")
    if isinstance(right, tuple) and len(right) != len(options):
        raise UserError(f"right: has {len(right)} values for {len(options)} options")


def _check_answer(prompt: Prompt) -> None:
    if prompt.answer is None:
        raise UserError("answer: a template of your own needs the text to generate, such as ' {answer}'")
    if not fields_of(prompt.answer):
        raise UserError(f"answer: {prompt.answer!r} has no field; it would ignore the data")
