"""Signs: z is +1 or -1 with equal probability. One 64-bit hash serves 64 elements.

The cheapest law; E z z^T = I and E z^4 = 1, the smallest fourth moment of any law with unit variance, so a two-point
estimate has variance (d - 1)/q |g|^2 against the Gaussian's (d + 1)/q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blackbox.layout import TensorSpec
from blackbox.noise.base import GROUP, Law
from blackbox.noise.hash import threefry, threefry_numpy
from blackbox.seeds import noise_keys


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

    def run(self, key: Tensor, count: int) -> tuple[Tensor, ...]:
        """As ``groups`` over 0 .. count-1, each hash computed once."""
        counter = torch.arange(count // 2, dtype=torch.int32, device=key.device)
        words = torch.stack(threefry(key[0], key[1], counter, torch.zeros_like(counter)), 1)
        return (_signs(words.view(-1)),)

    def sample(
        self,
        seeds: Sequence[int],
        spec: TensorSpec,
        start: int,
        stop: int,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """As in the base; on a CPU each hash is computed once, and its bits are looked up by the byte."""
        if torch.device(device).type != "cpu" or stop > _ONE_WORD_COUNTS:
            return super().sample(seeds, spec, start, stop, device)
        key = noise_keys(seeds, spec.name).view(np.uint32)[:, :, None]
        first, last = start // _PAIR, -(-stop // _PAIR)
        words = np.empty((len(seeds), last - first, 2), np.uint32)
        counter = np.arange(first, last, dtype=np.uint32)
        words[:, :, 0], words[:, :, 1] = threefry_numpy(key[:, 0], key[:, 1], counter, _NONE)
        offset = start - first * _PAIR
        return torch.from_numpy(
            _look_up(words).reshape(len(seeds), (last - first) * _PAIR)[:, offset : offset + stop - start]
        )


def _signs(words: Tensor) -> Tensor:
    if words.device.type == "cpu" and not torch.compiler.is_compiling():
        return torch.from_numpy(_look_up(words.contiguous().numpy()).reshape(*words.shape, GROUP))
    # A test of one bit rather than arithmetic on it: the compiled kernels are up to 1.7 times as fast.
    bit = torch.ones(GROUP, dtype=torch.int32, device=words.device) << torch.arange(
        GROUP, dtype=torch.int32, device=words.device
    )
    return torch.where((words[..., None] & bit) != 0, 1.0, -1.0)


def _look_up(words: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The signs of 32-bit words, lowest bit first: float32 [4 * words.size, 8]."""
    octets = words.astype(words.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8)
    return _TABLE.take(octets, axis=0)


_PAIR = 2 * GROUP
_ONE_WORD_COUNTS = 1 << 36
"""Elements of a tensor whose groups have indices of 31 bits."""
_NONE = np.zeros((), np.uint32)
_TABLE = np.where((np.arange(256)[:, None] >> np.arange(8)) & 1, 1, -1).astype(np.float32)
