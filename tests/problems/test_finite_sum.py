"""Finite sums against dense arithmetic, and their parts against the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blackbox.errors import UserError
from blackbox.probe import ALL_DATA, Context
from problems.finite_sum import FiniteSum

# Not in a test: importing it for the first time draws a random number.
pytest.importorskip("sklearn.datasets", reason="the tables come with scikit-learn")
LINEAR = pytest.importorskip("sklearn.linear_model")


@pytest.fixture(scope="module", params=[("breast-cancer", ()), ("digits", ()), ("digits", (16,))], ids=str)
def problem(request: pytest.FixtureRequest) -> FiniteSum:
    table, hidden = request.param
    return FiniteSum(table, hidden)


def points(problem: FiniteSum, count: int = 3) -> torch.Tensor:
    draw = torch.Generator().manual_seed(5)
    return 0.3 * torch.randn(count, problem.parameters().dimension, generator=draw, dtype=torch.float64)


def test_sizes_are_those_of_the_tables() -> None:
    sizes = [(p.examples, p.parameters().dimension) for p in (FiniteSum(), FiniteSum("digits", (16,)))]
    assert sizes == [(455, 31), (1438, 64 * 16 + 16 + 16 * 10 + 10)]


def test_whole_is_the_mean_of_its_parts(problem: FiniteSum) -> None:
    x = points(problem)
    whole = problem(x, ALL_DATA)
    assert whole.shape == (3, problem.examples)
    for indices in ((4,), (7, 0, 300), tuple(range(0, problem.examples, 5))):
        part = problem(x, Context(indices=indices))
        torch.testing.assert_close(part, whole[:, list(indices)], rtol=1e-12, atol=1e-13)


def test_batch_seed_draws_that_many_distinct_examples_the_same_ones_again(problem: FiniteSum) -> None:
    x = points(problem)
    first, again, other = (problem(x, Context(batch_seed=seed)) for seed in (3, 3, 4))
    assert first.shape == (3, 8)
    assert first.equal(again)
    assert not first.equal(other)


def test_cost_counts_examples(problem: FiniteSum) -> None:
    costs = [problem.cost(c)["examples"] for c in (ALL_DATA, Context(batch_seed=1), Context(indices=(3, 4)))]
    assert costs == [problem.examples, 8, 2]


def test_start_without_hidden_layers_tells_nothing() -> None:
    assert FiniteSum(l2=0).metrics("train")["loss"] == pytest.approx(np.log(2))
    assert FiniteSum("digits", l2=0).metrics("test")["loss"] == pytest.approx(np.log(10))


def test_logistic_regression_reaches_what_a_peer_reaches() -> None:
    """The minimum over all data, by autograd and LBFGS, against scikit-learn's solver at the same penalty."""
    problem = FiniteSum(l2=0.02)
    features, labels = problem._data["train"]
    ones = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], 1).numpy()  # the bias is penalised
    peer = LINEAR.LogisticRegression(C=1 / (0.02 * problem.examples), fit_intercept=False, tol=1e-10, max_iter=5000)
    peer.fit(ones, labels.numpy())
    weights = torch.from_numpy(np.atleast_2d(peer.coef_))
    x = weights.clone().requires_grad_()
    value = problem(x, ALL_DATA).mean()
    value.backward()
    assert x.grad is not None
    assert float(x.grad.norm()) < 1e-4
    assert value.item() < problem.metrics("train")["loss"] / 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"table": "iris"}, "there is no 'iris'"),
        ({"batch_size": 456}, "batch_size: 1 to 455"),
        ({"hidden": (0,)}, "every layer needs"),
        ({"l2": -1.0}, "l2 must not be negative"),
        ({"held_out": 1.0}, "held_out is a share"),
        ({"dtype": "bfloat16"}, "not bfloat16"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        FiniteSum(**arguments)  # type: ignore[arg-type]


def test_example_outside_the_table_is_refused() -> None:
    with pytest.raises(UserError, match="outside 0 to 454"):
        FiniteSum()(torch.zeros(1, 31, dtype=torch.float64), Context(indices=(455,)))
