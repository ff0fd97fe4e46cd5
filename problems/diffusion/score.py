"""What an image is worth: by a classifier, by CLIP, by the distance to a picture, or by a function of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from blackbox.config.registry import imported
from blackbox.config.rehearsal import loading_begins
from blackbox.errors import UserError
from problems.diffusion.classifier import load_classifier
from problems.diffusion.clip import Clip

ImageFunction = Callable[[Tensor], Tensor]


class Score:
    """Values of images.

    Args:
        kind: "classifier" or "clip" (higher is better); "target-image", the mean squared difference from a picture
            (lower is better); or the import path of a function: images float32 [n, c, h, w] in [0, 1] -> values [n].
        label: the class whose score counts (classifier).
        value: the probability of the class, or its logit, which still tells apart what is hopeless (classifier).
        classifier: "tiny", the built-in one of digits; a safetensors file of the same network; or the import path of a
            module, or of a class or function that gives one: images as above -> logits [n, classes].
        target: a picture's file, resized to the images' size (target-image).
        clip: the model and what it looks for (clip).
        maximize: whether higher is better; for a function of one's own, where false is the default.

    Raises:
        UserError: keys that don't go together; nothing found under the path.
    """

    def __init__(
        self,
        kind: str = "classifier",
        label: int = 0,
        value: Literal["logit", "probability"] = "probability",
        classifier: str = "tiny",
        target: str | None = None,
        clip: Clip | None = None,
        maximize: bool | None = None,
    ) -> None:
        own = ":" in kind
        if not own and kind not in ("classifier", "clip", "target-image"):
            raise UserError(
                f"kind: '{kind}' is not classifier, clip, target-image or an import path such as my_module:brightness."
            )
        if not own and maximize is not None:
            raise UserError(f"maximize: the kind '{kind}' knows itself; only a function of your own is told.")
        if (target is not None) != (kind == "target-image"):
            raise UserError("target: the file of a picture goes with the kind 'target-image', and only with it.")
        if (clip is not None) != (kind == "clip"):
            raise UserError("clip: a model and a text go with the kind 'clip', and only with it.")
        if value not in ("logit", "probability"):
            raise UserError(f"value: '{value}' is neither logit nor probability.")
        self.kind, self.label, self.value = kind, label, value
        self.maximize = kind in ("classifier", "clip") or bool(maximize)
        self._clip = clip
        loading_begins()
        self._function: ImageFunction | None = imported(kind) if own else None
        self.classifier = _classifier(classifier) if kind == "classifier" else None
        self._target = _picture(target) if target is not None else None

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Images float32 [n, c, h, w] in [0, 1] -> values float64 [n]; UserError for another shape of the answer."""
        if self.classifier is not None:
            logits = self._logits(images)
            values = logits if self.value == "logit" else logits.softmax(1)
            return values[:, self.label]
        if self._clip is not None:
            return self._clip(images)
        if self._target is not None:
            return ((images - _fitted(self._target, images)) ** 2).mean((1, 2, 3)).double()
        assert self._function is not None
        values = torch.as_tensor(self._function(images)).double().cpu()
        if values.shape != (len(images),):
            raise UserError(f"{self.kind} gave values of shape {list(values.shape)} for {len(images)} images.")
        return values

    @torch.inference_mode()
    def facts(self, image: Tensor) -> dict[str, float]:
        """About one image [c, h, w]: its value; a classifier's probability of the label, and the class it names."""
        found = {"score": float(self(image[None])[0])}
        if self.classifier is not None:
            probabilities = self._logits(image[None]).softmax(1)[0]
            found["probability"] = float(probabilities[self.label])
            found["named"] = float(probabilities.argmax())
        return found

    def _logits(self, images: Tensor) -> Tensor:
        assert self.classifier is not None
        logits: Tensor = self.classifier(images).double().cpu()
        if logits.ndim != 2 or len(logits) != len(images):
            raise UserError(f"The classifier gave shape {list(logits.shape)} for {len(images)} images.")
        if not 0 <= self.label < logits.shape[1]:
            raise UserError(f"label: {self.label} is not one of the classes 0 to {logits.shape[1] - 1}.")
        return logits


def _classifier(name: str) -> nn.Module:
    if name == "tiny":
        from problems.diffusion.train_tiny import tiny_folder

        return load_classifier(tiny_folder() / "classifier.safetensors")
    if name.endswith(".safetensors"):
        return load_classifier(Path(name).expanduser())
    found: Any = imported(name)
    module = found if isinstance(found, nn.Module) else found()
    if not isinstance(module, nn.Module):
        raise UserError(f"classifier: {name} gave a {type(module).__name__}, not a torch module.")
    return module.eval().requires_grad_(False)


def _picture(path: str) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(Path(path).expanduser()) as picture:
            array = np.asarray(picture.convert("RGB"), dtype=np.float32)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"target: {path} can't be read as a picture: {error}") from error
    return torch.from_numpy(array / 255).permute(2, 0, 1)


def _fitted(target: Tensor, images: Tensor) -> Tensor:
    """[3, h, w] -> [1, c, h, w] as the images are; grey is the mean of the colours."""
    if images.shape[1] == 1:
        target = target.mean(0, keepdim=True)
    if target.shape[-2:] == images.shape[-2:]:
        return target[None]
    return functional.interpolate(target[None], images.shape[-2:], mode="bilinear", antialias=True)
