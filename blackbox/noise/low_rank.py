"""Low-rank noise: in a matrix z = L R^T of rank r, so that it costs r (m + n) random numbers instead of m n.

    core      z of a matrix [m, n]             drawn with every seed    kept with R          of
    left      U V^T / sqrt(r)                  U (and V)                V                    LOZO (arXiv:2410.07698),
                                                                                             EGGROLL (arXiv:2511.16652)
    full      sqrt(m n)/r  Q_U S Q_V^T         S [r, r]                 Q_U, Q_V orthonormal SubZero (arXiv:2410.08989)
    diagonal  U diag(t) V^T / sqrt(r)          t [r]                    U, V                 TeZO

U, V, S and t hold independent elements of the law ``over`` the factors, of mean 0 and variance 1; tensors that aren't
matrices get that law itself. Averaged over everything that is drawn E z z^T = I. Given what is kept it isn't: with V
it is I x V V^T/r, a subspace, which is why what is kept must be renewed.

What is kept for ``refresh`` steps is a function of the upper half of the seed, which ``of_round`` sets: a direction
is still its seeds and weights, and whoever has those rebuilds both factors. Without ``refresh`` each seed has its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.layout import Layout, TensorSpec
from blackbox.noise.base import Law, draw_together
from blackbox.noise.gaussian import Gaussian
from blackbox.noise.rademacher import Rademacher
from blackbox.seeds import sharing_seeds

Core = Literal["left", "full", "diagonal"]


@dataclass(frozen=True)
class LowRank(Law):
    """Products of thin factors in matrices, another law elsewhere.

    Args:
        rank: r; in a matrix with fewer rows or columns it is their number.
        over: the law of the factors and of tensors that aren't matrices, rademacher or gaussian; by default rademacher
            for ``left``, gaussian for the others (r signs have only 2^r values).
        refresh: steps for which one factor (or, of ``full`` and ``diagonal``, the subspace) is kept, for all probes
            of a step alike; left out, every seed has its own.
        core: what is drawn anew with every seed.
    """

    rank: int = 1
    over: Law | None = None
    refresh: int | None = None
    core: Core = "left"

    tag: ClassVar[str] = "low_rank/1"
    grouped: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"rank must be at least 1, not {self.rank}.")
        if self.refresh is not None and self.refresh < 1:
            raise UserError(f"refresh is a number of steps, at least 1, not {self.refresh}; leave it out for none.")
        if self.core not in ("left", "full", "diagonal"):
            raise UserError(f"core is left, full or diagonal, not {self.core!r}.")
        if self.core != "left" and self.refresh is None:
            raise UserError(f"core: {self.core} draws within a subspace that is kept; say for how many steps: refresh.")
        if self.over is None:
            object.__setattr__(self, "over", Rademacher() if self.core == "left" else Gaussian())
        if not isinstance(self.over, Rademacher | Gaussian) or type(self.over).scale is not Law.scale:
            raise UserError(
                f"The factors of low-rank noise are rademacher or gaussian, not {type(self.over).__name__}."
            )

    def groups(self, key: Tensor, low: Tensor, high: int = 0) -> Tensor:
        """The law of the factors (a group does not know its tensor); ``sample`` and ``rows`` are overridden."""
        return self.inner.groups(key, low, high)

    def of_round(self, seeds: Sequence[int], run_seed: int, step: int) -> tuple[int, ...]:
        """Seeds whose upper half names what is kept in this step."""
        return tuple(seeds) if self.refresh is None else sharing_seeds(seeds, run_seed, "subspace", step, self.refresh)

    @property
    def inner(self) -> Law:
        """The law of the factors."""
        assert self.over is not None
        return self.over

    def plain(self, seed: int, specs: Sequence[TensorSpec], device: torch.device | str) -> dict[str, Tensor]:
        """Noise of tensors that are no matrices, by one hash call: float32 [numel] by name."""
        return draw_together(self.inner, seed, specs, device)

    def is_factored(self, spec: TensorSpec) -> bool:
        """Whether the tensor is a matrix."""
        return len(spec.shape) == 2

    def factors(self, seeds: Sequence[int], spec: TensorSpec, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        """L and R with z = L R^T for several seeds: float32 [k, m, r] and [k, n, r]."""
        needed: dict[TensorSpec, list[int]] = {}
        for seed, part in self.drawn(seeds, spec):
            needed.setdefault(part, []).append(seed)
        drawn: dict[tuple[int, str], Tensor] = {}
        for part, some in needed.items():
            noise = self.inner.sample(some, part, 0, part.numel, device).view(-1, *part.shape)
            drawn |= {(seed, part.name): one for seed, one in zip(some, noise, strict=True)}
        return self.composed(drawn, seeds, spec, device)

    def coefficients(self, seeds: Sequence[int], spec: TensorSpec, device: torch.device | str = "cpu") -> Tensor:
        """t of several seeds, float32 [k, r]; only with ``core: diagonal``."""
        core = _diagonal(_parts(spec, self._rank(spec))[0])
        return self.inner.sample(seeds, core, 0, core.numel, device)

    def bases(self, seed: int, spec: TensorSpec, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """A and B with z = A diag(t) B^T, [m, r] and [n, r]; only with ``core: diagonal``."""
        kept, rank = self._kept(seed), self._rank(spec)
        left, right = (
            self.inner.sample((kept,), part, 0, part.numel, device)[0].view(part.shape)
            for part in _parts(spec, rank)[1:]
        )
        return left * rank**-0.5, right

    def drawn(self, seeds: Sequence[int], spec: TensorSpec) -> list[tuple[int, TensorSpec]]:
        """What ``composed`` needs of the inner law, as (seed, tensor) without repeats."""
        parts = _parts(spec, self._rank(spec))
        needed = [(seed, parts[0]) for seed in seeds]
        if self.core == "left":
            needed = [(seed, parts[1]) for seed in seeds] + [(self._kept(seed), parts[2]) for seed in seeds]
        elif self.core == "diagonal":
            needed = [(seed, _diagonal(parts[0])) for seed in seeds]
            needed += [(self._kept(seed), part) for part in parts[1:] for seed in seeds]
        return list(dict.fromkeys(needed))

    def composed(
        self, drawn: dict[tuple[int, str], Tensor], seeds: Sequence[int], spec: TensorSpec, device: torch.device | str
    ) -> tuple[Tensor, Tensor]:
        """As ``factors``, from what ``drawn`` says is needed."""
        rank = self._rank(spec)
        core, left, right = _parts(spec, rank)
        lefts, rights = [], []
        for seed in seeds:
            kept = self._kept(seed)
            match self.core:
                case "left":
                    lefts.append(drawn[seed, left.name] if rank == 1 else drawn[seed, left.name] * rank**-0.5)
                    rights.append(drawn[kept, right.name])
                case "diagonal":
                    tau = drawn[seed, core.name].view(1, -1)
                    lefts.append(drawn[kept, left.name] * tau * rank**-0.5)
                    rights.append(drawn[kept, right.name])
                case _:
                    bases = [_orthonormal(kept, part).to(device) for part in (left, right)]
                    scale = math.sqrt(spec.numel) / rank
                    lefts.append(_product(bases[0], drawn[seed, core.name].t().contiguous()) * scale)
                    rights.append(bases[1])
        if len(seeds) == 1:  # not copied
            return lefts[0][None], rights[0][None]
        return torch.stack(lefts), torch.stack(rights)

    def sample(
        self, seeds: Sequence[int], spec: TensorSpec, start: int, stop: int, device: torch.device | str = "cpu"
    ) -> Tensor:
        """As in the base; of a matrix the rows that the slice touches are multiplied out."""
        if not self.is_factored(spec):
            return self.inner.sample(seeds, spec, start, stop, device)
        width = spec.shape[1]
        if start >= stop:
            return torch.empty(len(seeds), 0, device=device)
        first, last = start // width, -(-stop // width)
        left, right = self.factors(seeds, spec, device)
        rows = _product(left[:, first:last], right).view(len(seeds), -1)
        return rows[:, start - first * width : stop - first * width]

    def rows(self, seed: int, spec: TensorSpec, rows: Tensor) -> Tensor:
        """As in the base."""
        if not self.is_factored(spec):
            return self.inner.rows(seed, spec, rows)
        left, right = self.factors((seed,), spec, rows.device)
        return _product(left[0, rows], right[0])

    def _rank(self, spec: TensorSpec) -> int:
        return min(self.rank, *spec.shape)

    def _kept(self, seed: int) -> int:
        return seed if self.refresh is None else seed >> 32


def low_rank_of(law: Law) -> LowRank | None:
    """The low-rank law that a law is, or scales by tensor (``Law.factor`` is still to be applied); else None."""
    inner = getattr(law, "over", None) if type(law).factor is not Law.factor else law
    return inner if isinstance(inner, LowRank) else None


@dataclass(frozen=True)
class _Drawn:
    law: LowRank
    device: torch.device
    seeds: frozenset[int]
    elements: dict[tuple[int, str], Tensor]
    composed: dict[tuple[int, str], tuple[Tensor, Tensor]] = field(default_factory=dict)


class FactorNoise:
    """The elements that the factors of a layout's matrices are made of, for the seeds in use.

    Those are of two sets: a layer's step is taken just before it is probed anew.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._held: list[_Drawn] = []

    def of(self, law: LowRank, seeds: Sequence[int], spec: TensorSpec, device: torch.device) -> tuple[Tensor, Tensor]:
        """As ``LowRank.factors``; what seeds out of use need is drawn for all matrices."""
        wanted = tuple(seeds)
        held = next((h for h in self._held if h.law == law and h.device == device and h.seeds.issuperset(wanted)), None)
        if held is None:
            held = _Drawn(law, device, frozenset(wanted), self._draw(law, seeds, device))
            self._held = [held, *self._held[:1]]
        if len(wanted) > 1:  # copies of what was drawn
            return law.composed(held.elements, wanted, spec, device)
        key = (wanted[0], spec.name)
        if key not in held.composed:
            held.composed[key] = law.composed(held.elements, wanted, spec, device)
        return held.composed[key]

    def _draw(self, law: LowRank, seeds: Sequence[int], device: torch.device) -> dict[tuple[int, str], Tensor]:
        before: dict[tuple[int, str], Tensor] = {}
        for held in self._held:
            before |= held.elements if (held.law, held.device) == (law, device) else {}
        found: dict[tuple[int, str], Tensor] = {}
        missing: dict[int, list[TensorSpec]] = {}
        for spec in self.layout.specs:
            for seed, part in law.drawn(seeds, spec) if law.is_factored(spec) else ():
                if (seed, part.name) in before:
                    found[seed, part.name] = before[seed, part.name]
                else:
                    missing.setdefault(seed, []).append(part)
        for seed, parts in missing.items():
            noise = draw_together(law.inner, seed, parts, device)
            found |= {(seed, part.name): noise[part.name].view(part.shape) for part in parts}
        return found


