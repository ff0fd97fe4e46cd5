"""The networks in front of a black box: a denoiser and an auto-encoder of small images.

DnCNN (arXiv:1608.03981): 3 x 3 convolutions with batch norm between them, which predict the noise. The auto-encoder is
that of zeroth-order denoised smoothing (arXiv:2203.14195, section 4.1) in small: strided convolutions down to a vector,
and their mirror image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from blackbox.config.registry import imported
from blackbox.errors import UserError
from problems.training.networks import seeded

Shape = tuple[int, int, int]


class DnCNN(nn.Module):
    """x -> x - layers(x); the last convolution starts at 0, so the denoiser starts as the identity.

    Args:
        images: channels of the images.
        depth: number of convolutions, at least 2.
        channels: between them.
    """

    def __init__(self, images: int = 1, depth: int = 17, channels: int = 64) -> None:
        super().__init__()
        if depth < 2 or min(images, channels) < 1:
            raise UserError(f"DnCNN needs a depth of 2 or more and at least one channel, not {depth} x {channels}.")
        parts: list[nn.Module] = [nn.Conv2d(images, channels, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            parts += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        self.layers = nn.Sequential(*parts, nn.Conv2d(channels, images, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, c, h, w] -> the same."""
        denoised: Tensor = x - self.layers(x)
        return denoised


def dncnn(images: int, depth: int, channels: int, seed: int) -> DnCNN:
    """A DnCNN with seeded weights, laid out so that a CPU's convolutions are quick."""
    network = seeded(lambda: DnCNN(images, depth, channels), seed)
    assert isinstance(network, DnCNN)
    with torch.no_grad():
        network.layers[-1].weight.zero_()  # type: ignore[operator]
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def denoiser_of(path: str | None, images: int, depth: int, channels: int, seed: int) -> nn.Module:
    """A DnCNN, or what the function at an import path makes of (channels of the images, seed)."""
    if path is None:
        return dncnn(images, depth, channels, seed)
    make: Callable[..., Any] = imported(path)
    module = make(images, seed)
    if not isinstance(module, nn.Module):
        raise UserError(f"denoiser: {path} gave {type(module).__name__}, not a torch module.")
    return module


def encoder(shape: Shape, widths: Sequence[int], latent: int, seed: int) -> nn.Module:
    """[batch, *shape] -> z [batch, latent]: a convolution of stride 2 for each width, then a linear layer."""
    inner = inner_shape(shape, widths)

    def make() -> nn.Module:
        parts: list[nn.Module] = []
        for inside, outside in pairwise((shape[0], *widths)):
            parts += [nn.Conv2d(inside, outside, 4, 2, 1), nn.ReLU()]
        return nn.Sequential(*parts, nn.Flatten(), nn.Linear(math.prod(inner), latent))

    return seeded(make, seed)


def decoder(shape: Shape, widths: Sequence[int], latent: int, seed: int) -> nn.Module:
    """z [batch, latent] -> images [batch, *shape] in [0, 1]: the encoder's mirror image, by sub-pixel convolutions."""
    inner = inner_shape(shape, widths)

    def make() -> nn.Module:
        parts: list[nn.Module] = [nn.Linear(latent, math.prod(inner)), nn.ReLU(), nn.Unflatten(1, inner)]
        for inside, outside in pairwise((*reversed(widths), shape[0])):
            parts += [nn.Conv2d(inside, 4 * outside, 3, padding=1), nn.PixelShuffle(2), nn.ReLU()]
        return nn.Sequential(*parts[:-1], nn.Sigmoid())

    return seeded(make, seed)


def inner_shape(shape: Shape, widths: Sequence[int]) -> Shape:
    """The shape after the last strided convolution; raises UserError where the sides can't be halved so often."""
    factor = 2 ** len(widths)
    if not widths or min(widths) < 1 or shape[1] % factor or shape[2] % factor:
        raise UserError(
            f"widths: images of {shape[1]} x {shape[2]} must be halved {len(widths)} times, once for each width."
        )
    return widths[-1], shape[1] // factor, shape[2] // factor
