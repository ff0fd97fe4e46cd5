"""Threefry-2x32-20, the counter-based hash behind all noise.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC'11); also JAX's default generator. It
passes BigCrush and is checked against the authors' known-answer vectors. A pure function of (key, counter): nothing
is ever stored, and any slice can be computed on its own, in any order, on any device.

It is written twice: on int32 torch tensors (any device, under torch.compile) and, for small work on a CPU where the
cost of each torch operation would dominate, in place on uint32 numpy arrays. Both give the same bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_NUMPY_UP_TO = 1 << 16
# As 0-d arrays: numpy converts a Python number anew at every call, which takes longer than a small array's shift.
_SHIFTS = [
    [(np.array(distance, np.uint32), np.array(32 - distance, np.uint32)) for distance in four] for four in _ROTATIONS
]
_PARITY_WORD = np.array(_PARITY, np.uint32)
_FIVES = [np.array(five + 1, np.uint32) for five in range(5)]

Words = npt.NDArray[np.uint32]


def threefry(key0: Tensor, key1: Tensor, counter0: Tensor, counter1: Tensor) -> tuple[Tensor, Tensor]:
    """Two 32-bit words for every 64-bit counter under a 64-bit key.

    Args:
        key0, key1: int32, broadcastable against the counters.
        counter0, counter1: int32; low and high half of the counter.

    Returns:
        Two int32 tensors of the broadcast shape, all 32 bits uniform.
    """
    if torch.compiler.is_compiling() or counter0.device.type != "cpu":
        return _rounds(key0, key1, counter0, counter1)
    arrays = [t.numpy().view(np.uint32) for t in (key0, key1, counter0, counter1)]
    if np.broadcast(*arrays).size > _NUMPY_UP_TO:
        return _rounds(key0, key1, counter0, counter1)
    first, second = threefry_numpy(*arrays)
    return torch.from_numpy(first.view(np.int32)), torch.from_numpy(second.view(np.int32))


def threefry_numpy(key0: Words, key1: Words, counter0: Words, counter1: Words) -> tuple[Words, Words]:
    """``threefry`` on uint32 arrays."""
    shape = np.broadcast(key0, key1, counter0, counter1).shape
    x0, x1, spare = np.empty(shape, np.uint32), np.empty(shape, np.uint32), np.empty(shape, np.uint32)
    # Small arrays spend their time in calls: everything is looked up once, ``out`` given by position, and the keys
    # spread over the shape, as broadcasting anew in every call takes longer.
    add, xor, either, left, right = np.add, np.bitwise_xor, np.bitwise_or, np.left_shift, np.right_shift
    table = np.empty((3, *shape), np.uint32)
    table[0], table[1], table[2] = key0, key1, key0 ^ key1 ^ _PARITY_WORD
    keys = list(table)
    add(counter0, keys[0], x0)
    add(counter1, keys[1], x1)
    for five in range(5):
        for up, down in _SHIFTS[five % 2]:
            add(x0, x1, x0)
            left(x1, up, spare)
            right(x1, down, x1)
            either(x1, spare, x1)
            xor(x1, x0, x1)
        add(x0, keys[(five + 1) % 3], x0)
        add(x1, keys[(five + 2) % 3], x1)
        add(x1, _FIVES[five], x1)
    return x0, x1


def _rounds(key0: Tensor, key1: Tensor, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    keys = (key0, key1, key0 ^ key1 ^ _PARITY)
    x0 = x0 + keys[0]
    x1 = x1 + keys[1]
    for five in range(5):
        for distance in _ROTATIONS[five % 2]:
            x0 = x0 + x1
            x1 = x0 ^ _rotate(x1, distance)
        x0 = x0 + keys[(five + 1) % 3]
        x1 = x1 + (keys[(five + 2) % 3] + (five + 1))
    return x0, x1


def _rotate(x: Tensor, distance: int) -> Tensor:
    # int32's >> carries the sign along, so the low bits are masked.
    return (x << distance) | ((x >> (32 - distance)) & ((1 << distance) - 1))
