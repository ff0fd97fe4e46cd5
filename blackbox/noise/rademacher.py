"""Signs: z is +1 or -1 with equal probability. One 64-bit hash serves 64 elements.

The cheapest law; E z z^T = I and E z^4 = 1, the smallest fourth moment of any law with unit variance, so a two-point
estimate has variance (d - 1)/q |g|^2 against the Gaussian's (d + 1)/q.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from blackbox.noise.base import GROUP, Law
from blackbox.noise.hash import threefry


@dataclass(frozen=True)
class Rademacher(Law):
    """Independent signs. Bit-equal on every device and kernel path."""

    tag: ClassVar[str] = "rademacher/1"

    def groups(self, key: Tensor, low: Tensor, high: int = 0) -> Tensor:
        """Group 2j takes the first word of counter j's hash, group 2j + 1 the second."""
        # low >> 1 keeps 31 bits, so the bit above moves down from the high half.
        counter = (low >> 1) & 0x7FFFFFFF
        first, second = threefry(key[..., 0], key[..., 1], counter, torch.full_like(counter, high))
        return _signs(torch.where((low & 1).bool(), second, first))

    def run(self, key: Tensor, count: int) -> Tensor:
        """As ``groups`` over 0 .. count-1, each hash computed once."""
        counter = torch.arange(count // 2, dtype=torch.int32, device=key.device)
        words = torch.stack(threefry(key[0], key[1], counter, torch.zeros_like(counter)), 1)
        return _signs(words.view(-1))


def _signs(words: Tensor) -> Tensor:
    bits = torch.arange(GROUP, dtype=torch.int32, device=words.device)
    return (((words[..., None] >> bits) & 1) * 2 - 1).to(torch.float32)
