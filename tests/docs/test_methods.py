"""Every configuration on the page of methods runs, as far as its first steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import rich.console  # noqa: F401 (draws a random number when it is first imported)
import torch
import yaml

from blackbox.config.loader import check
from blackbox.config.source import parse, to_text
from blackbox.experiment import Experiment
from blackbox.report import load as load_run

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
SNIPPETS = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def name(text: str) -> str:
    """The parts that make the method."""
    data = yaml.safe_load(text)
    estimator, noise = data["estimator"], data["estimator"].get("noise", "")
    words = [estimator["type"], noise if isinstance(noise, str) else f"{noise['type']} {noise.get('core', '')}"]
    words += [w["type"] for w in data.get("variance_reduction", [])]
    return " ".join([*words, data.get("optimizer", {"type": "line search"}).get("name", "")]).strip()


@pytest.mark.parametrize("text", SNIPPETS, ids=name)
def test_a_methods_configuration_moves_the_parameters(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = parse(text).data
        settings = {**data.get("run", {}), "folder": ".", "evaluate_every": 2}
        data = {**data, "budget": {"queries": 40}, "run": settings}
        config = check(parse(to_text(data), "methods.md", tmp_path))
        result = Experiment(config).run()
    finally:
        torch.set_num_threads(threads)
    record = load_run(config.folder)
    assert result.steps >= 2
    assert not [step for step in record.steps if not abs(step["value"]) < 100]
    before, after = (record.test[when]["metrics"] for when in ("before", "after"))
    assert before["cross_entropy"] != after["cross_entropy"]  # of the same data
