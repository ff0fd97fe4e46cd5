"""Greedy generation of text in batches, through the model's own `generate` and its key and value cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def greedy(model: Any, prompts: Tensor, last: Tensor, new_tokens: int, ends: Sequence[int], pad: int) -> Tensor:
    """Tokens that follow each prompt, int64 `[rows, up to new_tokens]`; an end and padding after the last of a row.

    Every step is a forward pass of the model, so that an execution which displaces weights while their modules run
    reaches generation too. Settings of sampling that a model brings along are left out.

    Args:
        model: a causal model of transformers.
        prompts: int64 `[rows, length]`, padded on the left.
        last: int64 `[rows]`, length of each prompt less one.
        new_tokens: how many at most.
        ends: tokens that end a row.
        pad: the token that fills rows.
    """
    import transformers

    configure: Any = transformers.GenerationConfig
    length = prompts.shape[1]
    mask = (torch.arange(length, device=prompts.device) >= length - 1 - last[:, None]).long()
    settings = configure(max_new_tokens=new_tokens, do_sample=False, eos_token_id=list(ends) or None, pad_token_id=pad)
    # What the model brings along would fill in what is left out here: a penalty, another end.
    own, model.generation_config = model.generation_config, configure()
    try:
        with torch.no_grad():
            found: Tensor = model.generate(input_ids=prompts, attention_mask=mask, generation_config=settings)
    finally:
        model.generation_config = own
    return found[:, length:]
