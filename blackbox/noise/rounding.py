"""Stochastic rounding to bfloat16, seeded by counter, so that tiny updates survive on average.

An update with |lr g| = 1e-5 leaves 88 % of bfloat16 weights unchanged under round-to-nearest; stochastic rounding is
unbiased: x is rounded up with probability equal to its distance from the number below.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blackbox.layout import TensorSpec
from blackbox.noise.base import keys
from blackbox.noise.hash import threefry


def add_stochastically(flat: Tensor, change: Callable[[Tensor], None], seed: int, spec: TensorSpec) -> None:
    """Let ``change`` work on a float32 copy of ``flat`` (bfloat16 [n]), then round the result back in place."""
    wide = flat.float()
    change(wide)
    flat.copy_(round_stochastically(wide, seed, spec))


def round_stochastically(wide: Tensor, seed: int, spec: TensorSpec) -> Tensor:
    """float32 [n] -> bfloat16 [n]; the random bits are a function of (seed, tensor name, element index)."""
    key = keys((seed,), spec.name, wide.device)[0]
    half = torch.arange((len(wide) + 1) // 2, dtype=torch.int32, device=wide.device)
    words = torch.stack(threefry(key[0], key[1], half, torch.full_like(half, -1)), 1).view(-1)[: len(wide)]
    bits = wide.view(torch.int32) + (words & 0xFFFF)
    return (bits & -0x10000).view(torch.float32).to(torch.bfloat16)
