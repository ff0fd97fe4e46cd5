"""What every execution must satisfy."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from blackbox.direction import Direction, SeedTerms
from blackbox.execution.base import Execution, Outcome
from blackbox.noise import Gaussian, Law, Rademacher, Sphere
from blackbox.parameters import Parameters, Update
from blackbox.probe import CURRENT, Context, Probe, Query
from blackbox.testing.devices import DEVICES
from blackbox.testing.generators import untouched
from blackbox.testing.models import TinyObjective

EPSILON = 0.01
LAWS: list[Law] = [Rademacher(), Gaussian(), Sphere()]
Setting = tuple[TinyObjective, Parameters]


def central(law: Law, seeds: Sequence[int] = (1, 2), base: str = CURRENT) -> list[Query]:
    """The base, then plus and minus each seed's noise."""
    terms = [(), *(((seed, sign * EPSILON),) for seed in seeds for sign in (1, -1))]
    return [Query(f"0.0.{i}", Probe(law, t) if t else None, base) for i, t in enumerate(terms)]


def step(seed: int, weight: float) -> Update:
    """An update along one seed."""
    term = SeedTerms(Rademacher(), np.array([seed]), np.array([weight]))
    return Update(Direction((term,)))


def values(outcomes: Sequence[Outcome]) -> Tensor:
    """The outcomes' values, all of which must be there: float64 [n, batch]."""
    failures = [o for o in outcomes if isinstance(o, Exception)]
    if failures:
        raise failures[0]
    return torch.stack([o for o in outcomes if isinstance(o, Tensor)]).double()


@torch.no_grad()
def expected(setting: Setting, query: Query) -> Tensor:
    """A query's values by dense arithmetic on a copy of the model."""
    objective = copy.deepcopy(setting[0])
    objective.fail_on = set()
    parameters = Parameters.from_module(objective.module)
    layout = parameters.layout
    base = setting[1].tensors if query.base == CURRENT else setting[1].anchor(query.base)
    for spec in layout.specs:
        value = base[spec.name].clone().view(-1)
        for seed, c in query.candidate.terms if isinstance(query.candidate, Probe) else ():
            assert isinstance(query.candidate, Probe)
            law = query.candidate.law
            z = law.sample((seed,), spec, 0, spec.numel, value.device)[0].to(value.dtype)
            value += c * law.scale(seed, layout) * z
        parameters.raw[spec.name].view(-1).copy_(value)
    return objective.values(query.context).double()


