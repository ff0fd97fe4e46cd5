"""What a defended black box should keep doing: answer as it does without noise. No label is ever needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from blackbox.errors import UserError
from problems.smoothing.box import BlackBox
from problems.smoothing.images import Split, noise

Task = Literal["classification", "reconstruction"]


class Stability:
    """The loss of outputs against the black box's own at the clean images (arXiv:2203.14195, eq. 4).

    Args:
        task: "classification": cross-entropy to the box's own class; "reconstruction": mean squared error to its image.
        box: asked about the clean images.
        images: the training images [examples, c, h, w].

    Attributes:
        classes: the box's own classes int64 [examples]; -1 where it wasn't asked yet. Empty for a reconstruction,
            whose images would take too much room: they are asked for each time.
    """

    def __init__(self, task: Task, box: BlackBox, images: Tensor) -> None:
        if task not in ("classification", "reconstruction"):
            raise UserError(f"task is 'classification' or 'reconstruction', not {task!r}.")
        self.task = task
        self.box = box
        self.images = images
        self.classes = torch.full((len(images) if task == "classification" else 0,), -1, dtype=torch.int64)

    def unknown(self, chosen: Tensor) -> Tensor:
        """Those of the examples whose clean answer must still be asked for, int64."""
        return chosen[self.classes[chosen] < 0] if self.task == "classification" else chosen

    def targets(self, chosen: Tensor, device: torch.device) -> Tensor:
        """The box's clean answers: classes int64 [batch], or outputs [batch, ...]."""
        unknown = self.unknown(chosen)
        answers = self.box(self.images[unknown].to(device)) if len(unknown) else None
        if self.task == "reconstruction":
            assert answers is not None
            return answers
        if answers is not None:
            if answers.ndim != 2:
                raise UserError(f"The black box must give scores [n, classes], not {list(answers.shape)}.")
            self.classes[unknown] = answers.argmax(1).cpu()
        return self.classes[chosen].to(device)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One an example: outputs [n, ...] and targets [n, ...] -> [n]."""
        if self.task == "reconstruction":
            return functional.mse_loss(outputs, targets, reduction="none").flatten(1).mean(1)
        return functional.cross_entropy(outputs, targets, reduction="none")

    @torch.no_grad()
    def metrics(
        self, defended: Callable[[Tensor], Tensor], images: Tensor, part: Split, sigma: float, seed: int
    ) -> dict[str, float]:
        """Accuracy, or RMSE, of a defended box on a split's first images: clean, and with one draw of noise each.

        Args:
            defended: images -> outputs.
            images: those of the split that are asked about [n, c, h, w], on their device.
            part: the split.
            sigma, seed: of the noise.
        """
        noisy = images + sigma * noise(images, seed, "metrics")
        found = {}
        for name, seen in (("", images), ("noisy_", noisy)):
            outputs = torch.cat([defended(some) for some in torch.split(seen, 256)])
            if self.task == "classification":
                right = outputs.argmax(1).cpu() == part.labels[: len(images)]
                found[f"{name}accuracy"] = float(right.double().mean())
            else:
                found[f"{name}rmse"] = float((outputs - images).square().mean().sqrt())
        return found
