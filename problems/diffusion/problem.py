"""The initial latent of a diffusion model, tuned so that the image it becomes is liked.

ZO-RankSGD's application (arXiv:2303.03751, section 5): the scheduler draws nothing, so an image is a function of its
latent, and a rater's order of a few images is enough to move it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.probe import Context
from problems.base import VectorProblem
from problems.diffusion.cache import ImageCache
from problems.diffusion.latent import Latent
from problems.diffusion.pictures import Picture, as_picture, save_picture
from problems.diffusion.pipeline import Pipeline
from problems.diffusion.score import Score


class Diffusion(VectorProblem):
    """Images of a diffusion model as a function of their latents.

    Args:
        score: what an image is worth.
        pipeline: what renders it; the built-in model of digits if left out.
        latent: which latents are searched; all of them if left out.
        tune_guidance: one more number g is searched, from 0: the guidance scale is the pipeline's times exp(g).
        cached: images kept in memory. An image in the cache is never rendered again, as one rendered alone and one
            rendered in a batch differ in their last bits.
    """

    def __init__(
        self,
        score: Score,
        pipeline: Pipeline | None = None,
        latent: Latent | None = None,
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
        start = self._latents.start
        self.start = torch.cat([start, start.new_zeros(1)]) if tune_guidance else start
        self._cache = ImageCache(cached)

    def __call__(self, candidates: Tensor, context: Context) -> Tensor:
        """Candidates [n, k] -> values float64 [n] of their previews; NaN where a candidate is no latent."""
        values = torch.full((len(candidates),), torch.nan, dtype=torch.float64)
        good = torch.isfinite(self.latents(candidates)).all(3).all(2).all(1) & torch.isfinite(candidates.cpu()).all(1)
        if good.any():
            values[good] = self.score(self.images(candidates.cpu()[good]))
        return values

    def latents(self, candidates: Tensor) -> Tensor:
        """Candidates [n, k] -> latents float32 [n, c, h, w] of length sqrt(c h w); UserError for another shape."""
        if candidates.ndim != 2 or candidates.shape[1] != len(self.start):
            raise UserError(f"candidates: [n, {len(self.start)}] is needed, got {list(candidates.shape)}.")
        return self._latents(candidates[:, :-1] if self.tune_guidance else candidates)

    def images(self, candidates: Tensor, steps: int | None = None) -> Tensor:
        """Candidates [n, k] -> images float32 [n, channels, height, width] in [0, 1]; ``steps``: the preview's."""
        steps = steps or self.pipeline.steps
        latents, guidance = self.latents(candidates), self.guidance(candidates)
        vectors = candidates.detach().cpu()
        found = [self._cache.find(vector, steps) for vector in vectors]
        new = [i for i, image in enumerate(found) if image is None]
        if new:
            scales = None if guidance is None else [guidance[i] for i in new]
            for i, image in zip(new, self.pipeline(latents[new], steps, scales), strict=True):
                found[i] = image
                self._cache.keep(vectors[i], steps, image)
        return torch.stack([image for image in found if image is not None])

    def guidance(self, candidates: Tensor) -> list[float] | None:
        """The guidance scale of each candidate [n, k]; None where it isn't tuned."""
        if not self.tune_guidance:
            return None
        return [self.pipeline.guidance_scale * float(g) for g in candidates[:, -1].double().exp()]

    def metrics(self, split: str = "test") -> dict[str, float]:
        """Facts about the present point's preview (split "validation") or its final picture (any other)."""
        steps = self.pipeline.steps if split == "validation" else self.pipeline.final_steps
        return self.score.facts(self.images(self._here(), steps)[0])

    def render(self, candidate: Any) -> Picture:
        """The preview of a vector [k]: uint8 [h, w, c], or [h, w] of a single channel."""
        return as_picture(self.images(self._row(candidate))[0])

    def save_image(self, path: str | Path, candidate: Any = None) -> None:
        """The final picture of a vector [k] (the present point if left out), with prompt, seed and latent in it."""
        row = self._here() if candidate is None else self._row(candidate)
        guidance, steps = self.guidance(row), self.pipeline.final_steps
        facts: Mapping[str, Any] = {
            "pipeline": self.pipeline.settings(),
            "steps": steps,
            "guidance": guidance[0] if guidance else None,
            "seed": self.seed,
        }
        latent = self.latents(row)
        # Rendered alone and not from the cache, so that rendering it again gives the same bits.
        save_picture(path, as_picture(self.pipeline(latent, steps, guidance)[0]), latent[0], facts)

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
