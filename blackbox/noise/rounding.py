"""Stochastic rounding to bfloat16, seeded by counter, so that tiny updates survive on average.

An update with |lr g| = 1e-5 leaves 88 % of bfloat16 weights unchanged under round-to-nearest; stochastic rounding is
unbiased: x is rounded up with probability equal to its distance from the number below.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from blackbox.layout import TensorSpec
from blackbox.noise.base import keys
from blackbox.noise.fused import FUSE_FROM
from blackbox.noise.hash import threefry
from blackbox.noise.kernels import compiled_copy, compiler_works, without_autocast


def add_stochastically(flat: Tensor, change: Callable[[Tensor], None], seed: int, spec: TensorSpec) -> None:
    """Let ``change`` work on a float32 copy of ``flat`` (bfloat16 [n]), then round the result back in place."""
    wide = flat.float()
    change(wide)
    flat.copy_(round_stochastically(wide, seed, spec))


def round_stochastically(wide: Tensor, seed: int, spec: TensorSpec) -> Tensor:
    """float32 [n] -> bfloat16 [n]; the random bits are a function of (seed, tensor name, element index)."""
    key, n = keys((seed,), spec.name, wide.device)[0], len(wide)
    quarter = -(-n // 4)
    if n >= FUSE_FROM and n % 4 == 0 and compiler_works(wide.device.type):
        rounded = torch.empty(4, quarter, dtype=torch.bfloat16, device=wide.device)
        without_autocast(_kernel(wide.device.type), key, *rounded, *wide.contiguous().view(4, quarter))
        return rounded.view(n)
    return _rounded(wide, torch.stack(_random(quarter, key)).view(-1)[:n]).to(torch.bfloat16)


def _random(count: int, key: Tensor) -> list[Tensor]:
    """16 random bits for each quarter of a tensor, in int32 [count]: a hash is enough for four elements."""
    index = torch.arange(count, dtype=torch.int32, device=key.device)
    words = threefry(key[0], key[1], index, torch.full_like(index, -1))
    return [part & 0xFFFF for word in words for part in (word, word >> 16)]


def _rounded(wide: Tensor, random: Tensor) -> Tensor:
    return ((wide.view(torch.int32) + random) & -0x10000).view(torch.float32)


def _round(key: Tensor, *quarters: Tensor) -> None:
    # Tensors of their own: of rows of one the compiler makes code that is five times slower.
    for out, wide, random in zip(quarters[:4], quarters[4:], _random(quarters[0].shape[0], key), strict=True):
        out.copy_(_rounded(wide, random))


@cache
def _kernel(device_type: str) -> Callable[..., None]:
    kernel = compiled_copy(_round, f"round_{device_type}")
    wide = torch.zeros(4, 1 << 15, device=device_type)  # of a size for which the compiler takes all threads
    key = torch.zeros(2, dtype=torch.int32, device=device_type)
    without_autocast(kernel, key, *wide.to(torch.bfloat16), *wide)
    return kernel
