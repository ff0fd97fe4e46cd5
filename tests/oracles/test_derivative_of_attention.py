"""Derivatives of a language model, whose fused attention has none of its own."""

from __future__ import annotations

import pytest

from blackbox.noise import Gaussian
from blackbox.probe import Context, Probe, Query
from oracles import DerivativeOracle, ObjectiveOracle

pytest.importorskip("transformers")


def test_the_slope_of_a_language_model_is_its_difference_quotient() -> None:
    from problems.llm.classification import Classification

    problem = Classification(model="tiny", data="tiny", dtype="float64", device="cpu")
    parameters, context, epsilon = problem.parameters(), Context(batch_seed=3), 1e-4
    at = [
        Query(f"0.0.{i}", Probe(Gaussian(), ((5, c),)), context=context) for i, c in enumerate((1.0, epsilon, -epsilon))
    ]
    (slope,) = DerivativeOracle(problem).answer(at[:1], parameters)
    (values,) = ObjectiveOracle(problem).answer(at[1:], parameters)
    quotient = (values.values[0] - values.values[1]) / (2 * epsilon)  # type: ignore[union-attr]
    assert slope.slopes[0] == pytest.approx(quotient, rel=1e-4)  # type: ignore[union-attr]
