"""Images as arrays and as PNG files that carry what renders them again.

The text chunk "blackbox" of a file is JSON: the pipeline's settings (the prompt among them), the steps, the guidance
scale, the seed, and the latent (float32, little-endian, base64).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blackbox.errors import UserError
from problems.diffusion.pipeline import Pipeline

KEY = "blackbox"
Picture = npt.NDArray[np.uint8]


def as_picture(image: Tensor) -> Picture:
    """Float [c, h, w] in [0, 1] -> uint8 [h, w, c], or [h, w] of a single channel."""
    array = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    picture: Picture = array[:, :, 0] if array.shape[2] == 1 else array
    return picture


def save_picture(path: str | Path, picture: Picture, latent: Tensor, facts: Mapping[str, Any]) -> None:
    """A PNG with the latent [c, h, w] and facts (``pipeline``, ``steps``, ``guidance``, ``seed``) embedded."""
    from PIL import Image, PngImagePlugin

    data = base64.b64encode(latent.contiguous().numpy().astype("<f4").tobytes()).decode()
    note = PngImagePlugin.PngInfo()
    text = json.dumps({**facts, "latent": data, "shape": list(latent.shape)})
    note.add_text(KEY, text, zip=True)
    Image.fromarray(picture).save(path, "PNG", pnginfo=note)


def read_picture(path: str | Path) -> tuple[Tensor, dict[str, Any]]:
    """The latent [c, h, w] and the facts of a file that ``save_picture`` wrote; UserError if it isn't one."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            text = picture.info.get(KEY)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path} can't be read as a picture: {error}") from error
    if not isinstance(text, str):
        raise UserError(f"{path} holds no latent: it isn't a picture that was saved by `save_image`.")
    try:
        facts = json.loads(text)
        numbers = np.frombuffer(base64.b64decode(facts.pop("latent"), validate=True), "<f4").astype(np.float32)
        return torch.from_numpy(numbers).reshape(facts.pop("shape")), facts
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path}: what it says about its latent is damaged ({error}).") from error


def render_again(path: str | Path, device: str = "cpu") -> Picture:
    """The image of a saved file, rendered anew from the latent in it: uint8 [h, w, c] or [h, w].

    Loads the pipeline that the file names (a local folder or a hub id), so open only files that you trust.
    Bit for bit the saved image on the same machine and versions.
    """
    latent, facts = read_picture(path)
    try:
        pipeline, steps, guidance = Pipeline(**facts["pipeline"], device=device), int(facts["steps"]), facts["guidance"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: what it says about its pipeline is damaged ({error}).") from error
    return as_picture(pipeline(latent[None], steps, None if guidance is None else [float(guidance)])[0])
