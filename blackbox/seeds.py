"""Explicit seeds: every random choice of a run is named by (run seed, role, index...).

The global generators are neither read nor set anywhere in the project. A seed is a 63-bit integer from a stable
hash (BLAKE2b), so it is the same on every machine, in every process and in every order of evaluation.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt


def derive_seed(run_seed: int, role: str, *index: int) -> int:
    """A stable 63-bit seed for one role of a run, for example ``derive_seed(7, "probe", step, 3)``.

    Distinct (run_seed, role, index) give independent seeds; indices are 64-bit signed integers.
    """
    hasher = _role(run_seed, role).copy()
    hasher.update(struct.pack(f"<{len(index)}q", *index))
    return int.from_bytes(hasher.digest(), "little") >> 1


@lru_cache(maxsize=64)  # a round's seeds are wanted twice: when it is planned and when its answers have come
def derive_seeds(run_seed: int, role: str, step: int, count: int) -> tuple[int, ...]:
    """``derive_seed(run_seed, role, step, i)`` for i = 0 .. count-1."""
    key, pack, blake2b = _role_key(run_seed, role), struct.Struct("<qq").pack, hashlib.blake2b
    digests = b"".join([blake2b(pack(step, i), digest_size=8, key=key).digest() for i in range(count)])
    seeds: list[int] = (np.frombuffer(digests, dtype="<u8") >> 1).tolist()
    return tuple(seeds)


def sharing_seeds(seeds: Sequence[int], run_seed: int, role: str, step: int, period: int) -> tuple[int, ...]:
    """These seeds with an upper half that is the same for all of them, and for ``period`` steps: (seed >> 32)."""
    shared = derive_seed(run_seed, role, step // period) >> 32 << 32
    return tuple([shared | seed & 0xFFFFFFFF for seed in seeds])


def seeds_of_step(seeds: Sequence[int], step: int) -> tuple[int, ...]:
    """These seeds with the step as their upper half: (seed >> 32)."""
    return tuple([step << 32 | seed & 0xFFFFFFFF for seed in seeds])


@lru_cache(maxsize=1024)
def _role(run_seed: int, role: str) -> hashlib.blake2b:
    """The hash keyed by a role, before its indices."""
    return hashlib.blake2b(digest_size=8, key=_role_key(run_seed, role))


@lru_cache(maxsize=1024)
def _role_key(run_seed: int, role: str) -> bytes:
    return hashlib.blake2b(f"{run_seed}/{role}".encode(), digest_size=32).digest()


def noise_key(seed: int, name: str) -> tuple[int, int]:
    """The two 32-bit key words of tensor ``name``'s noise under ``seed``, as signed integers (torch has int32)."""
    first, second = noise_keys((seed,), name)[0].tolist()
    return first, second


def noise_keys(seeds: Sequence[int], name: str) -> npt.NDArray[np.int32]:
    """``noise_key`` of several seeds: int32 [len(seeds), 2]."""
    pack, message, blake2b = struct.Struct("<q").pack, name.encode(), hashlib.blake2b
    digests = b"".join([blake2b(message, digest_size=8, key=pack(seed)).digest() for seed in seeds])
    return np.frombuffer(digests, dtype="<i4").astype(np.int32).reshape(-1, 2)
