"""Adapters of a diffusion model's UNet, tuned so that its images are liked.

The parameters are weights of a module, so this is a module's objective: the write-free execution displaces them on the
fly, layer by layer, and what is stored stays the present point. Every query renders the same seeded latents (common
random numbers), one value for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.probe import Context
from blackbox.seeds import derive_seed
from problems.base import ModuleProblem, examples_of
from problems.diffusion.cache import ImageCache
from problems.diffusion.inputs import Inputs
from problems.diffusion.latent import Latent
from problems.diffusion.lora import Lora
from problems.diffusion.pictures import Picture, as_picture
from problems.diffusion.pipeline import Pipeline
from problems.diffusion.score import Score


class DiffusionLora(ModuleProblem):
    """The images of fixed latents as a function of low-rank adapters.

    Args:
        score: what an image is worth; the mean over the latents counts.
        pipeline: what renders them; the built-in model of digits if left out.
        lora: the adapters.
        latents: seeded latents that are rendered for a query.
        batch_size: latents that a batch seed draws from these; all if left out.
        test_latents: further latents, which the metrics are about.
        seed: of the latents, and of the noise of a scheduler that adds some.

    Raises:
        UserError: a number of latents that isn't there.
    """

    def __init__(
        self,
        score: Score,
        pipeline: Pipeline | None = None,
        lora: Lora | None = None,
        latents: int = 8,
        batch_size: int | None = None,
        test_latents: int = 16,
        seed: int = 0,
    ) -> None:
        if min(latents, test_latents) < 1:
            raise UserError("latents and test_latents must be 1 or more.")
        if batch_size is not None and not 1 <= batch_size <= latents:
            raise UserError(f"batch_size: 1 to {latents} (the latents), not {batch_size}.")
        self.score = score
        self.maximize = score.maximize
        self.pipeline = pipeline if pipeline is not None else Pipeline()
        self.module = (lora if lora is not None else Lora()).add_to(self.pipeline.unet)
        self.batch_size = latents if batch_size is None else batch_size
        self._seeded = {"train": self._draw("train", latents, seed), "held out": self._draw("test", test_latents, seed)}

    def values(self, context: Context) -> Tensor:
        """Values float64 [batch] of the context's latents, at the weights the module holds.

        Scores are computed on the CPU, so this waits for the device.
        """
        inputs = self._seeded["train"]
        chosen = examples_of(context, len(inputs), self.batch_size).tolist()
        return self.score(inputs.at(chosen).rendered(self.pipeline, self.pipeline.steps))

    def cost(self, context: Context) -> Mapping[str, float]:
        """Images, as examples."""
        return {"examples": len(examples_of(context, len(self._seeded["train"]), self.batch_size))}

    def metrics(self, split: str = "test") -> dict[str, float]:
        """Mean and least score: of the fixed latents' previews (split "train"), of other latents' previews
        ("validation"), or of these at the final number of steps (any other)."""
        values = self.score(self.images(split))
        return {"score": float(values.mean()), "least_score": float(values.min())}

    def images(self, split: str = "train") -> Tensor:
        """Images float32 [n, channels, height, width] at the present point; splits as for ``metrics``."""
        self.parameters().flush()
        steps = self.pipeline.steps if split in ("train", "validation") else self.pipeline.final_steps
        return self._seeded["train" if split == "train" else "held out"].rendered(self.pipeline, steps)

    def render(self, candidate: Any) -> Picture:
        """The previews of the fixed latents side by side, with a vector [d] as the adapters' weights.

        One that is known is not rendered again.
        """
        vector = self._vector(candidate)
        known = self._cache.find(vector, self.pipeline.steps)
        if known is None:
            parameters = self.parameters()
            here = {name: tensor.clone() for name, tensor in parameters.tensors.items()}
            sizes = [tensor.numel() for tensor in here.values()]
            parts = zip(here.items(), torch.split(vector, sizes), strict=True)
            try:
                parameters.assign({name: part.view(tensor.shape) for (name, tensor), part in parts})
                known = torch.cat(list(self.images()), dim=2)
            finally:
                parameters.assign(here)
            self._cache.keep(vector, self.pipeline.steps, known)
        return as_picture(known)

    @cached_property
    def _cache(self) -> ImageCache:
        return ImageCache(64)

    def _vector(self, candidate: Any) -> Tensor:
        d = self.parameters().dimension
        try:
            vector = torch.as_tensor(candidate, dtype=torch.float32).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"A candidate is a vector [{d}], not a {type(candidate).__name__}.") from error
        if vector.shape != (d,):
            raise UserError(f"A candidate is a vector [{d}], not of shape {list(vector.shape)}.")
        if not torch.isfinite(vector).all():
            raise UserError("A candidate that isn't finite can't be shown.")
        return vector

    def _draw(self, role: str, count: int, seed: int) -> Inputs:
        each = [Latent("fixed", seed=derive_seed(seed, f"latents {role}", i)) for i in range(count)]
        shape, nothing = self.pipeline.shape, torch.empty(1, 0)
        steps = max(self.pipeline.steps, self.pipeline.final_steps) if self.pipeline.scheduler.noisy else 0
        return Inputs(
            torch.cat([one.of_shape(shape)(nothing) for one in each]),
            noises=torch.cat([one.of_steps(shape, steps)(nothing) for one in each]) if steps else None,
        )
