"""The configurations that ship are valid; the small ones run to their end."""

from pathlib import Path

import pytest
import rich.console  # noqa: F401 (draws a random number when it is first imported)

from blackbox.cli.main import main
from blackbox.config.loader import check_build, examples, load
from blackbox.report import load as load_run

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
BROUGHT = {"sst2": ("sst2/train.tsv", "sst2/dev.tsv", "sst2/test.tsv"), "tofu": ("tofu_forget10.jsonl",)}
"""Data that the user brings; their presence is checked, their content isn't before a run."""
SMALL = ("command", "deepzero", "functions", "own-oracle", "quadratic-adam", "tiny-llm")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_is_valid(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in BROUGHT.get(path.stem, ()):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    check_build(load(path))


def test_every_configuration_is_an_example():
    assert set(examples()) == {path.stem for path in CONFIGS}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_configuration_runs_and_improves(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["run", f"example:{name}"])
    assert left.value.code == 0, capsys.readouterr().err
    values = [step["value"] for step in load_run(f"runs/{name}").steps]
    tenth = len(values) // 10
    assert sum(values[-tenth:]) < 0.8 * sum(values[:tenth])
    assert Path(f"runs/{name}/report.png").exists()
