"""Kendall's tau between raters, against scipy's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from blackbox.agreement import agreement, of_run
from blackbox.feedback import Ranking


def ranking(places: list[int], rater: str, round_id: str = "0.0", skip: tuple[int, ...] = ()) -> Ranking:
    ids = [f"{round_id}.{i}" for i in range(len(places))]
    judged = [i for i in range(len(places)) if i not in skip]
    levels = sorted({places[i] for i in judged})
    groups = tuple(tuple(ids[i] for i in judged if places[i] == level) for level in levels)
    return Ranking(groups, tuple(ids[i] for i in skip), rater)


@pytest.mark.parametrize("seed", range(20))
def test_one_round_is_scipy_s_tau_b(seed: int) -> None:
    generator = np.random.Generator(np.random.Philox(seed))
    x, y = generator.integers(0, 5, 9).tolist(), generator.integers(0, 5, 9).tolist()
    (found,) = agreement([ranking(x, "ann"), ranking(y, "bob")])
    assert found.tau == pytest.approx(kendalltau(x, y).statistic)
    assert (found.raters, found.rounds, found.pairs) == (("ann", "bob"), 1, 36)


def test_pairs_are_of_one_round_and_judged_by_both() -> None:
    found = agreement(
        [
            ranking([0, 1, 2], "ann"),
            ranking([0, 1, 2], "bob", skip=(2,)),
            ranking([0, 1], "ann", "1.0"),
            ranking([1, 0], "bob", "1.0"),
            ranking([1, 0], "cem", "2.0"),
        ]
    )
    assert [(one.raters, one.tau, one.rounds, one.pairs) for one in found] == [(("ann", "bob"), 0.0, 2, 2)]


def test_who_ties_everything_agrees_with_nobody() -> None:
    (found,) = agreement([ranking([0, 1], "ann"), ranking([0, 0], "bob")])
    assert math.isnan(found.tau)


def test_a_run_s_report_shows_it(tmp_path: Path, capsys: Any) -> None:
    from rich.console import Console

    from blackbox import Budget, Journal, Parameters, Session, run
    from blackbox.estimators import RankEstimator
    from blackbox.report import RunRecord, table
    from blackbox.strategies import GradientStrategy, RankLineSearch
    from oracles import FunctionOracle, Ranked, Rater

    raters = [Rater("ann"), Rater("bob"), Rater("cem", temperature=100.0)]
    oracle = Ranked(FunctionOracle(lambda x: (x**2).sum(1), batched=True), raters=raters)
    strategy = GradientStrategy(RankEstimator(probes=6), line_search=RankLineSearch())
    journal = Journal(tmp_path)
    run(Session(strategy, Parameters.from_vector(np.ones(5)), journal=journal), oracle, Budget(queries=300))
    journal.close()
    taus = {one.raters: one.tau for one in of_run(tmp_path)}
    assert taus["ann", "bob"] == 1 and abs(taus["ann", "cem"]) < 0.3
    Console(width=100).print(table(RunRecord(tmp_path, {})))
    assert "ann and bob" in capsys.readouterr().out
