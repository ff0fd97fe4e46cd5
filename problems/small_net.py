"""A small network on synthetic data: quick, seeded, with held-out examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from blackbox.errors import UserError
from blackbox.probe import Context
from problems.base import SmallModuleProblem, cost_of_examples, examples_of
from problems.device import resolve_device, resolve_dtype


class SmallNet(SmallModuleProblem):
    """A multilayer perceptron that learns to tell classes apart; a random linear teacher gave the labels.

    Args:
        inputs: features of an example.
        hidden: widths of the hidden layers.
        classes: number of labels.
        examples: training examples; as many are held out.
        batch_size: examples that a batch seed draws.
        seed: of the data and of the initial weights.
        device: auto, cuda, mps or cpu.
        dtype: float32, float64 or bfloat16.
    """

    def __init__(
        self,
        inputs: int = 8,
        hidden: Sequence[int] = (16,),
        classes: int = 2,
        examples: int = 256,
        batch_size: int = 32,
        seed: int = 0,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        if min(inputs, examples, *hidden) < 1 or classes < 2:
            raise UserError("SmallNet needs at least one input, example and hidden unit, and two classes.")
        if not 1 <= batch_size <= examples:
            raise UserError(f"batch_size: 1 to {examples} (the training examples), not {batch_size}.")
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self.examples = examples
        self.batch_size = batch_size
        generator = torch.Generator().manual_seed(seed)
        self.module: nn.Module = _network([inputs, *hidden, classes], generator)
        self.module.to(self.device, self.dtype).eval()
        teacher = torch.randn(inputs, classes, generator=generator)
        self._data: dict[str, tuple[Tensor, Tensor]] = {}
        for split in ("train", "test", "validation"):  # in the order they are drawn
            x = torch.randn(examples, inputs, generator=generator)
            labels = (x @ teacher).argmax(-1)
            self._data[split] = (x.to(self.device, self.dtype), labels.to(self.device))

    def values_of(self, call: Callable[..., Tensor], context: Context) -> Tensor:
        """Cross-entropy of each training example of the context, float32 or float64 [batch]."""
        chosen = examples_of(context, self.examples, self.batch_size).to(self.device)
        x, labels = self._data["train"]
        return _losses(call(x[chosen]), labels[chosen])

    def cost(self, context: Context) -> dict[str, float]:
        """Examples."""
        return cost_of_examples(context, self.examples, self.batch_size)

    @torch.no_grad()
    def metrics(self, split: str = "test") -> dict[str, float]:
        """Accuracy and cross-entropy of "train", "validation" or "test"."""
        if split not in self._data:
            raise UserError(f"split: there is no '{split}'; the data has {', '.join(self._data)}.")
        self.parameters().flush()
        x, labels = self._data[split]
        scores = self.module(x)
        return {
            "accuracy": float((scores.argmax(-1) == labels).double().mean()),
            "cross_entropy": float(_losses(scores, labels).double().mean()),
        }


def _losses(scores: Tensor, labels: Tensor) -> Tensor:
    wide = scores.float() if scores.dtype == torch.bfloat16 else scores
    return functional.cross_entropy(wide, labels, reduction="none")


def _network(widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with tanh between them; weights uniform within 1/sqrt(fan-in)."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        linear = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")  # draws from no global generator
        for tensor in linear.parameters():
            drawn = torch.rand(tensor.shape, generator=generator) * 2 - 1
            tensor.data.copy_(drawn / fan_in**0.5)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])
