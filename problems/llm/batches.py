"""Sequences of any length as padded micro-batches of similar length, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Sequences on the device, padded on the right.

    `tokens` int64 `[batch * sequences, length]`, `last` int64 `[batch * sequences]` (position of
    the prompt's last token), `labels` int64 `[batch]`.
    """

    tokens: Tensor
    last: Tensor
    labels: Tensor


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
    for start in range(0, len(order), micro_batch):
        chosen = order[start : start + micro_batch]
        rows = [[*prompts[i], *more] for i in chosen for more in continuations]
        last = [len(prompts[i]) - 1 for i in chosen for _ in continuations]
        length = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        values = (tokens, torch.tensor(last), torch.tensor([labels[i] for i in chosen]))
        parts.append(Batch(*(_upload(value, device) for value in values)))
    return Batches(tuple(parts), _upload(torch.tensor(order).argsort(), device))


def _upload(values: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        values = values.pin_memory()  # else the copy would wait for the device's work
    return values.to(device, non_blocking=True)
