"""GGUF files as ordinary trainable tensors, and their conversion to a safetensors folder."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from blackbox.errors import UserError


def load_gguf(path: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Model (CPU, eval mode) and tokenizer of a GGUF file, every weight dequantised to `dtype`.

    Recent transformers can keep the weights packed; noise added to packed blocks would be
    meaningless, so a tensor that isn't floating is an error.
    """
    import transformers

    try:
        import gguf  # noqa: F401  (transformers reads the file through it)
    except ImportError as error:
        raise UserError(f"{path}: reading GGUF needs the package `gguf` (extra `llm`)") from error
    options: dict[str, Any] = {"gguf_file": path.name, "dtype": dtype}
    # Releases before GgufConfig know only the dequantised way.
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    folder = str(path.parent)
    try:
        # The library's progress bar of the conversion has no switch of its own.
        with contextlib.redirect_stderr(io.StringIO()):
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be read as a GGUF language model ({error})") from error
    packed = [name for name, value in model.named_parameters() if value.dtype != dtype]
    packed += [name for name, buffer in model.named_buffers() if not buffer.is_floating_point()]
    if packed or getattr(model.config, "quantization_config", None):
        raise UserError(f"{path}: the weights are still packed ({', '.join(packed[:3])})")
    return model.eval(), tokenizer


def convert_gguf(path: Path, folder: Path, parameters: int, tokens: Mapping[str, int]) -> None:
    """Saves the GGUF file's float32 weights and tokenizer in `folder`, checked against the facts.

    Args:
        parameters: the number of distinct parameters that the model must have, embeddings tied.
        tokens: texts that must be one token, with its id.
    """
    model, tokenizer = load_gguf(path)
    got = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in tokens}
    found = {
        "parameters": sum(value.numel() for value in model.parameters()),
        "tied": model.get_input_embeddings().weight is model.get_output_embeddings().weight,
        "added tokens": len(tokenizer("a")["input_ids"]) - 1,
        "tokens": got,
        "reads English": _loss(model, tokenizer, _ENGLISH) < 4,
    }
    expected = {
        "parameters": parameters,
        "tied": True,
        "added tokens": 0,
        "tokens": {text: [token] for text, token in tokens.items()},
        "reads English": True,
    }
    if found != expected:
        raise UserError(f"{path.name}: converted to {found}, expected {expected}")
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


# A wrongly unpacked or permuted tensor leaves every shape right; only the loss shows it.
_ENGLISH = "The sun rises in the east and sets in the west. Water boils at one hundred degrees."


def _loss(model: Any, tokenizer: Any, text: str) -> float:
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)
