"""The weights of a denoiser in front of a black box, tuned by answers alone (arXiv:2310.02025, section 5).

    x + delta -> denoiser -> box,    loss: the box should answer as it does at x

DeepZero's black-box defence asks about every weight of the denoiser, or about a sparse mask of them, instead of
backpropagating through it: a value problem, which any estimator, optimizer and execution of the engine can work on.
``problems.smoothing.defence`` asks about its output, or a latent, and backpropagates from there. The denoiser
offers its layers, so that a question about one weight runs only what that weight reaches
(``blackbox.execution.layers``); the box is asked as a whole, about every image of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blackbox.config.rehearsal import loading_begins
from blackbox.errors import UserError
from blackbox.parameters import Parameters
from blackbox.probe import Context
from blackbox.seeds import derive_seed
from problems.base import ModuleProblem, cost_of_examples, examples_of
from problems.device import resolve_device
from problems.smoothing.box import BlackBox
from problems.smoothing.certified_set import SmoothedClassifier
from problems.smoothing.images import Images, noise
from problems.smoothing.networks import denoiser_of
from problems.smoothing.tasks import Stability, Task
from problems.training.problem import measure_norms

MEASURED = 256
"""Training images from which batch norms get their statistics."""


class DenoiserWeights(ModuleProblem):
    """A denoiser whose every weight is a coordinate of the problem.

    A query asks the box about a batch of denoised images; all queries of a step see the same images and noise. Batch
    norms are frozen at what noisy training images measure at the first weights.

    Args:
        data: the images.
        box: the black box; only ever asked.
        task: classification, or reconstruction where the box gives images.
        sigma: standard deviation of the noise, in units of the pixels (0 to 1).
        depth: convolutions of the denoiser (DnCNN), which starts as the identity.
        channels: of the denoiser.
        denoiser: import path of a function (channels of the images, seed) -> module, in place of DnCNN.
        trained: "all", or regular expressions of the weights' names.
        batch_size: images that a batch seed draws.
        evaluated: images of a split that metrics are taken over at most.
        chunk: images that the box is asked about at once at most.
        seed: of the first weights, and of the noise that metrics are taken with.
        device: auto, cuda, mps or cpu.

    Attributes:
        module: the denoiser, in eval mode.

    Raises:
        UserError: sizes that don't fit.
    """

    def __init__(
        self,
        data: Images,
        box: BlackBox,
        task: Task = "classification",
        sigma: float = 0.25,
        depth: int = 3,
        channels: int = 8,
        denoiser: str | None = None,
        trained: str | Sequence[str] = "all",
        batch_size: int = 32,
        evaluated: int = 500,
        chunk: int = 256,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        if sigma <= 0:
            raise UserError(f"sigma must be positive, not {sigma}.")
        if min(evaluated, chunk) < 1:
            raise UserError("evaluated and chunk must be at least 1.")
        self.data, self.box, self.sigma = data, box, sigma
        self.batch_size, self.evaluated, self.chunk, self.seed = batch_size, evaluated, chunk, seed
        self.trained = trained
        self.device = resolve_device(device)
        loading_begins()
        self.train_images = data.splits["train"].images
        self.examples = len(self.train_images)
        if not 1 <= batch_size <= self.examples:
            raise UserError(f"batch_size: 1 to {self.examples} (the training images), not {batch_size}.")
        self.stability = Stability(task, box, self.train_images)
        first = denoiser_of(denoiser, self.train_images.shape[1], depth, channels, derive_seed(seed, "denoiser"))
        some = self.train_images[:MEASURED]
        with torch.random.fork_rng():  # a denoiser of one's own may draw in train mode
            torch.manual_seed(derive_seed(seed, "draws"))
            measure_norms(first, some + sigma * noise(some, seed, "norms"))
        self.module: nn.Module = first
        self.module.to(self.device).eval()
        box.place(self.device)
        self._now: _Batch | None = None
        self._told = 0

    def inputs(self, context: Context) -> Tensor:
        """The noisy images of a context [batch, c, h, w]."""
        return self._batch(context).noisy

    @torch.no_grad()
    def losses(self, outputs: Tensor, context: Context) -> Tensor:
        """k batches of denoised images [k, batch, c, h, w] -> values [k, batch]; the box is asked about all of them."""
        batch = self._batch(context)
        if batch.targets is None:
            batch.targets = self.stability.targets(batch.chosen, self.device)
        seen = outputs.flatten(0, 1).to(self.train_images.dtype)
        answers = torch.cat([self.box(some) for some in torch.split(seen, self.chunk)])
        targets = batch.targets.repeat(len(outputs), *(1,) * (batch.targets.ndim - 1))
        return self.stability.losses(answers.to(outputs.dtype), targets).view(outputs.shape[:2])

    def values(self, context: Context) -> Tensor:
        """``losses`` of what the denoiser makes of the noisy images, [batch]."""
        return self.losses(self.module(self.inputs(context))[None], context)[0]

    def cost(self, context: Context) -> dict[str, float]:
        """Examples: images that a query asks the box about."""
        return cost_of_examples(context, self.examples, self.batch_size)

    def take_cost(self) -> dict[str, float]:
        """Images that the box was asked about since the last call, but for metrics: clean ones, once each, included."""
        more, self._told = self.box.queries - self._told, self.box.queries
        return {"images": more}

    def close(self) -> None:
        """Let go of a box outside this process."""
        self.box.close()

    @torch.no_grad()
    def defended(self, images: Tensor) -> Tensor:
        """The outputs of the box behind the denoiser; asks the box."""
        return self.box(self.module(images))

    def smoothed_classifier(self, parameters: Parameters) -> SmoothedClassifier:
        """The defended box with its noise, and the test images."""
        if self.stability.task != "classification":
            raise UserError("Only a classification can be certified; this defence is of a reconstruction.")
        parameters.flush()
        test = self.data.splits["test"]
        return SmoothedClassifier(self.defended, self.sigma, test.images.to(self.device), test.labels)

    def metrics(self, split: str = "test") -> dict[str, float]:
        """Accuracy, or RMSE, of the defended box on a split's first images, clean and with one draw of noise each."""
        if split not in self.data.splits:
            raise UserError(f"split: there is no '{split}'; the data has {', '.join(self.data.splits)}.")
        self.parameters().flush()
        before, part = self.box.queries, self.data.splits[split]
        images = part.images[: self.evaluated].to(self.device)
        found = self.stability.metrics(self.defended, images, part, self.sigma, self.seed)
        self._told += self.box.queries - before
        return found

    def _batch(self, context: Context) -> _Batch:
        """All queries of a step ask for the same one, so the last is kept."""
        if self._now is None or self._now.context != context:
            chosen = examples_of(context, self.examples, self.batch_size)
            x = self.train_images[chosen].to(self.device)
            noisy = x + self.sigma * noise(x, self.seed if context.batch_seed is None else context.batch_seed, "noise")
            self._now = _Batch(context, chosen, noisy)
        return self._now


@dataclass
class _Batch:
    """The images of a context: their numbers, what the denoiser is shown, and the box's answers to the clean ones."""

    context: Context
    chosen: Tensor
    noisy: Tensor
    targets: Tensor | None = None
