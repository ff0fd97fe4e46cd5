"""What a problem is. Problems know no estimator; ``oracles.ObjectiveOracle`` asks them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blackbox.errors import UserError
from blackbox.parameters import Parameters
from blackbox.probe import Context


class Problem(ABC):
    """Something to optimise.

    Attributes:
        maximize: True where higher is better. Values and metrics are then given as they are;
            ``ObjectiveOracle`` alone turns the sign.
    """

    maximize: bool = False

    @abstractmethod
    def parameters(self) -> Parameters:
        """What is tuned: the same object at every call, at the starting point before a run."""

    @abstractmethod
    def metrics(self, split: str = "test") -> dict[str, float]:
        """Facts about the present point, on held-out data where there is data."""

    def cost(self, context: Context) -> Mapping[str, float]:
        """What one query in this context costs besides itself: examples, tokens, episodes."""
        return {}

    def samples(self) -> Sequence[Mapping[str, Any]]:
        """A few rows that show what the present point does, the same ones at every call."""
        return []

    def render(self, candidate: Any) -> Any:
        """What a person is shown of a candidate (a vector [d] or a dict); UserError if it can't be shown."""
        raise UserError(f"{type(self).__name__} has nothing to show a person: it doesn't implement `render`.")


class VectorProblem(Problem):
    """A function of vectors.

    Attributes:
        start: the starting point [d], on its device and in its precision.
    """

    start: Tensor

    @abstractmethod
    def __call__(self, candidates: Tensor, context: Context) -> Tensor:
        """Candidates [n, d] -> values [n], or [n, batch] per example."""

    def parameters(self) -> Parameters:
        """One tensor, "x"."""
        return self._parameters

    @cached_property
    def _parameters(self) -> Parameters:
        return Parameters.from_vector(self.start)


class ModuleProblem(Problem):
    """A module whose weights are tuned.

    Attributes:
        module: in eval mode; what requires a gradient may be tuned.
        trained: "all", or regular expressions of parameter names.
    """

    module: nn.Module
    trained: str | Sequence[str] = "all"

    @abstractmethod
    def values(self, context: Context) -> Tensor:
        """Per-example values [batch] at the weights the module holds, without waiting for the device."""

    def parameters(self) -> Parameters:
        """The module's own tensors."""
        return self._parameters

    @cached_property
    def _parameters(self) -> Parameters:
        return Parameters.from_module(self.module, self.trained)


class SmallModuleProblem(ModuleProblem):
    """A module small enough to be evaluated at many weights at once (``Batched`` maps over them)."""

    @abstractmethod
    def values_of(self, call: Callable[..., Tensor], context: Context) -> Tensor:
        """As ``values``, computed through ``call(*inputs)`` in place of the module."""

    def values(self, context: Context) -> Tensor:
        """``values_of`` the module itself."""
        return self.values_of(self.module, context)


def cost_of_examples(context: Context, examples: int, batch_size: int) -> dict[str, float]:
    """What a query in a context costs where ``examples_of`` names its examples."""
    if context.indices is not None:
        return {"examples": len(context.indices)}
    return {"examples": examples if context.batch_seed is None else batch_size}


def examples_of(context: Context, examples: int, batch_size: int) -> Tensor:
    """The training examples of a context, int64: those named, a batch drawn without replacement, or all.

    Raises UserError for an index that isn't there.
    """
    if context.indices is not None:
        chosen = torch.tensor(context.indices, dtype=torch.int64)
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < examples:
            raise UserError(f"The context names an example outside 0 to {examples - 1}.")
        return chosen
    if context.batch_seed is None:
        return torch.arange(examples)
    generator = np.random.Generator(np.random.Philox(key=context.batch_seed % 2**64))
    return torch.from_numpy(generator.choice(examples, batch_size, replace=False))
