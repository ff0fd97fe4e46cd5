"""The classification problem on the tiny model, and its baselines."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from blackbox.errors import UserError
from blackbox.probe import Context
from problems.llm.baselines import PeakMemory, adamw, zero_shot
from problems.llm.classification import Classification, summary


def tiny(**settings: Any) -> Classification:
    return Classification(**{"model": "tiny", "data": "tiny", "device": "cpu", **settings})


@pytest.fixture(autouse=True)
def global_generators_untouched() -> Iterator[None]:
    before, numpy_before = torch.get_rng_state(), str(np.random.get_state())
    yield
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == numpy_before


def one_by_one(problem: Classification, indices: Any) -> torch.Tensor:
    """Losses by the model's own forward pass, one unpadded example at a time."""
    losses = []
    for i in indices:
        example = problem._data["train"][i]
        ids = torch.tensor([problem.tokenizer(f"{example.fields['x']} It was")["input_ids"]])
        with torch.no_grad():
            logits = problem.scorer.causal(ids).logits[0, -1]
        options = [problem.tokenizer(answer)["input_ids"][0] for answer in (" terrible", " great")]
        losses.append(functional.cross_entropy(logits[options], torch.tensor(example.label)))
    return torch.stack(losses)


@pytest.mark.parametrize("micro_batch", [1, 5, 64])
def test_values_keep_the_order_of_the_examples(micro_batch: int) -> None:
    problem = tiny(micro_batch=micro_batch)
    context = Context(indices=(17, 3, 99, 4, 250, 3, 0))
    values = problem.values(context)
    assert values.dtype == torch.float32
    assert problem.indices(context) == list(context.indices or ())
    expected = one_by_one(problem, context.indices)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


def test_the_context_chooses_the_examples() -> None:
    problem = tiny(batch_size=8)
    assert list(problem.indices(Context())) == list(range(problem.examples)) == list(range(400))
    assert problem.values(Context()).shape == (400,)
    first, second = Context(batch_seed=1), Context(batch_seed=2)
    assert len(set(problem.indices(first))) == 8
    assert problem.indices(first) == tiny(batch_size=8).indices(first)
    assert problem.indices(first) != problem.indices(second)
    torch.testing.assert_close(problem.values(first), one_by_one(problem, problem.indices(first)))
    everything = problem.values(Context())
    torch.testing.assert_close(problem.values(first), everything[list(problem.indices(first))])


def test_values_follow_the_weights_in_a_context_seen_before() -> None:
    problem = tiny()
    context = Context(batch_seed=5)
    before = problem.values(context)
    with torch.no_grad():
        for parameter in problem.module.parameters():
            parameter.mul_(1.1)
    after = problem.values(context)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, one_by_one(problem, problem.indices(context)), rtol=1e-4, atol=1e-4)


def test_windowed_batches_are_fair_and_even_in_length() -> None:
    problem = tiny(batch_size=8, window=32)
    counts = np.zeros(400)
    spreads = []
    for seed in range(3000):
        chosen = list(problem.indices(Context(batch_seed=seed)))
        assert len(set(chosen)) == 8
        counts[chosen] += 1
        lengths = problem._cost[chosen]
        spreads.append(lengths.max() - lengths.min())
    # 3000 draws of 8 of 400: 60 each; batches share a window, so the spread exceeds the binomial.
    assert counts.min() > 25
    assert counts.max() < 110
    assert np.median(spreads) <= 3


def test_cost_counts_examples_and_tokens() -> None:
    problem = tiny()
    context = Context(indices=(0, 1))
    tokens = sum(len(problem.tokenizer(f"{problem._data['train'][i].fields['x']} It was")["input_ids"]) for i in (0, 1))
    assert problem.cost(context) == {"examples": 2, "tokens": tokens}
    longer = tiny(verbalizer={0: " very dull", 1: " great"})
    assert longer.cost(context) == {"examples": 2, "tokens": 2 * tokens + 2}


