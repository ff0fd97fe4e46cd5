"""Images with labels: scikit-learn's digits, and files in the forms in which such data sets are published.

| ``data`` | what is read |
|---|---|
| digits | 1,797 images of 1 x 8 x 8 that come with scikit-learn; a fifth of them is the test split |
| fashion-mnist | Debian's package dataset-fashion-mnist |
| a folder | IDX files (MNIST and its kin), or CIFAR-10's binary version (data_batch_1.bin to test_batch.bin) |
| a file .npz | train_images, train_labels, test_images, test_labels; uint8 [n, h, w, channels] or [n, h, w] |

CIFAR-10's "python version" is pickled, which nothing here reads.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.seeds import derive_seed

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
SPLITS = ("train", "validation", "test")
_IDX = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_BATCHES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}

Labelled = tuple[Tensor, Tensor]
"""Images uint8 [n, channels, h, w] and labels int64 [n]."""


@dataclass(frozen=True, eq=False)
class Images:
    """Three splits, scaled to mean 0 and variance 1 of each channel over the training images.

    Attributes:
        splits: "train", "validation" and "test": images float32 [n, channels, h, w] and labels int64 [n].
        classes: number of labels.
    """

    splits: dict[str, Labelled]
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        channels, height, width = self.splits["train"][0].shape[1:]
        return channels, height, width


def load_images(data: str, examples: int | None, validation: float, seed: int) -> Images:
    """Read a data set and split it.

    Args:
        data: as the module says.
        examples: training and validation images together, drawn by ``seed``; None for all there are.
        validation: share of them that is held out for validation.
        seed: of the draws.

    Raises:
        UserError: no such data, or it isn't what its name says.
    """
    train, test = _read(data, seed)
    if len(train[1]) == 0 or len(test[1]) == 0:
        raise UserError(f"data: {data} holds no images.")
    generator = torch.Generator().manual_seed(derive_seed(seed, "split"))
    order = torch.randperm(len(train[1]), generator=generator)[: examples or None]
    held_out = round(len(order) * validation)
    if not 1 <= held_out < len(order):
        raise UserError(f"validation: a share of {validation} of {len(order)} images leaves a split empty.")
    parts = {"train": order[held_out:], "validation": order[:held_out]}
    raw = {name: (train[0][rows], train[1][rows]) for name, rows in parts.items()} | {"test": test}
    seen = raw["train"][0].double()
    mean, deviation = seen.mean((0, 2, 3), keepdim=True), seen.std((0, 2, 3), keepdim=True).clamp_min(1e-6)
    scaled = {name: (((x.double() - mean) / deviation).float(), y) for name, (x, y) in raw.items()}
    return Images(scaled, int(max(train[1].max(), test[1].max())) + 1)


def _read(data: str, seed: int) -> tuple[Labelled, Labelled]:
    if data == "digits":
        return _digits(seed)
    path = FASHION_MNIST if data == "fashion-mnist" else Path(data).expanduser()
    if path.is_file() and path.suffix == ".npz":
        return _npz(path)
    if not path.is_dir():
        hint = " Debian's package dataset-fashion-mnist puts it there." if data == "fashion-mnist" else ""
        raise UserError(f"data: there is no folder or .npz file {path}.{hint} Built in: digits.")
    for folder in (path, path / "cifar-10-batches-bin"):
        if (folder / _BATCHES["train"][0]).is_file():
            return _cifar(folder, "train"), _cifar(folder, "test")
    if _idx_file(path, _IDX["train"][0]) is not None:
        return _idx(path, "train"), _idx(path, "test")
    if any((folder / "data_batch_1").is_file() for folder in (path, path / "cifar-10-batches-py")):
        raise UserError(f"data: {path} is CIFAR-10's python version, which is pickled. Take the binary version.")
    raise UserError(f"data: {path} holds neither IDX files ({_IDX['train'][0]}) nor data_batch_1.bin.")


def _digits(seed: int) -> tuple[Labelled, Labelled]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise UserError("data: digits come with scikit-learn: pip install scikit-learn.") from error
    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(derive_seed(seed, "test")))
    cut = len(y) // 5
    return (x[order[cut:]], y[order[cut:]]), (x[order[:cut]], y[order[:cut]])


def _npz(path: Path) -> tuple[Labelled, Labelled]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:
        raise UserError(f"data: {path} can't be read as .npz: {error}") from error
    found = []
    for split in ("train", "test"):
        missing = [name for name in (f"{split}_images", f"{split}_labels") if name not in arrays]
        if missing:
            raise UserError(f"data: {path} has no '{missing[0]}'; it has: {', '.join(arrays) or 'nothing'}.")
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.shape != images.shape[:1]:
            raise UserError(
                f"data: {split}_images of {path} must be uint8 [n, h, w, channels] or [n, h, w] with a label each, "
                f"not {images.dtype} {list(images.shape)} with labels {list(labels.shape)}."
            )
        x = torch.from_numpy(images if images.ndim == 4 else images[..., None]).permute(0, 3, 1, 2)
        found.append((x.contiguous(), torch.from_numpy(labels.astype(np.int64))))
    return found[0], found[1]


def _cifar(folder: Path, split: str) -> Labelled:
    """Records of 1 label and 3 x 32 x 32 pixels."""
    rows = []
    for name in _BATCHES[split]:
        if not (folder / name).is_file():
            raise UserError(f"data: {folder} lacks {name}.")
        content = np.frombuffer((folder / name).read_bytes(), np.uint8)
        if len(content) == 0 or len(content) % 3073:
            raise UserError(f"data: {folder / name} is no batch of CIFAR-10: {len(content)} bytes, not n x 3073.")
        rows.append(content.reshape(-1, 3073))
    records = torch.from_numpy(np.concatenate(rows))
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long()


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _idx(folder: Path, split: str) -> Labelled:
    images, labels = (_idx_array(folder, name) for name in _IDX[split])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(f"data: {folder} has {list(images.shape)} images and {list(labels.shape)} labels ({split}).")
    return torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64))


def _idx_array(folder: Path, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """One IDX file of bytes: 0 0 8 ndim, the sizes as big-endian 32-bit numbers, the elements."""
    path = _idx_file(folder, name)
    if path is None:
        raise UserError(f"data: {folder} lacks {name} (or {name}.gz).")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(f"data: {path} can't be read: {error}") from error
    ndim = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, 4 + 4 * ndim, 4)]
    if not ndim or len(content) - 4 - 4 * ndim != math.prod(shape):
        raise UserError(f"data: {path} is no IDX file of bytes.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape).copy()
