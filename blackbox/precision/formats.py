"""Small floating-point formats, and rounding to them within float32 (OCP 8-bit and microscaling specifications, 2023).

A number with e exponent bits and m mantissa bits is (1 + k/2^m) 2^(E - bias), bias = 2^(e-1) - 1, or k/2^m 2^(1 - bias)
below the smallest such. What the topmost codes stand for differs: e5m2 keeps an exponent for infinity and NaN, e4m3 one
code for NaN, the 4- and 6-bit formats nothing. Rounding is to nearest, ties to even, and exact: it is done on the bits
of the float32. What is too large becomes the largest number; NaN stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from blackbox.errors import UserError

Specials = Literal["exponent", "code", "none"]


@dataclass(frozen=True)
class FloatFormat:
    """A floating-point format with a sign.

    Args:
        exponent_bits: e, from 1 to 7.
        mantissa_bits: m, from 0 to 23.
        specials: what infinity and NaN take up at the top: an exponent, a code, or nothing.
    """

    exponent_bits: int
    mantissa_bits: int
    specials: Specials = "none"

    def __post_init__(self) -> None:
        if not 1 <= self.exponent_bits <= 7 or not 0 <= self.mantissa_bits <= 23:
            raise UserError(
                f"A format has 1 to 7 exponent bits and 0 to 23 mantissa bits, not {self.exponent_bits} and "
                f"{self.mantissa_bits}."
            )
        if self.specials not in ("exponent", "code", "none"):
            raise UserError(f"specials are exponent, code or none, not {self.specials!r}.")
        if self.specials == "exponent" and self.exponent_bits == 1:
            raise UserError("With 1 exponent bit no exponent is left for infinity; use specials: none.")
        if self.specials == "code" and self.mantissa_bits == 0:
            raise UserError("Without mantissa bits a code for NaN is a whole exponent; use specials: exponent.")

    @staticmethod
    def named(name: str) -> FloatFormat:
        """The format of a name such as "e4m3"; UserError if there is none."""
        if name not in NAMED:
            raise UserError(f"There is no format '{name}'; there are: {', '.join(NAMED)}.")
        return NAMED[name]

    @property
    def bias(self) -> int:
        """What is subtracted from a stored exponent."""
        return int(2 ** (self.exponent_bits - 1)) - 1

    @property
    def largest(self) -> float:
        """The largest finite number."""
        top = int(2**self.exponent_bits) - 1 - self.bias - (self.specials == "exponent")
        fraction = 2.0 - 2.0**-self.mantissa_bits * (2 if self.specials == "code" else 1)
        return float(fraction * 2.0**top)

    def round(self, values: Tensor) -> Tensor:
        """The nearest numbers of the format, in ``values``' dtype; worked out in float32."""
        wide = values.float().contiguous()
        # The exponent that float32 stores; of subnormal numbers 0, which is below the smallest of every format.
        stored = (wide.view(torch.int32) >> 23) & 0xFF
        lowest = 1 - self.bias + 127
        unit = ((stored.clamp_(min=lowest) - self.mantissa_bits) << 23).view(torch.float32)  # the gap between numbers
        rounded = (wide / unit).round_().mul_(unit).clamp_(-self.largest, self.largest)
        return rounded.to(values.dtype)


NAMED = {
    "e5m2": FloatFormat(5, 2, "exponent"),
    "e4m3": FloatFormat(4, 3, "code"),
    "e3m2": FloatFormat(3, 2),
    "e2m3": FloatFormat(2, 3),
    "e2m1": FloatFormat(2, 1),
}
