"""Write-free: the tensors always hold theta; a layer computes with theta + c z made on the fly.

While the forward of a module runs, its weights are replaced by displaced copies in a scratch buffer of the
size of one layer; an embedding adds noise only to the rows it looks up. The last step's update is merged into
the first displacing pass, so a MeZO step reads the weights twice (once a forward) and writes them once. Works
in float32, bfloat16, and float32 under bfloat16 autocast (the scratch is then bfloat16).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from blackbox.errors import UserError
from blackbox.execution.base import Execution, Outcome, module_objective, single_probe
from blackbox.execution.guard import ReadGuard
from blackbox.execution.in_place import InPlace
from blackbox.interrupt import held_back
from blackbox.layout import TensorSpec
from blackbox.noise.displace import FUSE_FROM, Displacer, Term
from blackbox.objective import ModuleObjective, Objective
from blackbox.parameters import Parameters, Update
from blackbox.probe import CURRENT, Query

_AUTOCAST_MODULES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class WriteFree(Execution):
    """Displaced weights on the fly (the default for modules)."""

    def __init__(self) -> None:
        self._checked: set[int] = set()
        self._fallback: InPlace | None = None

    @torch.no_grad()
    def evaluate(self, objective: Objective, queries: Sequence[Query], parameters: Parameters) -> list[Outcome]:
        """As the base says. The first call watches for weights read outside their modules; see ``guard``."""
        module = module_objective(objective, self)
        if self._fallback is not None:
            return self._fallback.evaluate(objective, queries, parameters)
        outcomes: list[Outcome] = []
        hooks = _Hooks(module.module, parameters)
        with hooks.installed():
            for query in queries:
                watch = id(module.module) not in self._checked
                outcomes.append(self._one(module, query, parameters, hooks, watch))
                if self._fallback is not None:
                    break
        if self._fallback is not None:
            return self._fallback.evaluate(objective, queries, parameters)
        return outcomes

    def replay(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Nothing is written, so there is nothing to repeat, unless the run fell back to in place."""
        if self._fallback is None and parameters.in_place:
            self._fallback = InPlace()  # what the run found out at its first query need not be found out again
        if self._fallback is not None:
            self._fallback.replay(queries, parameters)

    def _one(
        self, objective: ModuleObjective, query: Query, parameters: Parameters, hooks: _Hooks, watch: bool
    ) -> Outcome:
        probe = single_probe(query)
        hooks.displacer = parameters.displacer(probe.law) if probe else None
        hooks.terms = hooks.displacer.terms(probe.terms) if probe and hooks.displacer else []
        if query.base != CURRENT:
            hooks.settle()
        place = nullcontext() if query.base == CURRENT else parameters.at_anchor(query.base)
        with place, ReadGuard(parameters.raw) if watch else nullcontext() as guard:
            hooks.guard = guard
            try:
                value: Outcome = objective.values(query.context)
            except Exception as error:
                value = error
            finally:
                hooks.guard = None
        if guard is not None and isinstance(value, Tensor):
            self._checked.add(id(objective.module))
            if guard.found:
                self._fall_back(list(guard.found), parameters)
        return value

    def _fall_back(self, names: list[str], parameters: Parameters) -> None:
        some = ", ".join(f"'{name}'" for name in names[:3])
        what = f"{len(names)} weights are read outside the modules that own them ({some})"
        if any(t.dtype == torch.bfloat16 for t in parameters.raw.values()):
            raise UserError(
                f"{what}, so they cannot be displaced on the fly, and bfloat16 weights cannot be displaced in "
                "place. Load the model in float32, or tune other tensors."
            )
        warnings.warn(f"{what}; the run goes on with the in-place execution.", stacklevel=2)
        self._fallback = InPlace()


@dataclass
class _Owner:
    """A module that owns tuned weights: (attribute, spec) pairs, large or small."""

    module: nn.Module
    weights: list[tuple[str, TensorSpec]] = field(default_factory=list)


