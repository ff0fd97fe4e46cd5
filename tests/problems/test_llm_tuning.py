"""What is tuned: schemes on every family, against plain forwards of the model on more tokens or displaced weights."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blackbox.errors import UserError
from blackbox.execution import Execution, InPlace, LowRankForward, WriteFree
from blackbox.noise import Gaussian, Law, LowRank, Rademacher
from blackbox.parameters import Parameters
from blackbox.probe import Context, Probe, Query
from problems.llm.classification import Classification
from problems.llm.families import CAUSAL, FAMILIES, tiny_family
from problems.llm.scoring import OptionScorer
from problems.llm.tiny import tiny_tokenizer
from problems.llm.tuning import choose_tuned
from problems.llm.virtual import _starting_ids

TOKENS = torch.randint(2, 40, (4, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def global_generator_untouched() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


def tuned(name: str, scheme: Any, **settings: Any) -> Any:
    return choose_tuned(tiny_family(name), scheme, tokenizer=tiny_tokenizer(), **settings)


def words(count: int, seed: int = 0) -> Tensor:
    """The random words that virtual tokens start at."""
    return torch.tensor(_starting_ids(count, seed, tiny_tokenizer(), tiny_family("llama")))


@torch.no_grad()
def after_words(name: str, count: int = 5) -> Tensor:
    """The model's own logits of TOKENS, which follow the words in the same sequence."""
    joined = torch.cat([words(count).expand(len(TOKENS), -1), TOKENS], 1)
    logits: Tensor = tiny_family(name)(input_ids=joined).logits[:, count:]
    return logits


# -- virtual tokens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["prefix", "prompt"])
@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_virtual_tokens_start_at_the_words_before_the_text(name: str, scheme: str) -> None:
    expected = after_words(name)
    with torch.no_grad():
        bare = tiny_family(name)(input_ids=TOKENS).logits
    assert (bare - expected).abs().max() > 0.1
    wrapped = tuned(name, scheme)
    base = wrapped.get_base_model()
    for more in ({}, {"attention_mask": torch.ones_like(TOKENS)}, {"use_cache": False}):
        torch.testing.assert_close(base(input_ids=TOKENS, **more).logits, expected, rtol=1e-5, atol=1e-5)
    # The same by peft's own forward, which puts them in itself.
    own = wrapped(input_ids=TOKENS).logits[:, -TOKENS.shape[1] :]
    torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "roberta"])
@torch.no_grad()
def test_masked_models_read_virtual_tokens_and_padding_is_no_matter(name: str) -> None:
    base = tuned(name, "prompt").get_base_model()
    torch.testing.assert_close(base(input_ids=TOKENS).logits, after_words(name), rtol=1e-5, atol=1e-5)
    for scheme in ("prefix", "prompt"):
        base = tuned(name, scheme).get_base_model()
        alone = base(input_ids=TOKENS).logits
        assert (alone - tiny_family(name)(input_ids=TOKENS).logits).abs().max() > 0.1
        padded = torch.cat([TOKENS, torch.ones(4, 3, dtype=torch.int64)], 1)
        mask = (torch.arange(10) < 7).long().expand(4, -1)
        torch.testing.assert_close(base(input_ids=padded, attention_mask=mask).logits[:, :7], alone)


@pytest.mark.parametrize("scheme", ["prefix", "prompt"])
@pytest.mark.parametrize("name", ["opt", "gpt2", "llama", "gemma3"])
def test_generation_goes_on_from_the_virtual_tokens(name: str, scheme: str) -> None:
    joined = torch.cat([words(5).expand(len(TOKENS), -1), TOKENS], 1)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 1}
    expected = tiny_family(name).generate(input_ids=joined, attention_mask=torch.ones_like(joined), **settings)
    base = tuned(name, scheme).get_base_model()
    got = base.generate(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS), **settings)
    assert torch.equal(got[:, 7:], expected[:, 12:])


@pytest.mark.parametrize("scheme", ["prefix", "prompt"])
def test_virtual_tokens_alone_are_tuned_and_may_start_at_a_text(scheme: str) -> None:
    problem = Classification(model="tiny", data="tiny", device="cpu", tuning=scheme, virtual_tokens="the plot is dull")
    (name,) = problem.parameters().layout.by_name
    assert name == "model.prompt_encoder.default.embedding.weight"
    width = 32 if scheme == "prompt" else 2 * 2 * 16
    assert tuple(problem.parameters().raw[name].shape) == (4, width)
    assert problem.scorer.route == "rows"
    plain = Classification(model="tiny", data="tiny", device="cpu")
    text = {"template": "the plot is dull {x} It was", "verbalizer": {0: " terrible", 1: " great"}}
    longer = Classification(model="tiny", data="tiny", device="cpu", **text)
    indices = Context(indices=(3, 1, 200))
    torch.testing.assert_close(problem.values(indices), longer.values(indices), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(problem.values(indices), plain.values(indices))


def test_the_seed_draws_the_words() -> None:
    first, again, other = (tuned("llama", "prompt", seed=seed).prompt_encoder.default for seed in (0, 0, 1))
    assert torch.equal(first.embedding.weight, again.embedding.weight)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


# -- parts of the model --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("llama", "lm_head."),
        ("smollm", "model.layers.1."),
        ("gpt2", "transformer.h.1."),
        ("opt", "model.decoder.layers.1."),
        ("bert", "bert.encoder.layer.1."),
    ],
)
def test_last_layer_is_the_output_layer_or_the_last_block(name: str, start: str) -> None:
    model = tuned(name, "last-layer")
    found = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert found == {key for key, _ in model.named_parameters() if key.startswith(start)} != set()


