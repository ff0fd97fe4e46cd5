"""Forwards whose low-rank noise stays in factors: what the low-rank execution puts around the modules.

With W + c L R^T a linear layer computes x W^T + c (x R) L^T: the product with W itself, and r columns more. An
embedding adds c L[token] R^T to the rows it looks up, so a weight that is tied to the output layer is displaced alike
in both places. No weight is written, copied or even read twice. Whatever else owns tuned tensors (norms,
convolutions) is displaced as ``displaced`` says.

Inputs may hold several copies of a batch, one after the other, each to be computed with noise of its own: the product
with W is then made once for all of them. Steps may be held in factors too, see ``held``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from blackbox.execution.displaced import Displaced, Forward, NotStackable, Owner, Scratch
from blackbox.execution.held import Held
from blackbox.layout import TensorSpec
from blackbox.noise.fused import FUSE_FROM, Term
from blackbox.noise.low_rank import low_rank_of
from blackbox.noise.thin import project, spread
from blackbox.parameters import Parameters


class Factored(Displaced):
    """Wraps the forwards of a module's parts while it is ``installed``; under other laws as its base.

    Attributes:
        copies: terms of each copy of the batch that the inputs hold; None is one copy, with ``terms``.
        held: sums of the pending update, which is computed with and not carried out; None carries it out.
    """

    def __init__(
        self, owners: Sequence[Owner], parameters: Parameters, scratch: Scratch, held: Held | None = None
    ) -> None:
        pending = parameters.pending
        if held is not None:
            parameters.pending = None  # the base takes what is pending, to carry it out
        super().__init__(owners, parameters, scratch)
        if held is not None:
            parameters.pending = pending
        self.copies: list[list[Term]] | None = None
        self.held = held
        self._made: tuple[Any, Tensor] | None = None  # the last coefficients, and what they are of

    def _wrapped(self, owner: Owner, forward: Forward) -> Forward:
        module, single = owner.module, super()._wrapped(owner, forward)

        def any_module(*args: Any, **kwargs: Any) -> Any:
            return single(*args, **kwargs) if self.copies is None else self._in_copies(single, args, kwargs)

        def norm(x: Tensor) -> Any:
            return single(x) if self.copies is None else self._norm_in_copies(owner, forward, x)

        def linear(input: Tensor) -> Tensor:
            found: Tensor = self._linear_factored(owner, input) if self._in_factors else any_module(input)
            return found

        def embedding(input: Tensor) -> Tensor:
            found: Tensor = self._embedding_factored(owner, forward, input) if self._in_factors else any_module(input)
            return found

        if type(module) is nn.Linear and "forward" not in module.__dict__:
            return linear
        if type(module) is nn.Embedding and module.max_norm is None:
            return embedding
        if type(module).__name__.endswith("RMSNorm") and [name for name, _ in owner.weights] == ["weight"]:
            return norm
        return any_module

    @property
    def _terms(self) -> list[list[Term]]:
        return [self.terms] if self.copies is None else self.copies

    @property
    def _in_factors(self) -> bool:
        if self.held is not None:
            return True
        return self.displacer is not None and low_rank_of(self.displacer.law) is not None and any(self._terms)

    def _linear_factored(self, owner: Owner, x: Tensor) -> Tensor:
        module, tuned = owner.module, dict(owner.weights)
        self._pay_all(owner)
        weight: Tensor = module.weight  # type: ignore[assignment]
        bias: Tensor | None = module.bias  # type: ignore[assignment]
        kind = x.device.type
        if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(kind))
        if "weight" not in tuned:
            self._allow(owner, True)
            y = nn.functional.linear(x, weight, None if "bias" in tuned else bias)
            self._allow(owner, False)
            parts = _by_copy(y, len(self._terms))
        else:
            # The columns first and the product added to them: the other way round the columns take one more pass.
            with self._unwatched():
                parts = self._columns(_by_copy(x, len(self._terms)), tuned["weight"])
                if bias is not None and "bias" not in tuned:
                    parts += bias.to(x.dtype)
            self._allow(owner, True)
            parts.view(-1, len(weight)).addmm_(x.reshape(-1, x.shape[-1]), weight.to(x.dtype).t())
            self._allow(owner, False)
        with self._unwatched():
            if "bias" in tuned:
                raw = self._parameters.raw[tuned["bias"].name]
                if self.held is not None:
                    raw = self._weight(tuned["bias"])
                biases = [self._small_displaced(raw, tuned["bias"], terms) for terms in self._terms]
                parts = parts + torch.stack(biases)[:, None].to(x.dtype)
        return parts.view(*x.shape[:-1], -1)

    def _embedding_factored(self, owner: Owner, forward: Forward, tokens: Tensor) -> Tensor:
        ((_, spec),) = owner.weights
        self._pay_all(owner)
        self._allow(owner, True)
        y: Tensor = forward(tokens)
        self._allow(owner, False)
        count = len(self._terms)
        parts, ids = _by_copy(y, count), _by_copy(tokens[..., None], count)[..., 0]
        with self._unwatched():
            wide = torch.float64 if y.dtype == torch.float64 else torch.float32
            if self.held is not None:
                left = self._held_left(spec, wide, self.held)
                right = self.held.right(spec, self._parameters).to(wide).expand(count, -1, -1)
            else:
                left, right = self._factors(spec, wide)
            rows = left[torch.arange(count, device=ids.device)[:, None], ids]
            return (parts + torch.bmm(rows, right.mT)).to(y.dtype).view(y.shape)

    def _columns(self, x: Tensor, spec: TensorSpec) -> Tensor:
        """c (x R) L^T, each copy with its own c, R and L: [copies, rows, n] -> [copies, rows, m]."""
        if self.held is not None:
            return self._held_columns(x, spec, self.held)
        seeds = [[seed for seed, _ in terms] for terms in self._terms]
        length = _equal_runs(seeds)
        if not length:
            left, right = self._factors(spec, x.dtype)
            return spread(project(x, right), left)
        # A pair, say: two products rather than two for each copy.
        assert self.displacer is not None
        runs, width = seeds[::length], len(seeds[0])
        left, right = (
            _side_by_side(factor.to(x.dtype), width)
            for factor in self.displacer.factors([seed for run in runs for seed in run], spec, x.device)
        )
        u = project(x.reshape(len(runs), -1, x.shape[-1]), right).view(*x.shape[:2], -1)
        u = u * self._coefficients(u.shape[-1] // width, x)
        return spread(u.view(len(runs), -1, u.shape[-1]), left).view(*x.shape[:2], -1)

    def _coefficients(self, rank: int, x: Tensor) -> Tensor:
        """c of each copy's terms, each for so many columns: [copies, 1, terms * rank], as x is."""
        key = (tuple(tuple(c for _, c in terms) for terms in self._terms), rank, x.dtype)
        if self._made is None or self._made[0] != key:
            made = torch.tensor(key[0], dtype=x.dtype, device=x.device)[:, None].repeat_interleave(rank, 2)
            self._made = key, made
        return self._made[1]

    def _held_columns(self, x: Tensor, spec: TensorSpec, held: Held) -> Tensor:
        """(x R) (S + c L)^T: all share R."""
        projected = project(x, held.right(spec, self._parameters).to(x.dtype)[None])
        one, *others = [[seed for seed, _ in terms] for terms in self._terms]
        if len(one) != 1 or any(seeds != one for seeds in others):
            return spread(projected, self._held_left(spec, x.dtype, held))
        assert self.displacer is not None  # a pair: S and L side by side
        left = self.displacer.factors(one, spec, x.device)[0][0]
        scaled = projected * self._coefficients(1, x)
        both = torch.cat([held.left(spec), left], 1).to(x.dtype)
        return spread(torch.cat([projected, scaled], 2), both[None])

    def _held_left(self, spec: TensorSpec, dtype: torch.dtype, held: Held) -> Tensor:
        """S + c L of each copy, [copies, m, r]."""
        total = held.left(spec).to(dtype).expand(len(self._terms), -1, -1).clone()
        for into, terms in zip(total, self._terms, strict=True):
            for seed, c in terms:
                assert self.displacer is not None
                into.add_(self.displacer.factors([seed], spec, into.device)[0][0].to(dtype), alpha=c)
        return total

    def _is_theta(self) -> bool:
        return self.held is None and super()._is_theta()

    def _small_displaced(self, weight: Tensor, spec: TensorSpec, terms: Sequence[Term]) -> Tensor:
        return super()._small_displaced(weight, spec, terms) if terms else weight

    def _weight(self, spec: TensorSpec) -> Tensor:
        return super()._weight(spec) if self.held is None else self.held.theta(spec, self._parameters)

    def _flat(self, spec: TensorSpec) -> Tensor:
        return super()._flat(spec) if self.held is None else self._weight(spec).reshape(-1)

    def _displaced(self, module: nn.Module, spec: TensorSpec) -> tuple[Tensor | None, Tensor | None]:
        if self.held is None or self.terms:
            return super()._displaced(module, spec)
        return self._weight(spec), None

    def _factors(self, spec: TensorSpec, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """c L [copies, m, R] and R [copies, n, R] of one matrix, side by side where a copy has several terms."""
        assert self.displacer is not None
        some = next(terms[0][0] for terms in self._terms if terms)
        width = max(len(terms) for terms in self._terms)
        padded = [[*terms, *[(some, 0.0)] * (width - len(terms))] for terms in self._terms]
        device = self._parameters.raw[spec.name].device
        left, right = self.displacer.factors([seed for terms in padded for seed, _ in terms], spec, device)
        weights = torch.tensor([c for terms in padded for _, c in terms], dtype=dtype, device=device)
        left = left.to(dtype) * weights[:, None, None]
        return _side_by_side(left, width), _side_by_side(right.to(dtype), width)

    def _in_copies(self, single: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Any module: each copy on its own."""
        assert self.copies is not None
        copies, outputs, count = self.copies, [], len(self.copies)
        self.copies = None  # what runs inside has one copy's rows
        try:
            for number, terms in enumerate(copies):
                self.terms = terms
                some = [_pick(value, number, count) for value in args]
                outputs.append(single(*some, **{key: _pick(value, number, count) for key, value in kwargs.items()}))
        finally:
            self.terms, self.copies = [], copies
        if not all(isinstance(output, Tensor) for output in outputs):
            raise NotStackable
        return torch.cat(outputs)

    def _norm_in_copies(self, owner: Owner, forward: Forward, x: Tensor) -> Any:
        """A norm that ends in a product with its weight [width]: one call, with the weight of each row's copy."""
        assert self.copies is not None
        ((_, spec),) = owner.weights
        if x.ndim < 2 or len(x) % len(self.copies) or spec.numel >= FUSE_FROM:
            raise NotStackable
        self._pay_all(owner)
        with self._unwatched():
            theta = self._weight(spec)
            each = torch.stack([self._small_displaced(theta, spec, terms) for terms in self.copies])
            weight = each.repeat_interleave(len(x) // len(each), 0).view(len(x), *[1] * (x.ndim - 2), -1)
        slots: dict[str, Any] = owner.module._parameters
        original = slots["weight"]
        try:
            slots["weight"] = weight
            return forward(x)
        finally:
            slots["weight"] = original

    def _pay_all(self, owner: Owner) -> None:
        with self._unwatched():
            for _, spec in owner.weights:
                self._pay(spec)


def _equal_runs(seeds: list[list[int]]) -> int:
    """The length of runs of copies with the same seeds, if all runs are as long and all copies have as many; else 0."""
    first = seeds[0]
    length = next((i for i, some in enumerate(seeds) if some != first), len(seeds))
    even = len(seeds) % length == 0 and all(some == seeds[i - i % length] for i, some in enumerate(seeds))
    return length if first and even and all(len(some) == len(first) for some in seeds) else 0


def _by_copy(value: Tensor, count: int) -> Tensor:
    """[rows, ..., width] -> [count, rows ... / count, width]."""
    if count > 1 and (value.ndim < 2 or value.shape[0] % count):
        raise NotStackable
    return value.reshape(count, -1, value.shape[-1])


def _side_by_side(factor: Tensor, width: int) -> Tensor:
    """[copies * width, n, r] -> [copies, n, width * r]."""
    if width == 1:
        return factor
    _, n, r = factor.shape
    return factor.view(-1, width, n, r).transpose(1, 2).reshape(-1, n, width * r)


def _pick(value: Any, number: int, count: int) -> Any:
    """One copy's part of a batched tensor; what is shared by all rows (or is no tensor) as it is."""
    if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] == 1:
        return value
    if value.shape[0] % count:
        raise NotStackable
    rows = value.shape[0] // count
    return value[number * rows : (number + 1) * rows]
