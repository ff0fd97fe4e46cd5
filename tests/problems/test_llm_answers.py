"""Multiple choice and generation on the tiny model, against plain forward passes of transformers."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from blackbox import Budget, Session, run
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference
from blackbox.execution import InPlace, WriteFree
from blackbox.optimizers import SGD
from blackbox.probe import Context
from blackbox.strategies import GradientStrategy
from oracles import ObjectiveOracle
from problems.llm import metrics
from problems.llm.choice import Choice
from problems.llm.generation import Generation
from problems.llm.tiny import tiny_rows

ROWS = [
    {"q": "the plot is", "a": "very dull", "b": ["quite funny", "lovely"]},
    {"q": "the cast is often", "a": "lovely .", "b": ["ugly"]},
    {"q": "the music", "a": "is superb and moving", "b": ["is a film", "and plot", "was dull ."]},
    {"q": "a tender story with", "a": "acting", "b": ["music", "very dull music"]},
]


def choice(**settings: Any) -> Choice:
    keys = {"template": "{q}", "options": [" {a}", " {b}"], "right": "first", "batch_size": 2, "micro_batch": 3}
    return Choice(**{"model": "tiny", "data": {"train": ROWS, "test": ROWS}, "device": "cpu", **keys, **settings})


def generation(**settings: Any) -> Generation:
    keys = {"template": "{q}", "answer": " {a}", "batch_size": 2, "micro_batch": 3, "new_tokens": 5}
    return Generation(**{"model": "tiny", "data": {"train": ROWS, "test": ROWS}, "device": "cpu", **keys, **settings})


@pytest.fixture(autouse=True)
def global_generators_untouched() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


def likelihood(problem: Any, prompt: str, answer: str) -> float:
    """Mean log-likelihood of the answer's tokens by one plain forward pass over one sequence."""
    first = problem.tokenizer(prompt)["input_ids"]
    second = problem.tokenizer(answer)["input_ids"]
    with torch.no_grad():
        logits = problem.scorer.causal(torch.tensor([[*first, *second]])).logits[0]
    likely = logits[len(first) - 1 : -1].log_softmax(-1)
    return float(likely[torch.arange(len(second)), torch.tensor(second)].mean())


def follow(problem: Any, prompt: str, count: int) -> str:
    """Greedy generation one token at a time, the whole sequence anew for each, without a cache."""
    ids = problem.tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(problem.scorer.causal(torch.tensor([ids])).logits[0, -1].argmax()))
    return str(problem.tokenizer.decode(ids[start:]))


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_options_score_their_mean_likelihood(micro_batch: int) -> None:
    problem = choice(micro_batch=micro_batch)
    scores = problem.scores("train")
    assert scores.shape == (4, 4)
    for row, found in zip(ROWS, scores, strict=True):
        options = [row["a"], *row["b"]]
        expected = [likelihood(problem, row["q"], text) for text in options]
        np.testing.assert_allclose(found[: len(options)], expected, rtol=1e-5)
        assert np.isneginf(found[len(options) :]).all()


def test_choice_values_are_cross_entropies_or_errors() -> None:
    problem, errors = choice(), choice(objective="accuracy")
    scores = torch.from_numpy(problem.scores("train"))
    context = Context(indices=(3, 0, 2, 0))
    expected = functional.cross_entropy(scores, torch.zeros(4, dtype=torch.int64), reduction="none")
    torch.testing.assert_close(problem.values(context), expected[[3, 0, 2, 0]])
    wrong = (scores.argmax(1) != 0).float()
    assert 0 < wrong.sum() < 4  # both kinds occur
    assert torch.equal(errors.values(context), wrong[[3, 0, 2, 0]])
    assert problem.metrics("train")["accuracy"] == 1 - float(wrong.mean())
    assert problem.metrics("train")["cross_entropy"] == pytest.approx(float(expected.mean()), rel=1e-6)


