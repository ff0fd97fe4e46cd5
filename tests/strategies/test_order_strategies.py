"""Strategies that need an order and no more."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cmaes
import numpy as np
import pytest
import torch

from blackbox import Budget, Journal, Parameters, Session, UserError, run
from blackbox.estimators import CentralDifference, RankEstimator
from blackbox.feedback import Failed, Ranking, Values
from blackbox.optimizers import SGD
from blackbox.strategies import CMAES, GLD, GradientStrategy, RankLineSearch, Strategy
from oracles import FunctionOracle, Pairwise, Ranked, Rater
from oracles.wrappers import Wrapper


def bowl(x: Any) -> Any:
    return (x**2).sum(1)


def ranked(**how: Any) -> Ranked:
    return Ranked(FunctionOracle(bowl, batched=True), **how)


def searching() -> Strategy:
    return GradientStrategy(RankEstimator(epsilon=0.05, probes=8), line_search=RankLineSearch(step=1.0))


MAKERS = {
    "rank and line search": searching,
    "gld": lambda: GLD(2.0, 1e-3),
    "cma-es": lambda: CMAES(0.5),
}


@pytest.mark.parametrize("name", MAKERS)
def test_descends_by_order_alone(name: str) -> None:
    parameters = Parameters.from_vector(np.full(10, 1.0))
    result = run(Session(MAKERS[name](), parameters), ranked(), Budget(queries=1500))
    assert result.best is None  # no number was ever seen
    assert float((parameters.flat() ** 2).sum()) < 0.2


@pytest.mark.parametrize("name", MAKERS)
def test_an_order_is_as_good_as_the_values_it_comes_from(name: str) -> None:
    ends = []
    for oracle in (ranked(), FunctionOracle(bowl, batched=True)):
        parameters = Parameters.from_vector(np.linspace(0.5, 1.5, 10))
        run(Session(MAKERS[name](), parameters), oracle, Budget(queries=300))
        ends.append(parameters.flat())
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", MAKERS)
def test_a_checkpoint_between_rounds_changes_nothing(name: str, tmp_path: Path) -> None:
    def to(steps: int, folder: str) -> torch.Tensor:
        parameters = Parameters.from_vector(np.linspace(0.5, 1.5, 10))
        journal = Journal(tmp_path / folder)
        session = Session(MAKERS[name](), parameters, journal=journal)
        run(session, ranked(raters=[Rater("a", temperature=0.3), Rater("b")]), Budget(steps=steps), checkpoint_every=7)
        journal.close()
        return parameters.flat()

    to(9, "twice")
    assert torch.equal(to(20, "twice"), to(20, "once"))


def test_line_search_keeps_the_incumbent_and_averages_failed_rounds() -> None:
    search = RankLineSearch(step=1.0, candidates=2)
    session = Session(
        GradientStrategy(RankEstimator(probes=3), line_search=search), Parameters.from_vector(np.zeros(20))
    )
    sizes = []
    for step in range(3):
        queries = session.ask()
        session.tell(Ranking(tuple((q.id,) for q in queries)))
        session.advance()
        queries = session.ask()
        assert queries[-1].candidate is None
        sizes.append(len(queries[0].candidate.terms))  # type: ignore[union-attr]
        winner = queries[-1].id if step < 2 else queries[0].id
        session.tell(Ranking(((winner,), tuple(q.id for q in queries if q.id != winner))))
        before = session.parameters.flat()
        facts = session.advance()
        assert facts is not None and facts["moved"] == float(step == 2)
        assert torch.equal(before, session.parameters.flat()) == (step < 2)
    assert sizes == [3, 6, 9]
    assert search.state_dict() == {"step": 1.0 * 0.5 * 0.5 / 0.5, "failed": []}  # two failures, then the longest won


def test_a_tie_with_the_incumbent_is_no_success() -> None:
    session = Session(searching(), Parameters.from_vector(np.zeros(3)))
    queries = session.ask()
    session.tell(Ranking(tuple((q.id,) for q in queries)))
    session.advance()
    session.tell(Ranking((tuple(q.id for q in session.ask()),)))
    session.advance()
    assert not session.parameters.flat().any() and session.steps == 1


def test_nothing_is_searched_along_after_a_skipped_round() -> None:
    session = Session(searching(), Parameters.from_vector(np.ones(3)))
    session.tell(Ranking((), tuple(q.id for q in session.ask())))
    assert session.advance() is not None and session.steps == 1


def test_cma_es_is_the_package_s_own_told_the_same_ranks() -> None:
    """Step for step the cmaes package, fed with values, whose order is the same."""
    parameters = Parameters.from_vector(np.full(4, 1.0))
    strategy = CMAES(0.5, population=6)
    session, oracle = Session(strategy, parameters), ranked()
    twin = cmaes.CMA(np.full(4, 1.0), 0.5, population_size=6, seed=0)
    for _ in range(15):
        oracle.submit(session.ask(), parameters)
        twin._rng = np.random.RandomState(session._phase.round.seed("population") % 2**32)  # type: ignore[union-attr]
        asked = [twin.ask() for _ in range(6)]
        twin.tell([(x, float((x**2).sum())) for x in asked])
        for feedback in oracle.poll():
            session.tell(feedback)
        session.advance()
    np.testing.assert_allclose(parameters.flat().numpy(), twin.mean, rtol=1e-12)


class OneFails(Wrapper):
    """The second candidate of every round fails."""

    def poll(self, timeout: float = 0) -> Any:
        found = []
        for one in self.oracle.poll(timeout):
            assert isinstance(one, Values)
            left = tuple(i for n, i in enumerate(one.ids) if n != 1)
            found += [Values(left, np.delete(one.values, 1)), Failed((one.ids[1],), "no")]
        return found


@pytest.mark.parametrize("name", ["rank and line search", "gld"])
def test_failures_are_left_out_of_the_order(name: str) -> None:
    from blackbox import Tolerance

    parameters = Parameters.from_vector(np.full(10, 1.0))
    oracle = Ranked(OneFails(FunctionOracle(bowl, batched=True)))
    run(Session(MAKERS[name](), parameters), oracle, Budget(queries=1000), tolerance=Tolerance(share=0.5))
    assert float((parameters.flat() ** 2).sum()) < 5.0  # half of what it was


def test_values_are_needed_where_an_order_would_be_invented_numbers() -> None:
    session = Session(GradientStrategy(CentralDifference(), SGD(0.1)), Parameters.from_vector(np.ones(3)))
    with pytest.raises(UserError, match=r"CentralDifference needs Values, but Ranked answers Ranking.*rank"):
        run(session, ranked(), Budget(queries=10))


def test_a_strategy_needs_an_optimizer_or_a_line_search() -> None:
    for parts in ({}, {"optimizer": SGD(0.1), "line_search": RankLineSearch()}):
        with pytest.raises(UserError, match="an optimizer or a line search, and not both"):
            GradientStrategy(RankEstimator(), **parts)  # type: ignore[arg-type]


def test_pairs_serve_the_rank_estimator_as_well() -> None:
    parameters = Parameters.from_vector(np.full(10, 1.0))
    oracle = Pairwise(FunctionOracle(bowl, batched=True), pairs="all")
    run(Session(searching(), parameters), oracle, Budget(queries=1000))
    assert float((parameters.flat() ** 2).sum()) < 0.2


def test_state_is_a_copy() -> None:
    strategy = CMAES(0.5)
    strategy.begin(Parameters.from_vector(np.zeros(3)))
    state = copy.deepcopy(strategy.state_dict())
    assert all(isinstance(v, torch.Tensor | bool | int | float | None) for v in state.values())
