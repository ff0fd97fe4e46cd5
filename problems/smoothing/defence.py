"""Denoised smoothing of a black box that is only asked: ZO-AE-DS (arXiv:2203.14195) and what it is compared with.

    x + delta -> denoiser -> [box]                          ds     (arXiv:2003.01908)
    x + delta -> denoiser -> encoder -> z -> [decoder, box]  ae-ds

In brackets is what ``fo-`` differentiates and ``zo-`` only asks: there an ``OpaqueLayer`` estimates the gradient at the
layer's input, d_z numbers of a latent instead of the image's d, and exact backpropagation takes it on to the weights
(section 4.2). The loss asks the box to answer as it does without noise, so no label is read. Training goes by stages:
the denoiser, if it is to, and the auto-encoder by the squared error, which asks nothing; then denoiser and encoder by
Adam, then by SGD. The decoder is then frozen and counts as part of the black box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from blackbox.config.rehearsal import loading_begins
from blackbox.errors import UserError
from blackbox.estimators.base import Estimator
from blackbox.opaque import OpaqueLayer
from blackbox.parameters import Parameters
from blackbox.probe import Context
from blackbox.seeds import derive_seed
from problems.base import Problem, examples_of
from problems.device import resolve_device
from problems.smoothing.box import BlackBox
from problems.smoothing.certified_set import SmoothedClassifier
from problems.smoothing.images import Images, noise
from problems.smoothing.networks import decoder, denoiser_of, encoder
from problems.smoothing.stages import ALONE, CODER, DENOISER, Prepared, Stages, training
from problems.smoothing.tasks import Stability
from problems.training.augment import Augment, augmented

Route = Literal["fo-ds", "fo-ae-ds", "zo-ds", "zo-ae-ds"]


class Defence(Problem):
    """A denoiser, and perhaps an encoder, in front of a black box; it trains itself, step by step.

    Args:
        data: the images.
        box: the black box.
        estimator: of the gradient at the black box's input: a two-point one or "coordinate"; for the zo- routes.
        route: fo- opens the box, zo- asks it; ds is a denoiser alone, ae-ds one with an auto-encoder behind it.
        task: classification, or reconstruction where the box gives images.
        sigma: standard deviation of the noise, in units of the pixels (0 to 1).
        depth: convolutions of the denoiser (DnCNN).
        channels: of the denoiser.
        denoiser: import path of a function (channels of the images, seed) -> module, in place of DnCNN.
        latent: d_z, numbers of the auto-encoder's latent.
        widths: channels of the auto-encoder's strided convolutions; each halves the image's sides.
        denoiser_steps: steps of the first stage: the denoiser alone, squared error against the clean image.
        coder_steps: of the second: the auto-encoder alone, the same on clean images.
        adam_steps: of the third.
        sgd_steps: of the fourth; the rate falls tenfold at each third of them.
        augment: what is done to the images of the first two: none, crop, or crop-flip. The others ask about the images
            as they are, whose classes are known after the first time.
        batch_size: images of a step.
        lr: learning rate.
        first_lr: of the stages that ask nothing, if it is to be another.
        reconstruction: weight of the denoised image's squared error against the clean one, beside the stability loss.
        evaluated: images of a split that metrics are taken over at most.
        chunk: images that the box is asked about at once at most, in a backward pass.
        seed: of the first weights, and of the noise that metrics are taken with; the steps go by the run's seed.
        device: auto, cuda, mps or cpu.

    Attributes:
        modules: "denoiser", and "encoder" and "decoder" on the ae- routes. The box is none of them.

    Raises:
        UserError: sizes that don't fit, an estimator missing or of no use.
    """

    def __init__(
        self,
        data: Images,
        box: BlackBox,
        estimator: Estimator | None = None,
        route: Route = "zo-ae-ds",
        task: Literal["classification", "reconstruction"] = "classification",
        sigma: float = 0.25,
        depth: int = 6,
        channels: int = 32,
        denoiser: str | None = None,
        latent: int = 48,
        widths: Sequence[int] = (16, 32),
        denoiser_steps: int = 0,
        coder_steps: int = 1000,
        adam_steps: int = 1000,
        sgd_steps: int = 0,
        augment: Augment = "none",
        batch_size: int = 32,
        lr: float = 1e-3,
        first_lr: float | None = None,
        reconstruction: float = 0.0,
        evaluated: int = 500,
        chunk: int = 256,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        if route not in ("fo-ds", "fo-ae-ds", "zo-ds", "zo-ae-ds"):
            raise UserError(f"route is fo-ds, fo-ae-ds, zo-ds or zo-ae-ds, not {route!r}.")
        first_lr = lr if first_lr is None else first_lr
        if min(sigma, lr, first_lr) <= 0 or reconstruction < 0:
            raise UserError("sigma and lr must be positive, and reconstruction not negative.")
        if min(denoiser_steps, coder_steps, adam_steps, sgd_steps) < 0 or min(latent, evaluated) < 1:
            raise UserError("Steps must not be negative; latent and evaluated must be at least 1.")
        if augment not in ("none", "crop", "crop-flip"):
            raise UserError(f"augment is none, crop or crop-flip, not {augment!r}.")
        self.opened, self.coded = route.startswith("fo"), "ae" in route
        if estimator is None and not self.opened:
            raise UserError(f"{route} estimates gradients: give an estimator, such as coordinate or central.")
        if self.opened and type(box).opened is BlackBox.opened:
            raise UserError(
                f"{route} opens the black box, but {type(box).__name__} can only be asked: take a zo- route."
            )
        self.data, self.box, self.sigma = data, box, sigma
        self.reconstruction, self.evaluated, self.seed, self.augment = reconstruction, evaluated, seed, augment
        self.device = resolve_device(device)
        loading_begins()
        self.train_images = data.splits["train"].images
        if not 1 <= batch_size <= len(self.train_images):
            raise UserError(f"batch_size: 1 to {len(self.train_images)} (the training images), not {batch_size}.")
        self.batch_size = batch_size
        shape: tuple[int, int, int] = tuple(self.train_images.shape[1:])  # type: ignore[assignment]
        first = denoiser_of(denoiser, shape[0], depth, channels, derive_seed(seed, "denoiser"))
        self.modules = nn.ModuleDict({"denoiser": first})
        if self.coded:
            self.modules["encoder"] = encoder(shape, widths, latent, derive_seed(seed, "encoder"))
            self.modules["decoder"] = decoder(shape, widths, latent, derive_seed(seed, "decoder"))
        self.modules.to(self.device).eval()
        box.place(self.device)
        self.stages = Stages(self.modules, denoiser_steps, coder_steps, adam_steps, sgd_steps, first_lr, lr)
        self.stability = Stability(task, box, self.train_images)
        self.opaque = None if self.opened else OpaqueLayer(self._behind, cast(Any, estimator), seed, chunk=chunk)
        self._run_seed = seed
        tensors = {name: t for name, t in self.modules.state_dict().items() if t.is_floating_point()}
        self._parameters = Parameters(tensors)

    # What a run asks of a problem that trains itself

    @property
    def steps(self) -> int:
        """Of all stages."""
        return self.stages.steps

    @property
    def queries(self) -> int:
        """Images that the box was asked about, for whatever purpose."""
        return self.box.queries

    def begin(self, seed: int) -> None:
        """The run's seed: of batches, noise and estimates. The constructor's until it is given."""
        self._run_seed = seed
        if self.opaque is not None:
            self.opaque.seed = seed

    def close(self) -> None:
        """Let go of a box outside this process."""
        self.box.close()

    def cost(self, context: Context) -> Mapping[str, float]:
        """A defence has no values to be asked for one by one."""
        return {}

    def step_cost(self, step: int) -> dict[str, float]:
        """What a step will ask of the box, exactly: {"queries", "examples"}."""
        if self.stages.at(step)[0] in ALONE:
            return {"queries": 0, "examples": self.batch_size}
        asked = 1 if self.opaque is None else self._asked
        unknown = len(self.stability.unknown(self._batch(step)))
        return {"queries": unknown + self.batch_size * asked, "examples": self.batch_size}

    def train_step(self, step: int) -> dict[str, float]:
        """Prepare a step and make it."""
        return self.make_step(self.prepare_step(step))

    def prepare_step(self, step: int) -> Prepared:
        """The gradient of step number ``step``; weights and running statistics stay as they are."""
        stage, _ = self.stages.at(step)
        chosen = self._batch(step)
        x = self.train_images[chosen]
        if stage in ALONE:
            x = augmented(x, self.augment, derive_seed(self._run_seed, "augment", step))
        x = x.to(self.device)
        with training(self.modules, derive_seed(self._run_seed, "draws", step)) as buffers:
            if stage == DENOISER:
                loss = functional.mse_loss(self._denoised(x, step), x)
            elif stage == CODER:
                loss = functional.mse_loss(self.modules["decoder"](self.modules["encoder"](x)), x)
            else:
                loss = self._loss(x, chosen, step)
            gradients = torch.autograd.grad(loss, self.stages.tuned(stage))  # the box's own weights get none
        return Prepared(step, float(loss.detach()), gradients, buffers)

    def make_step(self, prepared: Prepared) -> dict[str, float]:
        """Move the weights by the stage's optimizer."""
        self.stages.move(prepared)
        # The stages' losses are not one curve.
        stage, _ = self.stages.at(prepared.step)
        return {"squared_error" if stage in ALONE else "value": prepared.loss}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs besides the parameters; taken between steps."""
        return {"stages": self.stages.state_dict(), "classes": self.stability.classes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state, beside parameters that were assigned."""
        self.stages.load_state_dict(state["stages"])
        self.stability.classes = state["classes"].clone()

    # What every problem offers

    def parameters(self) -> Parameters:
        """Weights and running statistics of the denoiser, encoder and decoder."""
        return self._parameters

    def denoised(self, images: Tensor) -> Tensor:
        """Images [n, c, h, w] -> what the box is shown of them."""
        clean = self.modules["denoiser"](images)
        shown: Tensor = self.modules["decoder"](self.modules["encoder"](clean)) if self.coded else clean
        return shown

    @torch.no_grad()
    def defended(self, images: Tensor) -> Tensor:
        """The outputs of the box behind the denoiser; asks the box."""
        return self.box(self.denoised(images))

    def smoothed_classifier(self, parameters: Parameters) -> SmoothedClassifier:
        """The defended box with its noise, and the test images."""
        if self.stability.task != "classification":
            raise UserError("Only a classification can be certified; this defence is of a reconstruction.")
        test = self.data.splits["test"]
        return SmoothedClassifier(self.defended, self.sigma, test.images.to(self.device), test.labels)

    def metrics(self, split: str = "test") -> dict[str, float]:
        """Accuracy, or RMSE, of the defended box on a split's first images, clean and with one draw of noise each."""
        if split not in self.data.splits:
            raise UserError(f"split: there is no '{split}'; the data has {', '.join(self.data.splits)}.")
        part = self.data.splits[split]
        images = part.images[: self.evaluated].to(self.device)
        return self.stability.metrics(self.defended, images, part, self.sigma, self.seed)

    # The steps

    def _loss(self, x: Tensor, chosen: Tensor, step: int) -> Tensor:
        targets = self.stability.targets(chosen, self.device)
        clean = self._denoised(x, step)
        seen = self.modules["encoder"](clean) if self.coded else clean
        if self.opaque is None:
            outputs = self.box.opened(self.modules["decoder"](seen) if self.coded else seen)
        else:
            self.opaque.calls.fill_(step)  # so that a step that is made again has the same directions
            outputs = self.opaque(seen)
        loss = self.stability.losses(outputs, targets).mean()
        return loss + self.reconstruction * functional.mse_loss(clean, x) if self.reconstruction else loss

    def _denoised(self, x: Tensor, step: int) -> Tensor:
        """Of the images with the step's noise."""
        cleaned: Tensor = self.modules["denoiser"](x + self.sigma * noise(x, self._run_seed, "noise", step))
        return cleaned

    def _behind(self, seen: Tensor) -> Tensor:
        """What an estimate asks: the frozen decoder and the box."""
        return self.box(self.modules["decoder"](seen) if self.coded else seen)

    @cached_property
    def _asked(self) -> int:
        """Queries of one image in a step."""
        assert self.opaque is not None
        one = self.train_images[:1].to(self.device)
        with torch.no_grad():
            return self.opaque.queries_of(self.modules["encoder"](one) if self.coded else one)

    def _batch(self, step: int) -> Tensor:
        context = Context(batch_seed=derive_seed(self._run_seed, "batch", step))
        return examples_of(context, len(self.train_images), self.batch_size)
