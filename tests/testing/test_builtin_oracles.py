"""The oracles pass the conformance suite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from blackbox.execution import WriteFree
from blackbox.feedback import Ranking
from blackbox.parameters import Parameters
from blackbox.probe import Query
from blackbox.testing.models import TinyObjective
from blackbox.testing.oracles import Oracle, OracleSuite
from oracles.base import HumanOracle, RankingOracle
from oracles.function import FunctionOracle
from oracles.objective import ObjectiveOracle


def squares(x: Any) -> Any:
    return (x**2).sum(-1)


class TestPlainFunction(OracleSuite):
    @pytest.fixture
    def oracle(self) -> Oracle:
        return FunctionOracle(squares)


class TestBatchedTorchFunction(OracleSuite):
    @pytest.fixture
    def oracle(self) -> Oracle:
        return FunctionOracle(squares, batched=True, library="torch")


class TestModule(OracleSuite):
    @pytest.fixture
    def objective(self) -> TinyObjective:
        return TinyObjective()

    @pytest.fixture
    def oracle(self, objective: TinyObjective) -> Oracle:
        return ObjectiveOracle(objective, WriteFree())

    @pytest.fixture
    def parameters(self, objective: TinyObjective) -> Parameters:
        return Parameters.from_module(objective.module)


class Smallest(RankingOracle):
    def rank(self, candidates: Any) -> list[int]:
        return [int(i) for i in np.argsort(squares(candidates))]


class TestRanking(OracleSuite):
    @pytest.fixture
    def oracle(self) -> Oracle:
        return Smallest()


class Person(HumanOracle):
    """Ranks when told to."""

    def __init__(self) -> None:
        self.given: list[Ranking] = []

    def render(self, candidate: Any) -> str:
        return str(candidate)

    def collect(self) -> Sequence[Ranking]:
        given, self.given = self.given, []
        return given


class TestPerson(OracleSuite):
    @pytest.fixture
    def oracle(self) -> Oracle:
        return Person()

    def respond(self, oracle: Any, queries: Sequence[Query]) -> None:
        oracle.given.append(Ranking(tuple((q.id,) for q in queries), cost={"queries": len(queries)}))
