"""One update of the parameters, and how it moves a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from blackbox.direction import CoordinateTerms, DenseTerm, Direction, SeedTerms
from blackbox.layout import TensorSpec
from blackbox.noise.base import Law
from blackbox.noise.fused import Term
from blackbox.noise.low_rank import low_rank_of
from blackbox.noise.rounding import add_stochastically
from blackbox.seeds import derive_seed

if TYPE_CHECKING:
    from blackbox.parameters import Parameters


HELD_SEEDS = 1024
"""Seeds that updates which wait add up to at most."""


@dataclass(frozen=True)
class Update:
    """theta <- decay * theta + direction.

    ``decay`` is by tensor name, 1 where absent; ``seed`` is for the stochastic rounding of half precision.
    """

    direction: Direction
    decay: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    @property
    def single(self) -> tuple[Law, Term] | None:
        """(law, (seed, weight)) if the direction is one seed and no more: what a pass can merge."""
        terms = self.direction.terms
        if len(terms) == 1 and isinstance(terms[0], SeedTerms) and len(terms[0].seeds) == 1:
            return terms[0].law, (int(terms[0].seeds[0]), float(terms[0].weights[0]))
        return None

    @cached_property
    def moving(self) -> tuple[list[Term], ...]:
        """(seed, weight) of the seeds that move something, by term of the direction; none of other kinds of terms."""
        return tuple(
            [pair for pair in zip(term.seeds.tolist(), term.weights.tolist(), strict=True) if pair[1] != 0.0]
            if isinstance(term, SeedTerms)
            else []
            for term in self.direction.terms
        )

    @property
    def kept(self) -> tuple[Law, int] | None:
        """(law, what is kept) if this is one sum of low-rank noise that shares a kept factor, and no decay."""
        terms = self.direction.terms
        if self.decay or len(terms) != 1 or not isinstance(terms[0], SeedTerms):
            return None
        low_rank, shared = low_rank_of(terms[0].law), set((terms[0].seeds >> 32).tolist())
        if low_rank is None or low_rank.core != "left" or low_rank.refresh is None or len(shared) != 1:
            return None
        return terms[0].law, shared.pop()


def added_up(first: Update, second: Update) -> Update | None:
    """Two updates by noise that shares a kept factor as one; None where they can't be."""
    if first.kept is None or first.kept != second.kept:
        return None
    (a,), (b,) = first.direction.terms, second.direction.terms
    assert isinstance(a, SeedTerms)
    assert isinstance(b, SeedTerms)
    if len(a.seeds) + len(b.seeds) > HELD_SEEDS:
        return None
    both = SeedTerms(a.law, np.concatenate([a.seeds, b.seeds]), np.concatenate([a.weights, b.weights]))
    return Update(Direction((both,)), seed=second.seed)


def merge(first: Update | None, second: Update) -> Update | None:
    """Two updates along one seed as one; None where they can't be: decay * (theta + a z) + b z."""
    if first is None or first.decay or first.single is None or second.single is None:
        return None
    (law, (seed, a)), (other_law, (other_seed, b)) = first.single, second.single
    factors = set(second.decay.values()) or {1.0}
    if law != other_law or seed != other_seed or factors != {1.0}:
        return None
    together = SeedTerms(law, np.array([seed]), np.array([a + b]))
    return Update(Direction((together,)), second.decay, second.seed)


def move_tensor(flat: Tensor, spec: TensorSpec, update: Update, parameters: Parameters) -> None:
    """Apply one update to one flat tensor in place: decay first, then the terms in order."""
    decay = update.decay.get(spec.name, 1.0)
    if flat.dtype == torch.bfloat16:
        seed = derive_seed(update.seed, "round")
        add_stochastically(flat, lambda part: _add(part, spec, update, parameters, decay), seed, spec)
    else:
        _add(flat, spec, update, parameters, decay)


def _add(flat: Tensor, spec: TensorSpec, update: Update, parameters: Parameters, decay: float) -> None:
    for term, moving in zip(update.direction.terms, update.moving, strict=True):
        match term:
            case SeedTerms():
                if not moving:
                    continue
                displacer = parameters.displacer(term.law)
                displacer.displace(flat, flat, spec, displacer.terms(moving), decay)
            case CoordinateTerms() if term.tensor == spec.name:
                index = torch.from_numpy(term.indices).to(flat.device)
                _decay(flat, decay).index_add_(0, index, torch.from_numpy(term.weights).to(flat))
            case DenseTerm() if term.tensor == spec.name:
                _decay(flat, decay).add_(term.values.reshape(-1).to(flat), alpha=term.scale)
            case _:
                continue
        decay = 1.0
    _decay(flat, decay)


def _decay(flat: Tensor, decay: float) -> Tensor:
    return flat if decay == 1.0 else flat.mul_(decay)
