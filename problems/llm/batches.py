"""Sequences of any length as padded micro-batches of similar length, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """The answers of a micro-batch where each prompt has answers of its own, one row each.

    `ids` int64 and `weights` float32 `[rows, span]`: the answers' tokens, and what each counts in
    the mean over its answer (0 in the padding). `place` int64 `[rows]`: where a row's score
    belongs in a table `[batch, options]` that is `options` wide.
    """

    ids: Tensor
    weights: Tensor
    place: Tensor
    options: int


@dataclass(frozen=True)
class Batch:
    """Sequences on the device, padded on the right.

    `tokens` int64 `[batch * sequences, length]`, `last` int64 `[batch * sequences]` (position of
    the prompt's last token), `labels` int64 `[batch]`; where each prompt has answers of its own,
    those, and `right` bool `[batch, options]`.
    """

    tokens: Tensor
    last: Tensor
    labels: Tensor
    answers: Answers | None = None
    right: Tensor | None = None


@dataclass(frozen=True)
class Batches:
    """Micro-batches sorted by length; `restore` undoes the sorting of their joined results.

    `restore` is int64 `[examples]`: `torch.cat(results)[restore]` is in the order given.
    """

    parts: tuple[Batch, ...]
    restore: Tensor


def make_batches(
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    labels: Sequence[int],
    micro_batch: int,
    device: torch.device,
) -> Batches:
    """Micro-batches of up to `micro_batch` prompts.

    Each prompt becomes one row per continuation, the continuation's tokens after its own; so
    padding fills only differences between neighbours in length.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    parts = []
    for chosen in _slices(order, micro_batch):
        rows = [[*prompts[i], *more] for i in chosen for more in continuations]
        last = [len(prompts[i]) - 1 for i in chosen for _ in continuations]
        values = (_padded(rows), torch.tensor(last), torch.tensor([labels[i] for i in chosen]))
        tokens, ends, classes = (_upload(value, device) for value in values)
        parts.append(Batch(tokens, ends, classes))
    return Batches(tuple(parts), _upload(torch.tensor(order).argsort(), device))


def make_answer_batches(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    labels: Sequence[int],
    micro_batch: int,
    device: torch.device,
    right: Sequence[Sequence[int]],
) -> Batches:
    """As `make_batches`, for prompts with answers of their own: a row for each answer, less its last token.

    `right` names the right answers of each.
    """
    size = [len(prompt) + max(map(len, own)) for prompt, own in zip(prompts, answers, strict=True)]
    order = sorted(range(len(prompts)), key=lambda i: (size[i], i))
    parts = []
    for chosen in _slices(order, micro_batch):
        pairs = [(prompts[i], answer) for i in chosen for answer in answers[i]]
        width = max(len(answers[i]) for i in chosen)
        values = (
            _padded([[*prompt, *answer[:-1]] for prompt, answer in pairs]),
            torch.tensor([len(prompt) - 1 for prompt, _ in pairs]),
            torch.tensor([labels[i] for i in chosen]),
            _padded([list(answer) for _, answer in pairs]),
            _padded([[1 / len(answer)] * len(answer) for _, answer in pairs]),
            torch.tensor([row * width + k for row, i in enumerate(chosen) for k in range(len(answers[i]))]),
            torch.tensor([[k in right[i] for k in range(width)] for i in chosen]),
        )
        tokens, last, own, ids, weights, place, good = (_upload(value, device) for value in values)
        parts.append(Batch(tokens, last, own, Answers(ids, weights, place, width), good))
    return Batches(tuple(parts), _upload(torch.tensor(order).argsort(), device))


def make_prompt_batches(prompts: Sequence[Sequence[int]], micro_batch: int, pad: int, device: torch.device) -> Batches:
    """Prompts alone, padded on the left with `pad`, as generation wants them."""
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    parts = []
    for chosen in _slices(order, micro_batch):
        length = max(len(prompts[i]) for i in chosen)
        tokens = torch.tensor([[*[pad] * (length - len(prompts[i])), *prompts[i]] for i in chosen])
        last = torch.tensor([len(prompts[i]) - 1 for i in chosen])
        parts.append(Batch(_upload(tokens, device), _upload(last, device), _upload(torch.zeros_like(last), device)))
    return Batches(tuple(parts), _upload(torch.tensor(order).argsort(), device))


def _slices(order: Sequence[int], size: int) -> list[Sequence[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _padded(rows: Sequence[Sequence[float]]) -> Tensor:
    length = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])


def _upload(values: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        values = values.pin_memory()  # else the copy would wait for the device's work
    return values.to(device, non_blocking=True)
