"""Templates, verbalisers and token ids."""

from typing import Any

import pytest

from blackbox.errors import UserError
from problems.llm.encoder import Encoder
from problems.llm.prompt import make_prompt
from problems.llm.tiny import tiny_tokenizer


def test_built_in_prompt() -> None:
    prompt = make_prompt("sst2")
    assert prompt.render({"x": "A fine film."}) == "A fine film. It was"
    assert prompt.labels == ("0", "1")
    assert prompt.answers == (" terrible", " great")
    assert make_prompt("sst2", {0: " bad", 1: " good"}).answers == (" bad", " good")


def test_template_of_several_fields_keeps_literal_braces() -> None:
    prompt = make_prompt('{a} means "{b}" {{or}}', {"no": " No", "yes": " Yes"})
    assert prompt.fields == ("a", "b")
    assert prompt.render({"a": "1", "b": "{2}"}) == '1 means "{2}" {or}'


@pytest.mark.parametrize(
    ("template", "verbalizer", "message"),
    [
        ("sst3", {0: "a", 1: "b"}, "neither built in"),
        ("{x} It was", None, "verbalizer"),
        ("{x It was", {0: "a", 1: "b"}, "malformed"),
        ("{} It was", {0: "a", 1: "b"}, "malformed"),
        ("{x.y} It was", {0: "a", 1: "b"}, "malformed"),
        ("{{x}} It was", {0: "a", 1: "b"}, "no named field"),
        ("{x} It was", {0: "a"}, "two or more distinct"),
        ("{x} It was", {0: "a", 1: "a"}, "two or more distinct"),
        ("{x} It was", {0: "a", 1: " "}, "must be text"),
        ("{x} It was", {0: "a", 1: 3}, "must be text"),
    ],
)
def test_malformed_prompts_are_refused(template: str, verbalizer: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_prompt(template, verbalizer)


def test_encoder_knows_single_tokens_and_longer_answers() -> None:
    tokenizer = tiny_tokenizer()
    single = Encoder(tokenizer, make_prompt("sst2"), 64)
    assert single.single_token
    assert single.options == [tokenizer(" terrible")["input_ids"], tokenizer(" great")["input_ids"]]
    longer = Encoder(tokenizer, make_prompt("sst2", {0: " very dull", 1: " great"}), 64)
    assert not longer.single_token
    assert [len(option) for option in longer.options] == [2, 1]


def test_long_prompts_lose_their_beginning() -> None:
    tokenizer = tiny_tokenizer()
    encoder = Encoder(tokenizer, make_prompt("sst2"), 6)
    (row,) = encoder.encode([{"x": "the plot is dull and the cast is lovely ."}])
    assert tokenizer.decode(row) == "cast is lovely . It was"


def test_answers_must_be_told_apart() -> None:
    with pytest.raises(UserError, match="does not tell the answers apart"):
        Encoder(tiny_tokenizer(), make_prompt("sst2", {0: " foo", 1: " bar"}), 64)
    with pytest.raises(UserError, match="no room"):
        Encoder(tiny_tokenizer(), make_prompt("sst2"), 1)


class StartAndEnd:
    """A tokenizer that adds a start and an end token, as some do."""

    def __init__(self) -> None:
        self._inner = tiny_tokenizer()

    def __call__(self, text: Any, add_special_tokens: bool = True) -> dict[str, Any]:
        rows = self._inner(text)["input_ids"]
        if add_special_tokens:
            rows = [60, *rows, 61]
        return {"input_ids": rows}


def test_start_tokens_are_kept_and_end_tokens_dropped() -> None:
    encoder = Encoder(StartAndEnd(), make_prompt("sst2"), 5)
    (row,) = encoder.encode([{"x": "the plot is dull"}])
    assert row[0] == 60
    assert 61 not in row
    assert tiny_tokenizer().decode(row[1:]) == "is dull It was"
