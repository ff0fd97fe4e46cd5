"""Standard normal noise by Box and Muller (1958) from 64 hashed bits a pair.

z = sqrt(-2 log u) cos(theta) and sqrt(-2 log u) sin(theta); u has 31 bits, so |z| <= 6.67. In a group of 32 the first
16 elements are the cosines and the last 16 the sines of the same 16 hashes. The sine is a polynomial of our own (error
below 2e-7), so that only log and sqrt depend on the device's library: equal everywhere to the last ulps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from blackbox.noise.base import Law
from blackbox.noise.hash import threefry

_QUARTER_TURN = 1 << 30  # cos(t) = sin(t + a quarter turn); int32 wraps as angles do
_HALF_TURN = -(1 << 31)
# Chebyshev fit of sin(pi f)/f in f^2 over |f| <= 1/2; lowest power first.
_SINE = (3.1415927410125732, -5.167710304260254, 2.550077438354492, -0.598291277885437, 0.07765766233205795)


@dataclass(frozen=True)
class Gaussian(Law):
    """Independent N(0, 1)."""

    tag: ClassVar[str] = "gaussian/1"
    group_shape: ClassVar[tuple[int, ...]] = (2, 16)

    def groups(self, key: Tensor, low: Tensor, high: int = 0) -> Tensor:
        """Group g, pair p: the hash of counter (g, p)."""
        radius, angle = _polar(key, low, high)
        turn = torch.tensor([[_QUARTER_TURN], [0]], dtype=torch.int32, device=low.device)
        return radius[..., None, :] * _sine(angle[..., None, :] + turn)

    def run(self, key: Tensor, count: int) -> tuple[Tensor, ...]:
        """The cosines and the sines of groups 0 .. count-1, [count, 16] each."""
        radius, angle = _polar(key, torch.arange(count, dtype=torch.int32, device=key.device))
        return radius * _sine(angle + _QUARTER_TURN), radius * _sine(angle)


def _polar(key: Tensor, low: Tensor, high: int = 0) -> tuple[Tensor, Tensor]:
    """Radius (float32) and angle (int32, a full turn is 2**32) of each group's 16 pairs."""
    pair = torch.arange(16, dtype=torch.int32, device=low.device) + (high << 4)
    radius_bits, angle = threefry(key[..., 0, None], key[..., 1, None], low[..., None], pair)
    uniform = ((radius_bits & 0x7FFFFFFF).to(torch.float32) + 0.5) * 2.0**-31
    return torch.sqrt(-2.0 * torch.log(uniform)), angle


def _sine(turn: Tensor) -> Tensor:
    """sin(pi * turn / 2**31) for int32 ``turn``; the angle is folded into [-pi/2, pi/2] in integers, exactly."""
    outside = (turn ^ (turn << 1)) < 0
    half_turns = torch.where(outside, _HALF_TURN - turn, turn).to(torch.float32) * 2.0**-31
    square = half_turns * half_turns
    series = torch.full_like(square, _SINE[-1])
    for coefficient in reversed(_SINE[:-1]):
        series = series * square + coefficient
    return series * half_turns
