"""The compiled kernels behind ``Displacer``: one a law and form, fused by ``torch.compile``.

They are written once in torch ops, for both devices; shapes are dynamic, numbers come as tensors, so that each is
compiled once. The noise never exists in memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from blackbox.noise.base import Law


@cache
def kernel(law: Law, form: str, masked: bool = False) -> Callable[..., None]:
    """The compiled kernel of one law and form; shapes are dynamic, numbers come as tensors: one compile each.

    One that is ``masked`` takes a last tensor, int32 [groups, 1]: a bit for each element of a group, lowest first.
    """

    def parts(words: Tensor | None, key: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        # (noise, the same part of each tensor); what the noise of several parts has in common is fused.
        for index, drawn in enumerate(law.run(key, tensors[0].shape[0])):
            noise = drawn if words is None else _kept(drawn, words, index * drawn.shape[1])
            # Widened first: a number held in a 0-d float64 tensor would be rounded to the noise's float32.
            yield (
                noise.to(wide(tensors[-1])),
                *(tensor if tensor.ndim == 2 else tensor[:, index] for tensor in tensors),
            )

    def displace(out: Tensor, base: Tensor, key: Tensor, scalars: Tensor, words: Tensor | None = None) -> None:
        for z, to, x in parts(words, key, out, base):
            to.copy_(x.to(wide(x)) * scalars[0] + scalars[1] * z)

    def displace_in_place(out: Tensor, base: Tensor, key: Tensor, scalars: Tensor, words: Tensor | None = None) -> None:
        displace(base, base, key, scalars, words)

    def moved_parts(
        words: Tensor | None, key: Tensor, next_key: Tensor, scalars: Tensor, *tensors: Tensor
    ) -> Iterator[tuple[Tensor, ...]]:
        # (the updated base, the next displacement, the same part of each tensor); the base is the last one
        here, there = parts(words, key, *tensors), parts(words, next_key, tensors[-1])
        for (z, *some), (next_z, _) in zip(here, there, strict=True):
            moved = some[-1].to(wide(some[-1])) * scalars[0] + scalars[1] * z
            yield moved, scalars[2] * next_z, *some

    def update_and_displace(
        out: Tensor, base: Tensor, key: Tensor, next_key: Tensor, scalars: Tensor, words: Tensor | None = None
    ) -> None:
        for moved, shift, to, x in moved_parts(words, key, next_key, scalars, out, base):
            x.copy_(moved)
            to.copy_(moved + shift)

    def displace_twice(
        base: Tensor, key: Tensor, next_key: Tensor, scalars: Tensor, words: Tensor | None = None
    ) -> None:
        for moved, shift, x in moved_parts(words, key, next_key, scalars, base):
            x.copy_(moved + shift)

    def displace_pair(
        plus: Tensor, minus: Tensor, base: Tensor, key: Tensor, scalars: Tensor, words: Tensor | None = None
    ) -> None:
        for z, up, down, x in parts(words, key, plus, minus, base):
            up.copy_(x.to(wide(x)) + scalars[1] * z)
            down.copy_(x.to(wide(x)) - scalars[1] * z)

    def update_and_displace_pair(
        plus: Tensor,
        minus: Tensor,
        base: Tensor,
        key: Tensor,
        next_key: Tensor,
        scalars: Tensor,
        words: Tensor | None = None,
    ) -> None:
        for moved, shift, up, down, x in moved_parts(words, key, next_key, scalars, plus, minus, base):
            x.copy_(moved)
            up.copy_(moved + shift)
            down.copy_(moved - shift)

    forms: dict[str, Any] = {
        "displace": displace,
        "displace_in_place": displace_in_place,
        "update_and_displace": update_and_displace,
        "displace_twice": displace_twice,
        "displace_pair": displace_pair,
        "update_and_displace_pair": update_and_displace_pair,
    }
    variants: dict[tuple[Any, ...], Callable[..., None]] = {}

    def call(*tensors: Tensor) -> None:
        variant = tuple([(t.dtype, t.device) for t in tensors])
        compiled = variants.get(variant)
        if compiled is None:
            name = f"{form}{'_masked' if masked else ''}_{law.tag}_{len(variants)}"
            compiled = variants[variant] = compiled_copy(forms[form], name)
            without_autocast(compiled, *_typical(tensors))
        without_autocast(compiled, *tensors)

    return call


def _kept(noise: Tensor, words: Tensor, first: int) -> Tensor:
    """Noise [groups, n] of elements first .. first + n - 1 of each group where its bit is set, 0 elsewhere."""
    place = torch.arange(noise.shape[1], dtype=torch.int32, device=noise.device) + first
    bit = torch.ones_like(place) << place
    return torch.where((words & bit) != 0, noise, 0.0)


def compiled_copy(function: Any, name: str) -> Callable[..., None]:
    """A compiled copy of a function that is told no more about its inputs than their dtypes and devices.

    The compiler's own checks at every call would take longer than the work on a small tensor; ``kernel`` keeps one
    copy for each kind of inputs instead. It tells copies apart by their code objects.
    """
    code = function.__code__.replace(co_name=name)
    copy = FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)
    no_guards: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
    compiled: Callable[..., None] = torch.compile(copy, dynamic=True, fullgraph=True, options=no_guards)
    return compiled


def without_autocast(compiled: Callable[..., None], *tensors: Tensor) -> None:
    """Call a kernel: it runs inside the user's forward too, and its code is made for autocast off."""
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


def _typical(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of the same kinds, of a size for which the compiler makes its best code.

    It looks at the size of the first call when it decides on threads, and keeps the code, even on disk, for all sizes.
    """
    made = {id(t): torch.zeros(_TYPICAL_GROUPS, *t.shape[1:], dtype=t.dtype, device=t.device) for t in tensors}
    return [made.get(id(t), t) if t.ndim > 1 else t for t in tensors]


_TYPICAL_GROUPS = 1 << 12


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
