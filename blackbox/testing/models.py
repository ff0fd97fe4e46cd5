"""A small model and its objective, for suites that need a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from blackbox.probe import Context
from blackbox.testing.generators import seeded


class TinyModel(nn.Module):
    """An embedding, a hidden layer with a norm, and an output tied to the embedding."""

    def __init__(self, words: int = 13, width: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.hidden = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [batch, length] -> scores [batch, words]."""
        scores: Tensor = self.head(self.norm(torch.tanh(self.hidden(self.embed(tokens)))).mean(1))
        return scores


class TinyObjective:
    """Per-example cross-entropy of a TinyModel; a ModuleObjective.

    Attributes:
        calls: how often values were asked for.
        fail_on: numbers of the calls that raise instead.
    """

    def __init__(self, dtype: torch.dtype = torch.float64, device: str = "cpu") -> None:
        with seeded(0):
            model = TinyModel()
        self.module: nn.Module = model.to(device, dtype).eval()
        self.tokens = (torch.arange(35, device=device) * 7 % 13).view(5, 7)
        self.targets = torch.arange(5, device=device)
        self.calls = 0
        self.fail_on: set[int] = set()

    def values(self, context: Context) -> Tensor:
        """Losses [batch]."""
        return self.values_of(self.module, context)

    def values_of(self, call: Callable[..., Any], context: Context) -> Tensor:
        """Losses [batch] of a callable in the module's place."""
        self.calls += 1
        if self.calls - 1 in self.fail_on:
            raise RuntimeError("this evaluation was told to fail")
        index = list(context.indices) if context.indices is not None else slice(None)
        scores = call(self.tokens[index])
        return nn.functional.cross_entropy(scores, self.targets[index], reduction="none")