def test_accuracy_objective_is_the_error_of_each_example() -> None:
    problem = tiny(objective="accuracy")
    values = problem.values(Context())
    assert set(values.tolist()) <= {0.0, 1.0}
    scores = problem.scores("train")
    assert np.array_equal(values.numpy(), scores.argmax(1) != problem.labels("train"))
    assert 1 - float(values.mean()) == pytest.approx(problem.metrics("train")["accuracy"])


def test_longer_answers_agree_with_one_sequence_per_option() -> None:
    problem = tiny(verbalizer={0: " very dull", 1: " great"}, micro_batch=3)
    values = problem.values(Context(indices=(5, 1, 2, 8)))
    scores = torch.from_numpy(problem.scores("train"))[[5, 1, 2, 8]]
    labels = torch.from_numpy(problem.labels("train"))[[5, 1, 2, 8]]
    torch.testing.assert_close(values, functional.cross_entropy(scores, labels, reduction="none"), rtol=1e-4, atol=1e-5)


def test_metrics_and_summary_agree_with_the_scores() -> None:
    problem = tiny()
    found = problem.metrics("test", limit=50)
    expected = summary(problem.scores("test")[:50], problem.labels("test")[:50])
    assert found == pytest.approx(expected, rel=1e-5)
    assert found["examples"] == 50
    assert set(found) == {"examples", "accuracy", "auc", "median_accuracy", "cross_entropy"}
    one_class = summary(np.zeros((3, 2), dtype=np.float32), np.ones(3, dtype=np.int64))
    assert one_class["cross_entropy"] == pytest.approx(np.log(2))
    assert "auc" not in one_class


def test_samples_show_the_same_sentences() -> None:
    problem = tiny()
    rows = problem.samples(4)
    assert [row["text"] for row in rows] == [row["text"] for row in problem.samples(4)]
    assert rows[0]["text"].endswith(". It was")
    assert all((row["margin"] > 0) == (row["answer"] == row["label"]) for row in rows)


def test_autocast_and_half_precision_stay_close() -> None:
    context = Context(batch_seed=0)
    exact = tiny().values(context)
    for settings in ({"autocast": True}, {"dtype": "bfloat16"}):
        values = tiny(**settings).values(context)
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, exact, rtol=0.1, atol=0.1)


def test_train_examples_are_drawn_by_seed() -> None:
    chosen = [tiny(train_examples=20, seed=seed)._data["train"] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "auc"}, "'auc' is not one of cross_entropy, accuracy"),
        ({"batch_size": 500}, "batch_size: needs 1 to 400"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"window": 4}, "window: needs 0 or 16"),
        ({"train_examples": 500}, "train_examples: needs 1 to 400"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny(**settings)
    with pytest.raises(UserError, match="no 'dev'"):
        tiny().metrics("dev")


def test_baselines_on_the_tiny_model() -> None:
    problem = tiny()
    before = zero_shot(problem)
    assert before["accuracy"] == problem.metrics()["accuracy"]
    assert before["peak_memory"] > 10_000_000
    after = adamw(problem, epochs=3, examples=200, lr=5e-3)
    assert after["accuracy"] > 0.9
    assert after["auc"] > max(0.95, before["auc"])
    assert after["examples_seen"] == 600
    assert problem.metrics()["accuracy"] == after["accuracy"]


def test_adamw_trains_only_what_is_tuned() -> None:
    problem = tiny(tuning="lora", lora={"r": 2})
    before = {name: p.detach().clone() for name, p in problem.module.named_parameters()}
    adamw(problem, epochs=1, examples=32, lr=1e-2)
    for name, parameter in problem.module.named_parameters():
        assert torch.equal(before[name], parameter) != ("lora_" in name), name


def test_peak_memory_starts_anew() -> None:
    device = torch.device("cpu")
    block = torch.ones(50_000_000)
    first = PeakMemory(device).read()
    del block
    second = PeakMemory(device)
    block = torch.ones(10_000_000)
    assert block.sum() > 0
    assert 0 < second.read() <= first
