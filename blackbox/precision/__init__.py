"""Low precision, simulated in float32: rounding to small floats, and weights that are codes times scales."""

from blackbox.precision.formats import FloatFormat
from blackbox.precision.lowered import LowPrecision, lowered
from blackbox.precision.quantized import QuantizedLinear, quantize

__all__ = ["FloatFormat", "LowPrecision", "QuantizedLinear", "lowered", "quantize"]
