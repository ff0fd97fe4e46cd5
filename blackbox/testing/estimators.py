"""What every estimator must satisfy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from blackbox.direction import Direction
from blackbox.estimators.base import Estimate, Estimator, Round
from blackbox.execution.batched import materialise
from blackbox.feedback import Answers, Failed, Feedback, Preferences, Ranking, Values
from blackbox.layout import Layout
from blackbox.parameters import Parameters
from blackbox.probe import ALL_DATA, Query
from blackbox.testing.generators import untouched

FloatArray = npt.NDArray[np.float64]
Function = Callable[[Tensor], Tensor]
"""Candidates float64 [n, d] -> values [n]."""

SHAPES = {"a": (2, 2), "b": (3,)}
LAYOUT = Layout.of(SHAPES)
GRADIENT = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, -0.25, 1.5], dtype=torch.float64)
MAX_PHASES = 100


def point() -> Parameters:
    """A point to estimate at."""
    return Parameters({n: torch.full(s, 0.125, dtype=torch.float64) for n, s in SHAPES.items()})


def linear(x: Tensor) -> Tensor:
    """A function with gradient GRADIENT everywhere."""
    return x @ GRADIENT + 2.0


def make_round(step: int, parameters: Parameters, run_seed: int = 0) -> Round:
    """The inputs of one step."""
    return Round(step, parameters.version, run_seed, ALL_DATA, parameters.layout)


def answer(queries: Sequence[Query], values: FloatArray, accepts: frozenset[type[Feedback]]) -> Feedback:
    """The values in a form that is accepted: as numbers, else as an order of them, else as pairs."""
    ids = [q.id for q in queries]
    if Values in accepts:
        return Values(tuple(ids), values)
    order = [ids[i] for i in np.argsort(values, kind="stable")]
    if Ranking in accepts:
        return Ranking(tuple((i,) for i in order))
    return Preferences(tuple((a, b) for n, a in enumerate(order) for b in order[n + 1 :]))


def ask(estimator: Estimator, f: Function, round: Round, parameters: Parameters) -> list[tuple[Query, Feedback]]:
    """Plan and answer every phase of one round; where answers are numbers, each query by itself."""
    told: list[tuple[Query, Feedback]] = []
    for phase in range(MAX_PHASES):
        plan = estimator.next(round, phase, Answers(feedback for _, feedback in told))
        if not plan.queries:
            return told
        for anchor in plan.anchors:
            parameters.take_anchor(anchor)
        values = f(materialise(plan.queries, parameters)).numpy()
        if Values in estimator.accepts:
            told += [(q, Values((q.id,), v[None])) for q, v in zip(plan.queries, values, strict=True)]
        else:
            told.append((plan.queries[0], answer(plan.queries, values, estimator.accepts)))
    raise AssertionError(f"a round does not end after {MAX_PHASES} phases")


def estimate(estimator: Estimator, f: Function, round: Round, parameters: Parameters) -> Estimate:
    """One round, answered by ``f``."""
    told = ask(estimator, f, round, parameters)
    return estimator.estimate(round, Answers(feedback for _, feedback in told))


def vector(direction: Direction, layout: Layout = LAYOUT) -> Tensor:
    """A direction made dense: float64 [d]."""
    zeros = Parameters({s.name: torch.zeros(s.shape, dtype=torch.float64) for s in layout.specs})
    zeros.apply(direction)
    return zeros.flat()


class EstimatorSuite:
    """Subclass it and define the fixture ``estimator``, new for each test."""

    unbiased_on_linear: bool = True
    """Whether the mean of the estimate is the gradient where the function is linear."""
    rounds: int = 1200
    """Rounds of the test of that."""

    @pytest.fixture
    def estimator(self) -> Estimator:
        """The estimator under test."""
        raise NotImplementedError("define a fixture `estimator` in the subclass")

    def test_it_says_what_feedback_it_accepts(self, estimator: Estimator) -> None:
        known = {Values, Ranking, Preferences}
        assert estimator.accepts
        assert estimator.accepts <= known | {Failed}

    def test_plan_is_a_function_of_the_round(self, estimator: Estimator) -> None:
        again = copy.deepcopy(estimator)
        first, second = (ask(e, linear, make_round(3, point()), point()) for e in (estimator, again))
        assert [q for q, _ in first] == [q for q, _ in second]

    def test_ids_are_distinct_and_of_the_step(self, estimator: Estimator) -> None:
        parameters = point()
        ids = [q.id for q, _ in ask(estimator, linear, make_round(3, parameters), parameters)]
        assert ids
        assert len(set(ids)) == len(ids)
        assert all(i.startswith("3.") for i in ids)

    def test_queries_carry_the_version_they_were_planned_at(self, estimator: Estimator) -> None:
        parameters = point()
        parameters.version = 41
        asked = ask(estimator, linear, make_round(0, parameters), parameters)
        assert {q.version for q, _ in asked} == {41}

    def test_order_of_answers_never_matters(self, estimator: Estimator) -> None:
        parameters = point()
        round = make_round(0, parameters)
        answers = [feedback for _, feedback in ask(estimator, linear, round, parameters)]
        backwards = copy.deepcopy(estimator).estimate(round, Answers(reversed(answers)))
        assert torch.equal(vector(backwards.direction), vector(estimator.estimate(round, Answers(answers)).direction))

    def test_planning_and_estimating_leave_the_parameters_alone(self, estimator: Estimator) -> None:
        parameters = point()
        estimate(estimator, linear, make_round(0, parameters), parameters)
        assert torch.equal(parameters.flat(), point().flat())
        assert parameters.version == 0

    def test_estimate_is_unbiased_on_a_linear_function(self, estimator: Estimator) -> None:
        """Each coordinate of the mean over many rounds within 4.5 of its standard errors."""
        if not self.unbiased_on_linear:
            pytest.skip("the estimator claims no such thing")
        parameters = point()
        rounds = [make_round(step, parameters) for step in range(self.rounds)]
        estimates = torch.stack([vector(estimate(estimator, linear, r, parameters).direction) for r in rounds])
        error = (estimates.mean(0) - GRADIENT).abs()
        assert (error <= 4.5 * estimates.std(0) / self.rounds**0.5 + 1e-9).all()

    def test_estimate_points_uphill(self, estimator: Estimator) -> None:
        """Along the mean of 200 estimates a linear function grows."""
        parameters = point()
        rounds = [make_round(step, parameters) for step in range(200)]
        mean = sum(vector(estimate(estimator, linear, r, parameters).direction) for r in rounds)
        assert float(torch.as_tensor(mean) @ GRADIENT) > 0

    def test_round_with_one_failure_still_gives_finite_numbers(self, estimator: Estimator) -> None:
        if Values not in estimator.accepts:
            pytest.skip("answers are not given query by query")
        parameters = point()
        round = make_round(0, parameters)
        told = ask(estimator, linear, round, parameters)
        for place in range(len(told)):
            answers = [f if i != place else Failed((q.id,), "test") for i, (q, f) in enumerate(told)]
            direction = copy.deepcopy(estimator).estimate(round, Answers(answers)).direction
            assert vector(direction).isfinite().all()

    def test_round_without_any_answer_gives_no_direction(self, estimator: Estimator) -> None:
        parameters = point()
        round = make_round(0, parameters)
        queries = estimator.next(round, 0, Answers()).queries
        failed = Answers([Failed(tuple(q.id for q in queries), "test")])
        assert not vector(estimator.estimate(round, failed).direction).any()

    def test_saved_state_continues_identically(self, estimator: Estimator) -> None:
        parameters, fresh = point(), copy.deepcopy(estimator)
        for step in range(3):
            estimate(estimator, linear, make_round(step, parameters), parameters)
        fresh.load_state_dict(copy.deepcopy(estimator.state_dict()))
        later = make_round(3, parameters)
        expected = estimate(estimator, linear, later, parameters)
        assert torch.equal(vector(estimate(fresh, linear, later, parameters).direction), vector(expected.direction))

    def test_facts_for_the_log_are_numbers(self, estimator: Estimator) -> None:
        parameters = point()
        info = estimate(estimator, linear, make_round(0, parameters), parameters).info
        assert all(isinstance(value, float | int) for value in info.values())

    def test_global_generators_are_left_alone(self, estimator: Estimator) -> None:
        parameters = point()
        with untouched():
            estimate(estimator, linear, make_round(0, parameters), parameters)
