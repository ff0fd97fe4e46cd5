"""Derivatives along probes, and the estimate made of them, against autograd."""

from contextlib import closing

import numpy as np
import pytest
import torch
from torch import nn

from blackbox import (
    Answers,
    Budget,
    Context,
    Failed,
    Journal,
    Parameters,
    Probe,
    Query,
    Session,
    Slopes,
    UserError,
    run,
)
from blackbox.estimators import CentralDifference, ForwardGradient
from blackbox.estimators.base import Round
from blackbox.noise import Gaussian, Rademacher, Sphere
from blackbox.optimizers import SGD
from blackbox.probe import ALL_DATA, DenseCandidate
from blackbox.strategies import GradientStrategy
from blackbox.testing.estimators import LAYOUT, vector
from oracles import DerivativeOracle, ObjectiveOracle
from problems.functions import Quadratic, Rosenbrock
from problems.small_net import SmallNet


def ask(oracle, queries, parameters):
    oracle.submit(queries, parameters)
    return oracle.poll()


def probe(law, seed, coefficient=1.0, context=ALL_DATA):
    return Query(f"0.0.{seed}", Probe(law, ((seed, coefficient),)), context=context)


@pytest.mark.parametrize("law", [Gaussian(), Rademacher(), Sphere()], ids=str)
def test_a_slope_is_autograds_product_for_a_function_of_vectors(law):
    problem = Rosenbrock(6, seed=1)
    parameters, x = problem.parameters(), problem.start.clone().requires_grad_()
    value = problem(x[None])[0]
    (gradient,) = torch.autograd.grad(value, x)
    answers = ask(DerivativeOracle(problem), [probe(law, seed, 2.0) for seed in range(4)], parameters)
    spec = parameters.layout.specs[0]
    for seed, answer in enumerate(answers):
        z = law.sample([seed], spec, 0, 6)[0].double() * law.scale(seed, parameters.layout)
        assert answer.slopes[0] == pytest.approx(float(2 * gradient @ z), rel=1e-6)
        assert answer.values[0] == pytest.approx(value.item())
        assert answer.cost["queries"] == 1


def test_a_slope_is_autograds_product_for_a_module_and_its_weights_stay():
    problem, context = SmallNet(dtype="float64", device="cpu"), Context(batch_seed=3)
    parameters, before = problem.parameters(), problem.parameters().flat()
    weights = dict(problem.module.named_parameters())
    gradients = torch.autograd.grad(problem.values(context).mean(), list(weights.values()))
    (answer,) = ask(DerivativeOracle(problem), [probe(Gaussian(), 7, context=context)], parameters)
    expected = sum(
        float(g.reshape(-1) @ Gaussian().sample([7], parameters.layout.by_name[name], 0, g.numel())[0].double())
        for name, g in zip(weights, gradients, strict=True)
    )
    assert answer.slopes[0] == pytest.approx(expected, rel=1e-10)
    assert answer.cost["examples"] == 32
    assert torch.equal(parameters.flat(), before)
    assert all(isinstance(w, nn.Parameter) for w in problem.module.parameters())


def test_it_is_what_a_central_difference_tends_to():
    problem, context = SmallNet(dtype="float64", device="cpu"), Context(batch_seed=3)
    parameters, epsilon = problem.parameters(), 1e-5
    pair = [probe(Gaussian(), 7, sign * epsilon, context) for sign in (1, -1)]
    pair[1].id = "0.0.8"
    (values,) = ask(ObjectiveOracle(problem), pair, parameters)
    (answer,) = ask(DerivativeOracle(problem), [probe(Gaussian(), 7, context=context)], parameters)
    assert answer.slopes[0] == pytest.approx((values.values[0] - values.values[1]) / (2 * epsilon), rel=1e-6)


def test_at_an_anchor():
    problem = Quadratic(5)
    parameters = problem.parameters()
    (here,) = ask(DerivativeOracle(problem), [probe(Gaussian(), 7)], parameters)
    parameters.take_anchor("then")
    parameters.assign({"x": torch.zeros(5, dtype=torch.float64)})
    query = probe(Gaussian(), 7)
    query.base = "then"
    (there,) = ask(DerivativeOracle(problem), [query], parameters)
    assert there.slopes[0] == here.slopes[0] != 0


class Climb:
    maximize = True

    def __call__(self, candidates, context):
        return -candidates.square().sum(1)


def test_a_problem_that_maximizes_is_turned_once():
    parameters = Parameters.from_vector([1.0, 2.0])
    (answer,) = ask(DerivativeOracle(Climb()), [probe(Rademacher(), 0)], parameters)
    z = Rademacher().sample([0], parameters.layout.specs[0], 0, 2)[0].numpy()
    assert answer.slopes[0] == 2 * z @ [1, 2] and answer.values[0] == 5


