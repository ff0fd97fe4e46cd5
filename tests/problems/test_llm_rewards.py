"""Objectives of one's own: rewards and orders of what a model writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blackbox import Budget, Session, load, run
from blackbox.cli.main import main
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference, RankEstimator
from blackbox.execution import InPlace, WriteFree
from blackbox.feedback import Failed, Ranking, Values
from blackbox.optimizers import SGD
from blackbox.probe import Context
from blackbox.strategies import GradientStrategy
from oracles import ObjectiveOracle
from oracles.completions import RankedCompletions
from problems.llm.classification import Classification
from problems.llm.generation import Generation

ROWS = [
    {"q": question, "a": "dull", "wanted": "is"} for question in ("the plot is", "a film with", "the music", "it was")
]


def writer(objective: Any = "cross_entropy", **settings: Any) -> Generation:
    keys = {"template": "{q}", "answer": " {a}", "batch_size": 3, "new_tokens": 6, "device": "cpu"}
    return Generation(
        **{"model": "tiny", "data": {"train": ROWS, "test": ROWS}, "objective": objective, **keys, **settings}
    )


def count_of_wanted(prompts: list[str], completions: list[str], wanted: list[str], **columns: Any) -> list[float]:
    return [text.split().count(word) for text, word in zip(completions, wanted, strict=True)]


def test_a_reward_is_given_prompts_completions_and_columns() -> None:
    seen: dict[str, Any] = {}

    def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        seen.update(columns, prompts=prompts, completions=completions)
        return [float(len(text)) for text in completions]

    problem = writer(reward)
    values = problem.values(Context(indices=(2, 0)))
    assert seen["prompts"] == ["the music", "the plot is"]
    assert seen["a"] == ["dull", "dull"]
    assert seen["q"] == seen["prompts"]
    assert seen["completions"] == problem.completions("train", [2, 0])[0]
    assert values.tolist() == [float(len(text)) for text in seen["completions"]]
    assert problem.maximize
    assert problem.metrics("test")["reward"] == np.mean([len(t) for t in problem.completions("test", range(4))[0]])


def test_a_classifier_completes_with_its_answer() -> None:
    def reward(prompts: list[str], completions: list[str], label: list[int], **columns: Any) -> list[float]:
        return [float(text == (" terrible", " great")[one]) for text, one in zip(completions, label, strict=True)]

    keys = {"model": "tiny", "data": "tiny", "device": "cpu"}
    problem, accuracy = Classification(objective=reward, **keys), Classification(objective="accuracy", **keys)
    context = Context(batch_seed=1)
    assert torch.equal(problem.values(context), 1 - accuracy.values(context))


def test_rewards_rise_in_a_run() -> None:
    problem = writer(count_of_wanted, batch_size=4)
    before = problem.metrics("train")["reward"]
    strategy = GradientStrategy(CentralDifference(epsilon=0.05, probes=4), SGD(lr=0.02))
    run(Session(strategy, problem.parameters()), ObjectiveOracle(problem), Budget(queries=160))
    assert problem.metrics("train")["reward"] > before + 0.5


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (lambda prompts, completions, **columns: [1.0], "1 rewards for 3 prompts"),
        (lambda prompts, completions, **columns: [1.0, None, 2.0], "no finite reward for completion 2"),
        (lambda prompts, completions: [1.0, 2.0, 3.0], "unexpected keyword"),
    ],
)
def test_a_reward_that_is_none_fails_its_query(objective: Any, reason: str) -> None:
    problem = writer(objective)
    session = Session(GradientStrategy(CentralDifference(), SGD(lr=0.1)), problem.parameters())
    oracle = ObjectiveOracle(problem)
    oracle.submit(session.ask(), session.parameters)
    feedback = oracle.poll()
    assert [type(one) for one in feedback] == [Failed, Failed]
    assert all(reason in one.reason for one in feedback if isinstance(one, Failed))


def order_by_wanted(prompts: list[str], completions: list[list[str]], wanted: list[str], **columns: Any) -> list[Any]:
    """More of the wanted word is better; equal counts tie."""
    orders = []
    for texts, word in zip(completions, wanted, strict=True):
        counts = [text.split().count(word) for text in texts]
        orders.append(
            [[i for i, one in enumerate(counts) if one == count] for count in sorted({*counts}, reverse=True)]
        )
    return orders


@pytest.mark.parametrize("execution", [WriteFree(), InPlace()], ids=["write-free", "in-place"])
def test_orders_of_what_candidates_write(execution: Any) -> None:
    """Each prompt ranks the candidates as the rewards of their texts would."""
    data = {"train": [{**row, "wanted": "a"} for row in ROWS]}
    problem, scored = writer(data=data), writer(count_of_wanted, data=data)
    session = Session(GradientStrategy(RankEstimator(epsilon=0.05, probes=4), SGD(lr=0.1)), problem.parameters())
    queries = session.ask()
    oracle = RankedCompletions(problem, order_by_wanted, execution)
    oracle.submit(queries, session.parameters)
    rankings = oracle.poll()
    assert all(isinstance(one, Ranking) for one in rankings)
    assert [one.rater for one in rankings if isinstance(one, Ranking)] == ["prompt 1", "prompt 2", "prompt 3"]
    assert sum(one.cost["queries"] for one in rankings) == len(queries)
    assert sum(one.cost.get("rankings", 0) for one in rankings) == 3
    assert rankings[0].cost["tokens"] > 0
    values = ObjectiveOracle(scored)
    values.per_example = True
    values.submit(queries, scored.parameters())
    (found,) = values.poll()
    assert isinstance(found, Values)
    table = -np.asarray(found.values)  # [queries, prompts]; the oracle's lower is better
    assert np.ptp(table) > 0
    for ranking, counts in zip(rankings, table.T, strict=True):
        assert isinstance(ranking, Ranking)
        by_id = dict(zip(found.ids, counts, strict=True))
        shown = [{by_id[one] for one in group} for group in ranking.groups]
        assert all(len(group) == 1 for group in shown)
        assert [group.pop() for group in shown] == sorted({*counts}, reverse=True)


def test_orders_move_a_run() -> None:
    problem = writer(batch_size=4)
    (before,) = problem.completions("train", range(4))
    strategy = GradientStrategy(RankEstimator(epsilon=0.1, probes=8), SGD(lr=0.3))
    session = Session(strategy, problem.parameters())
    run(session, RankedCompletions(problem, order_by_wanted), Budget(queries=160))
    (after,) = problem.completions("train", range(4))
    assert sum(text.split().count("is") for text in after) > sum(text.split().count("is") for text in before)


@pytest.mark.parametrize(
    ("judge", "reason"),
    [
        (lambda prompts, completions, **columns: [[0, 1]], "1 orders for 3 prompts"),
        (lambda prompts, completions, **columns: [[0, 9], [0], [0]], "position 9 is named twice, or isn't one of"),
        (lambda prompts, completions, **columns: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_orders_that_are_none_fail(judge: Any, reason: str) -> None:
    problem = writer()
    session = Session(GradientStrategy(RankEstimator(probes=4), SGD(lr=0.1)), problem.parameters())
    oracle = RankedCompletions(problem, judge)
    queries = session.ask()
    oracle.submit(queries, session.parameters)
    feedback = oracle.poll()
    assert {one.ids[0] for one in feedback} == {query.id for query in queries}
    assert all(isinstance(one, Failed) and reason in one.reason for one in feedback)


def called(*arguments: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0


MODULE = """
def reward(prompts, completions, **columns):
    return [text.split().count("is") for text in completions]

