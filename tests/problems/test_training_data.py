"""Reading images: files written here in the published forms are read back; augmentation moves pixels and no more."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from blackbox.errors import UserError
from problems.training.augment import augmented
from problems.training.data import Images, load_images

RANDOM = np.random.Generator(np.random.Philox(3))
LABELS = np.arange(30, dtype=np.uint8) % 5


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, np.uint8)


def unscaled(images: Images, original: np.ndarray) -> None:
    """Every split image is one of the originals, up to one scale and shift a channel, with its label."""
    raw = original.astype(float)
    for x, y in images.splits.values():
        for image, label in zip(x.double().numpy(), y.tolist(), strict=True):
            channel = image[0].ravel()
            fits = [np.corrcoef(channel, one[0].ravel())[0, 1] for one in raw]
            assert max(fits) > 0.9999
            assert LABELS[int(np.argmax(fits)) % 30] == label


def write_idx(path: Path, array: np.ndarray) -> None:
    content = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def idx_folder(folder: Path) -> np.ndarray:
    train, test = pixels(30, 6, 5), pixels(30, 6, 5)
    write_idx(folder / "train-images-idx3-ubyte.gz", train)
    write_idx(folder / "train-labels-idx1-ubyte", LABELS)
    write_idx(folder / "t10k-images-idx3-ubyte", test)
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", LABELS)
    return np.concatenate([train, test])[:, None]


def test_idx_files_are_read_compressed_or_not(tmp_path: Path) -> None:
    original = idx_folder(tmp_path)
    images = load_images(str(tmp_path), None, 0.2, 0)
    assert images.shape == (1, 6, 5)
    assert images.classes == 5
    assert {name: len(y) for name, (_, y) in images.splits.items()} == {"train": 24, "validation": 6, "test": 30}
    unscaled(images, original)


def test_the_binary_version_of_cifar_is_read(tmp_path: Path) -> None:
    rows = pixels(36, 3, 32, 32)
    labels = np.concatenate([LABELS, LABELS[:6]])
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for part, name in enumerate(names):
        some = slice(6 * part, 6 * part + 6)
        records = np.concatenate([labels[some, None], rows[some].reshape(6, -1)], 1)
        (folder / name).write_bytes(records.tobytes())
    images = load_images(str(tmp_path), None, 0.1, 0)
    assert {name: len(y) for name, (_, y) in images.splits.items()} == {"train": 27, "validation": 3, "test": 6}
    test = images.splits["test"][0]
    mean, spread = test.mean(), rows[30:].mean()
    assert torch.isfinite(mean)
    correlation = np.corrcoef(test.numpy()[:, 1].ravel(), rows[30:, 1].ravel())[0, 1]
    assert correlation > 0.9999  # channels, rows and columns are where they belong
    assert spread > 0
    (folder / "data_batch_3.bin").write_bytes(b"short")
    with pytest.raises(UserError, match="n x 3073"):
        load_images(str(tmp_path), None, 0.1, 0)


def test_an_npz_file_is_read(tmp_path: Path) -> None:
    train, test = pixels(30, 4, 4, 3), pixels(30, 4, 4, 3)
    file = tmp_path / "some.npz"
    np.savez(file, train_images=train, train_labels=LABELS, test_images=test, test_labels=LABELS)
    images = load_images(str(file), 20, 0.25, 0)
    assert {name: len(y) for name, (_, y) in images.splits.items()} == {"train": 15, "validation": 5, "test": 30}
    unscaled(images, np.concatenate([train, test]).transpose(0, 3, 1, 2))
    seen = images.splits["train"][0].double()
    assert seen.mean((0, 2, 3)).abs().max() < 1e-6
    assert (seen.std((0, 2, 3)) - 1).abs().max() < 1e-6


def test_splits_share_no_image_and_follow_the_seed(tmp_path: Path) -> None:
    idx_folder(tmp_path)
    one, other = (load_images(str(tmp_path), None, 0.2, seed) for seed in (0, 1))
    train, held_out = ({row.numpy().tobytes() for row in one.splits[name][0]} for name in ("train", "validation"))
    assert len(train) == 24 and len(held_out) == 6 and not train & held_out
    assert not torch.equal(one.splits["train"][1], other.splits["train"][1])


def test_what_is_no_data_set_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither IDX files"):
        load_images(str(tmp_path), None, 0.1, 0)
    (tmp_path / "data_batch_1").write_bytes(b"")
    with pytest.raises(UserError, match="pickled"):
        load_images(str(tmp_path), None, 0.1, 0)
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"no archive")
    with pytest.raises(UserError, match="can't be read"):
        load_images(str(bad), None, 0.1, 0)
    np.savez(bad, train_images=pixels(3, 4, 4))
    with pytest.raises(UserError, match="has no 'train_labels'"):
        load_images(str(bad), None, 0.1, 0)
    floats = {f"{split}_images": np.zeros((3, 4, 4)) for split in ("train", "test")}
    np.savez(bad, **floats, train_labels=LABELS[:3], test_labels=LABELS[:3])
    with pytest.raises(UserError, match="must be uint8"):
        load_images(str(bad), None, 0.1, 0)
    idx_folder(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03short")
    with pytest.raises(UserError, match="no IDX file"):
        load_images(str(tmp_path), None, 0.1, 0)


def test_objects_in_an_archive_are_not_unpickled(tmp_path: Path) -> None:
    file = tmp_path / "objects.npz"
    np.savez(file, train_images=np.array([{}], dtype=object), train_labels=LABELS[:1])
    with pytest.raises(UserError, match="can't be read"):
        load_images(str(file), None, 0.1, 0)


def test_augmentation_is_a_shift_and_a_mirroring_of_each_image() -> None:
    x = torch.rand(40, 2, 8, 6, generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    for how, ways in (("crop", (False,)), ("crop-flip", (False, True))):
        found = augmented(x, how, 5)  # type: ignore[arg-type]
        assert torch.equal(found, augmented(x, how, 5))  # type: ignore[arg-type]
        assert not torch.equal(found, augmented(x, how, 6))  # type: ignore[arg-type]
        seen = set()
        for image, source in zip(found, padded, strict=True):
            candidates = {
                (row, column, flip): source[:, row : row + 8, column : column + 6]
                for row in range(3)
                for column in range(3)
                for flip in ways
            }
            same = [k for k, v in candidates.items() if torch.equal(v.flip(2) if k[2] else v, image)]
            assert same
            seen.add(same[0])
        assert len(seen) > 5
        assert {flip for _, _, flip in seen} == set(ways)
    assert augmented(x, "none", 5) is x
