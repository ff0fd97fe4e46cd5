"""A tiny random language model and a made-up sentiment set, for tests and quick trials.

Nothing is downloaded: the tokenizer knows only the words of the grammar below, the model is a
two-layer Llama of some 30,000 random weights. Both are named `tiny` in a configuration.
"""

from __future__ import annotations

import random
from typing import Any

import torch

POSITIVE = ("bright", "clever", "funny", "lovely", "moving", "superb", "tender", "witty")
NEGATIVE = ("boring", "clumsy", "dull", "empty", "painful", "silly", "tired", "ugly")
NOUNS = ("acting", "cast", "dialogue", "ending", "film", "music", "plot", "story")
ADVERBS = ("always", "often", "quite", "rather", "truly", "very")
FRAME = ("the", "is", "and", "a", "with", "it", "was", "It", ".", "great", "terrible")
SPECIAL = ("<unk>", "<pad>")


def tiny_rows(train: int = 400, validation: int = 100, test: int = 200) -> dict[str, Any]:
    """Sentences such as `the plot is very dull and the cast is often ugly .` with their labels.

    Columns `x` and `label` (0 negative, 1 positive), balanced; always the same.
    """
    generator = random.Random(0)
    sizes = {"train": train, "validation": validation, "test": test}
    return {split: [_row(generator, index % 2) for index in range(size)] for split, size in sizes.items()}


def _row(generator: random.Random, label: int) -> dict[str, Any]:
    words = POSITIVE if label else NEGATIVE

    def clause() -> str:
        parts = ["the", generator.choice(NOUNS), "is"]
        if generator.random() < 0.5:
            parts.append(generator.choice(ADVERBS))
        return " ".join([*parts, generator.choice(words)])

    clauses = [clause() for _ in range(generator.randint(1, 3))]
    return {"x": " and ".join(clauses) + " .", "label": label}


def tiny_tokenizer() -> Any:
    """A word-level tokenizer of the grammar's words; splits on white space, adds nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys((*SPECIAL, *FRAME, *POSITIVE, *NEGATIVE, *NOUNS, *ADVERBS))
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")


def tiny_model(seed: int = 0) -> Any:
    """A Llama of width 32 with two layers, two heads and tied embeddings, float32, on the CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=1,
    )
    # The library initialises from the global generator: lend it a seed, give it back unchanged.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: Any = LlamaForCausalLM(config)
    return model.eval()
