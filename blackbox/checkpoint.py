"""Checkpoints: tensors in a safetensors file, everything else as JSON in its metadata. Nothing is pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

_TENSOR = "__tensor__"


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested dict of JSON values and tensors, atomically and durably."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    plain = _take_out(state, "", tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    save_file(tensors, str(draft), metadata={"state": json.dumps(plain)})
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, must be there after a crash
    finally:
        os.close(folder)


def load(path: Path) -> dict[str, Any]:
    """What ``save`` was given; tensors on the CPU."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        plain = json.loads(file.metadata()["state"])
    state: dict[str, Any] = _put_back(plain, tensors)
    return state


def _take_out(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[where] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: where}
    if isinstance(value, Mapping):
        return {str(key): _take_out(item, f"{where}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_take_out(item, f"{where}/{i}", tensors) for i, item in enumerate(value)]
    return value


def _put_back(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {key: _put_back(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_put_back(item, tensors) for item in value]
    return value
