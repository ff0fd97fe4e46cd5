"""Inner products of noise over all tensors, from the seeds alone: G_ij = z(s_i) . z(t_j).

Noise is counter-based, so whoever knows the layout knows the products; no tensor is read. One product of m by n seeds
draws (m + n) d elements on the CPU and takes m n d multiplications, in pieces and summed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from blackbox.layout import Layout
from blackbox.noise.base import Law

FloatArray = npt.NDArray[np.float64]

_PIECE = 1 << 20
"""Elements of noise drawn at a time."""


def gram(law: Law, seeds: Sequence[int], layout: Layout) -> FloatArray:
    """float64 [n, n]: the products of these seeds' noise with each other; not to be written to."""
    return _products(law, tuple(seeds), None, layout)


def products(law: Law, first: Sequence[int], second: Sequence[int], layout: Layout) -> FloatArray:
    """float64 [m, n]: the products of the noise of ``first`` with that of ``second``; not to be written to."""
    return _products(law, tuple(first), tuple(second), layout)


def combined_gram(law: Law, seeds: Sequence[int], rows: FloatArray, layout: Layout) -> FloatArray:
    """float64 [r, r]: the products of r sums v_k = sum_i rows[k, i] z(s_i) with each other; ``rows`` [r, n].

    Costs n d elements of noise and r (n + r) d multiplications.
    """
    total = np.zeros((len(rows), len(rows)))
    scaled = rows * _scales(law, seeds, layout)
    width = max(_PIECE // max(len(seeds), 1), 64)
    for spec in layout.specs:
        for start in range(0, spec.numel, width):
            stop = min(start + width, spec.numel)
            part = scaled @ law.sample(seeds, spec, start, stop).double().numpy()
            total += part @ part.T
    return total


@lru_cache(maxsize=16)
def _products(law: Law, first: tuple[int, ...], second: tuple[int, ...] | None, layout: Layout) -> FloatArray:
    other = first if second is None else second
    total = np.zeros((len(first), len(other)))
    width = max(_PIECE // max(len(first) + len(other), 1), 64)
    for spec in layout.specs:
        for start in range(0, spec.numel, width):
            stop = min(start + width, spec.numel)
            left = law.sample(first, spec, start, stop).double().numpy()
            right = left if second is None else law.sample(other, spec, start, stop).double().numpy()
            total += left @ right.T
    total *= np.outer(_scales(law, first, layout), _scales(law, other, layout))
    total.setflags(write=False)
    return total


def _scales(law: Law, seeds: Sequence[int], layout: Layout) -> FloatArray:
    return np.array([law.scale(seed, layout) for seed in seeds])
