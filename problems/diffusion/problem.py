"""The latent, prompt embedding and noises of a diffusion model, tuned so that the image they become is liked.

ZO-RankSGD's application (arXiv:2303.03751, section 5): the scheduler draws nothing, so an image is a function of what
is given, and a rater's order of a few images is enough to move it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.probe import Context
from problems.base import VectorProblem
from problems.diffusion.cache import ImageCache
from problems.diffusion.inputs import Inputs
from problems.diffusion.latent import Latent, ParameterisedSteps
from problems.diffusion.pictures import Picture, as_picture, save_picture
from problems.diffusion.pipeline import Pipeline
from problems.diffusion.prompt import PromptOffset
from problems.diffusion.score import Score


class Diffusion(VectorProblem):
    """Images of a diffusion model as a function of what goes into them.

    A candidate is one vector: the numbers of ``latent``, then those of ``prompt_offset``, of ``step_noise`` and of the
    guidance, as far as they are tuned.

    Args:
        score: what an image is worth.
        pipeline: what renders it; the built-in model of digits if left out.
        latent: which latents are searched; all of them if left out.
        prompt_offset: what is added to the prompt's embedding; nothing if left out.
        step_noise: which noises of the sampler's steps are searched; for schedulers that add noise, which need it, if
            only ``fixed``. Each step has its own, so unless fixed, previews and final pictures have the same steps.
        tune_guidance: one more number g is searched, from 0: the guidance scale is the pipeline's times exp(g).
        cached: images kept in memory. An image in the cache is never rendered again, as one rendered alone and one
            rendered in a batch differ in their last bits.

    Raises:
        UserError: a part that the pipeline doesn't have, or whose size is too large for it; nothing to search.
    """

    def __init__(
        self,
        score: Score,
        pipeline: Pipeline | None = None,
        latent: Latent | None = None,
        prompt_offset: PromptOffset | None = None,
        step_noise: Latent | None = None,
        tune_guidance: bool = False,
        cached: int = 256,
    ) -> None:
        if cached < 0:
            raise UserError(f"cached is a number of images: 0 or more, not {cached}.")
        self.score = score
        self.maximize = score.maximize
        self.pipeline = pipeline if pipeline is not None else Pipeline()
        if tune_guidance and not self.pipeline.takes_prompt:
            raise UserError(f"tune_guidance: {self.pipeline.path} is a pipeline without text; it has no guidance.")
        latent = latent if latent is not None else Latent()
        self.seed = latent.seed
        self.tune_guidance = tune_guidance
        self._latents = latent.of_shape(self.pipeline.shape)
        self._offsets = None if prompt_offset is None else prompt_offset.around(self.pipeline.embedding)
        self._noises = None if step_noise is None else _noises(step_noise, self.pipeline)
        if self._noises is None and self.pipeline.scheduler.noisy:
            raise UserError(
                f"step_noise: the scheduler '{self.pipeline.scheduler.name}' adds noise at each step; say which, "
                "if only {parameterisation: fixed}."
            )
        start = self._latents.start
        parts = [
            start,
            start.new_zeros(0 if self._offsets is None else self._offsets.size),
            start.new_zeros(0) if self._noises is None else self._noises.start,
            start.new_zeros(int(tune_guidance)),
        ]
        self._sizes = [len(part) for part in parts]
        self.start = torch.cat(parts)
        if not len(self.start):
            raise UserError("latent: it is fixed, and nothing else is tuned; there is nothing to search.")
        self._cache = ImageCache(cached)

    def __call__(self, candidates: Tensor, context: Context) -> Tensor:
        """Candidates [n, k] -> values float64 [n] of their previews; NaN where a candidate is no latent."""
        values = torch.full((len(candidates),), torch.nan, dtype=torch.float64)
        good = self.inputs(candidates).finite() & torch.isfinite(candidates.cpu()).all(1)
        if good.any():
            values[good] = self.score(self.images(candidates.cpu()[good]))
        return values

    def inputs(self, candidates: Tensor) -> Inputs:
        """What candidates [n, k] stand for; UserError for another shape."""
        if candidates.ndim != 2 or candidates.shape[1] != len(self.start):
            raise UserError(f"candidates: [n, {len(self.start)}] is needed, got {list(candidates.shape)}.")
        latents, offsets, noises, guidance = torch.split(candidates, self._sizes, dim=1)
        return Inputs(
            self._latents(latents),
            [self.pipeline.guidance_scale * float(g) for g in guidance[:, 0].double().exp()]
            if self.tune_guidance
            else None,
            None if self._offsets is None else self._offsets(offsets),
            None if self._noises is None else self._noises(noises),
        )

    def latents(self, candidates: Tensor) -> Tensor:
        """Candidates [n, k] -> latents float32 [n, c, h, w] of length sqrt(c h w); UserError for another shape."""
        return self.inputs(candidates).latents

    def guidance(self, candidates: Tensor) -> Sequence[float] | None:
        """The guidance scale of each candidate [n, k]; None where it isn't tuned."""
        return self.inputs(candidates).guidance

    def images(self, candidates: Tensor, steps: int | None = None) -> Tensor:
        """Candidates [n, k] -> images float32 [n, channels, height, width] in [0, 1]; ``steps``: the preview's."""
        steps = steps or self.pipeline.steps
        inputs = self.inputs(candidates)
        vectors = candidates.detach().cpu()
        found = [self._cache.find(vector, steps) for vector in vectors]
        new = [i for i, image in enumerate(found) if image is None]
        if new:
            for i, image in zip(new, inputs.at(new).rendered(self.pipeline, steps), strict=True):
                found[i] = image
                self._cache.keep(vectors[i], steps, image)
        return torch.stack([image for image in found if image is not None])

    def metrics(self, split: str = "test") -> dict[str, float]:
        """Facts about the present point's preview (split "validation") or its final picture (any other)."""
        steps = self.pipeline.steps if split == "validation" else self.pipeline.final_steps
        return self.score.facts(self.images(self._here(), steps)[0])

    def render(self, candidate: Any) -> Picture:
        """The preview of a vector [k]: uint8 [h, w, c], or [h, w] of a single channel."""
        return as_picture(self.images(self._row(candidate))[0])

    def save_image(self, path: str | Path, candidate: Any = None) -> None:
        """The final picture of a vector [k] (the present point if left out), with what renders it again in it."""
        self._save(path, self._here() if candidate is None else self._row(candidate), self.pipeline.final_steps)

    def render_file(self, candidate: Any) -> tuple[str, bytes]:
        """The preview of a vector [k] as (media type, bytes): a PNG as ``save_image`` writes them."""
        file = io.BytesIO()
        self._save(file, self._row(candidate), self.pipeline.steps)
        return "image/png", file.getvalue()

    def _save(self, to: str | Path | BinaryIO, row: Tensor, steps: int) -> None:
        inputs = self.inputs(row)
        facts: Mapping[str, Any] = {"pipeline": self.pipeline.settings(), "steps": steps, "seed": self.seed}
        # Rendered alone and not from the cache, so that rendering it again gives the same bits.
        save_picture(to, as_picture(inputs.rendered(self.pipeline, steps)[0]), inputs, facts)

    def _here(self) -> Tensor:
        return self.parameters().flat()[None]

    def _row(self, candidate: Any) -> Tensor:
        try:
            vector = torch.as_tensor(candidate, dtype=self.start.dtype).detach().cpu().reshape(1, -1)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"A candidate is a vector [{len(self.start)}], not a {type(candidate).__name__}."
            ) from error
        if not torch.isfinite(vector).all():
            raise UserError("A candidate that isn't finite can't be shown.")
        return vector


def _noises(noise: Latent, pipeline: Pipeline) -> ParameterisedSteps:
    if not pipeline.scheduler.noisy:
        raise UserError(
            f"step_noise: the scheduler '{pipeline.scheduler.name}' adds no noise; ddpm does, and ddim with an eta "
            "above 0."
        )
    noises = noise.of_steps(pipeline.shape, max(pipeline.steps, pipeline.final_steps))
    if len(noises.start) and pipeline.steps != pipeline.final_steps:
        raise UserError(
            f"step_noise: each step has its own noise, so a final picture of {pipeline.final_steps} steps isn't the "
            f"preview's of {pipeline.steps}; set final_steps to steps."
        )
    return noises
