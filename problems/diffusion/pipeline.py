"""From latents to images: a diffusers pipeline with a scheduler that draws nothing.

A latent pipeline (with a VAE and a prompt, such as StableDiffusionPipeline) is called as it is. A pixel pipeline (an
unconditional UNet, such as DDPMPipeline) is sampled by the loop here, as its own call takes no latents. Where such a
pipeline was made for clipping (``clip_sample``), the predicted image is clipped to [-1, 1] under the schedulers that
don't do so themselves: without it the multistep solvers overflow in the first, noisiest step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blackbox.errors import UserError
from problems.device import resolve_device

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpm-solver": "DPMSolverMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}


class Pipeline:
    """A pipeline and how it is sampled.

    Args:
        path: a local folder or hub id of a diffusers pipeline; "tiny" is the built-in model of handwritten digits,
            trained on first use (two or three minutes).
        scheduler: ddim, dpm-solver, deis, pndm or unipc.
        steps: of a preview, which is what candidates are judged by.
        final_steps: of the final picture.
        prompt: for latent pipelines only.
        negative_prompt: as ``prompt``.
        guidance_scale: how strongly the prompt counts; 1 or less turns guidance off.
        batch_size: latents rendered at once.
        device: auto, cuda, mps or cpu.

    Attributes:
        shape: (c, h, w) of one latent.

    Raises:
        UserError: a scheduler that draws noise or is unknown; no pipeline there; one of a kind that isn't supported; a
            prompt for a pipeline that takes none.
    """

    def __init__(
        self,
        path: str = "tiny",
        scheduler: str = "ddim",
        steps: int = 10,
        final_steps: int = 50,
        prompt: str = "",
        negative_prompt: str = "",
        guidance_scale: float = 7.5,
        batch_size: int = 16,
        device: str = "cpu",
    ) -> None:
        if scheduler not in SCHEDULERS:
            raise UserError(
                f"scheduler: '{scheduler}' is not one of {', '.join(SCHEDULERS)}. Others draw noise while they sample, "
                "or weren't tried: the same latent must give the same image."
            )
        for name, number in (("steps", steps), ("final_steps", final_steps), ("batch_size", batch_size)):
            if number < 1:
                raise UserError(f"{name} must be 1 or more, not {number}.")
        if not math.isfinite(guidance_scale):
            raise UserError(f"guidance_scale must be finite, not {guidance_scale}.")
        self.path, self.scheduler = path, scheduler
        self.steps, self.final_steps = steps, final_steps
        self.prompt, self.negative_prompt = prompt, negative_prompt
        self.guidance_scale = guidance_scale
        self.batch_size = batch_size
        self.device = resolve_device(device)
        self._pipe = _load(path).to(self.device)
        self._pixels = not hasattr(self._pipe, "vae")
        self._clips = self._pixels and scheduler != "ddim" and _clips(self._pipe.scheduler.config)
        self._pipe.scheduler = _scheduler(scheduler, self._pipe.scheduler.config)
        self._pipe.set_progress_bar_config(disable=True)
        if self._pixels and (prompt or negative_prompt):
            raise UserError(f"prompt: {path} is a pipeline without text; it takes no prompt.")
        most = int(self._pipe.scheduler.config.num_train_timesteps)
        if max(steps, final_steps) > most:
            raise UserError(f"steps: {max(steps, final_steps)} is more than the {most} the model was trained with.")
        size = self._pipe.unet.config.sample_size
        h, w = (size, size) if isinstance(size, int) else size
        self.shape: tuple[int, int, int] = (int(self._pipe.unet.config.in_channels), int(h), int(w))

    @property
    def takes_prompt(self) -> bool:
        """Whether there is text, and so guidance."""
        return not self._pixels

    def settings(self) -> dict[str, Any]:
        """What renders the same image again, as constructor arguments; the device is left to the reader."""
        names = ("path", "scheduler", "steps", "final_steps", "prompt", "negative_prompt", "guidance_scale")
        return {name: getattr(self, name) for name in names}

    @torch.inference_mode()
    def __call__(self, latents: Tensor, steps: int, guidance: Sequence[float] | None = None) -> Tensor:
        """Images of latents.

        Args:
            latents: floating point [n, c, h, w], finite.
            steps: of the scheduler.
            guidance: one guidance scale for each latent; the pipeline's if left out.

        Returns:
            float32 [n, channels, height, width] in [0, 1], on the CPU.

        Raises:
            UserError: latents of another shape, of whole numbers or not finite.
        """
        if latents.ndim != 4 or tuple(latents.shape[1:]) != self.shape:
            raise UserError(f"latents: [n, {', '.join(map(str, self.shape))}] is needed, got {list(latents.shape)}.")
        if not latents.is_floating_point():
            raise UserError(f"latents: floating point is needed, got {latents.dtype}.")
        if not torch.isfinite(latents).all():
            raise UserError("latents: some are not finite.")
        if guidance is not None and self._pixels:
            raise UserError(f"guidance: {self.path} is a pipeline without text; it has no guidance.")
        latents = latents.to(self.device, torch.float32)
        if guidance is not None:  # a call takes one scale for all
            pairs = zip(latents, guidance, strict=True)
            images = [self._with_prompt(latent[None], steps, scale) for latent, scale in pairs]
        elif self._pixels:
            images = [self._without_prompt(part, steps) for part in torch.split(latents, self.batch_size)]
        else:
            parts = torch.split(latents, self.batch_size)
            images = [self._with_prompt(part, steps, self.guidance_scale) for part in parts]
        return torch.cat(images).float().cpu().clamp(0, 1)

    def _with_prompt(self, latents: Tensor, steps: int, guidance: float) -> Tensor:
        n = len(latents)
        found: Tensor = self._pipe(
            prompt=[self.prompt] * n,
            negative_prompt=[self.negative_prompt] * n,
            latents=latents,
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="pt",
        ).images
        return found

    def _without_prompt(self, x: Tensor, steps: int) -> Tensor:
        scheduler, unet = self._pipe.scheduler, self._pipe.unet
        scheduler.set_timesteps(steps)
        x = x * scheduler.init_noise_sigma
        for time in scheduler.timesteps:
            epsilon = unet(scheduler.scale_model_input(x, time), time).sample
            if self._clips:
                epsilon = _clipped(epsilon, x, scheduler.alphas_cumprod[int(time)].to(x))
            x = scheduler.step(epsilon, time, x).prev_sample
        return x / 2 + 0.5


def _clipped(epsilon: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    """Predicted noise such that the image it implies, (x - sqrt(1 - alpha) epsilon) / sqrt(alpha), is in [-1, 1]."""
    image = (x - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()
    return (x - alpha.sqrt() * image.clamp(-1, 1)) / (1 - alpha).sqrt()


def _clips(config: Any) -> bool:
    return bool(config.get("clip_sample")) and config.get("prediction_type", "epsilon") == "epsilon"


def _scheduler(name: str, config: Any) -> Any:
    import diffusers

    more = {"skip_prk_steps": True} if name == "pndm" else {}
    return getattr(diffusers, SCHEDULERS[name]).from_config(config, **more)


def _load(path: str) -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise UserError("The diffusion problem needs the package diffusers.") from error
    if path == "tiny":
        from problems.diffusion.train_tiny import tiny_folder

        path = str(tiny_folder() / "pipeline")
    elif Path(path).expanduser().exists():
        path = str(Path(path).expanduser())
    try:
        with torch.random.fork_rng(devices=[]):  # a module's first weights are drawn before they are overwritten
            kind: Any = diffusers.DiffusionPipeline
            pipe = kind.from_pretrained(path)
    except Exception as error:  # the hub, the folder and its files may fail in many ways
        said = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(f"path: no diffusers pipeline could be loaded from '{path}': {said[0]}") from error
    if not hasattr(pipe, "unet") or (hasattr(pipe, "vae") and not hasattr(pipe, "text_encoder")):
        raise UserError(
            f"path: {type(pipe).__name__} is not supported; a pipeline with a UNet is needed, with a VAE and a text "
            "encoder (as StableDiffusionPipeline) or with neither (as DDPMPipeline)."
        )
    return pipe
