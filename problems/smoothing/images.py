"""Sets of small labelled images, from files that are already there: nothing is fetched."""

from __future__ import annotations

import gzip
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.seeds import derive_seed

DEBIAN = "/usr/share/datasets/fashion-mnist"
"""Where Debian's package dataset-fashion-mnist puts its files."""


@dataclass(frozen=True)
class Split:
    """Images float32 [n, c, h, w] in [0, 1], and their classes int64 [n]."""

    images: Tensor
    labels: Tensor


class Images(ABC):
    """A set with the splits "train", "validation" and "test"; the last tenth of the training images validates.

    Args:
        examples: training images that are used at most; None for all.
    """

    def __init__(self, examples: int | None = None) -> None:
        if examples is not None and examples < 1:
            raise UserError(f"examples must be at least 1, not {examples}; leave it out for all.")
        self.examples = examples

    @abstractmethod
    def read(self) -> tuple[Split, Split]:
        """All training and all test images; raises UserError where they can't be read."""

    @cached_property
    def splits(self) -> dict[str, Split]:
        """The three."""
        train, test = self.read()
        cut = len(train.labels) * 9 // 10
        count = min(cut, self.examples or cut)
        return {
            "train": Split(train.images[:count], train.labels[:count]),
            "validation": Split(train.images[cut:], train.labels[cut:]),
            "test": test,
        }


class Digits(Images):
    """Handwritten digits, 8 x 8, that come with scikit-learn: 1,797, the last 360 for the test."""

    def read(self) -> tuple[Split, Split]:
        """As the base says."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UserError("The digits come with scikit-learn: pip install 'blackbox-zo[images]'.") from error
        data = load_digits()
        images, labels = torch.from_numpy(data.images).float()[:, None] / 16, torch.from_numpy(data.target).long()
        return Split(images[:-360], labels[:-360]), Split(images[-360:], labels[-360:])


class FashionMnist(Images):
    """Fashion-MNIST (arXiv:1708.07747), 28 x 28: 60,000 and 10,000 images, from its four idx files.

    Args:
        folder: where they lie; Debian's package dataset-fashion-mnist has them where the default says.
    """

    def __init__(self, folder: str = DEBIAN, examples: int | None = None) -> None:
        super().__init__(examples)
        self.folder = Path(folder).expanduser()

    def read(self) -> tuple[Split, Split]:
        """As the base says."""
        train, test = (
            Split(
                torch.from_numpy(self._file(f"{part}-images-idx3-ubyte", 3)).float()[:, None] / 255,
                torch.from_numpy(self._file(f"{part}-labels-idx1-ubyte", 1)).long(),
            )
            for part in ("train", "t10k")
        )
        return train, test

    def _file(self, name: str, dimensions: int) -> npt.NDArray[np.uint8]:
        path = self.folder / f"{name}.gz"
        if not path.is_file():
            raise UserError(
                f"Fashion-MNIST: there is no file {path}. Debian's package dataset-fashion-mnist has it; give its "
                "`folder` if it lies elsewhere."
            )
        try:
            data = gzip.decompress(path.read_bytes())
            head = np.frombuffer(data, ">u4", 1 + dimensions)
            if head[0] != 0x800 + dimensions:
                raise ValueError("it does not begin as an idx file of bytes does")
            pixels = np.frombuffer(data, np.uint8, offset=4 * len(head)).reshape(head[1:].tolist())
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"Fashion-MNIST: {path} can't be read: {error}.") from error
        return pixels.copy()


class ArrayImages(Images):
    """Images in a NumPy archive: train_images and test_images uint8 [n, h, w, c], train_labels and test_labels [n].

    Args:
        path: the npz file.
    """

    def __init__(self, path: str, examples: int | None = None) -> None:
        super().__init__(examples)
        self.path = Path(path).expanduser()

    def read(self) -> tuple[Split, Split]:
        """As the base says."""
        if not self.path.is_file():
            raise UserError(f"There are no images at {self.path}.")
        try:
            with np.load(self.path, allow_pickle=False) as data:
                arrays = {name: data[name] for name in ("train_images", "train_labels", "test_images", "test_labels")}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path} can't be read as an archive of images: {error}.") from error
        train, test = (_split(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))
        return train, test


def noise(like: Tensor, seed: int, role: str, step: int = 0) -> Tensor:
    """Standard normals of a tensor's shape, drawn on the CPU so that they are the same everywhere."""
    generator = torch.Generator().manual_seed(derive_seed(seed, role, step))
    return torch.randn(like.shape, generator=generator).to(like.device)


def _split(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> Split:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous() / 255
    return Split(pixels, torch.from_numpy(labels.astype(np.int64)))
