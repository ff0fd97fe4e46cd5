"""Whole sequences for models that look both ways: with the tokens that end them, and what is padding named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from blackbox.errors import UserError
from problems.llm.batches import Batch, Batches
from problems.llm.encoder import Chat, Encoder
from problems.llm.prompt import MASK, Prompt
from problems.llm.template import fill


class WholeEncoder(Encoder):
    """Token ids of whole texts, without padding.

    The tokens that the tokenizer itself puts before and after a text are kept. Where the template has a mask, its token
    stands there and answers are the single tokens that may take its place, as they follow a space. A text over
    `max_tokens` loses its beginning, or its end where most of it comes after the mask.

    Raises:
        UserError: a tokenizer without a mask token, an answer that isn't one token, or no room for a text.
    """

    def __init__(self, tokenizer: Any, prompt: Prompt, max_tokens: int, chat: Chat | None = None) -> None:
        if chat is not None:
            raise UserError("chat: only causal models have a chat")
        self.prompt = prompt
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._chat = None
        self.start, self.end = self._frame()
        self.masked = MASK in prompt.template
        self.options = self._single_tokens() if self.masked else [[i] for i in range(len(prompt.answers))]
        self._room = max_tokens - len(self.start) - len(self.end) - self.masked
        if self._room < 1:
            raise UserError(f"max_tokens: {max_tokens} leaves no room for a text")

    def whole(self, examples: Sequence[Mapping[str, Any]]) -> tuple[list[list[int]], list[int]]:
        """Tokens of each example, and the mask's position in them (0 where the template has none)."""
        parts = [self._rows([fill(part, _texts(one)).strip() for one in examples]) for part in self._parts]
        rows, places = [], []
        for number, (before, *more) in enumerate(zip(*parts, strict=True), 1):
            after = more[0] if more else []
            surplus = max(0, len(before) + len(after) - self._room)
            if len(before) >= len(after):
                before = before[surplus:]
            else:
                after = after[: len(after) - surplus]
            if not before and not after:
                raise UserError(f"data: example {number} makes a text without tokens")
            mask = [self._tokenizer.mask_token_id] if self.masked else []
            rows.append([*self.start, *before, *mask, *after, *self.end])
            places.append(len(self.start) + len(before) if self.masked else 0)
        return rows, places

    @property
    def _parts(self) -> list[str]:
        return self.prompt.template.split(MASK)

    def _frame(self) -> tuple[list[int], list[int]]:
        """Tokens that the tokenizer puts before and after a text."""
        plain, whole = self._plain("a"), list(self._tokenizer("a")["input_ids"])
        start = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
        return whole[:start], whole[start + len(plain) :]

    def _single_tokens(self) -> list[list[int]]:
        if self._tokenizer.mask_token_id is None:
            raise UserError("model: its tokenizer has no mask token, so it is no masked model's")
        found = [self._plain(f" {answer.strip()}") for answer in self.prompt.answers]
        for answer, tokens in zip(self.prompt.answers, found, strict=True):
            if len(tokens) != 1:
                raise UserError(
                    f"verbalizer: {answer!r} is {len(tokens)} tokens; an answer that takes a mask's place is one"
                )
        if len({tokens[0] for tokens in found}) < len(found):
            raise UserError(f"verbalizer: the tokenizer does not tell the answers apart: {list(self.prompt.answers)}")
        return found


def make_whole_batches(
    rows: Sequence[Sequence[int]],
    places: Sequence[int],
    labels: Sequence[int],
    micro_batch: int,
    pad: int,
    device: torch.device,
) -> Batches:
    """Micro-batches of up to `micro_batch` texts, padded on the right with `pad`; `last` is the mask's position."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    parts = []
    for start in range(0, len(order), micro_batch):
        chosen = order[start : start + micro_batch]
        length = max(len(rows[i]) for i in chosen)
        tokens = torch.tensor([[*rows[i], *[pad] * (length - len(rows[i]))] for i in chosen])
        last, own = torch.tensor([places[i] for i in chosen]), torch.tensor([labels[i] for i in chosen])
        parts.append(Batch(tokens.to(device), last.to(device), own.to(device)))
    return Batches(tuple(parts), torch.tensor(order, device=device).argsort())


def kept_of(tokens: Tensor, pad: int) -> Tensor:
    """An attention mask: which tokens are no padding, int64 of their shape."""
    return (tokens != pad).long()


def _texts(fields: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if isinstance(value, str)}
