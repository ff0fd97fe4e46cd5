"""Descent along a Gaussian process of the trajectory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from blackbox.budget import Budget
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference
from blackbox.journal import Journal
from blackbox.noise import Gaussian
from blackbox.optimizers import SGD, Schedule
from blackbox.parameters import Parameters
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import GradientStrategy, TrajectoryProcess
from blackbox.strategies.trajectory import Process
from blackbox.testing.models import TinyObjective
from oracles import FunctionOracle

CURVATURE = torch.linspace(0.5, 2.0, 20, dtype=torch.float64)


def bowl(x: np.ndarray) -> np.ndarray:
    return (CURVATURE.numpy() * x**2).sum(1)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_gradient_is_that_of_the_mean() -> None:
    process = Process(drawn(12, 5), drawn(12, seed=1), 1.3, 1e-2)
    x = drawn(5, seed=2).requires_grad_()
    (exact,) = torch.autograd.grad(process.value(x[None])[0], x)
    found, uncertainty = process.gradient(x.detach())
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-12)
    assert 0 < uncertainty < 1


def test_the_uncertainty_is_the_variance_left_of_the_gradient() -> None:
    """By autograd of the kernel itself: d^2 k/dx dx' at x' = x, less what the points explain."""
    points, lengthscale, noise = drawn(7, 3), 0.9, 0.1
    process = Process(points, drawn(7, seed=1), lengthscale, noise)
    x = drawn(3, seed=2)

    def k(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.exp(-((a - b) ** 2).sum() / (2 * lengthscale**2))

    prior = torch.autograd.functional.jacobian(
        lambda a: torch.autograd.functional.jacobian(lambda b: k(a, b), x, create_graph=True), x
    )
    gram = torch.stack([torch.stack([k(a, b) for b in points]) for a in points])
    gram += noise**2 * torch.eye(7, dtype=torch.float64)
    cross = torch.stack([torch.autograd.functional.jacobian(lambda a, p=p: k(a, p), x) for p in points])
    left = prior - cross.T @ torch.linalg.solve(gram, cross)
    assert process.gradient(x)[1] == pytest.approx(float(left.trace() / prior.trace()), rel=1e-10)


def test_for_a_linear_function_the_cosine_is_the_root_of_queries_over_dimensions() -> None:
    slope, cosines = drawn(300), []
    for seed in range(20):
        points = 0.01 * drawn(150, 300, seed=seed)
        found, _ = Process(points, points @ slope, 1.0, 1e-6).gradient(torch.zeros(300, dtype=torch.float64))
        cosines.append(float(torch.cosine_similarity(found, slope, dim=0)))
    assert np.mean(cosines) == pytest.approx((149 / 300) ** 0.5, abs=0.02)  # the mean takes one


def test_at_equal_queries_it_is_ahead_of_differences_that_forget() -> None:
    losses = {}
    for name in ("process", "central"):
        parameters = Parameters.from_vector(np.ones(20))
        central = GradientStrategy(CentralDifference(Gaussian(), 1e-4, probes=3), SGD(0.03, Schedule("constant")))
        strategy = TrajectoryProcess(2.0, lr=0.05, radius=0.05) if name == "process" else central
        run(Session(strategy, parameters), FunctionOracle(bowl, batched=True), Budget(queries=300))
        losses[name] = float(bowl(parameters.flat().numpy()[None])[0])
    assert losses["process"] < 0.1 * losses["central"] < 0.1 * 25


def test_a_checkpoint_between_rounds_changes_nothing(tmp_path: Path) -> None:
    def to(steps: int, folder: str) -> torch.Tensor:
        parameters, journal = Parameters.from_vector(np.ones(20)), Journal(tmp_path / folder)
        session = Session(TrajectoryProcess(2.0, lr=0.05), parameters, journal=journal)
        run(session, FunctionOracle(bowl, batched=True), Budget(steps=steps), checkpoint_every=5)
        journal.close()
        return parameters.flat()

    whole = to(12, "whole")
    to(8, "parts")
    assert torch.equal(to(12, "parts"), whole)


def test_failed_answers_are_left_out_and_bad_settings_refused() -> None:
    def picky(x: np.ndarray) -> float:
        if x[0] > 1.0:
            raise ValueError("not there")
        return float(bowl(x[None])[0])

    parameters = Parameters.from_vector(np.ones(20))
    result = run(Session(TrajectoryProcess(2.0, lr=0.05), parameters), FunctionOracle(picky), Budget(steps=6))
    assert result.steps == 6 and result.cost["failed"] > 0
    for arguments, words in (
        ({"lengthscale": 0.0}, "lengthscale must be positive"),
        ({"lengthscale": 1.0, "memory": 1}, "memory must be at least 2"),
        ({"lengthscale": 1.0, "sure": 1.5}, "sure is a share"),
    ):
        with pytest.raises(UserError, match=words):
            TrajectoryProcess(**arguments)
    with pytest.raises(UserError, match="needs a vector problem"):
        Session(TrajectoryProcess(1.0), Parameters.from_module(TinyObjective().module))
