"""From latents to images: a diffusers pipeline with a scheduler that draws nothing by itself.

A latent pipeline (with a VAE and a prompt, such as StableDiffusionPipeline) is called as it is. A pixel pipeline (an
unconditional UNet, such as DDPMPipeline) is sampled by the loop here, as its own call takes no latents. Where such a
pipeline was made for clipping (``clip_sample``), the predicted image is clipped to [-1, 1] under the schedulers that
don't do so themselves: without it the multistep solvers overflow in the first, noisiest step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blackbox.config.rehearsal import loading_begins
from blackbox.errors import UserError
from problems.device import resolve_device
from problems.diffusion.schedulers import Scheduler


class Pipeline:
    """A pipeline and how it is sampled.

    Args:
        path: a local folder or hub id of a diffusers pipeline, with weights in safetensors; "tiny" is the built-in
            model of handwritten digits, trained on first use (two or three minutes).
        scheduler: a name, or a block of a name and its numbers.
        steps: of a preview, which is what candidates are judged by.
        final_steps: of the final picture.
        prompt: for latent pipelines only.
        negative_prompt: as ``prompt``.
        guidance_scale: how strongly the prompt counts; 1 or less turns guidance off.
        batch_size: latents rendered at once.
        device: auto, cuda, mps or cpu.
        local_files_only: never ask a hub; a hub id is then looked for in the hub's own cache on this machine.

    Attributes:
        shape: (c, h, w) of one latent.

    Raises:
        UserError: an unknown scheduler; no pipeline there; one of a kind that isn't supported; a prompt for a pipeline
            that takes none.
    """

    def __init__(
        self,
        path: str = "tiny",
        scheduler: str | Scheduler = "ddim",
        steps: int = 10,
        final_steps: int = 50,
        prompt: str = "",
        negative_prompt: str = "",
        guidance_scale: float = 7.5,
        batch_size: int = 16,
        device: str = "cpu",
        local_files_only: bool = False,
    ) -> None:
        for name, number in (("steps", steps), ("final_steps", final_steps), ("batch_size", batch_size)):
            if number < 1:
                raise UserError(f"{name} must be 1 or more, not {number}.")
        if not math.isfinite(guidance_scale):
            raise UserError(f"guidance_scale must be finite, not {guidance_scale}.")
        self.path = path
        self.scheduler = Scheduler(scheduler) if isinstance(scheduler, str) else scheduler
        self.steps, self.final_steps = steps, final_steps
        self.prompt, self.negative_prompt = prompt, negative_prompt
        self.guidance_scale = guidance_scale
        self.batch_size = batch_size
        self.device = resolve_device(device)
        loading_begins()
        self._pipe = _load(path, local_files_only).to(self.device)
        self._pixels = not hasattr(self._pipe, "vae")
        self._clips = self._pixels and not self.scheduler.clips and _clips(self._pipe.scheduler.config)
        self._pipe.scheduler = self.scheduler.make(self._pipe.scheduler.config)
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

    @property
    def unet(self) -> nn.Module:
        """The network that is called at every step."""
        found: nn.Module = self._pipe.unet
        return found

    @cached_property
    def embedding(self) -> Tensor:
        """The prompt's embedding [tokens, width], float32 on the CPU; UserError where there isn't one such."""
        return self._embeddings[0].float().cpu()

    @cached_property
    def _embeddings(self) -> tuple[Tensor, Tensor]:
        """Those of the prompt and of the negative prompt, [tokens, width] each, as the pipeline takes them."""
        if self._pixels:
            raise UserError(f"{self.path} is a pipeline without text; it has no prompt embedding.")
        with torch.no_grad():
            found = self._pipe.encode_prompt(
                prompt=self.prompt,
                device=self.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=True,
                negative_prompt=self.negative_prompt,
            )
        if len(found) != 2 or any(one.ndim != 3 for one in found):
            raise UserError(
                f"prompt_offset: {type(self._pipe).__name__} has no single prompt embedding; one that encodes a prompt "
                "as StableDiffusionPipeline does is needed."
            )
        return found[0][0], found[1][0]

    def settings(self) -> dict[str, Any]:
        """What renders the same image again, as values of JSON for ``from_settings``; the device is the reader's."""
        names = ("path", "steps", "final_steps", "prompt", "negative_prompt", "guidance_scale")
        return {name: getattr(self, name) for name in names} | {"scheduler": self.scheduler.settings()}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], device: str = "cpu") -> Pipeline:
        """The pipeline that gave these ``settings``; TypeError for keys that aren't its own."""
        return cls(**{**settings, "scheduler": Scheduler(**settings["scheduler"])}, device=device)

    @torch.no_grad()
    def __call__(
        self,
        latents: Tensor,
        steps: int,
        guidance: Sequence[float] | None = None,
        offsets: Tensor | None = None,
        noises: Tensor | None = None,
    ) -> Tensor:
        """Images of latents.

        Args:
            latents: floating point [n, c, h, w], finite.
            steps: of the scheduler.
            guidance: one guidance scale for each latent; the pipeline's if left out.
            offsets: [n, tokens, width], added to the prompt's embedding; as ``latents`` in type.
            noises: [n, steps, c, h, w], of every step, where the scheduler adds noise and only there.

        Returns:
            float32 [n, channels, height, width] in [0, 1], on the CPU.

        Raises:
            UserError: an input of another shape, of whole numbers or not finite; one that this pipeline doesn't take.
        """
        _check("latents", latents, (*latents.shape[:1], *self.shape))
        n = len(latents)
        if guidance is not None:
            if self._pixels:
                raise UserError(f"guidance: {self.path} is a pipeline without text; it has no guidance.")
            if len(guidance) != n:
                raise UserError(f"guidance: {n} scales are needed, one for each latent; got {len(guidance)}.")
        if offsets is not None:
            _check("offsets", offsets, (n, *self.embedding.shape))
        if (noises is not None) != self.scheduler.noisy:
            must = "needs noises for every step" if self.scheduler.noisy else "adds no noise; it takes none"
            raise UserError(f"noises: the scheduler '{self.scheduler.name}' {must}.")
        if noises is not None:
            _check("noises", noises, (n, steps, *self.shape))
        size = self.batch_size if guidance is None else 1  # a call takes one scale for all
        images = []
        for start in range(0, n, size):
            part = slice(start, start + size)
            if noises is not None:
                self._pipe.scheduler.noises = noises[part].to(self.device, torch.float32)
            x = latents[part].to(self.device, torch.float32)
            if self._pixels:
                images.append(self._without_prompt(x, steps))
            else:
                scale = self.guidance_scale if guidance is None else guidance[start]
                images.append(self._with_prompt(x, steps, scale, None if offsets is None else offsets[part]))
        return torch.cat(images).float().cpu().clamp(0, 1)

    def _with_prompt(self, latents: Tensor, steps: int, guidance: float, offsets: Tensor | None) -> Tensor:
        n = len(latents)
        text: dict[str, Any] = {"prompt": [self.prompt] * n, "negative_prompt": [self.negative_prompt] * n}
        if offsets is not None:
            prompt, negative = self._embeddings
            text = {
                "prompt_embeds": prompt + offsets.to(prompt),
                "negative_prompt_embeds": negative.expand(n, *negative.shape),
            }
        found: Tensor = self._pipe(
            **text, latents=latents, num_inference_steps=steps, guidance_scale=guidance, output_type="pt"
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
            x = scheduler.step(epsilon, time, x, return_dict=False)[0]
        return x / 2 + 0.5


def _clipped(epsilon: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
    """Predicted noise such that the image it implies, (x - sqrt(1 - alpha) epsilon) / sqrt(alpha), is in [-1, 1]."""
    image = (x - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()
    return (x - alpha.sqrt() * image.clamp(-1, 1)) / (1 - alpha).sqrt()


def _clips(config: Any) -> bool:
    return bool(config.get("clip_sample")) and config.get("prediction_type", "epsilon") == "epsilon"


def _check(name: str, given: Tensor, shape: tuple[int, ...]) -> None:
    """What the pipeline would fail on deep inside, or silently take for something else."""
    if tuple(given.shape) != shape:
        raise UserError(f"{name}: [{', '.join(map(str, shape))}] is needed, got {list(given.shape)}.")
    if not given.is_floating_point():
        raise UserError(f"{name}: floating point is needed, got {given.dtype}.")
    if not torch.isfinite(given).all():
        raise UserError(f"{name}: some are not finite.")


def _load(path: str, local_files_only: bool) -> Any:
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
            # No weights but safetensors: anything else would be unpickled.
            pipe = kind.from_pretrained(path, use_safetensors=True, local_files_only=local_files_only)
    except Exception as error:  # the hub, the folder and its files may fail in many ways
        said = str(error).strip().splitlines()[:1] or [type(error).__name__]
        what = "folder" if Path(path).exists() else "hub id (there is no such folder here)"
        raise UserError(f"path: no diffusers pipeline could be loaded from the {what} '{path}': {said[0]}") from error
    if not hasattr(pipe, "unet") or (hasattr(pipe, "vae") and not hasattr(pipe, "text_encoder")):
        raise UserError(
            f"path: {type(pipe).__name__} is not supported; a pipeline with a UNet is needed, with a VAE and a text "
            "encoder (as StableDiffusionPipeline) or with neither (as DDPMPipeline)."
        )
    config = pipe.unet.config
    if config.out_channels != config.in_channels:
        raise UserError(
            f"path: the UNet of '{path}' has {config.in_channels} channels in and {config.out_channels} out; one that "
            "predicts noise alone is needed, with as many out as in."
        )
    return pipe