class ExecutionSuite:
    """Subclass it and define the fixture ``execution``, new for each test.

    For an execution that takes another kind of objective, override ``setting``.
    """

    drift: float = 0.0
    """How far an element may be from where it was after a round, flushed; 0 is bit for bit. The values are
    float64 of size 1, so an execution that displaces and comes back is allowed a few 1e-16."""

    @pytest.fixture
    def execution(self) -> Execution:
        """The execution under test."""
        raise NotImplementedError("define a fixture `execution` in the subclass")

    @pytest.fixture(params=DEVICES)
    def device(self, request: pytest.FixtureRequest) -> str:
        """The devices it runs on."""
        return str(request.param)

    @pytest.fixture
    def setting(self, device: str) -> Setting:
        """An objective and the parameters of its module."""
        objective = TinyObjective(device=device)
        return objective, Parameters.from_module(objective.module)

    @pytest.mark.parametrize("law", LAWS, ids=lambda law: law.tag.split("/")[0])
    def test_values_equal_dense_arithmetic(self, execution: Execution, setting: Setting, law: Law) -> None:
        queries = central(law)
        truth = torch.stack([expected(setting, q) for q in queries])
        found = values(execution.evaluate(setting[0], queries, setting[1]))
        torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)

    def test_tensors_are_as_before(self, execution: Execution, setting: Setting) -> None:
        objective, parameters = setting
        before = parameters.flat()
        execution.evaluate(objective, central(Rademacher()), parameters)
        assert float((parameters.flat() - before).abs().max()) <= self.drift

    def test_evaluating_is_no_step(self, execution: Execution, setting: Setting) -> None:
        execution.evaluate(setting[0], central(Rademacher()), setting[1])
        assert setting[1].version == 0

    def test_module_is_left_as_it_was(self, execution: Execution, setting: Setting) -> None:
        """The same parameter objects, and no hooks."""
        module = setting[0].module
        before = [(n, id(p)) for n, p in module.named_parameters(remove_duplicate=False)]
        execution.evaluate(setting[0], central(Rademacher()), setting[1])
        assert [(n, id(p)) for n, p in module.named_parameters(remove_duplicate=False)] == before
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())

    def test_frozen_weights_are_not_displaced(self, execution: Execution, setting: Setting) -> None:
        objective = setting[0]
        parameters = Parameters.from_module(objective.module, "hidden")
        copied = copy.deepcopy(objective)
        Parameters.from_module(copied.module, "hidden").apply(step(5, EPSILON))
        found = values(execution.evaluate(objective, central(Rademacher(), (5,)), parameters))
        torch.testing.assert_close(found[1], copied.values(Context()).double(), rtol=0, atol=1e-12)

    def test_context_chooses_the_data(self, execution: Execution, setting: Setting) -> None:
        query = Query("0.0.0", None, context=Context(indices=(3, 1)))
        truth = expected(setting, Query("0.0.0", None))[[3, 1]]
        found = values(execution.evaluate(setting[0], [query], setting[1]))[0]
        torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)

    def test_anchored_query_is_evaluated_at_its_anchor(self, execution: Execution, setting: Setting) -> None:
        objective, parameters = setting
        parameters.take_anchor("start")
        parameters.apply(step(7, 0.1))
        here = parameters.flat()
        queries = [*central(Rademacher(), (1,), "start"), *central(Rademacher(), (1,))]
        truth = torch.stack([expected(setting, q) for q in queries])
        found = values(execution.evaluate(objective, queries, parameters))
        torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)
        assert float((parameters.flat() - here).abs().max()) <= self.drift

    def test_pending_update_is_seen_and_carried_out(self, execution: Execution, setting: Setting) -> None:
        objective, parameters = setting
        eager = Parameters(copy.deepcopy(parameters.tensors))
        eager.apply(step(7, 0.1))
        parameters.apply(step(7, 0.1), defer=True)
        found = values(execution.evaluate(objective, central(Rademacher()), parameters))
        truth = torch.stack([expected((objective, eager), q) for q in central(Rademacher())])
        torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)
        assert float((parameters.flat() - eager.flat()).abs().max()) <= self.drift

    def test_exception_is_an_outcome_and_the_others_are_answered(self, execution: Execution, setting: Setting) -> None:
        objective, parameters = setting
        before, queries = parameters.flat(), central(Rademacher())
        truth = [expected(setting, q) for q in queries]
        objective.fail_on = {2}
        outcomes = execution.evaluate(objective, queries, parameters)
        assert len(outcomes) == len(queries)
        assert sum(isinstance(o, Exception) for o in outcomes) <= 1
        for outcome, true in zip(outcomes, truth, strict=True):
            if isinstance(outcome, Tensor):
                torch.testing.assert_close(outcome.double(), true, rtol=0, atol=1e-12)
        assert float((parameters.flat() - before).abs().max()) <= self.drift

    def test_evaluating_again_gives_the_same_bits(self, execution: Execution, setting: Setting) -> None:
        objective, parameters = setting
        twin = copy.deepcopy(objective)
        first = execution.evaluate(objective, central(Gaussian()), parameters)
        second = copy.deepcopy(execution).evaluate(twin, central(Gaussian()), Parameters.from_module(twin.module))
        assert torch.equal(values(first), values(second))

    def test_replay_leaves_the_bits_that_evaluating_leaves(self, execution: Execution, setting: Setting) -> None:
        objective, parameters = setting
        replayed = Parameters(copy.deepcopy(parameters.tensors))
        for number in range(3):
            queries = central(Rademacher(), (number,))
            execution.evaluate(objective, queries, parameters)
            execution.replay(queries, replayed)
            for tuned in (parameters, replayed):
                tuned.apply(step(number, 0.01), defer=True)
        assert torch.equal(parameters.flat(), replayed.flat())

    def test_settings_can_be_journaled(self, execution: Execution) -> None:
        assert json.loads(json.dumps(execution.settings())) == execution.settings()

    def test_global_generators_are_left_alone(self, execution: Execution, setting: Setting) -> None:
        with untouched():
            execution.evaluate(setting[0], central(Gaussian()), setting[1])
