"""Features of sentences: a small sentence encoder, run once and kept on disk.

all-MiniLM-L6-v2 of Sentence-BERT (arXiv:1908.10084): six transformer layers, the mean of the last hidden states over
the tokens of a sentence (padding left out), scaled to length 1; the cosine of two sentences is then their dot product.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn import functional

from blackbox.errors import UserError
from problems import assets
from problems.device import resolve_device

Features = npt.NDArray[np.float32]

MAX_TOKENS = 256  # as the model's own settings say; what is longer loses its end
BATCH = 64
VERSION = 1  # of what is computed here: part of the key that features are kept under


class SentenceEncoder:
    """A sentence encoder in eval mode, float32.

    Args:
        name: a built-in one: `minilm-l6`.
        device: auto, cuda, mps or cpu.

    Raises:
        UserError: there is no such encoder, it can't be fetched, or the package transformers is missing.
    """

    def __init__(self, name: str = "minilm-l6", device: str = "auto") -> None:
        _known(name)
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise UserError("a sentence encoder needs the package `transformers` (extra `llm`)") from error
        folder = str(assets.encoder_folder(name))
        self.device = resolve_device(device)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        # The library's progress bar has no switch of its own.
        with contextlib.redirect_stderr(io.StringIO()):
            self.model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32)
        self.model.to(self.device).eval()

    def __call__(self, sentences: Sequence[str]) -> Features:
        """Features, float32 [n, 384], each row of length 1."""
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))  # so that little is padded
        found = np.zeros((len(sentences), self.model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            texts = [sentences[i] for i in places]
            tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            with torch.no_grad():
                hidden = self.model(**tokens.to(self.device)).last_hidden_state
            found[places] = mean_pooled(hidden, tokens["attention_mask"]).cpu().numpy()
        return found


def mean_pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean over unmasked tokens, scaled to length 1: hidden [n, tokens, d], mask [n, tokens] -> [n, d]."""
    kept = mask.unsqueeze(-1).to(hidden.dtype)
    return functional.normalize((hidden * kept).sum(1) / kept.sum(1).clamp(min=1e-9), dim=1)


def features_of(sentences: Sequence[str], encoder: str = "minilm-l6", device: str = "auto") -> Features:
    """Features of sentences, float32 [n, d]; kept in the cache folder under a hash of encoder and sentences.

    Raises UserError as SentenceEncoder does, and if the cache folder can't be written.
    """
    _known(encoder)
    digest = hashlib.sha256(f"{VERSION} {assets.ENCODERS[encoder].member_sha256} {MAX_TOKENS}".encode())
    for sentence in sentences:
        digest.update(b"\0" + sentence.encode())
    path = assets.cache_folder() / "features" / f"{encoder}-{digest.hexdigest()[:16]}.safetensors"
    if path.is_file():
        try:
            return load_file(path)["features"]
        except (SafetensorError, KeyError, OSError):
            path.unlink(missing_ok=True)  # cut off or damaged: made anew
    found = SentenceEncoder(encoder, device)(sentences)
    _keep(found, path)
    return found


def _keep(features: Features, path: Path) -> None:
    """Written beside and renamed, so that a reader sees all of it or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            save_file({"features": features}, Path(scratch) / path.name)
            (Path(scratch) / path.name).replace(path)
    except OSError as error:
        raise UserError(
            f"the cache folder {path.parent} cannot be written ({error.strerror}); "
            "set BLACKBOX_CACHE to a folder that can"
        ) from error


def _known(name: str) -> None:
    if name not in assets.ENCODERS:
        raise UserError(f"encoder: {name!r} is not built in; there is {', '.join(assets.ENCODERS)}")
