"""Directions add, scale and negate like the vectors they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from blackbox.direction import CoordinateTerms, Direction, SeedTerms, dense
from blackbox.noise import Gaussian, Rademacher
from blackbox.parameters import Parameters


def seeds(weights: list[float], first: int = 1, law: type = Rademacher) -> Direction:
    numbers = np.arange(first, first + len(weights), dtype=np.int64)
    return Direction((SeedTerms(law(), numbers, np.array(weights)),))


def coordinates(tensor: str, indices: list[int], weights: list[float]) -> Direction:
    return Direction((CoordinateTerms(tensor, np.array(indices), np.array(weights)),))


def vector(direction: Direction) -> Tensor:
    """What a direction adds to zeros."""
    parameters = Parameters({"a": torch.zeros(5, 7, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.float64)})
    parameters.apply(direction)
    return parameters.flat()


MIXED = seeds([0.5, -2.0]) + coordinates("a", [3, 34], [1.5, 2.5]) + dense("b", torch.tensor([1.0, 2.0, 3.0]))
OTHER = seeds([1.25], 7, Gaussian) + coordinates("b", [0], [-4.0])


def test_seed_terms_are_the_weighted_noise() -> None:
    spec_a, spec_b = Parameters({"a": torch.zeros(5, 7), "b": torch.zeros(3)}).layout.specs
    z = torch.cat([Rademacher().sample((1, 2), spec, 0, spec.numel) for spec in (spec_a, spec_b)], 1).double()
    assert torch.equal(vector(seeds([0.5, -2.0])), 0.5 * z[0] - 2.0 * z[1])


def test_coordinate_terms_are_weighted_unit_vectors() -> None:
    expected = torch.zeros(38, dtype=torch.float64)
    expected[[3, 34]] = torch.tensor([1.5, 2.5], dtype=torch.float64)
    assert torch.equal(vector(coordinates("a", [3, 34], [1.5, 2.5])), expected)


def test_a_repeated_coordinate_counts_each_time() -> None:
    assert vector(coordinates("a", [3, 3, 3], [1.0, 2.0, 4.0]))[3] == 7.0


def test_dense_term_is_its_values() -> None:
    values = torch.arange(35.0).view(5, 7)
    assert torch.equal(vector(dense("a", values))[:35], values.double().view(-1))


def test_dense_is_a_snapshot() -> None:
    values = torch.ones(3)
    direction = dense("b", values)
    values.zero_()
    assert vector(direction)[35:].tolist() == [1.0, 1.0, 1.0]


def test_sum_is_the_sum_of_the_vectors() -> None:
    torch.testing.assert_close(vector(MIXED + OTHER), vector(MIXED) + vector(OTHER), rtol=0, atol=1e-14)


def test_adding_is_associative() -> None:
    left, right = (MIXED + OTHER) + MIXED, MIXED + (OTHER + MIXED)
    assert left.terms == right.terms


@pytest.mark.parametrize("factor", [0.25, -3.0, 0.0])
def test_scaling_scales_every_term(factor: float) -> None:
    torch.testing.assert_close(vector(MIXED * factor), vector(MIXED) * factor, rtol=0, atol=1e-14)


def test_factor_may_stand_on_either_side() -> None:
    assert torch.equal(vector(2.0 * MIXED), vector(MIXED * 2.0))


def test_direction_minus_itself_is_zero() -> None:
    assert float(vector(MIXED + -MIXED).abs().max()) < 1e-15


def test_scaling_leaves_the_original_alone() -> None:
    before = vector(MIXED)
    MIXED * 5.0
    assert torch.equal(vector(MIXED), before)


class CountCalls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the calls of each torch operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def test_a_hundred_thousand_coordinates_are_one_indexed_add() -> None:
    parameters = Parameters({"x": torch.zeros(1_000_000)})
    indices = np.arange(100_000, dtype=np.int64) * 10
    direction = Direction((CoordinateTerms("x", indices, np.ones(100_000)),))
    with CountCalls() as count:
        parameters.apply(direction)
    assert count.calls["index_add_"] == 1
    assert sum(count.calls.values()) < 20


def test_a_hundred_thousand_coordinates_arrive() -> None:
    parameters = Parameters({"x": torch.zeros(1_000_000)})
    indices = np.arange(100_000, dtype=np.int64) * 10
    parameters.apply(Direction((CoordinateTerms("x", indices, np.arange(1.0, 100_001.0)),)))
    x = parameters.tensors["x"]
    assert torch.equal(x[::10], torch.arange(1.0, 100_001.0))
    assert int((x != 0).sum()) == 100_000
