"""Text classification by a causal language model: the prompt's next words are the classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from problems.llm import metrics
from problems.llm.batches import Batch, Batches, make_batches
from problems.llm.examples import Example
from problems.llm.scoring import OptionScorer, Scorer
from problems.llm.text import TextProblem


class Classification(TextProblem):
    """Labelled text, judged by the words the model would say next.

    The objective is `cross_entropy` over the answers, or `accuracy`: 1 for a wrong example, else 0.
    The keys are those of every `TextProblem`; the answers are its `verbalizer`.
    """

    form = "verbalizer"
    objectives = ("cross_entropy", "accuracy")

    def _make_scorer(self, model: nn.Module) -> Scorer:
        scorer = OptionScorer(model, self.encoder.options)
        # What runs after a prompt: nothing, or all but the last token of each answer.
        options = self.encoder.options if scorer.sequences > 1 else [[0]]
        self._continuations = [option[:-1] for option in options]
        self._prompts: dict[str, list[list[int]]] = {}
        return scorer

    def _sizes(self) -> tuple[list[int], np.ndarray[Any, Any]]:
        lengths, more = [len(row) for row in self._tokens("train")], self._continuations
        return lengths, np.array([length * len(more) + sum(map(len, more)) for length in lengths])

    def _losses(self, batch: Batch, copies: int = 1) -> Tensor:
        scores, labels = self._scores(batch, copies), batch.labels.repeat(copies)
        if self.objective == "accuracy":
            return (scores.argmax(-1) != labels).float()
        return functional.cross_entropy(scores, labels, reduction="none")

    def scores(
        self, split: str = "test", limit: int | None = None, before: Sequence[Sequence[int]] = ()
    ) -> np.ndarray[Any, Any]:
        """Scores of the answers, float32 `[examples, options]`, of a split's first `limit`.

        Args:
            before: demonstrations, as `Encoder.encode` takes them.
        """
        count = len(self._split(split)[:limit])
        prepared = self._batches(split, range(count), before)
        with torch.no_grad():
            parts = [self._scores(batch) for batch in prepared.parts]
        # Where examples have answers of their own, fewer than the most of a split score minus infinity for the rest.
        widest = max(part.shape[1] for part in parts)
        found = torch.cat([functional.pad(part, (0, widest - part.shape[1]), value=-torch.inf) for part in parts])
        result: np.ndarray[Any, Any] = found[prepared.restore].cpu().numpy()
        return result

    def labels(self, split: str = "test") -> np.ndarray[Any, Any]:
        """Classes of a split's examples, int64 `[examples]`."""
        return np.array([example.label for example in self._split(split)], dtype=np.int64)

    def features(self, split: str, indices: Sequence[int]) -> np.ndarray[Any, Any]:
        """Final hidden states at the last tokens of the prompts, float32 `[examples, width]`."""
        prompts = self._tokens(split)
        chosen = [prompts[i] for i in indices]
        prepared = make_batches(chosen, [[]], [0] * len(chosen), self.micro_batch, self.device)
        with torch.no_grad(), self._autocast():
            parts = [
                self.scorer.hidden(batch.tokens, self.scorer.positions(batch.tokens, batch.last, 1))[:, 0].float()
                for batch in prepared.parts
            ]
        found: np.ndarray[Any, Any] = torch.cat(parts)[prepared.restore].cpu().numpy()
        return found

    def metrics(
        self, split: str = "test", limit: int | None = None, before: Sequence[Sequence[int]] = ()
    ) -> dict[str, float]:
        """Accuracy and cross-entropy of a split (or its first examples); for two classes, AUC too.

        `median_accuracy` puts the threshold at the median of the scores, which takes away a bias
        towards one answer without using a label.
        """
        return self._with_reward(self.summary(self.scores(split, limit, before), split), split, limit, before)

    def summary(self, scores: np.ndarray[Any, Any], split: str) -> dict[str, float]:
        """Metrics of scores `[n, options]` of a split's first examples."""
        return summary(scores, self.labels(split)[: len(scores)])

    def samples(self, count: int = 6, split: str = "test") -> list[dict[str, Any]]:
        """The split's first sentences with label, answer and margin at the present weights.

        Called before and after a run it shows the same sentences. The margin is the label's score
        less the best other one.
        """
        rows: list[dict[str, Any]] = []
        for example, row in zip(self._split(split), self.scores(split, count), strict=False):
            answers = self._answers(split, len(rows))
            rows.append(
                {
                    "text": self.prompt.render(example.fields),
                    "label": answers[example.label].strip(),
                    "answer": answers[int(row.argmax())].strip(),
                    "margin": float(row[example.label] - np.delete(row, example.label).max()),
                }
            )
        return rows

    def completions(
        self, split: str, indices: Sequence[int], copies: int = 1, before: Sequence[Sequence[int]] = ()
    ) -> list[list[str]]:
        """The answers of the highest score, a list for each copy of the batch."""
        prepared = self._batches(split, indices, before)
        chosen = [self._scores(batch, copies).argmax(-1).view(copies, -1) for batch in prepared.parts]
        places = torch.cat(chosen, 1)[:, prepared.restore].tolist()
        return [[self._answers(split, i)[place] for i, place in zip(indices, row, strict=True)] for row in places]

    def training_losses(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Cross-entropies with their graph, per micro-batch: to backpropagate through."""
        for batch in self._batches("train", indices).parts:
            with self._autocast():
                scores = self._score(batch, 1)
            yield functional.cross_entropy(scores, batch.labels, reduction="none")

    def _scores(self, batch: Batch, copies: int = 1) -> Tensor:
        with torch.no_grad(), self._autocast():
            return self._score(batch, copies)

    def _score(self, batch: Batch, copies: int) -> Tensor:
        found: Tensor = self.scorer(batch.tokens.repeat(copies, 1), batch.last.repeat(copies), copies)
        return found

    def _right(self, example: Example) -> str:
        return self.prompt.answers[example.label]

    def _answers(self, split: str, index: int) -> Sequence[str]:
        """The answers that an example has."""
        return self.prompt.answers

    def _batches(self, split: str, indices: Sequence[int], before: Sequence[Sequence[int]] = ()) -> Batches:
        prompts, labels = self._tokens(split, before), self.labels(split)
        chosen = [prompts[i] for i in indices]
        labelled = [int(labels[i]) for i in indices]
        return make_batches(chosen, self._continuations, labelled, self.micro_batch, self.device)

    def _tokens(self, split: str, before: Sequence[Sequence[int]] = ()) -> list[list[int]]:
        if before:
            return self.encoder.encode([example.fields for example in self._split(split)], before)
        if split not in self._prompts:
            self._prompts[split] = self.encoder.encode([example.fields for example in self._split(split)])
        return self._prompts[split]


def summary(scores: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> dict[str, float]:
    """Metrics of scores `[n, options]`; AUC and the median threshold only for two classes."""
    result = {
        "examples": float(len(labels)),
        "accuracy": metrics.accuracy(scores, labels),
        "cross_entropy": metrics.cross_entropy(scores, labels),
    }
    positive = labels == 1
    if scores.shape[1] == 2 and 0 < positive.sum() < len(labels):
        wide = scores.astype(np.float64)
        margin = wide[:, 1] - wide[:, 0]
        result["auc"] = metrics.auc(margin, positive)
        result["median_accuracy"] = metrics.median_accuracy(margin, positive)
    return result