@lru_cache(maxsize=4096)
def _parts(spec: TensorSpec, rank: int) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
    """Core [r, r], left [m, r] and right [n, r] as tensors of their own, named after theirs."""
    shapes = {"core": (rank, rank), "left": (spec.shape[0], rank), "right": (spec.shape[1], rank)}
    core, left, right = (TensorSpec(f"{spec.name}/{n}", s, 0, math.prod(s)) for n, s in shapes.items())
    return core, left, right


def _diagonal(core: TensorSpec) -> TensorSpec:
    return TensorSpec(core.name, (core.shape[0],), 0, core.shape[0])


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right^T, [..., m, r] and [..., n, r], element by element: a slice has the bits of the whole."""
    total = left[..., :, None, 0] * right[..., None, :, 0]
    for k in range(1, left.shape[-1]):
        total = total + left[..., :, None, k] * right[..., None, :, k]
    return total


@lru_cache(maxsize=512)
def _orthonormal(seed: int, part: TensorSpec) -> Tensor:
    """An orthonormal basis [m, r], uniform: QR of Gaussians in float64, on the CPU whatever the device."""
    drawn = Gaussian().sample((seed,), part, 0, part.numel)[0].view(part.shape).double()
    basis, triangle = torch.linalg.qr(drawn)
    uniform: Tensor = basis * triangle.diagonal().sign()
    return uniform.float()