class _Hooks:
    """Swaps displaced weights in and out around the forwards of their owners."""

    def __init__(self, module: nn.Module, parameters: Parameters) -> None:
        self.displacer: Displacer | None = None
        self.terms: list[Term] = []
        self.guard: ReadGuard | None = None
        self._parameters = parameters
        self._owners = _owners(module, parameters)
        self._small = [s for s in parameters.layout.specs if s.numel < FUSE_FROM]
        self._owed: Update | None = parameters.take_pending()
        self._unsettled = set(parameters.layout.by_name) if self._owed is not None else set()
        self._scratch: dict[tuple[int, torch.dtype], list[Tensor]] = {}
        self._small_noise: dict[int, dict[str, Tensor]] = {}
        self._held: dict[int, list[tuple[str, Any, Tensor | None]]] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Register the hooks for a while; in any case owners get their weights back and updates are paid."""
        handles = []
        for owner in self._owners:
            before, after = self._hooks_of(owner)
            handles.append(owner.module.register_forward_pre_hook(before))
            handles.append(owner.module.register_forward_hook(after, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for owner in self._owners:
                self._give_back(owner.module)
            self.settle()

    def settle(self) -> None:
        """Carry out what is left of the last step's update."""
        for name in sorted(self._unsettled):
            self._pay(self._parameters.layout.by_name[name])

    def _hooks_of(self, owner: _Owner) -> tuple[Callable[..., Any], Callable[..., Any]]:
        if isinstance(owner.module, nn.Embedding) and owner.module.max_norm is None:
            return self._before_embedding(owner), self._after_embedding(owner)

        def before(module: nn.Module, args: Any) -> None:
            if self.terms or self._unsettled:
                with self._unwatched():
                    for attribute, spec in owner.weights:
                        self._swap_in(module, attribute, spec)
            self._allow(owner, True)

        def after(module: nn.Module, args: Any, output: Any) -> None:
            self._give_back(module)
            self._allow(owner, False)

        return before, after

    def _before_embedding(self, owner: _Owner) -> Callable[..., None]:
        def before(module: nn.Module, args: Any) -> None:
            with self._unwatched():
                self._pay(owner.weights[0][1])
            self._allow(owner, True)

        return before

    def _after_embedding(self, owner: _Owner) -> Callable[..., Any]:
        ((_, spec),) = owner.weights

        def after(module: nn.Module, args: Any, output: Tensor) -> Any:
            self._allow(owner, False)
            if output is None or self.displacer is None:
                return output
            with self._unwatched():
                rows, wide = args[0].reshape(-1), output.reshape(-1, spec.shape[-1])
                wide = wide if wide.dtype == torch.float64 else wide.float()
                for seed, coefficient in self.terms:
                    noise = self.displacer.law.rows(seed, spec, rows)
                    wide = wide + noise.to(wide.dtype).mul_(coefficient)
                return wide.to(output.dtype).view(output.shape)

        return after

    def _unwatched(self) -> AbstractContextManager[Any]:
        # A compiled kernel can't run under a dispatch mode, and what the hooks read is in order.
        return nullcontext() if self.guard is None else _disable_current_modes()

    def _allow(self, owner: _Owner, yes: bool) -> None:
        if self.guard is not None:
            raw = self._parameters.raw
            addresses = {raw[spec.name].untyped_storage().data_ptr() for _, spec in owner.weights}
            self.guard.allowed = self.guard.allowed | addresses if yes else self.guard.allowed - addresses

    def _swap_in(self, module: nn.Module, attribute: str, spec: TensorSpec) -> None:
        weight = self._parameters.raw[spec.name]
        if not self.terms:
            self._pay(spec)
            return
        assert self.displacer is not None
        if spec.numel < FUSE_FROM:
            self._pay(spec)
            replaced = self._small_displaced(weight, spec)
            pooled = None
        else:
            pooled = self._take_scratch(spec.numel, _scratch_dtype(module, attribute, weight))
            self._fill(pooled, weight, spec)
            replaced = pooled.view(weight.shape)
        self._held.setdefault(id(module), []).append((attribute, module._parameters[attribute], pooled))
        module._parameters[attribute] = replaced  # type: ignore[assignment]

    def _fill(self, scratch: Tensor, weight: Tensor, spec: TensorSpec) -> None:
        assert self.displacer is not None
        flat = self._parameters.flat_of(spec.name)
        owed = self._owed.single if self._owed is not None and spec.name in self._unsettled else None
        # An update of weight 0 leaves everything as it is; adding 0 z would turn -0.0 into 0.0.
        merges = owed is not None and owed[1][1] and len(self.terms) == 1 and owed[0] == self.displacer.law
        if owed and merges and flat.dtype == torch.float32 and weight.is_contiguous():
            assert self._owed is not None
            (old,) = self.displacer.terms([owed[1]])
            decay = self._owed.decay.get(spec.name, 1.0)
            with held_back():
                self._unsettled.discard(spec.name)
                self.displacer.update_and_displace(scratch, flat, spec, old, self.terms[0], decay)
            return
        self._pay(spec)
        self.displacer.displace(scratch, self._parameters.flat_of(spec.name), spec, self.terms)

    def _small_displaced(self, weight: Tensor, spec: TensorSpec) -> Tensor:
        assert self.displacer is not None
        wide = weight.reshape(-1) if weight.dtype == torch.float64 else weight.reshape(-1).float()
        for seed, coefficient in self.terms:
            if seed not in self._small_noise:
                self._small_noise[seed] = self.displacer.small_noise(seed, self._small, weight.device)
            wide = wide + self._small_noise[seed][spec.name].to(wide.dtype) * coefficient
        return wide.to(weight.dtype).view(weight.shape)

    def _pay(self, spec: TensorSpec) -> None:
        if spec.name in self._unsettled:
            assert self._owed is not None
            with held_back():
                self._unsettled.discard(spec.name)
                self._parameters.move(spec, self._owed)

    def _take_scratch(self, numel: int, dtype: torch.dtype) -> Tensor:
        pool = self._scratch.setdefault((numel, dtype), [])
        return pool.pop() if pool else torch.empty(numel, dtype=dtype, device=self._parameters.device)

    def _give_back(self, module: nn.Module) -> None:
        for attribute, original, pooled in self._held.pop(id(module), []):
            module._parameters[attribute] = original
            if pooled is not None:
                self._scratch[pooled.numel(), pooled.dtype].append(pooled)


def _owners(module: nn.Module, parameters: Parameters) -> list[_Owner]:
    """Every module that holds a tuned tensor itself; tied weights are found by identity."""
    names = {t.data_ptr(): name for name, t in parameters.raw.items()}
    specs = parameters.layout.by_name
    owners = []
    for part in module.modules():
        weights = [
            (attribute, specs[names[p.data_ptr()]])
            for attribute, p in part._parameters.items()
            if p is not None and names.get(p.data_ptr()) is not None
        ]
        if weights:
            owners.append(_Owner(part, weights))
    return owners


def _scratch_dtype(module: nn.Module, attribute: str, weight: Tensor) -> torch.dtype:
    """Under autocast a matrix product rounds its weights anyway, so the scratch may hold them rounded."""
    kind = weight.device.type
    if isinstance(module, _AUTOCAST_MODULES) and weight.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return weight.dtype
