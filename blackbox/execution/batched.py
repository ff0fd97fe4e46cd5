"""Batched evaluation: all candidates of a round as one matrix [n, d], or a small module under vmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.execution.base import Execution, Outcome
from blackbox.noise.base import Law
from blackbox.objective import ModuleObjective, Objective, VectorObjective
from blackbox.parameters import Parameters
from blackbox.probe import CURRENT, DenseCandidate, Payload, Probe, Query


def materialise(queries: Sequence[Query], parameters: Parameters) -> Tensor:
    """The queries' candidates as rows [n, d]: float64 if the parameters are, else float32.

    Noise is drawn once per distinct seed, in one batch. Raises UserError for a payload.
    """
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in parameters.raw.values()) else torch.float32
    bases = {name: _flat(parameters, name) for name in dict.fromkeys(q.base for q in queries)}
    if len(bases) == 1:
        base = bases[queries[0].base].to(dtype)
        out = base.expand(len(queries), -1).clone()
    else:
        out = torch.stack([bases[q.base] for q in queries]).to(dtype)
    laws: dict[Law, list[int]] = {}
    for row, query in enumerate(queries):
        candidate = query.candidate
        if isinstance(candidate, Probe):
            laws.setdefault(candidate.law, []).append(row)
        elif isinstance(candidate, DenseCandidate):
            out[row] = torch.from_numpy(candidate.values).to(out)
        elif isinstance(candidate, Payload):
            raise UserError(f"Query {query.id} is a structured payload; it has no coordinates.")
    for law, rows in laws.items():
        _displace(out, rows, law, [queries[row].candidate for row in rows], parameters)
    return out


def _flat(parameters: Parameters, base: str) -> Tensor:
    tensors = parameters.tensors if base == CURRENT else parameters.anchor(base)
    return torch.cat([t.reshape(-1) for t in tensors.values()]) if len(tensors) > 1 else next(
        iter(tensors.values())
    ).reshape(-1)


def _displace(
    out: Tensor, rows: list[int], law: Law, probes: Sequence[Any], parameters: Parameters
) -> None:
    """out[rows] += coefficients @ noise; each distinct seed's noise is drawn once."""
    seeds = list(dict.fromkeys(seed for probe in probes for seed, _ in probe.terms))
    scale = [law.scale(seed, parameters.layout) for seed in seeds]
    single = all(len(probe.terms) == 1 for probe in probes)
    place = {seed: i for i, seed in enumerate(seeds)}
    for spec in parameters.layout.specs:
        noise = law.sample(seeds, spec, 0, spec.numel, out.device).to(out.dtype)
        part = out[:, spec.offset : spec.offset + spec.numel]
        if single:
            pick = [place[probe.terms[0][0]] for probe in probes]
            c = torch.tensor(
                [probe.terms[0][1] * scale[i] for probe, i in zip(probes, pick, strict=True)],
                dtype=out.dtype,
                device=out.device,
            )
            index = torch.tensor(pick, device=out.device)
            if len(rows) == len(out):
                part.addcmul_(noise[index], c[:, None])
            else:
                part[torch.tensor(rows, device=out.device)] += noise[index] * c[:, None]
        else:
            matrix = np.zeros((len(rows), len(seeds)))
            for row, probe in enumerate(probes):
                for seed, coefficient in probe.terms:
                    matrix[row, place[seed]] += coefficient * scale[place[seed]]
            part[torch.tensor(rows, device=out.device)] += torch.from_numpy(matrix).to(out) @ noise


class Batched(Execution):
    """One call of the objective over all candidates that share a context.

    Args:
        chunk: candidates a call at most; None for all. Part of the journal's header, as it can change bits.
    """

    def __init__(self, chunk: int | None = None) -> None:
        if chunk is not None and chunk < 1:
            raise UserError(f"chunk must be at least 1, not {chunk}.")
        self.chunk = chunk

    def evaluate(
        self, objective: Objective, queries: Sequence[Query], parameters: Parameters
    ) -> list[Outcome]:
        """As the base says; if a whole batch raises, its candidates are tried one by one."""
        call = self._call(objective, parameters)
        outcomes: list[Outcome] = []
        for context, same in groupby(queries, key=lambda q: q.context):
            group = list(same)
            size = self.chunk or len(group)
            for start in range(0, len(group), size):
                part = group[start : start + size]
                candidates = materialise(part, parameters)
                outcomes += _guarded(lambda x, c=context: call(x, c), candidates)  # type: ignore[misc]
        return outcomes

    def settings(self) -> dict[str, Any]:
        """The chunk size."""
        return super().settings() | {"chunk": self.chunk}

    def _call(self, objective: Objective, parameters: Parameters) -> Callable[[Tensor, Any], Tensor]:
        if not isinstance(objective, ModuleObjective):
            return objective
        values_of = getattr(objective, "values_of", None)
        if values_of is None:
            raise UserError(
                f"{type(objective).__name__} has no `values_of(call, context)`, so its module cannot be evaluated "
                "as a batch of weights. Use the write-free or the in-place execution."
            )
        return _vmapped(objective, parameters)


def _vmapped(objective: Any, parameters: Parameters) -> Callable[[Tensor, Any], Tensor]:
    specs, module = parameters.layout.specs, objective.module

    def at(vector: Tensor, context: Any) -> Tensor:
        weights = {s.name: vector[s.offset : s.offset + s.numel].view(s.shape) for s in specs}
        values: Tensor = objective.values_of(
            lambda *args, **kwargs: torch.func.functional_call(module, weights, args, kwargs), context
        )
        return values

    return lambda x, context: torch.func.vmap(lambda v: at(v, context), randomness="same")(x)


@torch.no_grad()
def _guarded(call: Callable[[Tensor], Tensor], candidates: Tensor) -> list[Outcome]:
    try:
        values = call(candidates)
    except Exception as error:
        if len(candidates) == 1:
            return [error]
        return [outcome for row in candidates for outcome in _guarded(call, row[None])]
    if values.ndim == 0 or len(values) != len(candidates):
        shape = list(values.shape)
        return [ValueError(f"the objective gave shape {shape} for {len(candidates)} candidates")] * len(candidates)
    return list(values)


__all__ = ["Batched", "VectorObjective", "materialise"]
