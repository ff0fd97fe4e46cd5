"""Text classification on sentence embeddings: an encoder and a linear layer on top, both tuned.

The embedding is that of Sentence-BERT (arXiv:1908.10084), the mean of the last hidden states over the tokens of a text.
It is scaled to length sqrt(width) rather than 1: its elements are then about 1, and a step that suits the encoder's
weights suits the layer's. The layer starts at zero, so every class is as likely as the others at first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from problems.llm.bidirectional import kept_of
from problems.llm.language_model import LanguageModel
from problems.llm.masked import WholeClassification
from problems.llm.prompt import Prompt, make_prompt
from problems.llm.scoring import Scorer
from problems.preferences.encoder import mean_pooled


class SentenceClassification(WholeClassification):
    """Labelled text, judged by a linear layer on its embedding.

    The objective is `cross_entropy` over the classes, or `accuracy`: 1 for a wrong example, else 0. The keys are those
    of every `TextProblem`; `verbalizer` names the labels, and `template` says what is read, such as `{x}`. `tuning` is
    about the encoder; the layer is tuned in any case.
    """

    kind = "encoder"
    start_keys = (*WholeClassification.start_keys, "template", "verbalizer")

    @classmethod
    def without_data(cls, **keys: Any) -> LanguageModel:
        """As the base says; the labels say how many classes there are."""
        prompt = make_prompt(keys.get("template", "sst2"), keys.get("verbalizer"))
        start = {key: value for key, value in keys.items() if key in WholeClassification.start_keys}
        return LanguageModel(**start, kind=cls.kind, classes=len(prompt.answers))

    def _classes(self, prompt: Prompt) -> int:
        return len(prompt.answers)

    def _make_scorer(self, model: nn.Module) -> Scorer:
        self._texts = {}
        assert self.language_model.head is not None
        return SentenceScorer(model, self.language_model.head, self._pad)


class SentenceScorer(Scorer):
    """`[batch, classes]` float32 scores of the classes.

    Args:
        model: an encoder, perhaps in an adapter's wrapper.
        head: from embeddings to classes.
        pad: the token that pads.
    """

    def __init__(self, model: nn.Module, head: nn.Linear, pad: int) -> None:
        super().__init__(model)
        self.head = head
        self.pad = pad

    def forward(self, tokens: Tensor, last: Tensor, copies: int = 1) -> Tensor:
        """Scores.

        Args:
            tokens: int64 `[batch, length]`, padded on the right.
            last: not looked at.
            copies: of the batch, one after the other; of no matter here.
        """
        kept = kept_of(tokens, self.pad)
        hidden = self.causal(input_ids=tokens, attention_mask=kept)[0]
        with torch.autocast(hidden.device.type, enabled=False):
            embeddings = mean_pooled(hidden.float(), kept) * hidden.shape[-1] ** 0.5
            scores: Tensor = self.head(embeddings.to(self.head.weight.dtype))
        return scores.float()
