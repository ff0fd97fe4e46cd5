"""What the schedulers of our own share: the time steps of diffusers' DDIM, around whose step they put theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class WrappedDDIM:
    """A scheduler as pipelines use one; subclasses add ``step``.

    Args:
        inner: a DDIMScheduler.
        prediction: what the model predicts: epsilon, sample or v_prediction.

    Attributes:
        order: calls of the model for a step, as diffusers counts them.
    """

    order = 1

    def __init__(self, inner: Any, prediction: str) -> None:
        self.inner = inner
        self.prediction = prediction
        self.config: Any = inner.config
        self.alphas_cumprod: Tensor = inner.alphas_cumprod
        self.init_noise_sigma: float = inner.init_noise_sigma

    @property
    def timesteps(self) -> Tensor:
        """int64 [steps], falling."""
        found: Tensor = self.inner.timesteps
        return found

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Begin to sample."""
        self.inner.set_timesteps(num_inference_steps, device=device)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """As it is."""
        return sample

    def noise_of(self, output: Tensor, timestep: Any, x: Tensor) -> Tensor:
        """The noise that the model's output means at x."""
        if self.prediction == "epsilon":
            return output
        a = self.alphas_cumprod[int(timestep)].to(x)
        if self.prediction == "sample":
            return (x - a.sqrt() * output) / (1 - a).sqrt()
        return a.sqrt() * output + (1 - a).sqrt() * x
