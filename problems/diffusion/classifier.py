"""A small classifier of greyscale images: the judge of simulated raters."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from blackbox.errors import UserError


class SmallClassifier(nn.Module):
    """Three 3x3 convolutions with batch norm, 2x2 max pools after the first two, the mean over pixels, a linear layer.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.c2, self.b2 = nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48)
        self.c3, self.b3 = nn.Conv2d(48, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, classes)

    def features(self, images: Tensor) -> Tensor:
        """Images [n, 1, h, w] in [0, 1] -> [n, 64]: what the linear layer reads."""
        x = 2 * images - 1
        x = functional.max_pool2d(functional.relu(self.b1(self.c1(x))), 2)
        x = functional.max_pool2d(functional.relu(self.b2(self.c2(x))), 2)
        return functional.relu(self.b3(self.c3(x))).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Images [n, 1, h, w] in [0, 1] -> logits [n, classes]."""
        logits: Tensor = self.fc(self.features(images))
        return logits


def load_classifier(path: str | Path) -> SmallClassifier:
    """From a safetensors file; UserError if it isn't one of this network."""
    try:
        tensors = load_file(path)
        with torch.device("meta"):
            module = SmallClassifier(len(tensors.get("fc.bias", ())))
        module.load_state_dict(tensors, assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        raise UserError(f"classifier: {path} can't be read as a small classifier: {said}") from error
    return module.eval().requires_grad_(False)
