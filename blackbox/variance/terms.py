"""Sums of directions in bounded memory, as vectors, and as saved state.

A direction that is carried from step to step is kept as seeds while it has no more seeds than there are elements, and
dense (float64, on the CPU) from then on: never more numbers than about twice the elements. Neither form is an
approximation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blackbox.direction import CoordinateTerms, DenseTerm, Direction, SeedTerms, Term
from blackbox.estimators.base import Estimator
from blackbox.layout import Layout
from blackbox.noise import Law
from blackbox.parameters import Parameters


def merged(direction: Direction) -> Direction:
    """The same direction with one term for each law and tensor: weights of equal seeds or elements are added up."""
    seeds: dict[Law, list[SeedTerms]] = {}
    coordinates: dict[str, list[CoordinateTerms]] = {}
    whole: dict[str, list[DenseTerm]] = {}
    for term in direction.terms:
        match term:
            case SeedTerms():
                seeds.setdefault(term.law, []).append(term)
            case CoordinateTerms():
                coordinates.setdefault(term.tensor, []).append(term)
            case DenseTerm():
                whole.setdefault(term.tensor, []).append(term)
    terms: list[Term] = [SeedTerms(law, *_added((t.seeds, t.weights) for t in ts)) for law, ts in seeds.items()]
    terms += [CoordinateTerms(n, *_added((t.indices, t.weights) for t in ts)) for n, ts in coordinates.items()]
    terms += [DenseTerm(name, torch.stack([t.values * t.scale for t in ts]).sum(0)) for name, ts in whole.items()]
    return Direction(tuple(terms))


def bounded(direction: Direction, layout: Layout, laws: Sequence[Law]) -> Direction:
    """The same direction in whichever form is smaller; dense, too, if a law isn't among those that can be saved."""
    one = merged(direction)
    terms = [_without_zeros(term) for term in one.terms]
    count = sum(len(term.seeds) for term in terms if isinstance(term, SeedTerms))
    if count > layout.dimension or any(isinstance(t, SeedTerms) and t.law not in laws for t in terms):
        return from_vector(vector(one, layout), layout)
    return Direction(tuple(terms))


def vector(direction: Direction, layout: Layout) -> Tensor:
    """A direction made dense: float64 [d], on the CPU."""
    zeros = {spec.name: torch.zeros(spec.shape, dtype=torch.float64) for spec in layout.specs}
    scratch = Parameters(zeros, fused=False)
    scratch.apply(direction)
    return scratch.flat()


def from_vector(values: Tensor, layout: Layout) -> Direction:
    """The direction with these elements, [d]."""
    parts = {s.name: values[s.offset : s.offset + s.numel].view(s.shape).clone() for s in layout.specs}
    return Direction(tuple(DenseTerm(name, part) for name, part in parts.items()))


def laws_of(estimator: Estimator) -> Iterator[Law]:
    """The laws that an estimator, and those inside it, hold as attributes, in a fixed order."""
    for value in vars(estimator).values():
        if isinstance(value, Law):
            yield value
        elif isinstance(value, Estimator):
            yield from laws_of(value)


def to_state(direction: Direction, laws: Sequence[Law]) -> list[dict[str, Any]]:
    """A bounded direction as JSON values and tensors."""
    state: list[dict[str, Any]] = []
    for term in direction.terms:
        match term:
            case SeedTerms(law, seeds, weights):
                state.append({"law": laws.index(law), "seeds": seeds.tolist(), "weights": weights.tolist()})
            case CoordinateTerms(tensor, indices, weights):
                state.append({"tensor": tensor, "indices": indices.tolist(), "weights": weights.tolist()})
            case DenseTerm(tensor, values, scale):
                state.append({"tensor": tensor, "values": values, "scale": scale})
    return state


def from_state(state: Sequence[dict[str, Any]], laws: Sequence[Law]) -> Direction:
    """What ``to_state`` was given."""
    terms: list[Term] = []
    for entry in state:
        weights = np.array(entry.get("weights", ()), dtype=np.float64)
        if "law" in entry:
            terms.append(SeedTerms(laws[entry["law"]], np.array(entry["seeds"], dtype=np.int64), weights))
        elif "indices" in entry:
            terms.append(CoordinateTerms(entry["tensor"], np.array(entry["indices"], dtype=np.int64), weights))
        else:
            terms.append(DenseTerm(entry["tensor"], entry["values"], entry["scale"]))
    return Direction(tuple(terms))


def _added(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    keys, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
    distinct, place = np.unique(keys, return_inverse=True)
    return distinct, np.bincount(place, weights, minlength=len(distinct))


def _without_zeros(term: Term) -> Term:
    match term:
        case SeedTerms() if not term.weights.all():
            return SeedTerms(term.law, term.seeds[term.weights != 0], term.weights[term.weights != 0])
        case CoordinateTerms() if not term.weights.all():
            return CoordinateTerms(term.tensor, term.indices[term.weights != 0], term.weights[term.weights != 0])
        case _:
            return term
