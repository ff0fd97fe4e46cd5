"""Multiple choice by a causal language model: each example has answers of its own to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from problems.llm import metrics
from problems.llm.batches import Batch, Batches, make_answer_batches
from problems.llm.classification import Classification
from problems.llm.examples import Example
from problems.llm.scoring import AnswerScorer, Scorer


class Choice(Classification):
    """Examples with answers of their own, scored by the mean log-likelihood of each answer's tokens (MeZO, appendix E).

    The objective is `cross_entropy` of the first right answer among all, or `accuracy`: 0 where the answer of the
    highest score is a right one, else 1. The keys are those of every `TextProblem`; the answers are its `options`.
    A forward pass has a row for each answer, so `micro_batch` may be smaller than for labels.
    """

    form = "options"

    def _make_scorer(self, model: nn.Module) -> Scorer:
        self._encoded: dict[str, tuple[list[list[int]], list[list[list[int]]]]] = {}
        prompts, answers = self._pairs("train")
        return AnswerScorer(model, [*prompts[0][-4:], *answers[0][0]])

    def _sizes(self) -> tuple[list[int], np.ndarray[Any, Any]]:
        prompts, answers = self._pairs("train")
        costs = [
            sum(len(prompt) + len(answer) - 1 for answer in own) for prompt, own in zip(prompts, answers, strict=True)
        ]
        return [len(prompt) for prompt in prompts], np.array(costs)

    def summary(self, scores: np.ndarray[Any, Any], split: str) -> dict[str, float]:
        """Accuracy (any right answer counts) and cross-entropy (of the first right one)."""
        examples = self._split(split)[: len(scores)]
        right = [int(row.argmax()) in example.right for row, example in zip(scores, examples, strict=True)]
        labels = self.labels(split)[: len(scores)]
        return {
            "examples": float(len(scores)),
            "accuracy": float(np.mean(right)),
            "cross_entropy": metrics.cross_entropy(scores, labels),
        }

    def _losses(self, batch: Batch, copies: int = 1) -> Tensor:
        scores = self._scores(batch, copies)
        if self.objective == "accuracy":
            assert batch.right is not None
            right = batch.right.repeat(copies, 1).gather(1, scores.argmax(-1, keepdim=True))[:, 0]
            return 1 - right.float()
        return functional.cross_entropy(scores, batch.labels.repeat(copies), reduction="none")

    def _score(self, batch: Batch, copies: int) -> Tensor:
        """Scores `[copies * batch, options]`, minus infinity where an example has fewer options."""
        answers = batch.answers
        assert answers is not None
        found: Tensor = self.scorer(
            batch.tokens.repeat(copies, 1),
            batch.last.repeat(copies),
            answers.ids.repeat(copies, 1),
            answers.weights.repeat(copies, 1),
        )
        size = len(batch.labels) * answers.options
        places = answers.place + size * torch.arange(copies, device=answers.place.device)[:, None]
        table = found.new_full((copies * size,), -torch.inf)
        return table.index_copy(0, places.flatten(), found).view(-1, answers.options)

    def _right(self, example: Example) -> str:
        return example.options[example.label]

    def _answers(self, split: str, index: int) -> Sequence[str]:
        return self._split(split)[index].options

    def _batches(self, split: str, indices: Sequence[int], before: Sequence[Sequence[int]] = ()) -> Batches:
        prompts, answers = self._pairs(split, before)
        examples = [self._split(split)[i] for i in indices]
        return make_answer_batches(
            [prompts[i] for i in indices],
            [answers[i] for i in indices],
            [example.label for example in examples],
            self.micro_batch,
            self.device,
            [example.right for example in examples],
        )

    def _pairs(self, split: str, before: Sequence[Sequence[int]] = ()) -> tuple[list[list[int]], list[list[list[int]]]]:
        """Tokens of a split's prompts, and of each one's answers."""
        if before or split not in self._encoded:
            examples = self._split(split)
            found = self.encoder.continued(
                [example.fields for example in examples], [example.options for example in examples], before
            )
            if before:
                return found
            self._encoded[split] = found
        return self._encoded[split]
