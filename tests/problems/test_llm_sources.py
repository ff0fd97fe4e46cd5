"""Tasks on files and on a hub's sets, down to a run."""

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from blackbox import load
from blackbox.cli.main import main
from blackbox.errors import UserError
from problems.llm.data import load_data
from problems.llm.prompt import make_prompt

CONFIGS = Path(__file__).parents[2] / "configs"


class Hub:
    """Stands in for the package `datasets`: what is asked for, and made-up rows."""

    def __init__(self, sets: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
        self.sets = sets
        self.asked: list[tuple[str, ...]] = []

    def load_dataset(self, *names: str) -> dict[str, list[dict[str, Any]]]:
        self.asked.append(names)
        return self.sets[":".join(names)]


def rows(count: int, label: int | None = None) -> list[dict[str, Any]]:
    return [{"sentence": f"text {i}", "label": i % 2 if label is None else label} for i in range(count)]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    glue = {"train": rows(600), "validation": rows(30), "test": rows(20, label=-1)}
    found = Hub(
        {"nyu-mll/glue:sst2": glue, "own/set": {"train": rows(40), "dev": rows(6)}, "own/none": {"test": rows(3)}}
    )
    module: Any = types.ModuleType("datasets")
    module.load_dataset = found.load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return found


def sizes(data: str | dict[str, Any], **settings: Any) -> dict[str, int]:
    return {split: len(found) for split, found in load_data(data, make_prompt("sst2"), **settings).items()}


def test_a_task_knows_its_own_set(hub: Hub) -> None:
    """Tests on the hub's validation split, which has labels; validation is drawn from the training rows."""
    assert sizes("hub") == {"train": 100, "validation": 500, "test": 30}
    assert hub.asked == [("nyu-mll/glue", "sst2")]
    assert sizes("hub", splits={"validation": 0.25}) == {"train": 450, "validation": 150, "test": 30}


def test_a_hub_set_by_name(hub: Hub) -> None:
    # Rows without a label are left out, and with them the whole of the test split.
    assert sizes("nyu-mll/glue:sst2") == {"train": 600, "validation": 30}
    assert sizes("own/set", splits={"test": "dev", "validation": 10}) == {"train": 30, "validation": 10, "test": 6}
    with pytest.raises(UserError, match="'own/set' has train, dev; name the one for each split"):
        sizes("own/set", splits={"test": "tset"})
    with pytest.raises(UserError, match="'own/none' has test; name"):
        sizes("own/none")
    with pytest.raises(UserError, match="the hub did not give it"):
        sizes("own/nothing")
    with pytest.raises(UserError, match="this template is your own"):
        load_data("hub", make_prompt("{x} so", {0: "a", 1: "b"}))


def test_splits_that_files_lack_are_drawn(tmp_path: Path) -> None:
    lines = "".join(f"text {i}\t{i % 2}\n" for i in range(50))
    (tmp_path / "a.tsv").write_text("sentence\tlabel\n" + lines)
    files: dict[str, Any] = {"train": str(tmp_path / "a.tsv"), "test": rows(4)}
    assert sizes(files) == {"train": 50, "test": 4}
    assert sizes(files, splits={"validation": 0.2}) == {"train": 40, "validation": 10, "test": 4}
    first, again, other = (load_data(files, make_prompt("sst2"), None, {"validation": 5}, seed) for seed in (0, 0, 1))
    assert first == again != other
    texts = [example.fields["x"] for split in ("train", "validation") for example in first[split]]
    assert sorted(texts) == sorted(f"text {i}" for i in range(50))
    for splits, message in (({"test": 3}, "splits.test: sizes are"), ({"validation": "dev"}, "names are a hub's")):
        with pytest.raises(UserError, match=message):
            sizes(files, splits=splits)


def called(*arguments: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0


def assets() -> Path:
    folder = os.environ.get("BLACKBOX_ASSETS")
    if not folder:
        pytest.skip("BLACKBOX_ASSETS does not name the folder of test assets")
    return Path(folder) / "text"


SMALL = ("problem.model=tiny", "problem.device=cpu", "problem.batch_size=4", "budget.queries=8", "run.name=it")


def test_sst2_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration on the real sentences; the tiny model in place of the real one."""
    text = assets()
    monkeypatch.chdir(tmp_path)
    files = {"train": "sst2_train2000.tsv", "validation": "sst2_dev.tsv", "test": "sst2_test.tsv"}
    for name in files.values():  # a hundred of each: the whole files are read in test_llm_data.py
        lines = (text / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / name).write_text("".join(lines[:101]), encoding="utf-8")
    chosen = [f"problem.data.{split}={name}" for split, name in files.items()]
    small = (*SMALL, "problem.window=8", "problem.train_examples=50", "baselines=[zero-shot, linear-probe]")
    settings = [word for setting in (*chosen, *small) for word in ("--set", setting)]
    called("run", str(CONFIGS / "sst2.yaml"), *settings)
    assert load("runs/it").steps


def test_tofu_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration on the real questions, and the choice among wrong answers, with the tiny model."""
    text = assets()
    monkeypatch.chdir(tmp_path)
    own = ("problem.chat=false", "problem.new_tokens=3", f"problem.data.train={text / 'tofu_forget10.jsonl'}")
    settings = [word for setting in (*SMALL, *own) for word in ("--set", setting)]
    called("run", str(CONFIGS / "tofu.yaml"), *settings)
    assert load("runs/it").steps
    from problems.llm.choice import Choice

    # Nearly every word is unknown to the tiny model, so options that are told apart by more than one word are few.
    problem = Choice(model="tiny", data=str(text / "tofu_world_facts.jsonl"), template="tofu-choice", device="cpu")
    assert problem.examples == 82
    assert 0 <= problem.metrics("test")["accuracy"] <= 1
