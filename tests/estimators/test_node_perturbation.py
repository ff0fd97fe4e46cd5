"""Node perturbation as an estimator: what it costs, what it refuses, and a run that was killed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blackbox.budget import Budget
from blackbox.errors import UserError
from blackbox.estimators import CoordinateWise, ForwardGradient, NodePerturbation
from blackbox.estimators.base import Round
from blackbox.feedback import Answers, Failed, Slopes
from blackbox.journal import Journal
from blackbox.noise import RandomMask
from blackbox.optimizers import SGD, Schedule
from blackbox.parameters import Parameters
from blackbox.probe import Context
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from oracles import DerivativeOracle, NodeOracle, ObjectiveOracle
from problems.training import ImageClassification

BATCH = Context(batch_seed=4)


def problem(**options: object) -> ImageClassification:
    given = {"data": "digits", "widths": (3, 6), "batch_size": 8, "examples": 300, "dtype": "float64"}
    return ImageClassification(**{**given, **options})  # type: ignore[arg-type]


def round_of(parameters: Parameters, context: Context = BATCH) -> Round:
    return Round(0, parameters.version, 0, context, parameters.layout)


def estimated(estimator: NodePerturbation | CoordinateWise, oracle: object, parameters: Parameters) -> Tensor:
    """The estimate as a vector."""
    round = round_of(parameters)
    queries = estimator.next(round, 0, Answers()).queries
    oracle.submit(queries, parameters)  # type: ignore[attr-defined]
    found = estimator.estimate(round, Answers(oracle.poll()))  # type: ignore[attr-defined]
    out = torch.zeros(parameters.dimension, dtype=torch.float64)
    for term in found.direction.terms:
        out[parameters.layout.by_name[term.tensor].offset + term.indices] += torch.from_numpy(term.weights)  # type: ignore[union-attr]
    return out


def exact(objective: ImageClassification, context: Context = BATCH) -> Tensor:
    objective.values(context).mean().backward()
    return torch.cat([p.grad.reshape(-1) for p in objective.module.parameters()])  # type: ignore[union-attr]


@pytest.mark.parametrize("stencil", ["forward", "central"])
@pytest.mark.parametrize("network", ["cnn", "perceptron"])
def test_the_estimate_is_autograds_gradient_for_fewer_queries_than_coordinates(stencil: str, network: str) -> None:
    objective = problem(network=network)
    parameters, gradient = objective.parameters(), exact(objective)
    oracle = NodeOracle(objective)
    found = estimated(NodePerturbation(1e-5, stencil), oracle, parameters)  # type: ignore[arg-type]
    assert torch.cosine_similarity(found, gradient, dim=0) > 0.9999
    other = estimated(CoordinateWise(1e-5), ObjectiveOracle(objective), parameters)
    torch.testing.assert_close(found, other, rtol=0, atol=1e-4)
    queries = NodePerturbation(1e-5, stencil).next(round_of(parameters), 0, Answers()).queries  # type: ignore[arg-type]
    cost = oracle.cost(queries)
    # cnn: 3 x (9 + 1) coordinates where 8 x 8 pixels would be more, 6 channels of 4 x 4 pixels, 10 logits.
    sides, asked = (2 if stencil == "central" else 1), {"cnn": 30 + 6 * 16 + 10, "perceptron": 3 + 6 + 10}[network]
    assert cost == {"queries": 1 + sides * asked, "examples": 8 * (1 + sides * asked)}
    assert cost["queries"] < sides * parameters.dimension


def test_an_oracle_of_exact_derivatives_fits_too() -> None:
    objective = problem(network="perceptron", widths=(2,))
    parameters = objective.parameters()
    found = estimated(NodePerturbation(tensors="bias"), DerivativeOracle(objective), parameters)
    gradient = exact(objective)
    for spec in parameters.layout.specs:
        part = slice(spec.offset, spec.offset + spec.numel)
        expected = gradient[part] if "bias" in spec.name else torch.zeros(spec.numel, dtype=torch.float64)
        torch.testing.assert_close(found[part], expected, rtol=0, atol=1e-9)


def test_a_mask_and_answers_that_failed_leave_coordinates_out() -> None:
    objective = problem()
    parameters = objective.parameters()
    estimator = NodePerturbation(1e-5, mask=RandomMask(0.5, seed=1))
    found = estimated(estimator, NodeOracle(objective), parameters)
    assert 0 < (found != 0).sum() < 0.7 * parameters.dimension
    round = round_of(parameters)
    plan = estimator.next(round, 0, Answers()).queries
    ids = tuple(query.id for query in plan)
    answers = Answers([Slopes(ids[:2], np.array([1.0, 2.0]), np.array([3.0, 3.0])), Failed(ids[2:], "no")])
    estimate = estimator.estimate(round, answers)
    assert estimate.info["coordinates"] == 2 and estimate.info["value"] == 3.0
    assert [w for term in estimate.direction.terms for w in term.weights] == pytest.approx([1e5, 2e5])  # type: ignore[union-attr]


def test_a_run_counts_what_was_evaluated_and_never_goes_over() -> None:
    objective = problem()
    once = 1 + 30 + 6 * 16 + 10
    session = Session(GradientStrategy(NodePerturbation(1e-4), SGD(0.5)), objective.parameters())
    run(session, NodeOracle(objective), Budget(queries=3 * once + 5))
    assert session.steps == 3
    assert session.spent["queries"] == 3 * once and session.spent["examples"] == 8 * 3 * once


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    def through(folder: Path, stops: list[int]) -> tuple[Tensor, list[float]]:
        for steps in stops:
            objective = problem()
            with closing(Journal(folder)) as journal:
                strategy = GradientStrategy(NodePerturbation(1e-4), SGD(0.5, Schedule("constant")))
                session = Session(strategy, objective.parameters(), seed=3, journal=journal)
                run(session, NodeOracle(objective), Budget(steps=steps))
                assert session.steps == steps
        return session.parameters.flat(), list(session.history)

    (cut, losses), (whole, others) = through(tmp_path / "cut", [2, 4]), through(tmp_path / "whole", [4])
    assert torch.equal(cut, whole) and losses == others
    assert len({round(loss, 9) for loss in losses}) == 4


def test_who_offers_only_losses_is_refused_in_words() -> None:
    class Losses:
        module = nn.Identity()

        def values(self, context: Context) -> Tensor:
            return torch.zeros(1)

    with pytest.raises(UserError, match=r"Losses offers losses only .* Use the oracle `objective`"):
        NodeOracle(Losses())
    objective = problem()
    session = Session(GradientStrategy(NodePerturbation(), SGD(0.1)), objective.parameters())
    with pytest.raises(UserError, match=r"needs Slopes, but ObjectiveOracle answers Values"):
        run(session, ObjectiveOracle(objective), Budget(steps=1))
    with pytest.raises(UserError, match="epsilon is a distance"):
        NodePerturbation(0.0)


def test_directions_over_many_coordinates_are_refused() -> None:
    objective = problem()
    strategy = GradientStrategy(ForwardGradient(), SGD(0.1))
    with pytest.raises(UserError, match="about single coordinates of the present point"):
        run(Session(strategy, objective.parameters()), NodeOracle(objective), Budget(steps=1))


def test_losses_that_fail_or_are_not_finite_are_failures() -> None:
    objective = problem()
    parameters = objective.parameters()
    queries = NodePerturbation(1e-4).next(round_of(parameters), 0, Answers()).queries
    right = objective.losses

    def broken(outputs: Tensor, context: Context) -> Tensor:
        return right(outputs, context) * (torch.nan if len(outputs) > 1 else 1.0)

    objective.losses = broken  # type: ignore[method-assign]
    oracle = NodeOracle(objective)
    oracle.submit(queries, parameters)
    kinds = {type(one) for one in oracle.poll()}
    assert kinds == {Slopes, Failed}  # the last layer's nodes were asked one by one

    def raising(outputs: Tensor, context: Context) -> Tensor:
        raise ValueError("no such image")

    objective.losses = raising  # type: ignore[method-assign]
    oracle.submit(queries, parameters)
    (answer,) = oracle.poll()
    assert isinstance(answer, Failed) and answer.reason == "ValueError: no such image"
    assert len(answer.ids) == len(queries) and answer.cost["queries"] > 100
