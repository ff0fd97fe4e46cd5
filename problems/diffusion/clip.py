"""Scores by a CLIP model (arXiv:2103.00020): how well an image fits a text, or how it pleases.

With the unit embeddings u of the image and t of the text the score is u . t, from -1 to 1 (the cosine; CLIPScore of
arXiv:2104.08718 is 2.5 times its positive part). An aesthetic head is linear in u: w . u + b, fitted to people's
ratings; layers without anything between them are first multiplied into one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from blackbox.config.rehearsal import loading_begins
from blackbox.errors import UserError
from problems.device import resolve_device


class Clip:
    """A CLIP model and what it looks for.

    Args:
        model: a local folder or hub id of a transformers CLIPModel, with weights in safetensors.
        text: what images should show.
        head: in place of a text, a safetensors file with the ``weight`` [1, d] and ``bias`` [1] of an aesthetic head.
        device: auto, cuda, mps or cpu.
        local_files_only: never ask a hub; a hub id is then looked for in the hub's own cache on this machine.

    Raises:
        UserError: no such model; neither text nor head, or both; a text that is too long; a head that doesn't fit.
    """

    def __init__(
        self,
        model: str,
        text: str | None = None,
        head: str | None = None,
        device: str = "cpu",
        local_files_only: bool = False,
    ) -> None:
        if (text is None) == (head is None):
            raise UserError("text: CLIP compares images with a text, or rates them by a head; give one of the two.")
        self.device = resolve_device(device)
        loading_begins()
        self._model, tokenizer = _load(model, text is not None, local_files_only)
        self._model.to(self.device)
        vision = self._model.config.vision_config
        self._size = int(vision.image_size)
        self._bias = 0.0
        if text is not None:
            self._direction = self._of_text(text, tokenizer)
        elif head is not None:
            self._direction, self._bias = _head(head, int(self._model.config.projection_dim))
            self._direction = self._direction.to(self.device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images float32 [n, c, h, w] in [0, 1], of one or three channels -> values float64 [n], on the CPU."""
        found = self._model.get_image_features(pixel_values=self._prepared(images.to(self.device)))
        values: Tensor = _unit(_embedding(found)) @ self._direction + self._bias
        return values.double().cpu()

    def _prepared(self, images: Tensor) -> Tensor:
        """As CLIP was trained: the shorter side resized (bicubic), the middle cut out, OpenAI's mean and spread."""
        from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        h, w = images.shape[-2:]
        scale = self._size / min(h, w)
        new = [max(self._size, round(h * scale)), max(self._size, round(w * scale))]
        images = functional.interpolate(images, new, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (new[0] - self._size) // 2, (new[1] - self._size) // 2
        images = images[..., top : top + self._size, left : left + self._size].expand(-1, 3, -1, -1)
        mean, spread = (images.new_tensor(one)[:, None, None] for one in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        return (images - mean) / spread

    @torch.no_grad()
    def _of_text(self, text: str, tokenizer: Any) -> Tensor:
        tokens = tokenizer([text], return_tensors="pt")["input_ids"]
        most = int(self._model.config.text_config.max_position_embeddings)
        if tokens.shape[1] > most:
            raise UserError(f"text: it has {tokens.shape[1]} tokens; the model reads {most}.")
        return _unit(_embedding(self._model.get_text_features(input_ids=tokens.to(self.device))))[0]


def _unit(x: Tensor) -> Tensor:
    found: Tensor = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return found


def _embedding(found: Any) -> Tensor:
    """Projected embeddings [n, d]; transformers hands them out bare or, later, as an output's pooled one."""
    embedding: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return embedding


def _load(path: str, with_text: bool, local_files_only: bool) -> tuple[Any, Any]:
    try:
        import transformers
    except ImportError as error:
        raise UserError("clip: a CLIP score needs the package transformers (extra `images`).") from error
    kit: Any = transformers
    folder = Path(path).expanduser()
    name = str(folder) if folder.exists() else path
    try:
        with torch.random.fork_rng(devices=[]):  # a module's first weights are drawn before they are overwritten
            # No weights but safetensors: anything else would be unpickled.
            model, seen = kit.CLIPModel.from_pretrained(
                name, use_safetensors=True, local_files_only=local_files_only, output_loading_info=True
            )
            tokenizer = (
                kit.AutoTokenizer.from_pretrained(name, local_files_only=local_files_only) if with_text else None
            )
    except Exception as error:  # the hub, the folder and its files may fail in many ways
        said = str(error).strip().splitlines()[:1] or [type(error).__name__]
        what = "folder" if folder.exists() else "hub id (there is no such folder here)"
        raise UserError(f"model: no CLIP model could be loaded from the {what} '{path}': {said[0]}") from error
    if seen["missing_keys"]:
        raise UserError(f"model: '{path}' is no CLIP model: {sorted(seen['missing_keys'])[0]} is missing.")
    return model.eval().requires_grad_(False), tokenizer


def _head(path: str, d: int) -> tuple[Tensor, float]:
    try:
        tensors = load_file(Path(path).expanduser())
    except (OSError, SafetensorError) as error:
        raise UserError(f"head: {path} can't be read as a safetensors file: {error}") from error
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if shapes != {"weight": [1, d], "bias": [1]}:
        raise UserError(f"head: {path} must hold weight [1, {d}] and bias [1] for this model, but holds {shapes}.")
    return tensors["weight"][0].float(), float(tensors["bias"][0])
