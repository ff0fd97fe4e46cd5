"""Schedules' values."""

from __future__ import annotations

import math

import pytest

from blackbox.errors import UserError
from blackbox.optimizers import Schedule
from blackbox.optimizers.schedules import Shape


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.0]),
        ("cosine", [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, 0.0]),
    ],
)
def test_values_at_quarters(shape: Shape, values: list[float]) -> None:
    assert [Schedule(shape).factor(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0]),
        ("linear", [0.0, 0.5, 1.0, 0.5, 0.0]),
        ("cosine", [0.0, 0.5, 1.0, 0.5, 0.0]),
    ],
)
def test_warm_up_rises_then_the_shape_takes_the_rest(shape: Shape, values: list[float]) -> None:
    schedule = Schedule(shape, warmup=0.2)
    assert [schedule.factor(p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_factor_stays_in_the_unit_interval(shape: Shape, warmup: float) -> None:
    factors = [Schedule(shape, warmup).factor(i / 100) for i in range(111)]
    assert all(0.0 <= factor <= 1.0 for factor in factors)


def test_default_is_linear_decay_without_warm_up() -> None:
    assert (Schedule().shape, Schedule().warmup) == ("linear", 0.0)


def test_unknown_shape_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="constant, linear or cosine"):
        Schedule("step")  # type: ignore[arg-type]


@pytest.mark.parametrize("warmup", [-0.1, 1.0])
def test_warm_up_outside_its_interval_is_refused(warmup: float) -> None:
    with pytest.raises(UserError, match="warmup"):
        Schedule("linear", warmup)
