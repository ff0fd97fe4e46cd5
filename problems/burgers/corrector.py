"""The network that corrects the coarse solver after every step (arXiv:2007.00016, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class Corrector(nn.Module):
    """u -> u + network(u): three circular convolutions of width 5.

    The last one starts at 0, so that the corrector starts as the identity.

    Args:
        channels: of the two hidden layers.
        seed: of the initial weights.
        dtype: of the weights.
    """

    def __init__(self, channels: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        widths = [1, channels, channels, 1]
        self.layers = nn.ModuleList(
            nn.Conv1d(a, b, 5, padding=2, padding_mode="circular", dtype=dtype, device="meta").to_empty(device="cpu")
            for a, b in pairwise(widths)
        )
        with torch.no_grad():
            for weight in self.parameters():
                if weight.ndim > 1:
                    fan = weight.shape[1] * weight.shape[2]
                    weight.copy_(torch.randn(weight.shape, generator=generator, dtype=dtype) * fan**-0.5)
                else:
                    weight.zero_()
            self.layers[-1].weight.zero_()  # type: ignore[operator]

    def forward(self, u: Tensor) -> Tensor:
        """[batch, cells] -> [batch, cells]."""
        h = u[:, None]
        for layer in self.layers[:-1]:
            h = functional.silu(layer(h))
        corrected: Tensor = u + self.layers[-1](h)[:, 0]
        return corrected


def roll_out(step: Callable[[Tensor], Tensor], correct: Callable[[Tensor], Tensor], u: Tensor, steps: int) -> Tensor:
    """States [batch, steps, cells] after every step of the solver with its correction, from u [batch, cells]."""
    states = []
    for _ in range(steps):
        u = correct(step(u))
        states.append(u)
    return torch.stack(states, 1)


@torch.no_grad()
def rolled_error(step: Callable[[Tensor], Tensor], correct: Callable[[Tensor], Tensor], frames: Tensor) -> float:
    """Mean absolute error of roll-outs from the first of the frames [batch, steps + 1, cells] against the others."""
    found = roll_out(step, correct, frames[:, 0], frames.shape[1] - 1)
    return float((found - frames[:, 1:]).abs().mean())
