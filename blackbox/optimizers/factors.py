"""What optimizers in the space of low-rank noise's factors share: estimates taken apart, tensors moved one by one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blackbox.direction import SeedTerms, dense
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Round
from blackbox.interrupt import held_back
from blackbox.layout import TensorSpec
from blackbox.noise.base import Law
from blackbox.noise.low_rank import Core, LowRank, low_rank_of
from blackbox.optimizers.base import Optimizer
from blackbox.parameters import Parameters, Update

Terms = tuple[Law, LowRank, list[int], list[float]]
"""The law, the low-rank law that it is (or scales by tensor), seeds and weights."""


def low_rank_terms(estimate: Estimate, core: Core, optimizer: str) -> Terms | None:
    """The one sum of low-rank seeds that an estimate is, None if it is nothing; UserError if it is anything else."""
    terms = estimate.direction.terms
    if not terms:
        return None
    (first, *others) = terms
    law = low_rank_of(first.law) if isinstance(first, SeedTerms) else None
    if others or law is None or law.core != core or law.refresh is None:
        raise UserError(
            f"optimizer: {optimizer} works on the factors of one low-rank noise with `core: {core}` and `refresh`, and "
            "the estimate is along something else. Use that noise, and no variance reduction by snapshots; or another "
            "optimizer."
        )
    assert isinstance(first, SeedTerms)
    return first.law, law, first.seeds.tolist(), first.weights.tolist()


def factors_of(terms: Terms, spec: TensorSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """L of each seed [k, m, r] (with the law's factor for the tensor), and R that all of them share [n, r]."""
    law, low_rank, seeds, _ = terms
    left, right = low_rank.factors(seeds, spec, device)
    return left * law.factor(spec), right[0]


def plain_gradient(terms: Terms, spec: TensorSpec, device: torch.device) -> Tensor:
    """The estimate in a tensor that is no matrix, of its shape."""
    law, _, seeds, weights = terms
    noise = law.sample(seeds, spec, 0, spec.numel, device).double()
    return (torch.tensor(weights, dtype=torch.float64, device=device) @ noise).float().view(spec.shape)


def weighted(weights: list[float], values: Tensor) -> Tensor:
    """sum_i weights[i] values[i]."""
    return torch.einsum("k,k...->...", torch.tensor(weights, dtype=values.dtype, device=values.device), values)


@torch.no_grad()
def move_by(
    optimizer: Optimizer, change: Callable[[TensorSpec], Tensor], lr: float, round: Round, parameters: Parameters
) -> None:
    """theta <- (1 - lr wd) theta - lr change(theta's tensor), one tensor after the other: no more than one is dense."""
    seed = round.seed("round") if parameters.rounds else 0
    with held_back():
        parameters.settle()
        for spec in parameters.layout.specs:
            decay = {spec.name: 1.0 - lr * optimizer.weight_decay} if optimizer.decays(spec.name) else {}
            parameters.move(spec, Update(dense(spec.name, change(spec)) * -lr, decay, seed))
        parameters.version += 1
