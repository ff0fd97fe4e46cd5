"""Seeds: stable, distinct, in range."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox.seeds import derive_seed, derive_seeds, noise_key

int64 = st.integers(-(2**63), 2**63 - 1)


@given(int64, st.text(max_size=20), st.lists(int64, max_size=3))
def test_seed_is_a_63_bit_integer(run: int, role: str, index: list[int]) -> None:
    assert 0 <= derive_seed(run, role, *index) < 2**63


@given(int64, st.text(max_size=20), int64, st.integers(0, 20))
def test_seeds_at_once_are_those_one_by_one(run: int, role: str, step: int, count: int) -> None:
    assert derive_seeds(run, role, step, count) == tuple(derive_seed(run, role, step, i) for i in range(count))


def test_distinct_inputs_give_distinct_seeds() -> None:
    seeds = [derive_seed(run, role, i, j) for run in range(5) for role in "ab" for i in range(50) for j in range(50)]
    seeds += [derive_seed(run, role, i) for run in range(5) for role in "ab" for i in range(50)]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, "2/x"), (1, "2", 0)),
        ((1, "a", 0), (1, "a")),
        ((1, "a", 1, 2), (1, "a", 2, 1)),
        ((12, "3"), (1, "23")),
    ],
)
def test_inputs_do_not_run_into_each_other(first: tuple, second: tuple) -> None:  # type: ignore[type-arg]
    assert derive_seed(*first) != derive_seed(*second)


def test_seed_is_keyed_blake2b() -> None:
    key = hashlib.blake2b(b"7/probe", digest_size=32).digest()
    digest = hashlib.blake2b(struct.pack("<qq", 3, 4), digest_size=8, key=key).digest()
    assert derive_seed(7, "probe", 3, 4) == int.from_bytes(digest, "little") >> 1


def test_seeds_are_pinned() -> None:
    assert (derive_seed(0, "probe"), derive_seed(7, "probe", 3, 4)) == (
        382066217939724727,
        5581804101921833544,
    )


def test_noise_key_is_pinned() -> None:
    assert noise_key(7, "layers.0.weight") == (87868521, -133113095)


def test_seeds_are_the_same_in_another_process() -> None:
    """The hash of a str is salted per process; seeds must not depend on them."""
    program = "from blackbox.seeds import *; print(derive_seed(1, 'a', 2), *noise_key(1, 'w'))"
    command = [sys.executable, "-c", program]
    there = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "123"})
    assert there.stdout.split() == [str(n) for n in (derive_seed(1, "a", 2), *noise_key(1, "w"))]


def test_names_and_seeds_change_the_noise_key() -> None:
    keys = {noise_key(seed, name) for seed in range(100) for name in ("w", "w2", "", "a.b")}
    assert len(keys) == 400
