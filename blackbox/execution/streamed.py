"""Forwards of a module whose weights are brought to where they are computed with unit by unit.

What the streaming execution puts around a module's units (``units``): before one runs, its weights are brought, and
those of the last one are taken back. The update that a step owes is carried out while they are there. An embedding
stays where it is; the rows that it looks up are brought.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from blackbox.execution.displaced import Displaced, Forward, Owner
from blackbox.execution.mapped import MappedWeights
from blackbox.execution.turns import Turns
from blackbox.execution.units import Unit
from blackbox.interrupt import held_back
from blackbox.layout import TensorSpec
from blackbox.parameters import Parameters
from blackbox.update import move_tensor


@dataclass
class Usage:
    """What streaming took.

    Attributes:
        peak: the most bytes of weights that were there at once: a unit and displaced copies.
        brought: how many units were brought.
    """

    peak: int = 0
    brought: int = 0


class Streamed(Displaced):
    """Wraps a module and its units while it is ``installed``; within, the parts that own tuned weights as its base.

    Attributes:
        turns: what brings units; probes that go through the module together take turns.
    """

    def __init__(
        self,
        module: nn.Module,
        units: Sequence[Unit],
        owners: Sequence[Owner],
        parameters: Parameters,
        device: torch.device,
        usage: Usage,
        mapped: MappedWeights | None,
    ) -> None:
        super().__init__(owners, parameters, {})
        self.turns = Turns(self._bring)
        self._module, self._units, self._device = module, units, device
        self._usage, self._mapped = usage, mapped
        self._names = {tensor.data_ptr(): name for name, tensor in parameters.raw.items()}
        self._flats: dict[str, Tensor] = {}  # tuned tensors that were brought
        self._homes: list[tuple[dict[str, Any], str, Tensor]] = []  # what is to be put back: slots, name, tensor
        self._owed_on_arrival: set[str] = set()
        self._here: Unit | None = None
        self._free: list[torch.UntypedStorage] = []
        self._scratch_bytes = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """As in the base; in any case all weights are back where they belong."""
        with super().installed():
            modules = [*(unit.module for unit in self._units), *([self._module] if self._moves else [])]
            own = [module.__dict__.get("forward") for module in modules]
            try:
                for unit in self._units:
                    unit.module.forward = self._in_turn(unit, unit.module.forward)
                if self._moves:
                    self._module.forward = self._giving_back(self._module.forward)
                yield
            finally:
                for module, forward in zip(reversed(modules), reversed(own), strict=True):
                    module.__dict__.pop("forward", None)
                    if forward is not None:
                        module.forward = forward
                self._take_back()

    def settle(self) -> None:
        """As the base; nothing is here afterwards."""
        self._take_back()
        super().settle()

    @property
    def _moves(self) -> bool:
        """Whether weights are copied to be brought: not where they are computed with in the memory they live in."""
        return self._device != self._parameters.device

    def _in_turn(self, unit: Unit, forward: Forward) -> Forward:
        device = self._parameters.device if _is_lookup(unit.module) else self._device

        def streamed(*args: Any, **kwargs: Any) -> Any:
            self.turns.need(unit)
            if not self._moves:
                return forward(*args, **kwargs)
            host, kind = self._parameters.device.type, self._device.type
            casting, dtype = torch.is_autocast_enabled(host), torch.get_autocast_dtype(host)
            with torch.autocast(kind, dtype, enabled=casting, cache_enabled=False):  # the problem knows the host alone
                return _moved(forward(*_moved(args, device), **_moved(kwargs, device)), self._device)

        return streamed

    def _giving_back(self, forward: Forward) -> Forward:
        return lambda *args, **kwargs: _moved(forward(*args, **kwargs), self._parameters.device)

    # -- bringing ----------------------------------------------------------------------------------------------

    def _bring(self, thing: object) -> None:
        assert isinstance(thing, Unit)
        with self._unwatched():
            self._take_back()
            self._usage.brought += 1
            self._here = thing
            self._count()
            if self._moves and not _is_lookup(thing.module):
                self._copy_here(thing)

    def _copy_here(self, unit: Unit) -> None:
        self._owed_on_arrival = set(self._unsettled)
        copies: dict[int, Tensor] = {}
        for part in unit.module.modules():
            of_part: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
            for slots in of_part:
                for attribute, tensor in slots.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in copies:
                        copies[id(tensor)] = self._copy(tensor)
                    self._homes.append((slots, attribute, tensor))
                    slots[attribute] = copies[id(tensor)]

    def _copy(self, tensor: Tensor) -> Tensor:
        flat = torch.empty(tensor.numel(), dtype=tensor.dtype, device=self._device)  # no view: see ``_flat_alias``
        flat.copy_(tensor.detach().reshape(-1))
        name = self._names.get(tensor.data_ptr())
        if name is not None:
            self._flats[name] = flat
        return flat.view(tensor.shape)

    def _take_back(self) -> None:
        """The weights that are here go, with what was done to them."""
        with held_back():
            for name in self._flats.keys() & (self._owed_on_arrival - self._unsettled):
                home = self._parameters.raw[name]
                home.copy_(self._flats[name].view(home.shape))
            for slots, attribute, tensor in self._homes:
                slots[attribute] = tensor
            for tensor in self._here.tensors() if self._here is not None and self._mapped is not None else ():
                self._mapped.release(tensor)  # type: ignore[union-attr]
            self._flats, self._homes, self._here, self.turns.here = {}, [], None, None

    def _count(self) -> None:
        here = self._here
        of_unit = 0 if here is None or _is_lookup(here.module) else here.bytes
        self._usage.peak = max(self._usage.peak, of_unit + self._scratch_bytes)

    # -- what the base works with ------------------------------------------------------------------------------

    def _weight(self, spec: TensorSpec) -> Tensor:
        return self._flats[spec.name].view(spec.shape) if spec.name in self._flats else super()._weight(spec)

    def _flat(self, spec: TensorSpec) -> Tensor:
        return self._flats[spec.name] if spec.name in self._flats else super()._flat(spec)

    def _pay(self, spec: TensorSpec) -> None:
        if spec.name not in self._unsettled:
            return
        if spec.name in self._flats:
            assert self._owed is not None
            with held_back():
                self._unsettled.discard(spec.name)
                move_tensor(self._flats[spec.name], spec, self._owed, self._parameters)
            return
        super()._pay(spec)
        if self._mapped is not None and self._here is None:
            self._mapped.release(self._parameters.raw[spec.name])

    def _take(self, numel: int, dtype: torch.dtype) -> Tensor:
        """From one piece of memory for all sizes."""
        size = numel * dtype.itemsize
        storage = self._free.pop() if self._free else None
        if storage is None or storage.nbytes() < size:
            self._scratch_bytes += size - (0 if storage is None else storage.nbytes())
            storage = torch.empty(size, dtype=torch.uint8, device=self._device).untyped_storage()
        self._count()
        # Not a view: a compiled kernel is specialised on a view's base.
        return torch.empty(0, dtype=dtype, device=self._device).set_(storage, 0, (numel,), (1,))

    def _put_back(self, scratch: Tensor) -> None:
        self._free.append(scratch.untyped_storage())


def _is_lookup(module: nn.Module) -> bool:
    return type(module) is nn.Embedding and module.max_norm is None


def _moved(value: Any, device: torch.device) -> Any:
    """The tensors in it on a device."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)
