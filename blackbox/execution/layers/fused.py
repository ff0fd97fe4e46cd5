"""The difference of a ReLU in one pass over memory, that of the sum before it included.

    max(b + d, 0) - max(b, 0) = max(d, -b) - max(-b, 0)

Nothing cancels where b > 0, so it is as precise in half precision as d is. With ``torch.compile`` where that works and
there is enough to do; the same operations one by one otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from blackbox.noise.kernels import compiler_works

_COMPILED_FROM = 1 << 18
"""Numbers; below, a call of a compiled kernel costs more than the passes it saves."""


def relu_difference(first: Tensor, second: Tensor | None, lower: Tensor, cut: Tensor) -> Tensor:
    """max(first + second, lower) - cut.

    Args:
        first, second: [k, batch, channels, ...]; no second counts as 0.
        lower, cut: [batch, channels, ...], -b and max(-b, 0); dense images in the order channels-last.
    """
    if first.numel() >= _COMPILED_FROM and compiler_works(first.device.type):
        given = [_flat(one) for one in (first, second, lower[None], cut[None]) if one is not None]
        flat = [one for one in given if one is not None]
        if len(flat) == len(given):  # else a few channels, cut out of more
            kernel = _compiled(len(flat) - 2, tuple(one.dtype for one in flat), len(first) == 1, first.device.type)
            return _unflat(kernel(*flat), first)
    total = first if second is None else first + second
    return torch.maximum(total, lower).sub_(cut)


def _flat(values: Tensor) -> Tensor | None:
    """[k, all the others] without a copy, images in the order channels-last; None if that isn't their order."""
    ordered = values.permute(0, 1, 3, 4, 2) if values.ndim == 5 else values
    return ordered.view(len(values), -1) if ordered.is_contiguous() else None


def _unflat(flat: Tensor, like: Tensor) -> Tensor:
    if like.ndim != 5:
        return flat.view(like.shape)
    k, batch, channels, height, width = like.shape
    return flat.view(k, batch, height, width, channels).permute(0, 1, 4, 2, 3)


def _one(first: Tensor, lower: Tensor, cut: Tensor) -> Tensor:
    return torch.maximum(first, lower) - cut


def _two(first: Tensor, second: Tensor, lower: Tensor, cut: Tensor) -> Tensor:
    return torch.maximum(first + second, lower) - cut


@cache
def _compiled(terms: int, dtypes: tuple[torch.dtype, ...], single: bool, device_type: str) -> Callable[..., Tensor]:
    """One kernel for whatever could change its code; sizes are dynamic, so nothing is left to be guarded."""
    function = _one if terms == 1 else _two
    copy = FunctionType(function.__code__.replace(), function.__globals__)
    no_guards: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
    compiled: Callable[..., Tensor] = torch.compile(copy, dynamic=True, fullgraph=True, options=no_guards)
    return compiled
