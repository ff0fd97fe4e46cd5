"""What is tuned of a language model: all of it, parts by name, or an adapter beside it."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from blackbox.errors import UserError
from problems.llm.adapters import add_lora, load_adapter
from problems.llm.virtual import DEFAULT, add_virtual_tokens, blocks_of

SCHEMES = ("full", "last-layer", "lora", "prefix", "prompt")
ADAPTERS = ("lora", "prefix", "prompt")


def choose_tuned(
    model: nn.Module,
    tuning: str | Sequence[str] = "full",
    lora: Mapping[str, Any] | None = None,
    seed: int = 0,
    virtual_tokens: int | str | None = None,
    adapter: str | None = None,
    tokenizer: Any = None,
) -> nn.Module:
    """Sets `requires_grad` on what is tuned, and on nothing else; the model, in peft's wrapper for an adapter.

    Args:
        model: a transformers model.
        tuning: `full`; `last-layer` (the output layer; where that is tied to the embeddings, the last block); an
            adapter, `lora`, `prefix` or `prompt`; or shell-style patterns of parameter names, such as
            `["*.mlp.*", "*norm*"]`.
        lora: settings for `lora`: r (default 8), alpha (default 16), target_modules (default: what peft chooses for
            the architecture).
        seed: of LoRA's first factor (the second starts at zero, so tuning starts at the model), or of the words that
            virtual tokens start at.
        virtual_tokens: of `prefix` and `prompt`: how many (default 5), started at random words; or a text to start at.
        adapter: a folder that peft wrote: its adapter, of the kind that `tuning` says, is gone on with.
        tokenizer: of the model; virtual tokens need it.

    Raises:
        UserError: an unknown scheme, a pattern without a match, settings of another scheme, a model that the scheme
            does not fit.
    """
    for given, fits, key in ((lora, ("lora",), "lora"), (virtual_tokens, ("prefix", "prompt"), "virtual_tokens")):
        if given and tuning not in fits:
            raise UserError(f"{key}: given, but tuning is {tuning!r}; set tuning: {' or '.join(fits)}")
        if given and adapter is not None:
            raise UserError(f"{key}: given, but {adapter} says already what its adapter is like")
    if adapter is not None:
        if tuning not in ADAPTERS:
            raise UserError(f"adapter: given, but tuning is {tuning!r}; set tuning: {' or '.join(ADAPTERS)}")
        return load_adapter(model, adapter, str(tuning))
    if tuning == "lora":
        return add_lora(model, dict(lora or {}), seed, task_of(model))
    if tuning in ("prefix", "prompt"):
        count = DEFAULT if virtual_tokens is None else virtual_tokens
        return add_virtual_tokens(model, str(tuning), count, seed, tokenizer, task_of(model))
    if isinstance(tuning, str) and tuning not in SCHEMES:
        raise UserError(
            f"tuning: {tuning!r} is not {', '.join(f'`{name}`' for name in SCHEMES)} or a list of name patterns"
        )
    patterns = {"full": ["*"], "last-layer": _last_layer(model)}[tuning] if isinstance(tuning, str) else list(tuning)
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"tuning: no parameter matches {pattern!r}; names look like {', '.join(names[:4])}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
    return model


def task_of(model: nn.Module) -> str:
    """What peft calls the model's task."""
    return "CAUSAL_LM" if hasattr(model, "prepare_inputs_for_generation") else "FEATURE_EXTRACTION"


def _last_layer(model: Any) -> list[str]:
    """Patterns of the output layer's parameters, or of the last block's where it has none of its own."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    embeddings = model.get_input_embeddings()
    if head is not None and head.weight is not embeddings.weight:
        return [f"{next(name for name, part in model.named_modules() if part is head)}.*"]
    blocks = blocks_of(model)
    if blocks is None:
        raise UserError(f"tuning: {type(model).__name__} has no list of blocks; name its parameters by patterns")
    return [f"{blocks[0]}.{len(blocks[1]) - 1}.*"]