@pytest.mark.parametrize("law", [Gaussian(), Rademacher()], ids=str)
def test_the_estimate_is_unbiased_with_the_variance_it_claims(law):
    gradient = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, -0.25, 1.5], dtype=torch.float64)
    q, d, found = 2, 7, []
    for step in range(1500):
        estimator, round = ForwardGradient(law, q), Round(step, 0, 0, ALL_DATA, LAYOUT)
        told = Answers()
        for query in estimator.next(round, 0, Answers()).queries:
            ((seed, _),) = query.candidate.terms
            z = torch.cat([law.sample([seed], spec, 0, spec.numel)[0] for spec in LAYOUT.specs]).double()
            told.add(Slopes((query.id,), np.array([float(gradient @ z)]), np.zeros(1)))
        found.append(vector(estimator.estimate(round, told).direction))
    estimates = torch.stack(found)
    assert ((estimates.mean(0) - gradient).abs() < 4.5 * estimates.std(0) / len(found) ** 0.5 + 1e-12).all()
    claimed = (d + 1 if isinstance(law, Gaussian) else d - 1) / q
    measured = (estimates - gradient).square().sum(1).mean() / gradient.square().sum()
    assert measured == pytest.approx(claimed, rel=0.12)


def test_a_failed_probe_is_left_out_of_the_mean():
    estimator, round = ForwardGradient(Rademacher(), 2), Round(0, 0, 0, ALL_DATA, LAYOUT)
    first, second = round.ids(0, 2)
    told = Answers([Slopes((first,), np.array([3.0]), np.array([1.0])), Failed((second,), "test")])
    found = estimator.estimate(round, told)
    assert found.direction.terms[0].weights.tolist() == [3.0] and found.info == {"value": 1.0, "slope": 3.0}
    nothing = estimator.estimate(round, Answers([Failed((first, second), "test")]))
    assert not vector(nothing.direction).any()


def descend(oracle, estimator=None, journal=None, queries=600):
    problem = Quadratic(5, condition=3.0, start=2.0)
    session = Session(
        GradientStrategy(estimator or ForwardGradient(probes=5), SGD(0.1, "constant")),
        problem.parameters(),
        journal=journal,
    )
    return session, run(session, oracle(problem), Budget(queries=queries))


def test_a_run_descends_and_its_journal_resumes_it(tmp_path):
    session, _ = descend(DerivativeOracle)
    assert session.history[-1] < 1e-5 * session.history[0]
    with closing(Journal(tmp_path)) as journal:
        descend(DerivativeOracle, journal=journal, queries=300)
    with closing(Journal(tmp_path)) as journal:
        resumed, _ = descend(DerivativeOracle, journal=journal)
    assert torch.equal(resumed.parameters.flat(), session.parameters.flat())
    assert list(resumed.history) == list(session.history)


def test_values_and_slopes_are_not_taken_for_each_other():
    with pytest.raises(UserError, match=r"ForwardGradient needs Slopes, but ObjectiveOracle answers Values\."):
        descend(ObjectiveOracle)
    with pytest.raises(UserError, match=r"needs Values, but DerivativeOracle answers Slopes.*, node-perturbation\."):
        descend(DerivativeOracle, CentralDifference())


class Detached:
    def __call__(self, candidates, context):
        return candidates.detach().square().sum(1)


class Numpy:
    def __call__(self, candidates, context):
        return torch.from_numpy(candidates.numpy() ** 2).sum(1)


@pytest.mark.parametrize("problem", [Detached(), Numpy()], ids=["detached", "numpy"])
def test_an_objective_without_derivatives_is_refused_in_words(problem):
    with pytest.raises(UserError, match=r"has no derivatives to give.*Use the oracle `objective`"):
        ask(DerivativeOracle(problem), [probe(Gaussian(), 0)], Parameters.from_vector([1.0, 2.0]))


class Broken:
    def __call__(self, candidates, context):
        raise ValueError("no licence")


class Root:
    def __call__(self, candidates, context):
        return candidates.sum(1).sqrt()


@pytest.mark.parametrize(
    ("problem", "reason"), [(Broken(), "ValueError: no licence"), (Root(), "not finite: value 0.0, slope")]
)
def test_a_failure_is_an_answer_with_its_reason(problem, reason):
    (answer,) = ask(DerivativeOracle(problem), [probe(Rademacher(), 0)], Parameters.from_vector([0.0, 0.0]))
    assert isinstance(answer, Failed) and answer.reason.startswith(reason) and answer.cost["queries"] == 1


@pytest.mark.parametrize("candidate", [None, DenseCandidate(np.zeros(2))], ids=["base", "dense"])
def test_what_is_no_probe_has_no_derivative(candidate):
    with pytest.raises(UserError, match=r"Query 0\.0\.0 is no probe"):
        ask(DerivativeOracle(Quadratic(2)), [Query("0.0.0", candidate)], Parameters.from_vector([0.0, 0.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ForwardGradient(probes=0), "probes must be at least 1"),
        (lambda: Slopes(("a",), np.zeros(2), np.zeros(2)), r"must have shape \[1\]"),
        (lambda: Slopes(("a", "b"), np.array([0.0, np.nan]), np.zeros(2)), "slope of query b is not finite"),
    ],
)
def test_arguments_that_do_not_fit(make, message):
    with pytest.raises(UserError, match=message):
        make()
