"""Devices and precisions by name."""

from __future__ import annotations

import torch

from blackbox.errors import UserError

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """auto (the first of cuda, mps, cpu that works), or any torch knows; UserError if it isn't there."""
    if name == "auto":
        for kind, module in (("cuda", torch.cuda), ("mps", torch.backends.mps)):
            if module.is_available():
                return torch.device(kind)
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device: '{name}' is not usable here ({str(error).splitlines()[0]}); 'auto' takes what there is."
        ) from error
    return device


def resolve_dtype(name: str, device: torch.device | None = None) -> torch.dtype:
    """float32, float64, bfloat16 or float16; UserError for another name, or one that the device doesn't have."""
    if name not in DTYPES:
        raise UserError(f"dtype: '{name}' is not one of {', '.join(DTYPES)}.")
    if name == "float64" and device is not None and device.type == "mps":
        raise UserError("dtype: mps has no float64; choose float32, or device: cpu.")
    return DTYPES[name]
