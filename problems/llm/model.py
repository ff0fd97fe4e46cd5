"""Causal language models by built-in name, local folder, GGUF file or hub id; what is tuned."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from blackbox.errors import UserError
from problems.device import resolve_device, resolve_dtype


def load_model(model: str, dtype: str = "float32", device: str = "auto") -> tuple[nn.Module, Any, torch.device]:
    """Model in eval mode on its device, its tokenizer, and that device.

    Args:
        model: `smollm2-135m`, `tiny`, a folder of transformers' own format, a `.gguf` file, or a
            hub id.
        dtype: float32, bfloat16 or float64, of every weight.
        device: auto (the first of cuda, mps, cpu that works), or any that torch knows.
    """
    place = resolve_device(device)
    precision = resolve_dtype(dtype, place)
    with _quiet():
        loaded, tokenizer = _load(model, precision)
    return loaded.to(place).eval(), tokenizer, place


def _load(model: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from problems import assets

    if model == "tiny":
        from problems.llm.tiny import tiny_model, tiny_tokenizer

        return tiny_model().to(dtype), tiny_tokenizer()
    path = Path(model).expanduser()
    if model in assets.MODELS:
        path = assets.model_folder(model)
    elif path.suffix == ".gguf":
        from problems.llm.gguf import load_gguf

        if not path.is_file():
            raise UserError(f"model: there is no file {path}")
        return load_gguf(path, dtype)
    import transformers

    name = str(path) if path.is_dir() else model
    try:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the hub's client raises errors of many libraries
        known = ", ".join((*assets.MODELS, "tiny"))
        raise UserError(
            f"model: {model!r} is not built in ({known}), no .gguf file and cannot be loaded as a "
            f"folder or from a hub: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from error
    return loaded, tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of the library while loading: this takes well under a second."""
    import transformers

    logging: Any = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def choose_tuned(model: nn.Module, tuning: str | Sequence[str], lora: Mapping[str, Any] | None, seed: int) -> nn.Module:
    """Sets `requires_grad` on what is tuned, and on nothing else; the model, wrapped for LoRA.

    Args:
        tuning: `full`; `lora`; or shell-style patterns of parameter names, such as
            `["*.mlp.*", "*norm*"]`.
        lora: settings for `lora`: r (default 8), alpha (default 16), target_modules (default: what
            peft chooses for the architecture).
        seed: of LoRA's first factor; the second starts at zero, so tuning starts at the model.
    """
    if tuning == "lora":
        return _add_lora(model, dict(lora or {}), seed)
    if lora:
        raise UserError(f"lora: given, but tuning is {tuning!r}; set tuning: lora")
    if isinstance(tuning, str) and tuning != "full":
        raise UserError(f"tuning: {tuning!r} is not `full`, `lora` or a list of name patterns")
    patterns = ["*"] if tuning == "full" else list(tuning)
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"tuning: no parameter matches {pattern!r}; names look like {', '.join(names[:4])}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
    return model


def _add_lora(model: nn.Module, settings: dict[str, Any], seed: int) -> nn.Module:
    unknown = sorted(set(settings) - {"r", "alpha", "target_modules"})
    if unknown:
        raise UserError(f"lora: {unknown[0]!r} is unknown; there are r, alpha and target_modules")
    try:
        import peft
    except ImportError as error:
        raise UserError("tuning: lora needs the package `peft` (extra `llm`)") from error
    targets = settings.get("target_modules")
    config = peft.LoraConfig(
        r=settings.get("r", 8),
        lora_alpha=settings.get("alpha", 16),
        target_modules=list(targets) if isinstance(targets, list | tuple) else targets,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    try:
        # peft draws the first factor from the global generator; it is drawn anew below.
        with torch.random.fork_rng(devices=[]):
            wrapped: nn.Module = peft.get_peft_model(model, config).eval()
    except (ValueError, TypeError) as error:
        raise UserError(f"lora: {error}") from error
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_A" in name or "lora_embedding_B" in name:
            bound = parameter.shape[-1] ** -0.5
            drawn = torch.rand(parameter.shape, generator=generator) * (2 * bound) - bound
            with torch.no_grad():
                parameter.copy_(drawn)
    return wrapped
