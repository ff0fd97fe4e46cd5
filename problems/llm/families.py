"""Tiny random models of the families that are supported, for tests and quick trials.

Each is its family's own class with the parts that set it apart: GPT-2's Conv1D and tied embeddings, OPT's biases and
learnt positions, grouped queries (Llama, SmolLM, Mistral, Qwen), a sliding window (Mistral), biases of the attention
(Qwen2), normed queries and keys (Qwen3, Gemma 3), scaled embeddings (Gemma), and the masked BERT and RoBERTa, whose
embeddings have a norm of their own. Some 10,000 to 40,000 weights, drawn from a seed; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from blackbox.errors import UserError

VOCABULARY = 64  # that of problems.llm.tiny

_LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_BERT_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}

FAMILIES: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "opt": (
        "OPTConfig",
        "OPTForCausalLM",
        {
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 32,
        },
    ),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**_LLAMA_LIKE, "tie_word_embeddings": False}),
    "smollm": ("LlamaConfig", "LlamaForCausalLM", {**_LLAMA_LIKE, "tie_word_embeddings": True}),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", _LLAMA_LIKE),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**_LLAMA_LIKE, "sliding_window": 4}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _LLAMA_LIKE),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**_LLAMA_LIKE, "head_dim": 16}),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {**_LLAMA_LIKE, "head_dim": 16}),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {**_LLAMA_LIKE, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    ),
    "bert": ("BertConfig", "BertForMaskedLM", _BERT_LIKE),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", {**_BERT_LIKE, "type_vocab_size": 1}),
}
"""Name -> configuration class, model class, sizes."""

CAUSAL = tuple(name for name in FAMILIES if name not in ("bert", "roberta"))


def tiny_family(name: str, seed: int = 0) -> Any:
    """A model of a family in eval mode, float32, on the CPU; its pad token is 1, and it has no other special ones.

    Raises:
        UserError: there is no such family.
    """
    import transformers

    if name not in FAMILIES:
        raise UserError(f"There is no family {name!r}; there are {', '.join(FAMILIES)}.")
    configuration, kind, sizes = FAMILIES[name]
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 1}
    config = getattr(transformers, configuration)(
        vocab_size=VOCABULARY, initializer_range=0.2, attn_implementation="sdpa", **special, **sizes
    )
    # The library initialises from the global generator: lend it a seed, give it back unchanged.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: Any = getattr(transformers, kind)(config)
        # Norms and biases start at 1 and 0; noise in them would go unseen where what they scale is symmetric.
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn(parameter.shape)
    return model.eval()
