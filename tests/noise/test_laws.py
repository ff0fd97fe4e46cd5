"""Every built-in law passes the conformance suite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from blackbox.layout import Layout, TensorSpec
from blackbox.noise import Coordinate, Gaussian, Law, Rademacher, Sparse, Sphere
from blackbox.testing.noise import NoiseSuite


class TestGaussian(NoiseSuite):
    @pytest.fixture
    def law(self) -> Law:
        return Gaussian()


class TestRademacher(NoiseSuite):
    ulps = 0.0

    @pytest.fixture
    def law(self) -> Law:
        return Rademacher()


class TestSphere(NoiseSuite):
    @pytest.fixture
    def law(self) -> Law:
        return Sphere()


class TestCoordinate(NoiseSuite):
    ulps = 0.0

    @pytest.fixture
    def law(self) -> Law:
        return Coordinate()


class TestSparse(NoiseSuite):
    @pytest.fixture
    def law(self) -> Law:
        return Sparse(Gaussian(), density=0.5, seed=3)

    def second_moment(self, law: Law, layout: Layout) -> Tensor:
        """The identity where the mask keeps, 0 elsewhere."""
        assert isinstance(law, Sparse)
        assert law.mask is not None
        kept = [law.mask.select(spec, torch.arange(spec.numel)) for spec in layout.specs]
        return torch.diag(torch.cat(kept).double())


@dataclass(frozen=True)
class EverySecond:
    """A mask of a user's own."""

    tag: ClassVar[str] = "every second"

    def select(self, spec: TensorSpec, index: Tensor) -> Tensor:
        return index % 2 == 0


class TestSparseWithOwnMask(TestSparse):
    ulps = 0.0

    @pytest.fixture
    def law(self) -> Law:
        return Sparse(Rademacher(), mask=EverySecond())
