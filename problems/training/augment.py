"""Augmentation by seed: a random crop of the padded image and a random mirroring, the same for one seed.

All queries of a step share the batch seed, so that their values differ by the weights alone.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from blackbox.seeds import derive_seed

Augment = Literal["none", "crop", "crop-flip"]


def augmented(images: Tensor, how: Augment, seed: int) -> Tensor:
    """Images [n, channels, h, w] with changes drawn from ``seed``; the padding is an eighth of the height."""
    if how == "none":
        return images
    count, _, height, width = images.shape
    generator = torch.Generator().manual_seed(derive_seed(seed, "augment"))
    pad = max(height // 8, 1)
    rows, columns = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    down, across = rows + torch.arange(height), columns + torch.arange(width)
    if how == "crop-flip":
        across = torch.where(mirrored, across.flip(1), across)
    padded = F.pad(images, (pad, pad, pad, pad))
    at = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[at, down[:, :, None], across[:, None]].permute(0, 3, 1, 2).contiguous()
