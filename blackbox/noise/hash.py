"""Threefry-2x32-20, the counter-based hash behind all noise.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC'11); also JAX's default generator. It
passes BigCrush and is checked against the authors' known-answer vectors. A pure function of (key, counter): nothing
is ever stored, and any slice can be computed on its own, in any order, on any device.

The same code runs on int32 torch tensors (any device, under torch.compile) and, for small work on a CPU where torch's
per-operation cost would dominate, on uint32 numpy arrays. Both give the same bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_NUMPY_UP_TO = 1 << 16


def threefry(key0: Tensor, key1: Tensor, counter0: Tensor, counter1: Tensor) -> tuple[Tensor, Tensor]:
    """Two 32-bit words for every 64-bit counter under a 64-bit key.

    Args:
        key0, key1: int32, broadcastable against the counters.
        counter0, counter1: int32; low and high half of the counter.

    Returns:
        Two int32 tensors of the broadcast shape, all 32 bits uniform.
    """
    if torch.compiler.is_compiling() or counter0.device.type != "cpu" or _size(key0, counter0, counter1) > _NUMPY_UP_TO:
        return _rounds(key0, key1, counter0, counter1, _rotate_int32)
    arrays = (t.numpy().view(np.uint32) for t in (key0, key1, counter0, counter1))
    with np.errstate(over="ignore"):  # numpy warns where scalars wrap around, which they are meant to
        first, second = _rounds(*arrays, _rotate_uint32)
    return torch.from_numpy(first.view(np.int32)), torch.from_numpy(second.view(np.int32))


def _rounds(key0: Any, key1: Any, x0: Any, x1: Any, rotate: Any) -> tuple[Any, Any]:
    keys = (key0, key1, key0 ^ key1 ^ _PARITY)
    x0 = x0 + keys[0]
    x1 = x1 + keys[1]
    for five in range(5):
        for distance in _ROTATIONS[five % 2]:
            x0 = x0 + x1
            x1 = x0 ^ rotate(x1, distance)
        x0 = x0 + keys[(five + 1) % 3]
        x1 = x1 + (keys[(five + 2) % 3] + (five + 1))
    return x0, x1


def _size(*tensors: Tensor) -> int:
    return math.prod(torch.broadcast_shapes(*(t.shape for t in tensors)))


def _rotate_int32(x: Tensor, distance: int) -> Tensor:
    # int32's >> carries the sign along, so the low bits are masked.
    return (x << distance) | ((x >> (32 - distance)) & ((1 << distance) - 1))


def _rotate_uint32(x: Any, distance: int) -> Any:
    return (x << distance) | (x >> (32 - distance))
