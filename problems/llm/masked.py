"""Text classification by a masked language model: the word that takes the mask's place is the class.

MeZO's experiments with RoBERTa (arXiv:2305.17333, section 3.1 and appendix E.2) after LM-BFF (arXiv:2012.15723): a
template such as `{x} It was {mask}.`, and cross-entropy over the answers' logits at the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blackbox.errors import UserError
from problems.llm.batches import Batches
from problems.llm.bidirectional import WholeEncoder, kept_of, make_whole_batches
from problems.llm.classification import Classification
from problems.llm.scoring import Scorer


class WholeClassification(Classification):
    """What classifications by models that look both ways share: whole texts, padding that is masked."""

    encoding = WholeEncoder
    encoder: WholeEncoder

    @property
    def _pad(self) -> int:
        ids = (self.tokenizer.pad_token_id, self.language_model.module.config.pad_token_id)
        return next((one for one in ids if one is not None), 0)

    def _sizes(self) -> tuple[list[int], np.ndarray[Any, Any]]:
        lengths = [len(row) for row in self._whole("train")[0]]
        return lengths, np.array(lengths)

    def _batches(self, split: str, indices: Sequence[int], before: Sequence[Sequence[int]] = ()) -> Batches:
        if before:
            raise UserError("Demonstrations go before the prompt of a causal model; this one takes none.")
        (rows, places), labels = self._whole(split), self.labels(split)
        chosen, masks = [rows[i] for i in indices], [places[i] for i in indices]
        own = [int(labels[i]) for i in indices]
        return make_whole_batches(chosen, masks, own, self.micro_batch, self._pad, self.device)

    def _whole(self, split: str) -> tuple[list[list[int]], list[int]]:
        if split not in self._texts:
            self._texts[split] = self.encoder.whole([example.fields for example in self._split(split)])
        return self._texts[split]

    _texts: dict[str, tuple[list[list[int]], list[int]]]


class MaskedClassification(WholeClassification):
    """Labelled text, judged by the words that a masked model would put in the mask's place.

    The objective is `cross_entropy` over the answers, or `accuracy`: 1 for a wrong example, else 0. The keys are those
    of every `TextProblem`; the answers, one token each, are its `verbalizer`, and `template` says by `{mask}` where
    they stand.
    """

    kind = "masked"

    def _make_scorer(self, model: nn.Module) -> Scorer:
        self._texts = {}
        return MaskScorer(model, [option[0] for option in self.encoder.options], self._pad)


class MaskScorer(Scorer):
    """`[batch, options]` float32 scores of the answers: their logits at the mask.

    Args:
        model: a masked language model, perhaps in an adapter's wrapper.
        options: the answers' tokens.
        pad: the token that pads.

    With `route` `head` what comes after the model's body is applied at the masks alone; with `full` everywhere.
    """

    option_ids: Tensor

    def __init__(self, model: nn.Module, options: Sequence[int], pad: int) -> None:
        super().__init__(model)
        device = next(model.parameters()).device
        self.register_buffer("option_ids", torch.tensor(options, device=device), persistent=False)
        self.pad = pad
        self.route = "full"
        sample = torch.tensor([[*options, *options]], device=device)
        last = torch.tensor([1], device=device)
        with torch.no_grad():
            expected = self(sample, last)
            self.route = "head" if self._after is not None else "full"
            if not self.agrees(self(sample, last), expected):
                self.route = "full"

    def forward(self, tokens: Tensor, last: Tensor, copies: int = 1) -> Tensor:
        """Scores.

        Args:
            tokens: int64 `[batch, length]`, padded on the right.
            last: int64 `[batch]`, positions of the masks.
            copies: of the batch, one after the other; of no matter here.
        """
        rows, kept = torch.arange(len(last), device=last.device), kept_of(tokens, self.pad)
        if self.route == "full":
            logits: Tensor = self.causal(input_ids=tokens, attention_mask=kept).logits[rows, last]
            return logits.float()[:, self.option_ids]
        hidden: Tensor = self.causal.base_model(input_ids=tokens, attention_mask=kept)[0][rows, last]
        with torch.autocast(hidden.device.type, enabled=False):
            assert self._after is not None
            found: Tensor = self._after(hidden.to(self.causal.get_output_embeddings().weight.dtype))
        return found.float()[:, self.option_ids]

    @property
    def _after(self) -> nn.Module | None:
        """What turns hidden states into logits, if it is one part of the model."""
        parts = [part for part in self.causal.children() if part is not self.causal.base_model]
        return parts[0] if len(parts) == 1 else None
