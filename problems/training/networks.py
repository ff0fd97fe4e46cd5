"""Networks for images: the residual network of CIFAR, small convolutional networks, multilayer perceptrons.

All are made of parts of torch.nn that ``torch.fx`` can trace, so that an execution may look at their layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blackbox.errors import UserError

Norm = Literal["batch", "group"]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without weights (option A of arXiv:1512.03385, section 4.2)."""

    def __init__(self, inside: int, outside: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = _norm(outside, norm)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = _norm(outside, norm)
        self.stride, self.pad = stride, (outside - inside) // 2

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inside, h, w] -> [batch, outside, h/stride, w/stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride > 1 or self.pad:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out + x)


class ResNet20(nn.Module):
    """The residual network of 20 layers for CIFAR (arXiv:1512.03385, section 4.2): 269,722 parameters.

    Args:
        classes: number of logits.
        norm: "batch", frozen as long as the network is in eval mode, or "group" (two channels or more a group).
    """

    def __init__(self, classes: int = 10, norm: Norm = "batch") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = _norm(16, norm)
        self.layer1 = _stage(16, 16, 1, norm)
        self.layer2 = _stage(16, 32, 2, norm)
        self.layer3 = _stage(32, 64, 2, norm)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 3, 32, 32] -> logits [batch, classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self.linear(x)
        return logits


def _stage(inside: int, outside: int, stride: int, norm: Norm) -> nn.Sequential:
    blocks = [BasicBlock(inside, outside, stride, norm)]
    return nn.Sequential(*blocks, *[BasicBlock(outside, outside, 1, norm) for _ in range(2)])


def _norm(channels: int, norm: Norm) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(min(8, channels // 2), channels)


def small_cnn(channels: Sequence[int], shape: tuple[int, int, int], classes: int = 10) -> nn.Sequential:
    """Convolutions 3 x 3 with ReLU and pooling by 2, then one linear layer over the mean of the pixels.

    Args:
        channels: output channels of each convolution.
        shape: (channels, height, width) of an image.
        classes: number of logits.
    """
    parts: list[nn.Module] = []
    side = min(shape[1:])
    for inside, outside in pairwise((shape[0], *channels)):
        parts += [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU()]
        if side >= 4:
            parts.append(nn.MaxPool2d(2))
            side //= 2
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear((shape[0], *channels)[-1], classes))


def perceptron(hidden: Sequence[int], shape: tuple[int, int, int], classes: int = 10) -> nn.Sequential:
    """Flattened pixels, hidden layers with ReLU, logits."""
    widths = [math.prod(shape), *hidden]
    parts: list[nn.Module] = [nn.Flatten()]
    for inside, outside in pairwise(widths):
        parts += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(widths[-1], classes))


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network with first weights from ``seed``: Kaiming's for ReLU (arXiv:1502.01852, eq. 10), zero biases.

    The global generator is not used: the network is made without storage, then filled.
    """
    with torch.device("meta"):
        module = make()
    module.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            match part:
                case nn.Conv2d() | nn.Linear():
                    fan_in = part.weight[0].numel()
                    part.weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator)
                    if part.bias is not None:
                        part.bias.zero_()
                case nn.BatchNorm2d():
                    part.reset_parameters()
                case nn.GroupNorm():
                    part.reset_parameters()
                case _:
                    pass
    return module


def load(module: nn.Module, path: str | Path) -> None:
    """Fill a network from a safetensors file.

    Raises:
        UserError: no such file, or its tensors aren't the network's.
    """
    from safetensors.torch import load_file

    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"There are no weights at {file}.")
    tensors = load_file(file)
    own = module.state_dict()
    wrong = sorted(name for name in tensors.keys() | own.keys() if _shape(tensors, name) != _shape(own, name))
    # The count of batches seen is of no use in eval mode, and files differ in having it.
    wrong = [name for name in wrong if not name.endswith("num_batches_tracked")]
    if wrong:
        first = wrong[0]
        raise UserError(f"{file} is of another network: {first} is {_shape(tensors, first)}, not {_shape(own, first)}.")
    module.load_state_dict(tensors, strict=False)


def _shape(tensors: dict[str, Tensor], name: str) -> list[int] | None:
    return list(tensors[name].shape) if name in tensors else None
