"""Policies as functions of a weight vector, evaluated for many weight vectors at once.

A policy maps weights [n, d] and observations [n, o], row by row, to outputs [n, a], all float64; ``Actions`` makes
actions of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces

from blackbox.config.registry import imported
from blackbox.errors import UserError

Array = npt.NDArray[np.float64]


class Policy(ABC):
    """Base of the policies.

    Attributes:
        dimension: d, weights.
    """

    dimension: int

    @abstractmethod
    def start(self, seed: int) -> Array:
        """The starting weights [d]."""

    @abstractmethod
    def outputs(self, weights: Array, observations: Array) -> Array:
        """Weights [n, d], observations [n, o] -> outputs [n, a]."""


class Perceptron(Policy):
    """A linear policy, or a multilayer perceptron with tanh between its layers.

    Args:
        sizes: o, the hidden widths, a.
        bias: give every layer one.

    A linear policy starts at zero, as in ARS (arXiv:1803.07055); a deeper one with hidden weights of variance 1/inputs
    and its last layer at zero.
    """

    def __init__(self, sizes: Sequence[int], bias: bool = False) -> None:
        self.shapes = [(inputs + bias, outputs) for inputs, outputs in pairwise(sizes)]
        self.bias = bias
        self.dimension = sum(rows * columns for rows, columns in self.shapes)

    def start(self, seed: int) -> Array:
        """See the class."""
        generator = np.random.Generator(np.random.Philox(key=seed))
        hidden = [generator.standard_normal(shape) / math.sqrt(shape[0]) for shape in self.shapes[:-1]]
        return np.concatenate([w.ravel() for w in (*hidden, np.zeros(self.shapes[-1]))])

    def outputs(self, weights: Array, observations: Array) -> Array:
        """As the base says."""
        x, begin = observations, 0
        for layer, (rows, columns) in enumerate(self.shapes):
            if layer:
                x = np.tanh(x)
            if self.bias:
                x = np.concatenate([x, np.ones((len(x), 1))], 1)
            matrices = weights[:, begin : begin + rows * columns].reshape(-1, rows, columns)
            x = np.einsum("ni,nij->nj", x, matrices)
            begin += rows * columns
        return x


class ModulePolicy(Policy):
    """A torch module of the user's own: observations [n, o] -> outputs [n, a].

    Args:
        module: its parameters are the weights; it is called under vmap, in eval mode, in float64.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module.double().eval().requires_grad_(False)
        self.specs = [(name, p.shape, p.numel()) for name, p in module.named_parameters()]
        self.dimension = sum(count for _, _, count in self.specs)
        if not self.dimension:
            raise UserError(f"{type(module).__name__} has no parameters to tune.")

    def start(self, seed: int) -> Array:
        """The module's own weights."""
        whole: Array = torch.cat([p.reshape(-1) for p in self.module.parameters()]).numpy().copy()
        return whole

    def outputs(self, weights: Array, observations: Array) -> Array:
        """As the base says."""

        def one(vector: torch.Tensor, observation: torch.Tensor) -> Any:
            parts = torch.split(vector, [count for _, _, count in self.specs])
            named = {name: part.view(shape) for (name, shape, _), part in zip(self.specs, parts, strict=True)}
            return torch.func.functional_call(self.module, named, (observation[None],))[0]

        with torch.no_grad():
            found: Array = torch.func.vmap(one)(torch.from_numpy(weights), torch.from_numpy(observations)).numpy()
        return found


def make_policy(kind: str, observations: int, outputs: int, hidden: Sequence[int], bias: bool) -> Policy:
    """The policy that "linear", "mlp" or an import path of a callable (observations, outputs) -> torch module names."""
    if kind == "linear":
        return Perceptron([observations, outputs], bias)
    if kind == "mlp":
        return Perceptron([observations, *hidden, outputs], bias)
    if ":" not in kind:
        raise UserError(f"policy is 'linear', 'mlp' or an import path such as my_policy:MyPolicy, not {kind!r}.")
    make: Callable[[int, int], Any] = imported(kind)
    module = make(observations, outputs)
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"policy: {kind} gave a {type(module).__name__}, not a torch module.")
    return ModulePolicy(module)


class Actions:
    """How outputs become actions of a space.

    Discrete takes the largest output; MultiDiscrete the largest of each of its parts; Box the outputs themselves,
    clipped to its bounds.

    Attributes:
        size: a, how many outputs are needed.
    """

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        self.space = space
        if isinstance(space, spaces.Discrete):
            self.size = int(space.n)
        elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
            self.size = int(space.nvec.sum())
        elif isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
            self.size = math.prod(space.shape)
        else:
            raise UserError(f"Actions of {space} are not supported; Discrete, MultiDiscrete and Box of floats are.")

    def of(self, output: Array) -> Any:
        """One output [a] -> one action; ValueError if it isn't finite."""
        if not np.isfinite(output).all():
            raise ValueError("the policy's output is not finite")
        if isinstance(self.space, spaces.Discrete):
            return int(self.space.start) + int(output.argmax())
        if isinstance(self.space, spaces.MultiDiscrete):
            parts = np.split(output, np.cumsum(self.space.nvec)[:-1])
            chosen = np.array([part.argmax() for part in parts], dtype=self.space.dtype)
            return chosen + self.space.start
        assert isinstance(self.space, spaces.Box)
        return np.clip(output.reshape(self.space.shape), self.space.low, self.space.high).astype(self.space.dtype)