def test_several_right_options_all_count() -> None:
    rows = [
        {"q": "the plot is", "all": ["dull", "lovely", "funny"], "label": right} for right in (["lovely"], ["dull"])
    ]
    best = int(choice(data={"train": rows}, options=[" {all}"], right=None).scores("train")[0].argmax())
    word = rows[0]["all"][best]
    other = next(one for one in rows[0]["all"] if one != word)
    both = [{**rows[0], "label": [other, word]}, {**rows[0], "label": [other]}]
    found = choice(data={"train": both}, options=[" {all}"], right=None, objective="accuracy")
    assert found.values(Context()).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("build", [choice, generation])
def test_copies_of_a_batch_agree_with_one(build: Any) -> None:
    problem = build()
    context = Context(batch_seed=4)
    values = problem.stacked_values(context, 3)
    assert values.shape == (3, 2)
    torch.testing.assert_close(values, problem.values(context).expand(3, 2), rtol=1e-5, atol=1e-6)


def test_taught_text_is_scored_with_its_end() -> None:
    problem = generation()
    expected = [-likelihood(problem, row["q"], row["a"]) for row in ROWS]
    np.testing.assert_allclose(problem.values(Context()).numpy(), expected, rtol=1e-5)
    ended = generation(stop=" .")
    expected = [-likelihood(problem, row["q"], row["a"] + " .") for row in ROWS]
    np.testing.assert_allclose(ended.values(Context()).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 2, 8])
def test_generation_is_the_likeliest_token_again_and_again(micro_batch: int) -> None:
    problem = generation(micro_batch=micro_batch)
    (texts,) = problem.completions("train", [2, 0, 1, 3])
    assert texts == [follow(problem, ROWS[i]["q"], 5) for i in (2, 0, 1, 3)]
    first, second = problem.completions("train", [1, 2], copies=2)
    assert first == second == [texts[2], texts[0]]


def test_generation_stops_at_the_stop_and_ignores_the_models_own_settings() -> None:
    problem = generation()
    text = follow(problem, ROWS[0]["q"], 5)
    word = text.split()[-1]
    stopped = generation(stop=f" {word}")
    (found,) = stopped.completions("train", [0])
    assert found == [text.split(word)[0].strip()]
    own = problem.scorer.causal.generation_config
    own.repetition_penalty, own.max_length = 50.0, 3
    assert problem.completions("train", [0]) == [[text]]
    assert problem.scorer.causal.generation_config is own


def test_generated_text_is_compared_with_all_that_are_right() -> None:
    problem = generation()
    texts = [follow(problem, row["q"], 5) for row in ROWS]
    rows = [
        {"q": ROWS[0]["q"], "a": ["dull", texts[0]]},  # exact
        {"q": ROWS[1]["q"], "a": [next(word for word in texts[1].split() if word != "a") + " painful"]},  # in part
        {"q": ROWS[2]["q"], "a": ["superb"]},
    ]
    f1 = generation(data={"train": rows}, objective="f1")
    exact = generation(data={"train": rows}, objective="exact_match")
    expected = [metrics.f1(text, row["a"]) for text, row in zip(texts, rows, strict=False)]
    assert expected[0] == 1
    assert 0 < expected[1] < 1
    np.testing.assert_allclose(f1.values(Context()).numpy(), 1 - np.array(expected), rtol=1e-6)
    assert exact.values(Context()).tolist() == [0.0, 1.0, 1.0]
    found = f1.metrics("train")
    assert found["f1"] == pytest.approx(np.mean(expected))
    assert found["exact_match"] == pytest.approx(1 / 3)
    cost = f1.cost(Context(indices=(0,)))
    assert cost == {"examples": 1, "tokens": 3 + 5}


@pytest.mark.parametrize(
    ("text", "references", "exact", "f1"),
    [  # worked by hand from SQuAD's evaluate-v1.1: lower case, no punctuation, no articles, single spaces
        ("The Cat.", ["cat"], 1, 1),
        ("a  black cat", ["the black dog"], 0, 0.5),
        ("Saint-Denis", ["saintdenis"], 1, 1),
        ("there", ["re"], 0, 0),  # only whole articles go
        ("10,000", ["10000"], 1, 1),
        ("cat cat dog", ["cat dog dog bird"], 0, 4 / 7),  # 2 in common of 3 and 4
        ("no", ["yes", "no way"], 0, 2 / 3),
        ("the", ["an"], 1, 1),
        ("", ["cat"], 0, 0),
    ],
)
def test_exact_match_and_f1_are_squads(text: str, references: list[str], exact: float, f1: float) -> None:
    assert metrics.exact_match(text, references) == exact
    assert metrics.f1(text, references) == pytest.approx(f1)


