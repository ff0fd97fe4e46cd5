"""Finite sums on small real tables: the mean loss of a model over the examples, asked in parts or as a whole.

    f(x) = 1/n sum_i loss(model(x, a_i), b_i) + l2/2 |x|^2

Without hidden layers it is (multinomial) logistic regression, which is convex; with them it isn't. The tables come with
scikit-learn: breast-cancer (569 examples, 30 features, 2 classes) and digits (1797 examples, 64 features, 10 classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from blackbox.config.rehearsal import loading_begins
from blackbox.errors import UserError
from blackbox.probe import ALL_DATA, Context
from problems.base import VectorProblem, cost_of_examples, examples_of
from problems.device import resolve_device, resolve_dtype


class FiniteSum(VectorProblem):
    """A model's mean loss on a table; the parameters are one vector.

    Args:
        table: breast-cancer or digits. Features are scaled to mean 0 and variance 1 over the training examples.
        hidden: widths of the hidden layers (tanh); none is logistic regression.
        batch_size: examples that a batch seed draws.
        l2: the penalty's factor, in every value.
        held_out: share of the table that is kept apart, half for validation and half for testing.
        seed: of the split and of the initial weights (without hidden layers they are 0).
        device: auto, cuda, mps or cpu.
        dtype: float64 or float32.

    Attributes:
        examples: n, training examples.
    """

    def __init__(
        self,
        table: Literal["breast-cancer", "digits"] = "breast-cancer",
        hidden: Sequence[int] = (),
        batch_size: int = 8,
        l2: float = 1e-3,
        held_out: float = 0.2,
        seed: int = 0,
        device: str = "cpu",
        dtype: str = "float64",
    ) -> None:
        if min(hidden, default=1) < 1:
            raise UserError(f"hidden: every layer needs at least one unit, not {list(hidden)}.")
        if l2 < 0:
            raise UserError(f"l2 must not be negative, got {l2}.")
        if not 0 < held_out < 1:
            raise UserError(f"held_out is a share in (0, 1), not {held_out}.")
        if dtype == "bfloat16":
            raise UserError("dtype: sums are computed in float64 or float32, not bfloat16.")
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self.l2, self.batch_size = l2, batch_size
        loading_begins()
        features, labels = _table(table)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(labels), generator=generator)
        cut = max(2, round(len(labels) * held_out))
        self.examples = len(labels) - cut
        if not 1 <= batch_size <= self.examples:
            raise UserError(f"batch_size: 1 to {self.examples} (the training examples), not {batch_size}.")
        train = features[order[cut:]]
        scaled = (features - train.mean(0)) / train.std(0).clamp_min(1e-6)
        self._data = {
            split: (scaled[rows].to(self.device, self.dtype), labels[rows].to(self.device))
            for split, rows in (
                ("train", order[cut:]),
                ("validation", order[: cut // 2]),
                ("test", order[cut // 2 : cut]),
            )
        }
        classes = int(labels.max()) + 1
        self._widths = [features.shape[1], *hidden, 1 if classes == 2 else classes]
        self.start = self._first_weights(bool(hidden), generator).to(self.device, self.dtype)

    def __call__(self, candidates: Tensor, context: Context = ALL_DATA) -> Tensor:
        """Candidates [n, d] -> the loss of every example of the context, the penalty included: [n, batch]."""
        chosen = examples_of(context, self.examples, self.batch_size).to(self.device)
        features, labels = self._data["train"]
        losses = self._losses(self._scores(candidates, features[chosen]), labels[chosen])
        return losses + 0.5 * self.l2 * candidates.square().sum(1, keepdim=True)

    def cost(self, context: Context) -> dict[str, float]:
        """Examples."""
        return cost_of_examples(context, self.examples, self.batch_size)

    def metrics(self, split: str = "test") -> dict[str, float]:
        """``loss`` (with the penalty) and ``accuracy`` of "train", "validation" or "test"."""
        if split not in self._data:
            raise UserError(f"split: there is no '{split}'; the data has {', '.join(self._data)}.")
        x, (features, labels) = self.parameters().flat(), self._data[split]
        scores = self._scores(x[None], features)
        predicted = (scores[..., 0] > 0).long() if scores.shape[-1] == 1 else scores.argmax(-1)
        loss = self._losses(scores, labels).mean() + 0.5 * self.l2 * x.square().sum()
        return {"loss": float(loss), "accuracy": float((predicted[0] == labels).double().mean())}

    def _scores(self, candidates: Tensor, features: Tensor) -> Tensor:
        """[n, d], [batch, features] -> [n, batch, outputs]."""
        n, at, last = len(candidates), 0, len(self._widths) - 2
        out = features
        for layer, (fan_in, fan_out) in enumerate(pairwise(self._widths)):
            weight = candidates[:, at : at + fan_in * fan_out].view(n, fan_in, fan_out)
            at += fan_in * fan_out
            out = out @ weight + candidates[:, None, at : at + fan_out]
            at += fan_out
            if layer < last:
                out = out.tanh()
        return out

    def _losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        if scores.shape[-1] == 1:
            targets = labels.to(scores.dtype).expand(scores.shape[:-1])
            return functional.binary_cross_entropy_with_logits(scores[..., 0], targets, reduction="none")
        return functional.cross_entropy(scores.transpose(1, 2), labels.expand(scores.shape[:-1]), reduction="none")

    def _first_weights(self, random: bool, generator: torch.Generator) -> Tensor:
        """Uniform within 1/sqrt(fan-in) for weights and biases, or zeros."""
        parts = []
        for fan_in, fan_out in pairwise(self._widths):
            drawn = torch.rand((fan_in + 1) * fan_out, generator=generator, dtype=torch.float64) * 2 - 1
            parts.append(drawn / fan_in**0.5)
        return torch.cat(parts) if random else torch.zeros(sum(map(len, parts)), dtype=torch.float64)


@lru_cache(maxsize=2)
def _table(name: str) -> tuple[Tensor, Tensor]:
    """Features float64 [n, f] and labels int64 [n]."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise UserError("The finite-sum problem's tables need scikit-learn: pip install scikit-learn.") from error
    loaders: dict[str, Any] = {"breast-cancer": datasets.load_breast_cancer, "digits": datasets.load_digits}
    if name not in loaders:
        raise UserError(f"table: there is no '{name}'; known: {', '.join(loaders)}.")
    features, labels = loaders[name](return_X_y=True)
    return torch.from_numpy(features).double(), torch.from_numpy(labels).long()
