"""The compiled kernels behind ``Displacer``: one a law and form, fused by ``torch.compile``.

They are written once in torch ops, for both devices; shapes are dynamic, numbers come as tensors, so that each is
compiled once. The noise never exists in memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from blackbox.noise.base import Law


@cache
def kernel(law: Law, form: str) -> Callable[..., None]:
    """The compiled kernel of one law and form; shapes are dynamic, numbers come as tensors: one compile each."""

    def noise(key: Tensor, base: Tensor) -> Tensor:
        # Widened first: a number held in a 0-d float64 tensor would be rounded to the noise's float32.
        return law.run(key, base.shape[0]).to(wide(base))

    def displace(out: Tensor, base: Tensor, key: Tensor, scalars: Tensor) -> None:
        out.copy_(base.to(wide(base)) * scalars[0] + scalars[1] * noise(key, base))

    def displace_in_place(out: Tensor, base: Tensor, key: Tensor, scalars: Tensor) -> None:
        base.copy_(base.to(wide(base)) * scalars[0] + scalars[1] * noise(key, base))

    def update_and_displace(out: Tensor, base: Tensor, key: Tensor, next_key: Tensor, scalars: Tensor) -> None:
        moved = base.to(wide(base)) * scalars[0] + scalars[1] * noise(key, base)
        base.copy_(moved)
        out.copy_(moved + scalars[2] * noise(next_key, base))

    def displace_twice(base: Tensor, key: Tensor, next_key: Tensor, scalars: Tensor) -> None:
        moved = base.to(wide(base)) * scalars[0] + scalars[1] * noise(key, base)
        base.copy_(moved + scalars[2] * noise(next_key, base))

    def displace_pair(plus: Tensor, minus: Tensor, base: Tensor, key: Tensor, scalars: Tensor) -> None:
        shift = scalars[1] * noise(key, base)
        plus.copy_(base.to(wide(base)) + shift)
        minus.copy_(base.to(wide(base)) - shift)

    def update_and_displace_pair(
        plus: Tensor, minus: Tensor, base: Tensor, key: Tensor, next_key: Tensor, scalars: Tensor
    ) -> None:
        moved = base.to(wide(base)) * scalars[0] + scalars[1] * noise(key, base)
        shift = scalars[2] * noise(next_key, base)
        base.copy_(moved)
        plus.copy_(moved + shift)
        minus.copy_(moved - shift)

    forms: dict[str, Any] = {
        "displace": displace,
        "displace_in_place": displace_in_place,
        "update_and_displace": update_and_displace,
        "displace_twice": displace_twice,
        "displace_pair": displace_pair,
        "update_and_displace_pair": update_and_displace_pair,
    }
    function = forms[form]
    # The compiler counts its variants per code object; laws must not share one.
    function.__code__ = function.__code__.replace(co_name=f"{form}_{law.tag}")
    compiled: Callable[..., None] = torch.compile(function, dynamic=True, fullgraph=True)

    def call(*tensors: Tensor) -> None:
        # Kernels run inside the user's forward too; its autocast state must not make another variant.
        kind = tensors[0].device.type
        if not torch.is_autocast_enabled(kind):
            compiled(*tensors)
            return
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_enabled(kind, False)
        torch.set_autocast_cache_enabled(True)
        try:
            compiled(*tensors)
        finally:
            torch.set_autocast_enabled(kind, True)
            torch.set_autocast_cache_enabled(cached)

    return call


@cache
def compiler_works(device_type: str) -> bool:
    """Whether torch.compile has a working back end here; found out once, by compiling a trifle."""
    try:
        double = torch.compile(lambda x: x + x, fullgraph=True)
        double(torch.ones(4, device=device_type))
    except Exception as error:  # any failure of the tool chain means the same: go on without it
        warnings.warn(
            f"torch.compile does not work on {device_type} here ({type(error).__name__}); noise takes the slower "
            "eager path. A C++ compiler (g++) is what is usually missing on a CPU.",
            stacklevel=2,
        )
        return False
    return True


def wide(base: Tensor) -> torch.dtype:
    """The dtype sums are taken in: never half precision."""
    return torch.float64 if base.dtype == torch.float64 else torch.float32
