"""Generalised heavy ball (GHVB): multistep sampling with momentum, for few steps. arXiv:2307.11118, section 4.2.

Sampling solves dy/ds = e(y, s), where y = x / sqrt(a), s = sqrt((1 - a) / a), a is the cumulated alpha and e the
predicted noise (arXiv:2010.02502, equation 14); a step of DDIM is Euler's. Heavy ball moves by a mean of past noises,

    v_n = (1 - beta) v_(n-1) + beta e_n,    y_(n+1) = y_n + h v_n,                                              (HB)

which is stable at larger steps, but of first order only. Adams and Bashforth's method, with D e_n = e_n - e_(n-1), is

    y_(n+1) = y_n + h sum_k g_k D^k e_n,    g = 1, 1/2, 5/12, 3/8, ..                                           (AB)

From v_(n-1) = v_n - D v_n follows beta e_n = beta v_n + (1 - beta) D v_n. Put into (AB) and cut after ``order`` terms:

    y_(n+1) = y_n + h sum_(k < order) (g_k + g_(k-1) (1 - beta) / beta) D^k v_n,    g_(-1) = 0                  (GHVB)

With beta = 1 this is (AB) of that order, with order 1 it is (HB). v starts at the first noise, and the first steps are
of the lower orders that their past allows. The coefficients are those of equal steps in s, which a schedule's are not;
so are those of the paper, and of PNDM.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from problems.diffusion.wrapped import WrappedDDIM

ADAMS = (1.0, 1 / 2, 5 / 12, 3 / 8)
"""g_0 to g_3."""


class HeavyBall:
    """Slopes e_0, e_1, .. -> the directions of (GHVB).

    Args:
        order: 1 to 4.
        beta: above 0, at most 1.
    """

    def __init__(self, order: int, beta: float) -> None:
        self.order, self.beta = order, beta
        self._differences: list[Tensor] = []  # v, D v, D^2 v, ..

    def reset(self) -> None:
        """Forget the past."""
        self._differences = []

    def __call__(self, slope: Tensor) -> Tensor:
        """The direction at the newest slope; the step's length is the caller's."""
        before = self._differences
        new = [(1 - self.beta) * before[0] + self.beta * slope if before else slope]
        for old in before[: self.order - 1]:
            new.append(new[-1] - old)
        self._differences = new
        ratio = (1 - self.beta) / self.beta
        weights = [g + ratio * past for g, past in zip(ADAMS, (0.0, *ADAMS), strict=False)]
        return torch.stack([w * d for w, d in zip(weights, new, strict=False)]).sum(0)


class GHVBScheduler(WrappedDDIM):
    """GHVB as a scheduler: DDIM's step with the direction of (GHVB) in the noise's place.

    Args:
        inner: a DDIMScheduler that predicts noise and neither clips nor thresholds.
        prediction: see ``WrappedDDIM``.
        order: see ``HeavyBall``, as ``beta``.
    """

    def __init__(self, inner: Any, prediction: str = "epsilon", order: int = 2, beta: float = 0.8) -> None:
        super().__init__(inner, prediction)
        self._direction = HeavyBall(order, beta)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Begin to sample."""
        super().set_timesteps(num_inference_steps, device)
        self._direction.reset()

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """The sample at the next time step."""
        direction = self._direction(self.noise_of(model_output, timestep, sample))
        return self.inner.step(direction, timestep, sample, return_dict=return_dict)
