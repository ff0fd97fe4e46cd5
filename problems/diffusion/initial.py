"""First weights drawn from a generator of one's own.

The law is that of torch's layers: weight and bias of a linear or convolutional layer uniform within 1/sqrt(fan-in);
scales of norms at one, their shifts at zero. Built on the meta device, a module draws from no global generator.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)
_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)


def drawn(module: Module, generator: torch.Generator) -> Module:
    """A module from the meta device, on the CPU with first weights drawn in the order of its parts.

    Args:
        module: of linear and convolutional layers, and norms.
        generator: of the CPU.

    Raises:
        TypeError: another kind of layer has tensors of its own, so its law isn't known here.
    """
    module = module.to_empty(device="cpu")
    for part in module.modules():
        own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        if isinstance(part, _NORMS):
            part.reset_parameters()  # draws nothing
        elif isinstance(part, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(part.weight[0].numel())
            for tensor in own:
                nn.init.uniform_(tensor, -bound, bound, generator)
        elif own:
            raise TypeError(f"the first weights of a {type(part).__name__} are not known here")
    return module
