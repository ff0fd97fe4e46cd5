"""Training an image classifier from scratch by forward passes alone (the setting of DeepZero, arXiv:2310.02025)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blackbox.config.rehearsal import loading_begins
from blackbox.errors import UserError
from blackbox.probe import Context
from blackbox.seeds import derive_seed
from problems.base import SmallModuleProblem, cost_of_examples, examples_of
from problems.device import resolve_device, resolve_dtype
from problems.training.augment import Augment, augmented
from problems.training.data import load_images
from problems.training.networks import Norm, ResNet20, perceptron, seeded, small_cnn


class ImageClassification(SmallModuleProblem):
    """A network that learns to tell images apart; it offers its layers.

    Args:
        data: digits, fashion-mnist, a folder or an .npz file; see ``problems.training.data``.
        network: cnn (3 x 3 convolutions, the mean of the pixels, one linear layer), perceptron or resnet20.
        widths: channels of the convolutions, or units of the hidden layers; resnet20 has its own.
        norm: of resnet20. "batch" is frozen at what one pass over training images measures at the start; "group".
        examples: training and validation images together; all if left out.
        validation: share of them held out.
        batch_size: images that a batch seed draws.
        augment: what is done to the images of such a batch: none, crop, or crop-flip.
        objective: ``cross_entropy``, or ``accuracy``: 1 for a wrong image, else 0, which has no derivative.
        seed: of the splits and of the first weights.
        device: auto, cuda, mps or cpu.
        dtype: float32, float64 or bfloat16.

    Attributes:
        examples: training images.
        classes: number of labels.
        targets: as ``LayeredObjective`` says, with cross-entropy; else None.
        recipe: the YAML block from which another process can build the same problem.
    """

    def __init__(
        self,
        data: str = "digits",
        network: Literal["cnn", "perceptron", "resnet20"] = "cnn",
        widths: Sequence[int] = (8, 8),
        norm: Norm = "batch",
        examples: int | None = None,
        validation: float = 0.1,
        batch_size: int = 64,
        augment: Augment = "none",
        objective: Literal["cross_entropy", "accuracy"] = "cross_entropy",
        seed: int = 0,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        for name, value, known in (
            ("network", network, ("cnn", "perceptron", "resnet20")),
            ("norm", norm, ("batch", "group")),
            ("augment", augment, ("none", "crop", "crop-flip")),
            ("objective", objective, ("cross_entropy", "accuracy")),
        ):
            if value not in known:
                raise UserError(f"{name}: {value!r} is not one of {', '.join(known)}.")
        if min(widths, default=1) < 1 or (network == "cnn" and not widths):
            raise UserError(f"widths: at least one channel or unit a layer, not {list(widths)}.")
        if examples is not None and examples < 2:
            raise UserError(f"examples: at least 2 (one is held out), not {examples}.")
        if not 0 < validation < 1:
            raise UserError(f"validation is a share in (0, 1), not {validation}.")
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self.recipe: dict[str, Any] = {
            "type": f"{type(self).__module__}:{type(self).__qualname__}",
            **{"data": data, "network": network, "widths": list(widths), "norm": norm, "examples": examples},
            **{"validation": validation, "batch_size": batch_size, "augment": augment, "objective": objective},
            **{"seed": seed, "device": device, "dtype": dtype},
        }
        loading_begins()
        images = load_images(data, examples, validation, seed)
        self.classes = images.classes
        self._data = {
            split: (x.to(self.device, self.dtype), y.to(self.device)) for split, (x, y) in images.splits.items()
        }
        self.examples = len(images.splits["train"][1])
        if not 1 <= batch_size <= self.examples:
            raise UserError(f"batch_size: 1 to {self.examples} (the training images), not {batch_size}.")
        self.batch_size, self.augment, self.objective = batch_size, augment, objective
        self.targets: Callable[[Context], Tensor] | None = self._labels if objective == "cross_entropy" else None
        make = _maker(network, tuple(widths), norm, images.shape, images.classes)
        self.module: nn.Module = seeded(make, derive_seed(seed, "weights"))
        self._drawn: tuple[Context, Tensor, Tensor] | None = None
        if network == "resnet20" and norm == "batch":
            measure_norms(self.module, images.splits["train"][0][:256])
        self.module.to(self.device, self.dtype).eval()

    def inputs(self, context: Context) -> Tensor:
        """The images of the context [batch, channels, h, w], augmented if they were drawn by a batch seed."""
        return self._batch(context)[0]

    def losses(self, outputs: Tensor, context: Context) -> Tensor:
        """Logits [k, batch, classes] -> values [k, batch], float32 or float64. Lower is better."""
        labels = self._labels(context)
        if self.objective == "accuracy":
            return (outputs.argmax(-1) != labels).to(torch.float32)
        wide = outputs.float() if outputs.dtype == torch.bfloat16 else outputs
        flat = F.cross_entropy(wide.flatten(0, 1), labels.repeat(len(outputs)), reduction="none")
        return flat.view(outputs.shape[:2])

    def values_of(self, call: Callable[..., Tensor], context: Context) -> Tensor:
        """``losses`` of the logits that ``call`` gives, [batch]."""
        return self.losses(call(self.inputs(context))[None], context)[0]

    def cost(self, context: Context) -> dict[str, float]:
        """Examples."""
        return cost_of_examples(context, self.examples, self.batch_size)

    @torch.no_grad()
    def metrics(self, split: str = "test") -> dict[str, float]:
        """Accuracy and mean cross-entropy of "train", "validation" or "test"."""
        if split not in self._data:
            raise UserError(f"split: there is no '{split}'; the data has {', '.join(self._data)}.")
        self.parameters().flush()
        images, labels = self._data[split]
        scores = torch.cat([self.module(part) for part in torch.split(images, 500)]).float()
        return {
            "accuracy": float((scores.argmax(-1) == labels).double().mean()),
            "cross_entropy": float(F.cross_entropy(scores.double(), labels)),
        }

    def _labels(self, context: Context) -> Tensor:
        return self._batch(context)[1]

    def _batch(self, context: Context) -> tuple[Tensor, Tensor]:
        """All queries of a step ask for the same one, so the last is kept."""
        if self._drawn is None or self._drawn[0] != context:
            chosen = examples_of(context, self.examples, self.batch_size).to(self.device)
            images, labels = self._data["train"]
            x = images[chosen]
            if context.indices is None and context.batch_seed is not None:
                x = augmented(x, self.augment, context.batch_seed)
            self._drawn = context, x, labels[chosen]
        return self._drawn[1], self._drawn[2]


def _maker(
    network: str, widths: tuple[int, ...], norm: Norm, shape: tuple[int, int, int], classes: int
) -> Callable[[], nn.Module]:
    if network == "cnn":
        return lambda: small_cnn(widths, shape, classes)
    if network == "perceptron":
        return lambda: perceptron(widths, shape, classes)
    if shape[0] != 3:
        raise UserError(f"network: resnet20 takes images of 3 channels; these have {shape[0]}.")
    return lambda: ResNet20(classes, norm)


@torch.no_grad()
def measure_norms(module: nn.Module, images: Tensor) -> None:
    """Give batch norms the mean and variance that their inputs have at the first weights; then they are frozen.

    One layer after the other would see the same: in train mode each norm's output has its own batch's statistics.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for part in norms:
        part.momentum = None  # the mean over all passes, and there is one
    module.train()
    module(images)
    module.eval()
