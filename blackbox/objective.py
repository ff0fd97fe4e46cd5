"""What a value oracle can evaluate: a function of vectors, or a module at the weights it holds.

Problems implement one of the two; executions know how to displace each.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from blackbox.feedback import Cost
from blackbox.probe import Context


@runtime_checkable
class VectorObjective(Protocol):
    """A function of many candidates at once."""

    def __call__(self, candidates: Tensor, context: Context) -> Tensor:
        """Candidates [n, d] -> values [n], or [n, batch] per example. Lower is better."""
        ...


@runtime_checkable
class ModuleObjective(Protocol):
    """A module, and its per-example values at whatever weights it holds now."""

    module: nn.Module

    def values(self, context: Context) -> Tensor:
        """[batch], on the module's device, without waiting for it. Lower is better. The module is in eval mode."""
        ...


@runtime_checkable
class StackedObjective(ModuleObjective, Protocol):
    """A module objective that can evaluate several copies of a batch in one forward.

    Every input of the module has the copies one after the other along its first dimension, or has 1 there. The
    execution gives each copy weights of its own.
    """

    def stacked_values(self, context: Context, copies: int) -> Tensor:
        """[copies, batch]; as ``values`` for every copy."""
        ...


@runtime_checkable
class LayeredObjective(ModuleObjective, Protocol):
    """A module objective that lets executions look at its layers: ``values`` are the losses of the module's outputs.

    The module takes one batched tensor and gives one. If the losses are the cross-entropy of logits [batch, classes],
    ``targets(context)``, int64 [batch], may be offered besides: the last linear layer then has a closed form.
    """

    def inputs(self, context: Context) -> Tensor:
        """[batch, ...]: what the module is called with."""
        ...

    def losses(self, outputs: Tensor, context: Context) -> Tensor:
        """Outputs of k copies of the batch [k, batch, ...] -> values [k, batch]. Lower is better."""
        ...


Objective = VectorObjective | ModuleObjective


def cost_of(objective: Objective, context: Context) -> Cost:
    """What one query in this context costs besides itself: the objective's ``cost(context)`` if it has one."""
    counter = getattr(objective, "cost", None)
    cost: Cost = counter(context) if callable(counter) else {}
    return cost


def taken_cost(objective: Objective) -> Cost:
    """What evaluations cost since the last call, as far as nobody could know before: ``take_cost()`` if it has one."""
    counter = getattr(objective, "take_cost", None)
    cost: Cost = dict(counter()) if callable(counter) else {}
    return cost
