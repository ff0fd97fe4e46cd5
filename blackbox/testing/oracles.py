"""What every oracle must satisfy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pytest
import torch

from blackbox.feedback import Answers, Failed, Feedback, Preferences, Ranking, Values
from blackbox.noise.rademacher import Rademacher
from blackbox.parameters import Parameters
from blackbox.probe import Probe, Query
from blackbox.testing.generators import untouched


class Oracle(Protocol):
    """The part of an oracle that a session needs."""

    @property
    def answers(self) -> frozenset[type[Feedback]]:
        """Kinds of feedback."""

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Ask."""

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """Collect."""


def questions(step: int = 0) -> list[Query]:
    """The base and four probes."""
    candidates = [None, *(Probe(Rademacher(), ((seed, 0.01),)) for seed in range(1, 5))]
    return [Query(f"{step}.0.{i}", candidate) for i, candidate in enumerate(candidates)]


class OracleSuite:
    """Subclass it and define the fixture ``oracle``, new for each test.

    Override ``parameters`` for an oracle over something other than a vector of four, and ``respond`` where an
    answer takes an action of its own (a person's, a worker's).
    """

    deterministic: bool = True
    """Whether the same candidate in the same context always gets the same answer."""
    patience: float = 10.0
    """Seconds within which answers come."""

    @pytest.fixture
    def oracle(self) -> Any:
        """The oracle under test."""
        raise NotImplementedError("define a fixture `oracle` in the subclass")

    @pytest.fixture
    def parameters(self) -> Parameters:
        """What the queries displace."""
        return Parameters.from_vector([0.5, -1.0, 2.0, 0.25])

    def respond(self, oracle: Any, queries: Sequence[Query]) -> None:
        """Let answers to these queries come; nothing to do for an oracle that answers by itself."""

    def ask(self, oracle: Oracle, queries: Sequence[Query], parameters: Parameters) -> list[Feedback]:
        """Submit and poll until every query is answered."""
        oracle.submit(queries, parameters)
        self.respond(oracle, queries)
        return self.collect(oracle, queries)

    def collect(self, oracle: Oracle, queries: Sequence[Query]) -> list[Feedback]:
        """Poll until every query is answered."""
        open_ids, feedback = {q.id for q in queries}, []
        until = time.monotonic() + self.patience
        while open_ids:
            assert time.monotonic() < until, f"no answer to {sorted(open_ids)} after {self.patience} s"
            for one in oracle.poll(0.1):
                feedback.append(one)
                open_ids -= set(one.ids)
        return feedback

    def test_it_says_what_it_answers(self, oracle: Oracle) -> None:
        assert oracle.answers
        assert oracle.answers <= {Values, Ranking, Preferences, Failed}

    def test_nothing_asked_is_nothing_answered(self, oracle: Oracle) -> None:
        assert list(oracle.poll()) == []

    def test_every_query_is_answered_in_a_promised_form(self, oracle: Oracle, parameters: Parameters) -> None:
        """A promised form other than Failed, which is always allowed but would prove nothing."""
        feedback = self.ask(oracle, questions(), parameters)
        kinds = {type(one) for one in feedback}
        assert kinds <= oracle.answers - {Failed}
        assert {i for one in feedback for i in one.ids} == {q.id for q in questions()}

    def test_query_that_waits_is_not_asked_twice(self, oracle: Oracle, parameters: Parameters) -> None:
        oracle.submit(questions(), parameters)
        oracle.submit(questions(), parameters)
        self.respond(oracle, questions())
        feedback = self.collect(oracle, questions())
        assert sum(one.cost.get("queries", 0) for one in feedback) == len(questions())

    def test_answers_cost_as_many_queries_as_were_asked(self, oracle: Oracle, parameters: Parameters) -> None:
        feedback = self.ask(oracle, questions(), parameters)
        assert sum(one.cost.get("queries", 0) for one in feedback) == len(questions())

    def test_parameters_are_left_as_they_were(self, oracle: Oracle, parameters: Parameters) -> None:
        before = parameters.flat()
        self.ask(oracle, questions(), parameters)
        assert torch.equal(parameters.flat(), before)
        assert parameters.version == 0

    def test_answers_do_not_depend_on_the_order_of_asking(self, oracle: Oracle, parameters: Parameters) -> None:
        if not self.deterministic or Values not in oracle.answers:
            pytest.skip("the oracle gives no reproducible numbers")
        forward, backward = questions(0), questions(1)[::-1]
        first = Answers(self.ask(oracle, forward, parameters)).values([q.id for q in forward])
        second = Answers(self.ask(oracle, backward, parameters)).values([q.id for q in backward])[::-1]
        np.testing.assert_allclose(first, second, rtol=1e-12)

    def test_global_generators_are_left_alone(self, oracle: Oracle, parameters: Parameters) -> None:
        with untouched():
            self.ask(oracle, questions(), parameters)
