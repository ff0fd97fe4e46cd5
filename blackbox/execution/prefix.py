"""A shared prefix: blocks that no probe of a round displaces are computed once for all of them.

Where only later blocks are tuned (by name, the last layer) or probed (blockwise noise), the activations that enter the
first displaced block are the same for every probe on the same data. The first forward keeps them; in the others the
blocks before hand them on instead of computing. Values are those of whole forwards bit for bit, which is tried out for
each set of blocks on its first use: a model whose later parts look back past a block (a U-Net) is found out so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from blackbox.errors import UserError
from blackbox.execution.displaced import Forward
from blackbox.execution.units import Unit, units_of
from blackbox.parameters import Parameters
from blackbox.probe import CURRENT, Context, Probe, Query

KEPT = 1 << 28
"""Bytes of activations that are kept at most; forwards beyond are computed whole."""


@dataclass
class _Pass:
    """One call of the module.

    Attributes:
        inputs: what it was called with: structure and leaves.
        calls: the units in the order they ran in.
        outputs: of the blocks before the first that is displaced, the last one's output.
        shared: those blocks.
    """

    inputs: tuple[Any, list[Any]]
    calls: list[Unit] = field(default_factory=list)
    outputs: Any = None
    shared: frozenset[Unit] = frozenset()


class SharedPrefix:
    """Keeps what a round's probes share, while it is ``installed`` around their forwards."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._module: nn.Module | None = None
        self._units: list[Unit] = []
        self._tuned: dict[Unit, list[str]] = {}
        self._still: frozenset[Unit] = frozenset()
        self._kept: dict[tuple[Context, int], list[_Pass]] = {}
        self._tried: dict[frozenset[Unit], bool] = {}
        self._version = 0
        self._several: set[Context] = set()
        self._recording: list[_Pass] | None = None
        self._replaying: list[_Pass] | None = None
        self._now: _Pass | None = None
        self._count = 0

    @contextmanager
    def installed(self, module: nn.Module, queries: Sequence[Query], parameters: Parameters) -> Iterator[None]:
        """Around the forwards of these queries; does nothing if there is nothing to share."""
        self._still = self._undisplaced(module, queries, parameters)
        if not any(unit.block for unit in self._still):
            yield
            return
        tuned = any(self._tuned[unit] for unit in self._still)
        self._version = parameters.version if tuned else 0
        contexts = Counter(query.context for query in queries if query.base == CURRENT)
        self._several = {context for context, count in contexts.items() if count > 1}
        asked = {(context, self._version) for context in contexts}
        self._kept = {key: passes for key, passes in self._kept.items() if key in asked}
        modules = [*(unit.module for unit in self._units), module]
        own = [part.__dict__.get("forward") for part in modules]
        try:
            for unit in self._units:
                unit.module.forward = self._sharing(unit, unit.module.forward)
            module.forward = self._whole(module.forward)
            yield
        finally:
            for part, forward in zip(reversed(modules), reversed(own), strict=True):
                part.__dict__.pop("forward", None)
                if forward is not None:
                    part.forward = forward

    def values(self, query: Query, evaluate: Callable[[], Tensor]) -> Tensor:
        """The query's values, by ``evaluate``."""
        key = query.context, self._version
        if query.base != CURRENT or not any(unit.block for unit in self._still):
            return evaluate()
        known = self._kept.get(key)
        if known is None:
            return self._recorded(key, evaluate) if query.context in self._several else evaluate()
        shared = frozenset().union(*(one.shared for one in known))
        if not shared or self._tried.get(shared) is False:
            return evaluate()
        self._replaying, self._count = known, 0
        try:
            found = evaluate()
        finally:
            self._replaying = None
        if shared not in self._tried:
            whole = evaluate()
            self._tried[shared] = torch.equal(found, whole)
            if self._tried[shared]:
                told = "the {} blocks before the first that a probe displaces are computed once a round"
                self._notes = self._notes or [told.format(len(shared))]
            return whole
        return found

    def take_notes(self) -> list[str]:
        """What the run's log should say, once something was shared; once each."""
        notes, self._notes = self._notes, []
        return notes

    def _recorded(self, key: tuple[Context, int], evaluate: Callable[[], Tensor]) -> Tensor:
        self._recording = []
        try:
            found = evaluate()
            self._kept[key] = self._recording
        finally:
            self._recording = None
        return found

    def _whole(self, forward: Forward) -> Forward:
        def whole(*args: Any, **kwargs: Any) -> Any:
            if self._recording is not None:
                leaves, structure = tree_flatten((args, kwargs))
                kept = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
                self._now = _Pass((structure, kept))
                self._recording.append(self._now)
            elif self._replaying is not None:
                self._count += 1
                known = self._replaying[self._count - 1 : self._count]
                self._now = known[0] if known and _same(known[0].inputs, tree_flatten((args, kwargs))) else None
            try:
                return forward(*args, **kwargs)
            finally:
                if self._recording is not None and self._now is not None:
                    self._settle(self._now)
                self._now = None

        return whole

    def _sharing(self, unit: Unit, forward: Forward) -> Forward:
        def sharing(*args: Any, **kwargs: Any) -> Any:
            now = self._now
            if now is None:
                return forward(*args, **kwargs)
            if self._recording is None:
                return _copied(now.outputs) if unit in now.shared else forward(*args, **kwargs)
            output = forward(*args, **kwargs)
            now.calls.append(unit)
            if unit.block and self._still.issuperset(now.calls):
                now.outputs = _copied(output)
            return output

        return sharing

    def _settle(self, one: _Pass) -> None:
        """Which of the blocks that ran before the first displaced unit can be shared: those of one list, run once."""
        first = next((i for i, unit in enumerate(one.calls) if unit not in self._still), len(one.calls))
        blocks = [unit for unit in one.calls[:first] if unit.block]
        if blocks:
            of_list = [unit for unit in blocks if _list_of(unit) == _list_of(blocks[-1])]
            if all(one.calls.count(unit) == 1 for unit in of_list):
                one.shared = frozenset(of_list)
        kept = sum(_bytes(p.outputs) for passes in self._kept.values() for p in passes)
        kept += sum(_bytes(p.outputs) for p in self._recording or ())
        if not one.shared or kept > KEPT:
            one.outputs, one.shared = None, frozenset()

    def _undisplaced(self, module: nn.Module, queries: Sequence[Query], parameters: Parameters) -> frozenset[Unit]:
        """The units that none of the queries displaces."""
        if module is not self._module:
            self._take_apart(module, parameters)
        if not any(unit.block for unit in self._units):
            return frozenset()
        probes = [query.candidate for query in queries if isinstance(query.candidate, Probe)]
        moving = {(probe.law, seed) for probe in probes for seed, _ in probe.terms}
        specs = parameters.layout.by_name
        moved = {name for name, spec in specs.items() if any(law.moves(seed, spec) for law, seed in moving)}
        return frozenset(unit for unit in self._units if moved.isdisjoint(self._tuned[unit]))

    def _take_apart(self, module: nn.Module, parameters: Parameters) -> None:
        try:
            units = units_of(module)
        except UserError:
            units = []
        names = {tensor.data_ptr(): name for name, tensor in parameters.raw.items()}
        self._tuned = {u: [names[t.data_ptr()] for t in u.tensors() if t.data_ptr() in names] for u in units}
        self._module, self._units, self._kept, self._tried = module, units, {}, {}


def _same(one: tuple[Any, list[Any]], other: tuple[list[Any], Any]) -> bool:
    """Whether inputs are equal; what is neither a tensor nor a plain value never is."""
    (structure, leaves), (others, other_structure) = one, other
    return structure == other_structure and all(_equal(a, b) for a, b in zip(leaves, others, strict=True))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return (a is None and b is None) or (isinstance(a, bool | int | float | str) and type(a) is type(b) and a == b)


def _copied(output: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, output)


def _bytes(output: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tree_flatten(output)[0] if isinstance(t, Tensor))


def _list_of(unit: Unit) -> str:
    return unit.name.rpartition(".")[0]
