"""Images by the vectors they were rendered from."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class ImageCache:
    """The images rendered last.

    A vector counts as known if no coordinate differs by more than 8 units in the last place of the largest one: the
    point after a step and the candidate it came from are one, though their sums were rounded in another order.

    Args:
        size: images kept; the one not asked for longest goes first.
    """

    def __init__(self, size: int) -> None:
        self._kept: deque[tuple[Tensor, int, Tensor]] = deque(maxlen=size)

    def find(self, vector: Tensor, steps: int) -> Tensor | None:
        """The image of a vector [k] at a number of steps, if it is kept."""
        tolerance = 8 * torch.finfo(vector.dtype).eps * float(vector.abs().max())
        for entry in reversed(self._kept):
            known, its_steps, image = entry
            if steps == its_steps and float((known - vector).abs().max()) <= tolerance:
                self._forget(entry)
                self._kept.append(entry)
                return image
        return None

    def keep(self, vector: Tensor, steps: int, image: Tensor) -> None:
        """Remember an image."""
        self._kept.append((vector.clone(), steps, image))

    def _forget(self, entry: tuple[Tensor, int, Tensor]) -> None:
        place = next(i for i, other in enumerate(self._kept) if other is entry)
        del self._kept[place]
