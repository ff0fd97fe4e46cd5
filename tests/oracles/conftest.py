"""Queries to ask oracles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from blackbox.noise import Rademacher
from blackbox.parameters import Parameters
from blackbox.probe import DenseCandidate, Probe, Query

Asks = Callable[[Sequence[Sequence[float]]], list[Query]]


@pytest.fixture(autouse=True)
def global_generators_untouched() -> Iterator[None]:
    before, numpy_before = torch.get_rng_state(), str(np.random.get_state())
    yield
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == numpy_before


@pytest.fixture
def parameters() -> Parameters:
    """x = (1, 2, 3), float64."""
    return Parameters.from_vector([1.0, 2.0, 3.0])


@pytest.fixture
def asks() -> Asks:
    """Queries "0.0.i" about points given whole."""

    def make(points: Sequence[Sequence[float]]) -> list[Query]:
        return [Query(f"0.0.{i}", DenseCandidate(np.array(point))) for i, point in enumerate(points)]

    return make


@pytest.fixture
def probes() -> list[Query]:
    """x itself, x + z/4 and x - z/4; noise is exact in these coefficients."""
    candidates = [None, *(Probe(Rademacher(), ((5, c),)) for c in (0.25, -0.25))]
    return [Query(f"0.0.{i}", candidate) for i, candidate in enumerate(candidates)]
