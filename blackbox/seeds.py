"""Explicit seeds: every random choice of a run is named by (run seed, role, index...).

The global generators are neither read nor set anywhere in the project. A seed is a 63-bit integer from a stable
hash (BLAKE2b), so it is the same on every machine, in every process and in every order of evaluation.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache


def derive_seed(run_seed: int, role: str, *index: int) -> int:
    """A stable 63-bit seed for one role of a run, for example ``derive_seed(7, "probe", step, 3)``.

    Distinct (run_seed, role, index) give independent seeds; indices are 64-bit signed integers.
    """
    digest = hashlib.blake2b(
        struct.pack(f"<{len(index)}q", *index), digest_size=8, key=_role_key(run_seed, role)
    ).digest()
    return int.from_bytes(digest, "little") >> 1


@lru_cache(maxsize=1024)
def _role_key(run_seed: int, role: str) -> bytes:
    return hashlib.blake2b(f"{run_seed}/{role}".encode(), digest_size=32).digest()


@lru_cache(maxsize=65536)
def noise_key(seed: int, name: str) -> tuple[int, int]:
    """The two 32-bit key words of tensor ``name``'s noise under ``seed``, as signed integers (torch has int32)."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, key=struct.pack("<q", seed)).digest()
    return struct.unpack("<ii", digest)
