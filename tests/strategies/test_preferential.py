"""Preferential Bayesian optimisation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blackbox import Budget, Journal, Parameters, Session, UserError, run
from blackbox.feedback import Ranking
from blackbox.strategies.preferential import PreferentialBayes
from oracles import FunctionOracle, Pairwise, Ranked, Rater

pytest.importorskip("botorch", reason="preferential Bayesian optimisation needs the extra bayesian")

LOWEST = np.array([0.7, -0.4])


def valley(x: Any) -> Any:
    """Smooth, not quadratic, condition number about 10; 0 at LOWEST."""
    y = x - LOWEST
    return np.log1p(y[:, 0] ** 2 + 10 * (y[:, 1] - 0.3 * y[:, 0] ** 2) ** 2)


def searched(oracle: Any, seed: int, queries: int, **settings: Any) -> np.ndarray:
    parameters = Parameters.from_vector(np.zeros(2))
    strategy = PreferentialBayes(2.0, subspace=2, **settings)
    result = run(Session(strategy, parameters, seed), oracle, Budget(queries=queries))
    assert result.cost["queries"] == queries and result.best is None  # no number was ever seen
    return parameters.flat().numpy()


def test_beats_random_search_at_equal_queries_by_order_alone() -> None:
    queries, ours, random = 32, [], []
    for seed in range(2):
        end = searched(Ranked(FunctionOracle(valley, batched=True)), seed, queries)
        ours.append(float(valley(end[None])[0]))
        drawn = np.random.default_rng(seed).uniform(-2, 2, (500, queries, 2))
        random.append(float(np.median([valley(points).min() for points in drawn])))
    assert max(ours) < 0.2 * min(random)


def test_pairs_will_do() -> None:
    oracle = Pairwise(FunctionOracle(valley, batched=True))
    assert float(valley(searched(oracle, 0, 24, candidates=2)[None])[0]) < 0.5 * float(valley(np.zeros((1, 2)))[0])


def test_an_unsure_rater_is_borne() -> None:
    oracle = Ranked(FunctionOracle(valley, batched=True), raters=[Rater("a", temperature=0.2), Rater("b")])
    assert float(valley(searched(oracle, 0, 24)[None])[0]) < 0.5 * float(valley(np.zeros((1, 2)))[0])


def test_a_checkpoint_between_rounds_changes_nothing(tmp_path: Path) -> None:
    """Resumed from a checkpoint, and by replay of the journal alone, bit for bit."""

    def to(steps: int, folder: str, every: int) -> torch.Tensor:
        parameters = Parameters.from_vector(np.zeros(6))
        journal = Journal(tmp_path / folder)
        session = Session(PreferentialBayes(2.0, subspace=3, initial=1), parameters, 5, journal)
        oracle = Ranked(
            FunctionOracle(lambda x: ((x - 1) ** 2).sum(1), batched=True), raters=[Rater("a", temperature=1)]
        )
        run(session, oracle, Budget(steps=steps), checkpoint_every=every)
        journal.close()
        return parameters.flat()

    once = to(5, "once", 0)
    for folder, every in (("checkpoint", 2), ("replay", 0)):
        to(3, folder, every)
        assert torch.equal(to(5, folder, every), once)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "once" / "journal.jsonl").read_text().splitlines()]
    assert kinds.count("ranking") == 5


def test_stays_in_the_subspace_and_in_the_box() -> None:
    parameters = Parameters.from_vector(np.full(30, 2.0))
    strategy = PreferentialBayes(0.5, subspace=3)
    session, oracle = Session(strategy, parameters), Ranked(FunctionOracle(lambda x: (x**2).sum(1), batched=True))
    asked = []
    for _ in range(4):
        queries = session.ask()
        asked += [query.candidate.values - 2.0 for query in queries]  # type: ignore[union-attr]
        oracle.submit(queries, parameters)
        session.tell_all(oracle.poll())
        session.advance()
    moves = np.array([*asked, parameters.flat().numpy() - 2.0])
    assert not moves[0].any()  # the first to be asked about is the starting point
    assert np.linalg.matrix_rank(moves, tol=1e-9) == 3
    assert np.linalg.norm(moves, axis=1).max() <= 0.5 * np.sqrt(3) + 1e-12
    assert float((parameters.flat() ** 2).sum()) < 30 * 4.0


def test_only_what_was_compared_is_learnt() -> None:
    strategy = PreferentialBayes(1.0, subspace=2)
    parameters = Parameters.from_vector(np.zeros(2))
    session = Session(strategy, parameters)
    a, b, c, d = (query.id for query in session.ask())
    session.tell(Ranking(((a,), (b, c)), (d,)))
    session.advance()
    state = strategy.state_dict()
    assert state["comparisons"].tolist() == [[0, 1], [0, 2]] and len(state["points"]) == 3
    ids = [query.id for query in session.ask()]
    session.tell(Ranking((), tuple(ids)))  # all skipped
    assert session.advance() == {"comparisons": 2.0}
    ids = [query.id for query in session.ask()]
    session.tell(Ranking(((ids[3],), (ids[1],)), (ids[0], ids[2])))
    session.advance()
    assert strategy.state_dict()["comparisons"].tolist() == [[0, 1], [0, 2], [4, 3]]


def test_values_alone_are_refused_in_words() -> None:
    session = Session(PreferentialBayes(1.0, subspace=2), Parameters.from_vector(np.zeros(2)))
    with pytest.raises(UserError, match=r"PreferentialBayes needs Preferences or Ranking, but FunctionOracle answers"):
        run(session, FunctionOracle(valley, batched=True), Budget(queries=8))


def test_raters_of_different_weight_are_refused() -> None:
    oracle = Ranked(FunctionOracle(valley, batched=True), raters=[Rater("a"), Rater("b", weight=2.0)])
    with pytest.raises(UserError, match=r"can't weigh raters.*1\.0, 2\.0"):
        searched(oracle, 0, 8)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"radius": 0.0}, "radius must be positive"),
        ({"radius": 1.0, "subspace": 0}, "subspace"),
        ({"radius": 1.0, "candidates": 1}, "nothing to compare"),
        ({"radius": 1.0, "initial": 0}, "initial"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        PreferentialBayes(**settings)


def test_a_subspace_of_more_dimensions_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match="subspace is 5, but the problem has 2"):
        Session(PreferentialBayes(1.0), Parameters.from_vector(np.zeros(2)))


def test_without_botorch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "blackbox.strategies.preference_model", raising=False)
    monkeypatch.setitem(sys.modules, "botorch.acquisition", None)
    with pytest.raises(UserError, match=r"blackbox-zo\[bayesian\]"):
        PreferentialBayes(1.0)
