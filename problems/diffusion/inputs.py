"""All that an image is a function of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from problems.diffusion.pipeline import Pipeline


@dataclass(frozen=True)
class Inputs:
    """Of n images, as ``Pipeline`` takes them.

    Attributes:
        latents: float32 [n, c, h, w].
        guidance: a scale for each; None for the pipeline's.
        offsets: float32 [n, tokens, width], of the prompt's embedding, or None.
        noises: float32 [n, steps, c, h, w], for at least the steps that are made, or None.
    """

    latents: Tensor
    guidance: Sequence[float] | None = None
    offsets: Tensor | None = None
    noises: Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def at(self, places: Sequence[int]) -> Inputs:
        """Those of some of the images."""
        return Inputs(
            self.latents[places],
            None if self.guidance is None else [self.guidance[i] for i in places],
            None if self.offsets is None else self.offsets[places],
            None if self.noises is None else self.noises[places],
        )

    def finite(self) -> Tensor:
        """bool [n]: whether an image can be made."""
        tensors = [one for one in (self.latents, self.offsets, self.noises) if one is not None]
        good = torch.stack([torch.isfinite(one).flatten(1).all(1) for one in tensors]).all(0)
        if self.guidance is not None:
            good &= torch.isfinite(torch.tensor(self.guidance))
        return good

    def rendered(self, pipeline: Pipeline, steps: int) -> Tensor:
        """Images float32 [n, channels, height, width] in [0, 1]."""
        noises = None if self.noises is None else self.noises[:, :steps]
        return pipeline(self.latents, steps, self.guidance, self.offsets, noises)
