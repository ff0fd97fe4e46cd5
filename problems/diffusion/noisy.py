"""DDIM and DDPM with the noise of every step given: the image is a function of latent and noises.

With cumulated alphas a now and b at the next time step, the predicted noise e and the image it means, x0, a step is
(arXiv:2010.02502, equations 12 and 16)

    x0 = (x - sqrt(1 - a) e) / sqrt(a),    s = eta sqrt((1 - b) / (1 - a)) sqrt(1 - a / b)
    x <- sqrt(b) x0 + sqrt(1 - b - s^2) e + s noise

DDPM (arXiv:2006.11239, algorithm 2, with the smaller variance) is eta = 1, where e follows from x0 after clipping. The
factors are computed in double precision: 1 - b - s^2 is so small at the noisiest steps that in float32 it is rounding.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from problems.diffusion.wrapped import WrappedDDIM


class NoisyDDIM(WrappedDDIM):
    """Takes its noise from ``noises`` in place of a generator.

    Args:
        inner: a DDIMScheduler, for its time steps, alphas and clipping.
        prediction: see ``WrappedDDIM``.
        eta: 0 adds no noise, 1 that of DDPM.
        consistent: derive the noise anew from the clipped image, as DDPM does.

    Attributes:
        noises: [n, steps, c, h, w], of the next images; set before they are sampled.
    """

    def __init__(self, inner: Any, prediction: str, eta: float, consistent: bool = False) -> None:
        super().__init__(inner, prediction)
        self.noises: Tensor | None = None
        self._eta, self._consistent = eta, consistent
        self._place = 0

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Begin to sample."""
        super().set_timesteps(num_inference_steps, device)
        self._place = 0

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """The sample at the next time step, with the next noise."""
        assert self.noises is not None, "noises are set before sampling"
        given, self._place = self.noises[:, self._place], self._place + 1
        a, b = self._alphas(int(timestep))
        noise = self.noise_of(model_output, timestep, sample)
        image = (sample - math.sqrt(1 - a) * noise) / math.sqrt(a)
        if self.config.clip_sample:
            image = image.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        if self._consistent:
            noise = (sample - math.sqrt(a) * image) / math.sqrt(1 - a)
        spread = self._eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        rest = math.sqrt(max(1 - b - spread**2, 0.0))
        found = math.sqrt(b) * image + rest * noise + spread * given
        return SimpleNamespace(prev_sample=found) if return_dict else (found,)

    def _alphas(self, time: int) -> tuple[float, float]:
        """The cumulated alphas at a time step and at the next, smaller one."""
        if self._consistent:  # DDPM goes by the list, DDIM by a constant distance, as diffusers has them
            left = self.timesteps[self._place :].tolist()
            after = left[0] if left else -1
        else:
            after = time - self.config.num_train_timesteps // self.inner.num_inference_steps
        following = self.alphas_cumprod[after] if after >= 0 else self.inner.final_alpha_cumprod
        return float(self.alphas_cumprod[time]), float(following)
