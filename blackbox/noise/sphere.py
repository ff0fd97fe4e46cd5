"""Uniform on the sphere of radius sqrt(d): a Gaussian divided by its length over all tensors.

The factor sqrt(d)/|z| is computed once, in float64, and goes into the coefficient, so tensors never need each other's
noise. With unit directions u = z/sqrt(d) this is the estimator (d/mu) [f(x + mu u) - f(x)] u of the literature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch

from blackbox.layout import Layout
from blackbox.noise.gaussian import Gaussian

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Sphere(Gaussian):
    """|z| = sqrt(d) over all tensors together."""

    tag: ClassVar[str] = "sphere/1"

    def scale(self, seed: int, layout: Layout) -> float:
        """sqrt(d)/|z(seed)|, summed in float64."""
        return _factor(seed, layout)


@lru_cache(maxsize=4096)
def _factor(seed: int, layout: Layout) -> float:
    gaussian, total = Gaussian(), 0.0
    for spec in layout.specs:
        for start in range(0, spec.numel, _CHUNK):
            noise = gaussian.sample((seed,), spec, start, min(start + _CHUNK, spec.numel))
            total += float(torch.sum(noise.double() ** 2))
    return math.sqrt(layout.dimension / total)
