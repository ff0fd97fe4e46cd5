"""Optimizers: apply a direction to the parameters."""

from blackbox.optimizers.base import NO_DECAY, Optimizer
from blackbox.optimizers.schedules import Schedule
from blackbox.optimizers.sgd import SGD
from blackbox.optimizers.torch_adapter import TorchOptimizer

__all__ = ["NO_DECAY", "SGD", "Optimizer", "Schedule", "TorchOptimizer"]
