"""`blackbox replay` and what `blackbox report` says of raters who were asked again."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.console  # noqa: F401 (draws a random number when it is first imported)
import torch

from blackbox.cli.main import main
from oracles.human import Checks, Inbox, Item, Rules


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An untrained DDPM of 8x8 images and a classifier."""
    pytest.importorskip("diffusers", reason="pictures are rendered by diffusers")
    with contextlib.suppress(ImportError):  # its first import, not our call, draws from the generator of `random`
        import sklearn.datasets  # noqa: F401
    from problems.diffusion.train_tiny import train

    folder = tmp_path_factory.mktemp("models")
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    train(folder, images, torch.arange(64) % 10, steps=4)
    return folder / "pipeline"


@pytest.fixture
def picture(pipeline: Path, tmp_path: Path) -> Path:
    """What a rater saves: the file of a candidate as People keep it."""
    from oracles.human.showing import file_of
    from problems.diffusion import Diffusion, Pipeline, Score

    problem = Diffusion(Score("classifier", classifier="torch.nn:Flatten"), Pipeline(str(pipeline), steps=3))
    candidate = problem.start.double().numpy() + 0.1
    media_type, data = file_of(problem, candidate)
    assert media_type == "image/png"
    (tmp_path / "saved.png").write_bytes(data)
    shown = np.asarray(_image().open(tmp_path / "saved.png"))
    np.testing.assert_allclose(shown.astype(int), problem.render(candidate).astype(int), atol=1)
    return tmp_path / "saved.png"


def _image() -> Any:
    return pytest.importorskip("PIL.Image", reason="pictures are read by pillow")


@pytest.mark.filterwarnings("ignore:.*:UserWarning:diffusers.*")
@pytest.mark.filterwarnings("ignore:.*deprecated.*:FutureWarning")
def test_a_saved_picture_is_the_same_again_and_a_changed_one_is_not(picture: Path, tmp_path: Path, capsys: Any) -> None:
    image = _image()
    assert command("replay", str(picture), "--out", str(tmp_path / "new" / "again.png")) == 0
    assert "The same bit for bit: 8 x 8 pixels." in capsys.readouterr().out
    np.testing.assert_array_equal(image.open(tmp_path / "new" / "again.png"), image.open(picture))
    from PIL import PngImagePlugin

    with image.open(picture) as opened:
        array, notes = np.asarray(opened).copy(), PngImagePlugin.PngInfo()
        for name, text in opened.text.items():
            notes.add_text(name, text)
    array[2, 3] ^= 1
    image.fromarray(array).save(tmp_path / "changed.png", pnginfo=notes)
    assert command("replay", str(tmp_path / "changed.png")) == 1
    assert "Not the same: 1 of 64 values differ, by at most 1 of 255." in capsys.readouterr().out


def test_what_can_not_be_replayed_is_told_in_words(tmp_path: Path, capsys: Any) -> None:
    image = _image()
    image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "plain.png")
    (tmp_path / "words.txt").write_text("no picture")
    for path, words in (("plain.png", "holds no latent"), ("words.txt", "can't be read as a picture")):
        assert command("replay", str(tmp_path / path)) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    assert command("replay", str(tmp_path / "nothing.png")) == 2
    assert "There is no file" in capsys.readouterr().err


def test_report_tells_who_agrees_with_themself(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "config.yaml").write_text("oracle: {type: people}\n")
    assert command("report", str(tmp_path)) == 0
    assert "Self-consistency" not in capsys.readouterr().out
    inbox = Inbox(tmp_path / "inbox.sqlite")
    inbox.rules = Rules(check_every=1)
    inbox.open_round("0.0", [Item(f"0.0.{i}", "text/plain", b"%d" % i) for i in range(3)])
    inbox.submit("0.0", "ann", [["0.0.1"], ["0.0.0"], ["0.0.2"]], [], json.dumps("a token"))
    inbox.close_round("0.0")
    due = Checks(inbox).due("ann")
    assert due is not None
    order = sorted(due.cards, key=lambda card: {"1": 0, "0": 1, "2": 2}[card.query[-1]])
    Checks(inbox).answer(due.id, "ann", [[card.artifact] for card in order])
    assert command("report", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "Self-consistency" in out and "asked again" in out and "ann" in out
