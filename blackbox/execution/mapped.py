"""Weights that live in a file: a safetensors file, mapped into memory, to be read and written as ordinary tensors.

The system reads pages when they are touched and writes changed ones back; ``release`` lets go of a tensor's pages, so
that the process holds no more of the file than it works with.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blackbox.errors import UserError
from blackbox.parameters import Parameters

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_MARK = {"written_by": "blackbox, as a run's working copy"}


class MappedWeights:
    """The tensors of a safetensors file, mapped for reading and writing: what is written to them is in the file.

    Args:
        path: the file.

    Attributes:
        tensors: by name; float tensors only.

    Raises:
        UserError: there is no such file, or it is no safetensors file, or holds other than float tensors.
    """

    def __init__(self, path: Path) -> None:
        header = _header(path)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        start = 8 + int.from_bytes(self._map[:8], "little")
        self.tensors: dict[str, Tensor] = {}
        self._places: dict[int, tuple[int, int]] = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in _DTYPES:
                raise UserError(f"{path}: '{name}' is {entry['dtype']}; only float tensors can be mapped.")
            low, high = (start + offset for offset in entry["data_offsets"])
            dtype = _DTYPES[entry["dtype"]]
            if high == low:
                tensor = torch.empty(entry["shape"], dtype=dtype)
            else:
                count = (high - low) // dtype.itemsize
                tensor = torch.frombuffer(self._map, dtype=dtype, count=count, offset=low).view(entry["shape"])
                self._places[tensor.data_ptr()] = low, high
            self.tensors[name] = tensor

    @classmethod
    def write(cls, path: Path, tensors: Mapping[str, Tensor]) -> MappedWeights:
        """Write tensors to a file and map it. A working copy of an earlier run is written over.

        Raises:
            UserError: the file is there and is something else, or can't be written.
        """
        from safetensors.torch import save_file

        if path.exists() and _header(path).get("__metadata__") != _MARK:
            raise UserError(f"file: {path} is there and is no run's working copy; it is not written over.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(path.name + ".draft")
            save_file({name: t.detach().contiguous() for name, t in tensors.items()}, str(draft), metadata=_MARK)
            os.replace(draft, path)
        except OSError as error:
            raise UserError(f"file: {path} can't be written: {error.strerror}.") from error
        return cls(path)

    def release(self, tensor: Tensor) -> None:
        """Let go of the pages of one of the tensors; they are read again when they are touched."""
        place = self._places.get(tensor.data_ptr())
        if place is not None and hasattr(mmap, "MADV_DONTNEED"):
            low, high = place  # pages shared with a neighbour go too: all of them are the file's
            low -= low % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, low, high - low)


def move_to_file(module: nn.Module, parameters: Parameters, path: Path) -> MappedWeights:
    """Let the module's parameters, the tuned ones among them, live in a file from now on; what they held is given back.

    Raises:
        UserError: as ``MappedWeights.write``, or a weight isn't on the CPU.
    """
    named = dict(module.named_parameters())  # tied ones once
    for name, weight in named.items():
        if weight.device.type != "cpu":
            raise UserError(f"file: the weights are mapped into host memory, but '{name}' is on {weight.device}.")
    mapped = MappedWeights.write(path, named)
    tuned = {tensor.data_ptr(): name for name, tensor in parameters.raw.items()}
    for name, weight in named.items():
        tensor = mapped.tensors[name]
        if weight.data_ptr() in tuned:
            parameters.move_home(tuned[weight.data_ptr()], tensor)
        weight.data = tensor
        mapped.release(tensor)
    return mapped


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < path.stat().st_size else None
    except OSError as error:
        raise UserError(f"file: {path} can't be read: {error.strerror}.") from error
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise UserError(f"file: {path} is no safetensors file.")
    return header
