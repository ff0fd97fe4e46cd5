"""The names, shapes and order of the tensors that are tuned: all that a worker needs to know about them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a layout.

    Attributes:
        name: canonical name (the first of a tied storage, wrappers' prefixes stripped).
        shape: its unsharded shape.
        offset: position of its first element in the concatenation of all tensors.
        dimension: d, the number of elements of the whole layout.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    dimension: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The tensors in canonical order. ``dimension`` is d, the number of tuned elements."""

    specs: tuple[TensorSpec, ...]

    @staticmethod
    def of(shapes: dict[str, tuple[int, ...]]) -> Layout:
        """Lay tensors out one after the other in the mapping's order."""
        dimension = sum(math.prod(shape) for shape in shapes.values())
        specs, offset = [], 0
        for name, shape in shapes.items():
            specs.append(TensorSpec(name, tuple(shape), offset, dimension))
            offset += math.prod(shape)
        return Layout(tuple(specs))

    @cached_property
    def dimension(self) -> int:
        """d: the number of elements over all tensors."""
        return sum(spec.numel for spec in self.specs)

    @cached_property
    def by_name(self) -> dict[str, TensorSpec]:
        """Specs by tensor name."""
        return {spec.name: spec for spec in self.specs}