@pytest.mark.parametrize(
    ("scheme", "settings", "message"),
    [
        ("prefxi", {}, "'prefxi' is not `full`, `last-layer`, `lora`, `prefix`, `prompt` or a list"),
        ("full", {"virtual_tokens": 3}, "virtual_tokens: given, but tuning is 'full'; set tuning: prefix or prompt"),
        ("prefix", {"lora": {"r": 2}}, "lora: given, but tuning is 'prefix'; set tuning: lora"),
        ("prefix", {"virtual_tokens": -1}, "virtual_tokens: needs at least 1, or a text"),
        ("prompt", {"virtual_tokens": " "}, "the tokenizer makes no token of ' '"),
        ("full", {"adapter": "nowhere"}, "adapter: given, but tuning is 'full'; set tuning: lora or prefix or prompt"),
        ("lora", {"adapter": "nowhere"}, "nowhere is no folder that peft wrote: it has no adapter_config.json"),
        (["*.no_such_layer.*"], {}, "no parameter matches .*no_such_layer.*; names look like model.embed_tokens"),
    ],
)
def test_what_does_not_fit_is_told_in_one_message(scheme: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tuned("llama", scheme, **settings)


def test_a_model_without_a_cache_has_no_prefix() -> None:
    class Bare(nn.Module):
        config = tiny_family("llama").config
        device = torch.device("cpu")

        def forward(self, input_ids: Tensor) -> Tensor:
            return input_ids

    with pytest.raises(
        UserError, match=r"prefix needs a model whose layers all keep keys and values .*; Bare does not"
    ):
        choose_tuned(Bare(), "prefix", tokenizer=tiny_tokenizer())


# -- peft's folders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["lora", "prefix", "prompt"])
@torch.no_grad()
def test_an_adapter_comes_back_from_the_folder_that_peft_writes(scheme: str, tmp_path: Path) -> None:
    import peft

    wrapped = tuned("qwen3", scheme)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter += 0.1
    expected = wrapped.get_base_model()(input_ids=TOKENS).logits
    wrapped.save_pretrained(tmp_path)
    back = tuned("qwen3", scheme, adapter=str(tmp_path))
    torch.testing.assert_close(back.get_base_model()(input_ids=TOKENS).logits, expected, rtol=0, atol=0)
    names = [{n for n, p in one.named_parameters() if p.requires_grad} for one in (wrapped, back)]
    assert names[0] == names[1] != set()
    with torch.random.fork_rng(devices=[]):  # peft alone, without anything of ours
        alone = peft.PeftModel.from_pretrained(tiny_family("qwen3"), str(tmp_path))
    torch.testing.assert_close(alone(input_ids=TOKENS).logits[:, -7:], expected, rtol=1e-5, atol=1e-5)


def test_an_adapter_of_another_kind_or_model_is_refused(tmp_path: Path) -> None:
    tuned("llama", "prefix").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds prefix, but tuning is 'lora'"):
        tuned("llama", "lora", adapter=str(tmp_path))
    tuned("llama", "lora").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="does not fit this model"):
        tuned("opt", "lora", adapter=str(tmp_path))
    with pytest.raises(UserError, match=r"lora: given, but .* says already"):
        tuned("llama", "lora", adapter=str(tmp_path), lora={"r": 2})
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(UserError, match="holds another kind of adapter, but tuning is 'lora'"):
        tuned("llama", "lora", adapter=str(tmp_path))


# -- executions ----------------------------------------------------------------------------------------------


class Losses:
    """Per-example losses of one word after each text; a StackedObjective."""

    def __init__(self, model: Any) -> None:
        self.module: nn.Module = model
        self.base = model.get_base_model() if hasattr(model, "get_base_model") else model

    def values(self, context: Context) -> Tensor:
        return self.stacked_values(context, 1)[0]

    def stacked_values(self, context: Context, copies: int) -> Tensor:
        with torch.no_grad():
            logits = self.base(input_ids=TOKENS.repeat(copies, 1)).logits[:, -1]
        return -logits.log_softmax(-1)[:, 5].view(copies, -1)


