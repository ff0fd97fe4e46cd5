"""Text to be generated: taught by its tokens' likelihood, or judged as a whole once it is generated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blackbox.probe import Context
from problems.llm import metrics
from problems.llm.batches import Batch, Batches, make_answer_batches, make_prompt_batches
from problems.llm.examples import Example
from problems.llm.generate import greedy
from problems.llm.scoring import AnswerScorer, Scorer
from problems.llm.text import TextProblem

MEASURES = {"f1": metrics.f1, "exact_match": metrics.exact_match}


class Generation(TextProblem):
    """Prompts and the texts that are right.

    The objective is `cross_entropy`, the mean over the tokens of the first right text and of its end, each given those
    before it (teacher forcing); or `f1` or `exact_match`, which generate text greedily and compare it with all that are
    right: 1 less F1, and 1 for a text that is none of them, else 0, both after SQuAD's normalisation. The keys are
    those of every `TextProblem`; what is right is its `answer`.
    """

    form = "answer"
    objectives = ("cross_entropy", *MEASURES)

    def _make_scorer(self, model: nn.Module) -> Scorer:
        own = getattr(self.tokenizer, "eos_token_id", None)
        self._ends = [own] if own is not None else []
        self._end: list[int] = [own] if own is not None and self.prompt.stop is None else []
        if self.prompt.stop is not None:
            # The token that the stop ends in, where it follows a word.
            self._ends.append(self.tokenizer("a" + self.prompt.stop, add_special_tokens=False)["input_ids"][-1])
        self._pad = next((one for one in (getattr(self.tokenizer, "pad_token_id", None), own) if one is not None), 0)
        self._encoded: dict[str, tuple[list[list[int]], list[list[list[int]]]]] = {}
        self._prompts: dict[str, list[list[int]]] = {}
        prompts, answers = self._pairs("train")
        return AnswerScorer(model, [*prompts[0][-4:], *answers[0][0]])

    def _sizes(self) -> tuple[list[int], np.ndarray[Any, Any]]:
        if self._generates:
            lengths = [len(row) for row in self._only_prompts("train")]
            return lengths, np.array(lengths) + self.new_tokens
        prompts, answers = self._pairs("train")
        lengths = [len(prompt) for prompt in prompts]
        return lengths, np.array([n + len(own[0]) - 1 for n, own in zip(lengths, answers, strict=True)])

    @property
    def _generates(self) -> bool:
        return self.objective != "cross_entropy"

    def stacked_values(self, context: Context, copies: int) -> Tensor:
        """As `values`, for so many copies of the batch in one forward: float32 `[copies, batch]`."""
        if self.reward is not None or not self._generates:
            return super().stacked_values(context, copies)
        indices, measure = self.indices(context), MEASURES[str(self.objective)]
        texts = self.completions("train", indices, copies)
        return torch.tensor([[1 - value for value in self._measured(measure, "train", indices, row)] for row in texts])

    def metrics(
        self, split: str = "test", limit: int | None = None, before: Sequence[Sequence[int]] = ()
    ) -> dict[str, float]:
        """Cross-entropy, F1 and exact match of a split, or of its first examples."""
        indices = range(len(self._split(split)[:limit]))
        (texts,) = self.completions(split, indices, before=before)
        parts = [self._losses(batch) for batch in self._batches(split, indices, before).parts]
        found = {"examples": float(len(indices)), "cross_entropy": float(torch.cat(parts).double().mean())}
        for name, measure in MEASURES.items():
            found[name] = float(np.mean(self._measured(measure, split, indices, texts)))
        return self._with_reward(found, split, limit, before)

    def samples(self, count: int = 6, split: str = "test") -> list[Mapping[str, Any]]:
        """The split's first prompts with the text that is right and the text that is generated."""
        examples = self._split(split)[:count]
        (texts,) = self.completions(split, range(len(examples)))
        return [
            {"text": self.prompt.render(example.fields), "label": example.options[0].strip(), "answer": text}
            for example, text in zip(examples, texts, strict=True)
        ]

    def completions(
        self, split: str, indices: Sequence[int], copies: int = 1, before: Sequence[Sequence[int]] = ()
    ) -> list[list[str]]:
        """Texts that are generated for these examples, a list for each copy of the batch.

        Args:
            before: demonstrations, as `Encoder.encode` takes them.
        """
        prompts = self._only_prompts(split, before)
        prepared = make_prompt_batches([prompts[i] for i in indices], self.micro_batch, self._pad, self.device)
        texts: list[list[str]] = [[] for _ in range(copies)]
        for batch in prepared.parts:
            with self._autocast():
                rows = greedy(
                    self.scorer.causal,
                    batch.tokens.repeat(copies, 1),
                    batch.last.repeat(copies),
                    self.new_tokens,
                    self._ends,
                    self._pad,
                )
            for kept, part in zip(texts, rows.view(copies, len(batch.last), -1).tolist(), strict=True):
                kept += [self._decoded(row) for row in part]
        order = prepared.restore.tolist()
        return [[row[i] for i in order] for row in texts]

    def training_losses(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Cross-entropies with their graph, per micro-batch: to backpropagate through."""
        for batch in self._batches("train", indices).parts:
            with self._autocast():
                losses = self._loss(batch, 1)
            yield losses

    def _losses(self, batch: Batch, copies: int = 1) -> Tensor:
        with torch.no_grad(), self._autocast():
            return self._loss(batch, copies)

    def _loss(self, batch: Batch, copies: int) -> Tensor:
        assert batch.answers is not None
        found: Tensor = self.scorer(
            batch.tokens.repeat(copies, 1),
            batch.last.repeat(copies),
            batch.answers.ids.repeat(copies, 1),
            batch.answers.weights.repeat(copies, 1),
        )
        return -found

    def _measured(self, measure: Any, split: str, indices: Sequence[int], texts: Sequence[str]) -> list[float]:
        examples = self._split(split)
        return [measure(text, examples[i].options) for i, text in zip(indices, texts, strict=True)]

    def _decoded(self, row: list[int]) -> str:
        """The text before the end."""
        cut = next((i for i, token in enumerate(row) if token in self._ends), len(row))
        text: str = self.tokenizer.decode(row[: cut + 1], skip_special_tokens=True)
        return (text.split(self.prompt.stop)[0] if self.prompt.stop else text).strip()

    def _right(self, example: Example) -> str:
        return example.options[0]

    def _batches(self, split: str, indices: Sequence[int], before: Sequence[Sequence[int]] = ()) -> Batches:
        prompts, answers = self._pairs(split, before)
        chosen, own = [prompts[i] for i in indices], [answers[i] for i in indices]
        zeros = [0] * len(chosen)
        return make_answer_batches(chosen, own, zeros, self.micro_batch, self.device, [(0,)] * len(chosen))

    def _pairs(self, split: str, before: Sequence[Sequence[int]] = ()) -> tuple[list[list[int]], list[list[list[int]]]]:
        """Tokens of a split's prompts, and of the first right text with its end."""
        if before or split not in self._encoded:
            examples = self._split(split)
            taught = [[example.options[0] + (self.prompt.stop or "")] for example in examples]
            found = self.encoder.continued([example.fields for example in examples], taught, before, self._end)
            if before:
                return found
            self._encoded[split] = found
        return self._encoded[split]

    def _only_prompts(self, split: str, before: Sequence[Sequence[int]] = ()) -> list[list[int]]:
        """Tokens of a split's prompts with room for as many as are generated."""
        if before or split not in self._prompts:
            examples = [example.fields for example in self._split(split)]
            found = self.encoder.encode(examples, before, reserve=self.new_tokens, strip=True)
            if before:
                return found
            self._prompts[split] = found
        return self._prompts[split]
