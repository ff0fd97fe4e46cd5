"""Prompts: a template with named fields, and a verbaliser that spells each label as an answer."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blackbox.errors import UserError

# Set-up of MeZO (arXiv:2305.17333, appendix D); {x} is the text column of the data.
BUILT_IN: dict[str, tuple[str, dict[str, str]]] = {
    "sst2": ("{x} It was", {"0": " terrible", "1": " great"}),
}


@dataclass(frozen=True)
class Prompt:
    """A template such as `{x} It was` and the answer of each label, in the order of the classes.

    With two labels the second is the positive one. Labels are compared as text, so `1` in YAML
    and `1` in a csv file are the same.
    """

    template: str
    labels: tuple[str, ...]
    answers: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the data columns that the template uses, in order."""
        return tuple(name for _, name, _, _ in string.Formatter().parse(self.template) if name)

    def render(self, fields: Mapping[str, str]) -> str:
        """The template filled in."""
        return self.template.format(**fields)


def make_prompt(template: str, verbalizer: Mapping[Any, str] | None = None) -> Prompt:
    """Prompt of a built-in name or of a template of one's own.

    UserError: unknown name, malformed template, missing, too small or repeating verbaliser.
    """
    answers: Mapping[Any, str] | None = verbalizer
    if template in BUILT_IN:
        template, built_in_answers = BUILT_IN[template]
        answers = verbalizer or built_in_answers
    elif "{" not in template:
        raise UserError(
            f"template: {template!r} is neither built in ({', '.join(BUILT_IN)}) nor has it a "
            "field; a template of your own names the data's columns, such as '{x} It was'"
        )
    if not answers:
        raise UserError(
            "verbalizer: a template of your own needs the answer of each label, such as {0: ' terrible', 1: ' great'}"
        )
    prompt = Prompt(template, tuple(str(label) for label in answers), tuple(answers.values()))
    try:
        fields = prompt.fields
        prompt.render(dict.fromkeys(fields, ""))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise UserError(
            f"template: {template!r} is malformed ({error}); write fields as {{name}} and a literal brace twice"
        ) from error
    if not fields:
        raise UserError(f"template: {template!r} has no named field; it would ignore the data")
    if len(prompt.answers) < 2 or len(set(prompt.answers)) < len(prompt.answers):
        raise UserError(f"verbalizer: needs two or more distinct answers, got {dict(answers)}")
    if not all(isinstance(answer, str) and answer.strip() for answer in prompt.answers):
        raise UserError(f"verbalizer: every answer must be text, got {dict(answers)}")
    return prompt


class Encoder:
    """Token ids of prompts and answers, without padding.

    The beginning tokens that the tokenizer itself adds are kept, ending tokens are dropped (an
    answer follows). A prompt over `max_tokens` loses its beginning, never the question at its end.
    """

    def __init__(self, tokenizer: Any, prompt: Prompt, max_tokens: int) -> None:
        self.prompt = prompt
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        plain = self._plain("a")
        whole = list(tokenizer("a")["input_ids"])
        starts = [i for i in range(len(whole)) if whole[i : i + len(plain)] == plain]
        self.start: list[int] = whole[: starts[0]] if starts else []
        self.options = [self._answer(answer) for answer in prompt.answers]
        for answer, tokens in zip(prompt.answers, self.options, strict=True):
            if not tokens:
                raise UserError(f"verbalizer: the tokenizer makes no token of {answer!r}")
        if len({tuple(tokens) for tokens in self.options}) < len(self.options):
            raise UserError(
                f"verbalizer: the tokenizer does not tell the answers apart: "
                f"{dict(zip(prompt.answers, self.options, strict=True))}"
            )
        if max_tokens <= len(self.start) + max(map(len, self.options)):
            raise UserError(f"max_tokens: {max_tokens} leaves no room for a prompt and its answer")

    @property
    def single_token(self) -> bool:
        """Whether every answer is one token, so that one sequence scores all of them."""
        return all(len(tokens) == 1 for tokens in self.options)

    def encode(self, examples: Sequence[Mapping[str, str]]) -> list[list[int]]:
        """Tokens of each example's prompt. UserError where there is none."""
        room = self._max_tokens - len(self.start) - max(map(len, self.options)) + 1
        texts = [self.prompt.render(fields) for fields in examples]
        rows = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        encoded = [self.start + list(row)[-room:] for row in rows]
        if [] in encoded:
            raise UserError(f"data: example {encoded.index([]) + 1} makes a prompt without tokens")
        return encoded

    def _answer(self, answer: str) -> list[int]:
        """Tokens of the answer where it follows a prompt; alone, some tokenizers add a space."""
        before = self.prompt.render(dict.fromkeys(self.prompt.fields, "a"))
        alone, both = self._plain(before), self._plain(before + answer)
        return both[len(alone) :] if both[: len(alone)] == alone else self._plain(answer)

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
