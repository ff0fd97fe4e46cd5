"""Images as arrays and as PNG files that carry what renders them again.

The text chunk "blackbox" of a file is JSON: the pipeline's settings (the prompt among them), the steps, the guidance
scale and the seed. What else the image was made from has chunks of its own, "blackbox-latent" and, where there are
such, "blackbox-offset" and "blackbox-noise": the shape, a colon, and the numbers (float32, little-endian, base64).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blackbox.errors import UserError
from problems.diffusion.inputs import Inputs
from problems.diffusion.pipeline import Pipeline

KEY = "blackbox"
Picture = npt.NDArray[np.uint8]


def as_picture(image: Tensor) -> Picture:
    """Float [c, h, w] in [0, 1] -> uint8 [h, w, c], or [h, w] of a single channel."""
    array = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    picture: Picture = array[:, :, 0] if array.shape[2] == 1 else array
    return picture


def save_picture(path: str | Path | BinaryIO, picture: Picture, inputs: Inputs, facts: Mapping[str, Any]) -> None:
    """A PNG with the inputs of its one image and facts (``pipeline``, ``steps``, ``seed``) embedded."""
    from PIL import Image, PngImagePlugin

    note = PngImagePlugin.PngInfo()
    note.add_text(KEY, json.dumps({**facts, "guidance": inputs.guidance[0] if inputs.guidance else None}), zip=True)
    for name, tensor in (("latent", inputs.latents), ("offset", inputs.offsets), ("noise", inputs.noises)):
        if tensor is not None:
            note.add_text(f"{KEY}-{name}", _to_text(tensor[0]))
    Image.fromarray(picture).save(path, "PNG", pnginfo=note)


def read_picture(path: str | Path) -> tuple[Inputs, dict[str, Any]]:
    """The inputs of the one image and the facts of a file that ``save_picture`` wrote; UserError if it isn't one."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            notes = dict(picture.info)
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise UserError(f"{path} can't be read as a picture: {error}") from error
    if not isinstance(notes.get(KEY), str):
        raise UserError(f"{path} holds no latent: it isn't a picture that was saved by `save_image`.")
    try:
        facts = json.loads(notes[KEY])
        guidance = facts.pop("guidance")
        offset, noise = (
            _from_text(notes[f"{KEY}-{name}"])[None] if f"{KEY}-{name}" in notes else None
            for name in ("offset", "noise")
        )
        scales = None if guidance is None else [float(guidance)]
        return Inputs(_from_text(notes[f"{KEY}-latent"])[None], scales, offset, noise), facts
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path}: what it says about its latent is damaged ({error}).") from error


def render_again(path: str | Path, device: str = "cpu") -> Picture:
    """The image of a saved file, rendered anew from what is in it: uint8 [h, w, c] or [h, w].

    Loads the pipeline that the file names (a local folder or a hub id), so open only files that you trust.
    Bit for bit the saved image on the same machine and versions.
    """
    inputs, facts = read_picture(path)
    try:
        pipeline, steps = Pipeline.from_settings(facts["pipeline"], device), int(facts["steps"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: what it says about its pipeline is damaged ({error}).") from error
    return as_picture(inputs.rendered(pipeline, steps)[0])


def _to_text(tensor: Tensor) -> str:
    data = base64.b64encode(tensor.contiguous().numpy().astype("<f4").tobytes()).decode()
    return f"{','.join(map(str, tensor.shape))}:{data}"


def _from_text(text: str) -> Tensor:
    shape, _, data = text.partition(":")
    numbers = np.frombuffer(base64.b64decode(data, validate=True), "<f4").astype(np.float32)
    return torch.from_numpy(numbers).reshape([int(size) for size in shape.split(",")])