@torch.no_grad()
def written(model: Any, query: Query) -> Tensor:
    """The values where a copy's weights are written: theta + c z, element by element from the law."""
    twin = Losses(copy.deepcopy(model))
    parameters = Parameters.from_module(twin.module)
    assert isinstance(query.candidate, Probe)
    law = query.candidate.law
    for spec in parameters.layout.specs:
        flat = parameters.raw[spec.name].view(-1)
        for seed, c in query.candidate.terms:
            flat += (
                c
                * law.scale(seed, parameters.layout)
                * law.sample((seed,), spec, 0, spec.numel, flat.device)[0].to(flat.dtype)
            )
    return twin.values(query.context)


def check_execution(model: Any, execution: Execution, law: Law, tolerance: float = 1e-9) -> None:
    objective = Losses(model)
    parameters = Parameters.from_module(model)
    before = {name: tensor.clone() for name, tensor in parameters.tensors.items()}
    queries = [Query(f"0.0.{i}", Probe(law, ((7, c),))) for i, c in enumerate((0.05, -0.05))]
    found = execution.evaluate(objective, queries, parameters)
    parameters.flush()
    bare = objective.values(Context())
    for query, outcome in zip(queries, found, strict=True):
        assert isinstance(outcome, Tensor), outcome
        expected = written(model, query)
        assert (expected - bare).abs().max() > 1e-4
        torch.testing.assert_close(outcome, expected, rtol=0, atol=tolerance)
    if not isinstance(execution, InPlace):
        assert all(torch.equal(tensor, before[name]) for name, tensor in parameters.tensors.items())
        assert not parameters.in_place  # it did not fall back


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_displaced_without_a_write(name: str) -> None:
    """Conv1D, tied embeddings, norms of embeddings, queries and keys, biases: all of it is tuned."""
    model = choose_tuned(tiny_family(name).double(), "full")
    check_execution(model, WriteFree(), Gaussian())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_low_rank_noise_in_factors(name: str) -> None:
    model = choose_tuned(tiny_family(name).double(), "full")
    check_execution(model, LowRankForward(copies=2), LowRank(rank=2))


@pytest.mark.parametrize("scheme", ["lora", "prefix", "prompt", "last-layer"])
@pytest.mark.parametrize("name", ["opt", "gpt2", "smollm", "qwen3", "bert"])
def test_every_scheme_is_displaced_without_a_write(name: str, scheme: str) -> None:
    model = choose_tuned(tiny_family(name).double(), scheme, tokenizer=tiny_tokenizer())
    if scheme == "lora":  # at zero, one factor hides the other
        for key, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_B" in key:
                parameter.data += 0.1
    for execution in (WriteFree(), WriteFree(stacked=True), InPlace()):
        check_execution(model, execution, Rademacher(), 1e-5 if scheme == "lora" else 1e-9)
    check_execution(model, LowRankForward(copies=2), LowRank(), 1e-5 if scheme == "lora" else 1e-9)


@pytest.mark.parametrize("scheme", ["prefix", "prompt"])
def test_stacked_pairs_are_made_in_one_forward(scheme: str) -> None:
    model = tuned("llama", scheme)
    scorer = OptionScorer(model, [[11], [10]])
    calls = []
    scorer.causal.base_model.register_forward_hook(lambda module, args, output: calls.append(len(output[0])))
    objective = Losses(model)
    queries = [Query(f"0.0.{i}", Probe(Rademacher(), ((7, c),))) for i, c in enumerate((0.05, -0.05))]
    execution, parameters = WriteFree(stacked=True), Parameters.from_module(model)
    execution.evaluate(objective, queries, parameters)
    calls.clear()
    execution.evaluate(objective, queries, parameters)
    assert calls == [2 * len(TOKENS)]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("scheme", ["lora", "prefix", "prompt"])
def test_adapters_over_half_precision_are_float32(scheme: str, dtype: str) -> None:
    model = choose_tuned(tiny_family("llama").to(getattr(torch, dtype)), scheme, tokenizer=tiny_tokenizer())
    parameters = Parameters.from_module(model)
    assert {tensor.dtype for tensor in parameters.raw.values()} == {torch.float32}
    queries = [Query(f"0.0.{i}", Probe(Rademacher(), ((7, c),))) for i, c in enumerate((0.05, -0.05))]
    found = WriteFree().evaluate(Losses(model), queries, parameters)
    for query, outcome in zip(queries, found, strict=True):
        assert isinstance(outcome, Tensor), outcome
        torch.testing.assert_close(outcome, written(model, query), rtol=0, atol=1e-6)


def test_float16_weights_themselves_are_refused() -> None:
    problem = Classification(model="tiny", data="tiny", device="cpu", dtype="float16")
    with pytest.raises(UserError, match="tuned tensors are float32, float64 or bfloat16"):
        problem.parameters()
    carried = Classification(model="tiny", data="tiny", device="cpu", dtype="float16", tuning="lora")
    assert torch.isfinite(carried.values(Context(indices=(0, 1)))).all()
