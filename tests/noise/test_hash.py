"""Threefry-2x32-20 against the authors' known answers, on each path."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from blackbox.layout import Layout
from blackbox.noise import Gaussian, Rademacher
from blackbox.noise.hash import _NUMPY_UP_TO, threefry
from blackbox.seeds import noise_key

# Random123's kat_vectors, threefry2x32, 20 rounds: counter, key, answer.
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def word(value: int, size: int, device: str = "cpu") -> Tensor:
    return torch.from_numpy(np.full(size, value, dtype=np.uint32).view(np.int32)).to(device)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
@pytest.mark.parametrize("size", [1, _NUMPY_UP_TO + 1], ids=["numpy", "torch"])
def test_known_answers(
    counter: tuple[int, int], key: tuple[int, int], answer: tuple[int, int], size: int, device: str
) -> None:
    words = threefry(*(word(k, 1, device) for k in key), *(word(c, size, device) for c in counter))
    assert all(torch.equal(w, word(a, size, device)) for w, a in zip(words, answer, strict=True))


def test_numpy_path_equals_torch_path() -> None:
    counter = torch.arange(_NUMPY_UP_TO + 2, dtype=torch.int32) * 40503
    keys = torch.tensor(12345678), torch.tensor(-87654321)
    key0, key1 = (k.to(torch.int32) for k in keys)
    half = len(counter) // 2
    whole = threefry(key0, key1, counter, -counter)
    parts = [threefry(key0, key1, c, -c) for c in (counter[:half], counter[half:])]
    assert all(torch.equal(w, torch.cat(p)) for w, p in zip(whole, zip(*parts, strict=True), strict=True))


def test_key_schedule_may_wrap_around() -> None:
    """key0 ^ key1 ^ parity is 2**32 - 1: the next addition overflows, silently as it must."""
    key0, key1 = word(0xFFFFFFFF ^ 0x1BD11BDA, 1)[0], word(0, 1)[0]
    small = threefry(key0, key1, word(0, 2), word(0, 2))
    large = threefry(key0, key1, word(0, _NUMPY_UP_TO + 1), word(0, _NUMPY_UP_TO + 1))
    assert all(torch.equal(s, w[:2]) for s, w in zip(small, large, strict=True))


@pytest.mark.parametrize("varied", ["key0", "key1", "counter0", "counter1"])
def test_one_input_bit_flips_half_of_the_output_bits(varied: str) -> None:
    """Avalanche: 64 x 32 bits of output and input at 64 points, each flip a fair coin (4.5 deviations)."""
    names = ("key0", "key1", "counter0", "counter1")
    points = torch.arange(64, dtype=torch.int32) * 77_777_777
    inputs = {name: points + i for i, name in enumerate(names)}
    words = torch.stack(threefry(*inputs.values()))
    flips = 0
    for bit in range(32):
        mask = torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
        changed = inputs | {varied: inputs[varied] ^ mask}
        difference = torch.stack(threefry(*changed.values())) ^ words
        flips += int(np.unpackbits(difference.numpy().view(np.uint8)).sum())
    total = 32 * 64 * 64
    assert abs(flips - total / 2) < 4.5 * (total / 4) ** 0.5


def plain_threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """The paper's algorithm on Python integers."""
    ks = (key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA)
    x = [(counter[0] + ks[0]) % 2**32, (counter[1] + ks[1]) % 2**32]
    for r in range(20):
        x[0] = (x[0] + x[1]) % 2**32
        turn = (13, 15, 26, 6, 17, 29, 16, 24)[r % 8]
        x[1] = ((x[1] << turn | x[1] >> (32 - turn)) % 2**32) ^ x[0]
        if r % 4 == 3:
            s = r // 4 + 1
            x = [(x[0] + ks[s % 3]) % 2**32, (x[1] + ks[(s + 1) % 3] + s) % 2**32]
    return x[0], x[1]


GROUPS = [0, 1, 1001, 2**31 - 1, 2**31, 2**31 + 1, 5 * 2**31 + 12]


def unsigned_key(seed: int, name: str) -> tuple[int, int]:
    first, second = noise_key(seed, name)
    return first % 2**32, second % 2**32


@pytest.mark.parametrize("group", GROUPS)
def test_gaussian_is_box_muller_of_the_hash_in_float64(group: int) -> None:
    key = unsigned_key(9, "w")
    expected = np.empty(32)
    for pair in range(16):
        radius_bits, angle = plain_threefry(key, (group % 2**31, (group >> 31 << 4) + pair))
        radius = math.sqrt(-2 * math.log((radius_bits % 2**31 + 0.5) / 2**31))
        turn = math.pi * angle / 2**31
        expected[pair], expected[16 + pair] = radius * math.cos(turn), radius * math.sin(turn)
    spec = Layout.of({"w": (2**40,)}).specs[0]
    noise = Gaussian().sample((9,), spec, group * 32, group * 32 + 32)[0]
    np.testing.assert_allclose(noise.numpy(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("group", GROUPS)
def test_rademacher_is_the_bits_of_the_hash(group: int) -> None:
    pair = group // 2
    words = plain_threefry(unsigned_key(9, "w"), (pair % 2**30, pair >> 30))
    expected = [1.0 if words[group % 2] >> bit & 1 else -1.0 for bit in range(32)]
    spec = Layout.of({"w": (2**40,)}).specs[0]
    assert Rademacher().sample((9,), spec, group * 32, group * 32 + 32)[0].tolist() == expected
