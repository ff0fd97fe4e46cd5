"""Schedulers by name, each such that an image is a function of what is given."""

from __future__ import annotations

from typing import Any

from blackbox.errors import UserError
from problems.diffusion.ghvb import ADAMS, GHVBScheduler
from problems.diffusion.noisy import NoisyDDIM

DIFFUSERS = {
    "ddim": "DDIMScheduler",
    "dpm-solver": "DPMSolverMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
NAMES = (*DIFFUSERS, "ddpm", "ghvb")


class Scheduler:
    """How a pipeline is sampled.

    Args:
        name: ddim, dpm-solver, deis, pndm, unipc, ghvb (momentum for few steps, arXiv:2307.11118), or ddpm.
        eta: how much noise ddim adds at each step, from 0 (the default) to 1.
        order: of ghvb, 1 to 4; 2 if left out.
        beta: of ghvb, above 0: the share of the newest noise in the mean; 1 is no momentum. 0.8 if left out.

    Raises:
        UserError: an unknown name, a key of another scheduler, or a number out of its range.
    """

    def __init__(
        self, name: str = "ddim", eta: float | None = None, order: int | None = None, beta: float | None = None
    ) -> None:
        if name not in NAMES:
            raise UserError(
                f"scheduler: '{name}' is not one of {', '.join(NAMES)}. Others draw noise while they sample, "
                "or weren't tried: the same latent must give the same image."
            )
        for key, number, owner in (("eta", eta, "ddim"), ("order", order, "ghvb"), ("beta", beta, "ghvb")):
            if number is not None and name != owner:
                raise UserError(f"{key}: the scheduler '{name}' has none; it belongs to {owner}.")
        self.name = name
        self.eta = 0.0 if eta is None else float(eta)
        self.order = 2 if order is None else order
        self.beta = 0.8 if beta is None else float(beta)
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta must be from 0 to 1, not {eta}.")
        if not 1 <= self.order <= len(ADAMS):
            raise UserError(f"order must be 1 to {len(ADAMS)}, not {order}.")
        if not 0 < self.beta <= 1:
            raise UserError(f"beta must be above 0 and at most 1, not {beta}.")

    @property
    def noisy(self) -> bool:
        """Whether it adds noise at each step, which must then be given."""
        return self.name == "ddpm" or self.eta > 0

    @property
    def clips(self) -> bool:
        """Whether it clips the predicted image by itself where the model's configuration says so."""
        return self.name in ("ddim", "ddpm")

    def settings(self) -> dict[str, Any]:
        """As constructor arguments."""
        found: dict[str, Any] = {"name": self.name}
        if self.name == "ddim" and self.eta:
            found["eta"] = self.eta
        if self.name == "ghvb":
            found |= {"order": self.order, "beta": self.beta}
        return found

    def make(self, config: Any) -> Any:
        """For a model, whose own scheduler has this configuration."""
        import diffusers

        kit: Any = diffusers
        prediction = config.get("prediction_type", "epsilon")
        if self.name == "ghvb":
            plain = {"prediction_type": "epsilon", "clip_sample": False, "thresholding": False}
            inner = kit.DDIMScheduler.from_config(config, **plain)
            return GHVBScheduler(inner, prediction, self.order, self.beta)
        if self.noisy:
            if config.get("thresholding"):
                raise UserError("scheduler: the model asks for thresholding, which ddpm, and ddim with noise, lack.")
            ddpm = self.name == "ddpm"
            inner = kit.DDIMScheduler.from_config(config, **({"set_alpha_to_one": True} if ddpm else {}))
            return NoisyDDIM(inner, prediction, 1.0 if ddpm else self.eta, consistent=ddpm)
        more = {"skip_prk_steps": True} if self.name == "pndm" else {}
        return getattr(kit, DIFFUSERS[self.name]).from_config(config, **more)
