"""Rounding to small floats against torch's own 8-bit types, and against all the numbers that the small formats have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.precision import FloatFormat

PEERS = [("e4m3", torch.float8_e4m3fn, 448.0), ("e5m2", torch.float8_e5m2, 57344.0)]
LARGEST = {"e5m2": 57344.0, "e4m3": 448.0, "e3m2": 28.0, "e2m3": 7.5, "e2m1": 6.0}


def inputs() -> Tensor:
    """Every exponent of float32 with some hundred mantissas, both signs, ties among them, and zeros."""
    draw = np.random.Generator(np.random.Philox(3))
    mantissas = np.concatenate([np.arange(0, 1 << 23, 1 << 16), draw.integers(0, 1 << 23, 200)])
    words = (np.arange(255)[:, None] << 23 | mantissas).astype(np.uint32).reshape(-1)
    found = torch.from_numpy(words.view(np.float32))
    return torch.cat([found, -found, torch.tensor([0.0, -0.0])])


@pytest.mark.parametrize(("name", "dtype", "largest"), PEERS, ids=["e4m3", "e5m2"])
def test_bits_are_those_of_torchs_casts(name: str, dtype: torch.dtype, largest: float) -> None:
    values = inputs().clamp(-largest, largest)
    ours, theirs = FloatFormat.named(name).round(values), values.to(dtype).float()
    assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32))
    assert len(ours.unique()) > 100


@pytest.mark.parametrize(("name", "dtype", "largest"), PEERS, ids=["e4m3", "e5m2"])
def test_every_number_of_a_format_is_kept(name: str, dtype: torch.dtype, largest: float) -> None:
    numbers = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(dtype).float()
    numbers = numbers[numbers.isfinite()]
    assert torch.equal(FloatFormat.named(name).round(numbers), numbers)
    assert float(numbers.max()) == largest == FloatFormat.named(name).largest


@pytest.mark.parametrize("name", LARGEST)
def test_it_is_the_nearest_number_and_of_two_the_even_one(name: str) -> None:
    """Against a search among all numbers, made from the specification's formula in float64."""
    format = FloatFormat.named(name)
    e, m = format.exponent_bits, format.mantissa_bits
    codes = [(i, k) for i in range(2**e) for k in range(2**m)]
    numbers = np.array([(k / 2**m if i == 0 else 1 + k / 2**m) * 2.0 ** (max(i, 1) - format.bias) for i, k in codes])
    numbers = numbers[numbers <= LARGEST[name]]
    assert format.largest == LARGEST[name]
    values = inputs()
    small = values[(values.abs() < 2 * LARGEST[name]) & (values.abs() > 1e-9)]
    size = small.abs().double().numpy()
    after = np.searchsorted(numbers, size).clip(1, len(numbers) - 1)
    below, above = size - numbers[after - 1], numbers[after] - size
    nearest = np.where((above < below) | ((above == below) & (after % 2 == 0)), after, after - 1)
    expected = torch.from_numpy(numbers[nearest]).float().copysign(small)
    assert torch.equal(format.round(small), expected)


def test_what_is_too_large_becomes_the_largest_and_nan_stays() -> None:
    found = FloatFormat.named("e4m3").round(torch.tensor([1e9, -torch.inf, torch.nan, 449.0]))
    assert found[[0, 1, 3]].tolist() == [448.0, -448.0, 448.0]
    assert bool(found[2].isnan())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float32])
def test_the_dtype_is_kept_and_the_input_untouched(dtype: torch.dtype) -> None:
    values = torch.linspace(-3, 3, 50, dtype=dtype)
    before = values.clone()
    found = FloatFormat.named("e2m1").round(values)
    assert found.dtype == dtype
    assert torch.equal(values, before)
    assert torch.equal(found.float(), FloatFormat.named("e2m1").round(values.float()))


def test_a_wider_format_is_float16() -> None:
    values = inputs().clamp(-65504, 65504)
    ours, theirs = FloatFormat(5, 10, "exponent").round(values), values.half().float()
    assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32))


@pytest.mark.parametrize(
    "arguments", [(0, 3), (8, 3), (4, 24), (1, 2, "exponent"), (4, 0, "code"), (4, 3, "all")], ids=str
)
def test_formats_that_there_cannot_be_are_refused(arguments: tuple) -> None:
    with pytest.raises(UserError, match=r"exponent|specials|mantissa"):
        FloatFormat(*arguments)


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(UserError, match=r"no format 'fp8'; there are: e5m2, e4m3"):
        FloatFormat.named("fp8")