@pytest.mark.parametrize("objective", ["cross_entropy", "f1"])
@pytest.mark.parametrize("stacked", [False, True])
def test_displaced_weights_are_the_ones_that_answer(objective: str, stacked: bool) -> None:
    """Write-free values, of generated text too, are those at weights that were written."""
    rows = [{"q": row["x"].split(" is ")[0] + " is", "a": row["x"].split(" is ")[1]} for row in tiny_rows(8)["train"]]
    data = {"train": rows}
    free, written = (generation(data=data, objective=objective, batch_size=8, micro_batch=8) for _ in range(2))
    found = []
    for problem, execution in ((free, WriteFree(stacked=stacked)), (written, InPlace())):
        estimator = CentralDifference(epsilon=0.3)
        session = Session(GradientStrategy(estimator, SGD(lr=1e-9)), problem.parameters())
        queries = session.ask()
        outcomes = execution.evaluate(problem, queries, session.parameters)
        found.append(torch.stack([torch.as_tensor(outcome) for outcome in outcomes]))
    assert found[0].shape == (2, 8)
    assert not torch.equal(found[1][0], found[1][1])  # the displacement shows
    torch.testing.assert_close(found[0], found[1], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("build", [choice, generation])
def test_a_run_improves_the_objective(build: Any) -> None:
    problem = build(batch_size=4)
    before = problem.metrics("test")["cross_entropy"]
    strategy = GradientStrategy(CentralDifference(epsilon=1e-3), SGD(lr=3e-3))
    run(Session(strategy, problem.parameters()), ObjectiveOracle(problem), Budget(queries=120))
    assert problem.metrics("test")["cross_entropy"] < before - 0.2
    assert problem.samples(2)[0]["text"] == "the plot is"


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (
            choice,
            {"max_tokens": 3},
            r"example 3: the answer ' is superb and moving' has 4 tokens, more than max_tokens",
        ),
        (generation, {"max_tokens": 4}, "example 3: the answer ' is superb and moving' has 4 tokens"),
        (generation, {"max_tokens": 6, "objective": "f1", "new_tokens": 9}, "leaves no room for a prompt beside 9"),
        (generation, {"new_tokens": 0}, "new_tokens: needs at least 1"),
        (generation, {"objective": "rouge"}, "'rouge' is not one of cross_entropy, f1, exact_match, nor a function"),
        (choice, {"objective": "f1"}, "'f1' is not one of cross_entropy, accuracy"),
        (choice, {"columns": {"label": "a"}}, "'label' is not a field"),
        (generation, {"chat": True}, "no chat template"),
    ],
)
def test_wrong_settings_are_refused(build: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**settings)


def asset(name: str) -> Path:
    folder = os.environ.get("BLACKBOX_ASSETS")
    if not folder:
        pytest.skip("BLACKBOX_ASSETS does not name the folder of test assets")
    return Path(folder) / "text" / name


def test_tofu_as_choice_and_as_text() -> None:
    """Every row of TOFU's files is read; the tiny tokenizer knows next to no word of theirs, so a few are shortened."""
    from problems.llm.data import load_data
    from problems.llm.prompt import make_prompt

    for name, count, wrong in (("tofu_world_facts.jsonl", 117, 3), ("tofu_real_authors.jsonl", 100, 3)):
        path = asset(name)
        data = load_data({"train": str(path)}, make_prompt("tofu-choice", form="options"))
        assert len(data["train"]) == count
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [example.options[0].strip() for example in data["train"]] == [row["answer"].strip() for row in rows]
        assert np.mean([len(example.options) == wrong + 1 for example in data["train"]]) > 0.9
    data = load_data(str(asset("tofu_forget10.jsonl")), make_prompt("tofu", form="answer"))
    assert {split: len(found) for split, found in data.items()} == {"train": 280, "validation": 40, "test": 80}