def order(prompts, completions, **columns):
    return [sorted(range(len(texts)), key=lambda i: -texts[i].split().count("is")) for texts in completions]
"""
CONFIG = """
problem:
  type: llm-generation
  model: tiny
  device: cpu
  data: {{train: rows.jsonl, validation: rows.jsonl, test: rows.jsonl}}
  template: "{{q}}"
  answer: " {{a}}"
  batch_size: 2
  new_tokens: 4
  {objective}
{oracle}
estimator: {{type: {estimator}}}
optimizer: {{type: sgd, lr: 1e-2}}
budget: {{queries: 16}}
run: {{name: it}}
"""


@pytest.mark.parametrize(
    ("objective", "oracle", "estimator"),
    [
        ("objective: my_rewards:reward", "", "central"),
        ("", "oracle: {type: ranked-completions, judge: 'my_rewards:order'}", "rank"),
    ],
    ids=["reward", "order"],
)
def test_in_yaml_by_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str, oracle: str, estimator: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "my_rewards.py").write_text(MODULE)
    (tmp_path / "rows.jsonl").write_text('{"q": "the plot", "a": "dull"}\n{"q": "it was", "a": "funny"}\n')
    text = CONFIG.format(objective=objective, oracle=oracle, estimator=estimator)
    (tmp_path / "beside" / "one.yaml").write_text(text)
    called("run", "beside/one.yaml")
    assert load("runs/it").steps
    called("run", "runs/it/config.yaml", "--set", "run.name=again")  # which finds the module too


def test_a_function_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="there is no module 'no_rewards'"):
        writer("no_rewards:reward")
