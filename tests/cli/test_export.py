"""`blackbox export` and the log of steps: what is written loads elsewhere, and the log leads to the run's own bits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import rich.console  # noqa: F401 (draws a random number when it is first imported)
import torch
from safetensors.torch import load_file

from blackbox.cli.main import main
from blackbox.report import load

NET = """
problem: {type: small-net}
estimator: {type: central, noise: rademacher, epsilon: 1e-3}
optimizer: {type: sgd, lr: 1e-2}
budget: {queries: 24}
run: {checkpoint_every: 5, evaluate_every: 3}
"""
LLM = """
problem: {type: llm-classification, model: tiny, data: tiny, batch_size: 8, device: cpu}
estimator: {type: central, noise: rademacher, epsilon: 1e-3}
optimizer: {type: sgd, lr: 1e-3}
budget: {queries: 24}
run: {checkpoint_every: 5, evaluate_every: 3, test_on: null}
"""

JUDGE = """
from oracles import ObjectiveOracle, Ranked


class Judge(Ranked):
    def __init__(self, problem):
        super().__init__(ObjectiveOracle(problem))
"""


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(text: str, settings: Sequence[str] = ()) -> Path:
    """The folder of a finished run."""
    Path("one.yaml").write_text(text)
    sets = [word for setting in settings for word in ("--set", setting)]
    assert command("run", "one.yaml", *sets) == 0
    return Path("runs/one")


def told(capsys: Any) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


SGD = [
    [],
    ["estimator.noise=gaussian", "estimator.probes=3", "optimizer.schedule=cosine"],
    ["optimizer.weight_decay=0.1", "optimizer.schedule=constant"],
    ["estimator.noise={type: low-rank, rank: 2}"],
    ["estimator={type: fzoo, epsilon: 1e-3, probes: 4}"],
    ["estimator={type: coordinate, epsilon: 1e-3}", "budget.queries=1000"],
    ["optimizer={type: torch, name: Adam, lr: 1e-2}"],
    ["optimizer={type: torch, name: SGD, lr: 1e-2, options: {momentum: 0.9}}"],
    ["optimizer={type: adamm, lr: 1e-2}"],
    ["optimizer={type: sign-sgd, lr: 1e-3}"],
    ["variance_reduction=[{type: svrg, every: 3}]"],
    ["oracle={type: my_judge:Judge}", "estimator={type: rank, epsilon: 1e-2, probes: 4}"],
]


@pytest.mark.parametrize("settings", SGD, ids=lambda settings: " ".join(settings).replace("/", "") or "plain")
def test_the_log_leads_to_the_runs_bits(settings: list[str], capsys: Any) -> None:
    Path("my_judge.py").write_text(JUDGE)
    run = ran(NET, settings)
    assert command("export", str(run), "--log") == 0
    Path("my_judge.py").unlink()  # who judged is of no matter
    capsys.readouterr()
    assert command("replay", str(run / "steps.jsonl"), "--out", "rebuilt") == 0
    assert "The same bit for bit." in told(capsys)
    rebuilt, ended = load_file("rebuilt/parameters.safetensors"), load(run).tensors()
    assert rebuilt.keys() == ended.keys()
    assert all(torch.equal(rebuilt[name], tensor) for name, tensor in ended.items())


LANGUAGE = [
    [],
    ["execution={type: write-free, stacked: true}", "optimizer.weight_decay=0.1"],
    ["problem.autocast=true", "estimator.noise=gaussian"],
    ["estimator.noise={type: low-rank, rank: 2, refresh: 4}", "execution={type: low-rank, copies: 2}"],
    ["problem.dtype=bfloat16"],
    ["problem.tuning=lora", "estimator.probes=2"],
    ["problem.tuning=prefix", "problem.virtual_tokens=3"],
    ["problem.tuning=last-layer", "optimizer={type: torch, name: Adam, lr: 1e-3}"],
    ["problem.type=llm-masked"],
    ["problem.type=llm-sentence", "problem.template='{x}'", "problem.verbalizer={0: bad, 1: good}"],
]


@pytest.mark.parametrize("settings", LANGUAGE, ids=lambda settings: " ".join(settings) or "plain")
def test_a_language_model_is_rebuilt_from_its_log_without_the_data(
    settings: list[str], capsys: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tied embeddings and all: the tiny model's output layer is its embedding."""
    run = ran(LLM, settings)
    assert command("export", str(run), "--log") == 0
    path = run / "steps.jsonl"
    lines = path.read_text().splitlines()
    problem = json.loads(lines[0])["config"]["problem"]
    assert problem["model"] == "tiny"
    assert "data" not in problem  # whoever rebuilds need not have it
    assert max(map(len, lines[1:])) < 300

    def none(*_: Any) -> Any:
        raise AssertionError("the data was read")

    monkeypatch.setattr("problems.llm.text.load_data", none)
    capsys.readouterr()
    assert command("replay", str(path), "--out", "rebuilt") == 0
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert "The same bit for bit." in told(capsys)
    assert command("export", str(run), "exported") == 0
    for name in ("model.safetensors", "adapter_model.safetensors", "head.safetensors"):
        if Path("exported", name).exists():
            one, other = (load_file(f"{folder}/{name}") for folder in ("rebuilt", "exported"))
            assert one.keys() == other.keys() != set()
            assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_what_is_exported_loads_in_transformers_and_answers_as_the_run_does() -> None:
    import transformers

    from problems.llm.classification import Classification

    run = ran(LLM, ["optimizer.lr=1e-2"])
    assert command("export", str(run)) == 0
    folder = run / "export"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    problem = Classification(model="tiny", data="tiny", device="cpu")
    before = problem.metrics("validation")
    problem.parameters().assign(load(run).tensors())
    assert problem.metrics("validation") != before
    ids = torch.tensor([tokenizer("the plot is dull . It was")["input_ids"]])
    with torch.no_grad():
        expected = problem.scorer.causal(input_ids=ids).logits
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=0, atol=0)
    again = Classification(model=str(folder), data="tiny", device="cpu")
    assert again.metrics("validation") == problem.metrics("validation")


@pytest.mark.parametrize("scheme", ["lora", "prefix", "prompt"])
def test_an_adapter_is_exported_for_peft_and_gone_on_with(scheme: str) -> None:
    from problems.llm.classification import Classification

    run = ran(LLM, [f"problem.tuning={scheme}", "optimizer.lr=1e-1"])
    assert command("export", str(run), "adapter") == 0
    written = json.loads(Path("adapter/adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "tiny"
    assert not Path("adapter/model.safetensors").exists()
    tuned = Classification(model="tiny", data="tiny", device="cpu", tuning=scheme, adapter="adapter")
    problem = Classification(model="tiny", data="tiny", device="cpu", tuning=scheme)
    before = problem.metrics("validation")
    problem.parameters().assign(load(run).tensors())
    assert tuned.metrics("validation") == problem.metrics("validation") != before


def test_a_run_in_place_says_that_its_log_rounds(capsys: Any) -> None:
    run = ran(NET, ["execution=in-place"])
    assert command("export", str(run), "--log") == 0
    assert "displaced in place or steps held in factors: what is rebuilt differs by rounding" in told(capsys)
    command("replay", str(run / "steps.jsonl"), "--out", "rebuilt")
    rebuilt, ended = load_file("rebuilt/parameters.safetensors"), load(run).tensors()
    for name, tensor in ended.items():
        torch.testing.assert_close(rebuilt[name], tensor, rtol=0, atol=1e-5)


def test_a_line_search_is_in_the_log_too(capsys: Any) -> None:
    text = NET.replace("optimizer: {type: sgd, lr: 1e-2}\n", "")
    run = ran(
        text,
        [
            "strategy={type: gradient, line_search: {type: ranking, step: 1e-1}}",
            "budget.queries=60",
            "run.checkpoint_every=1",
        ],
    )
    assert command("export", str(run), "--log") == 0
    capsys.readouterr()
    assert command("replay", str(run / "steps.jsonl")) == 0
    assert "The same bit for bit." in told(capsys)


def test_without_a_last_checkpoint_there_is_nothing_to_compare_with(capsys: Any) -> None:
    run = ran(NET, ["run.checkpoint_every=0"])
    assert command("export", str(run)) == 2
    assert "has no checkpoint" in told(capsys)
    assert command("export", str(run), "--log") == 0
    assert "can't be compared" in told(capsys)
    assert command("replay", str(run / "steps.jsonl")) == 0
    assert "nothing to compare with" in told(capsys)


def changed(path: Path, change: Any) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    Path("changed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_wrong_logs_are_told_in_words(capsys: Any) -> None:
    run = ran(NET)
    command("export", str(run), "--log")
    path = run / "steps.jsonl"

    def replayed(change: Any) -> tuple[int, str]:
        changed(path, change)
        capsys.readouterr()
        return command("replay", "changed.jsonl"), told(capsys)

    assert replayed(lambda lines: lines[5]["estimate"][0]["weights"].__setitem__(0, 1.0)) == (
        1,
        "12 steps made again in 0.0 s Not the same: no setting that is known of differs.",
    )
    code, words = replayed(lambda lines: lines[0].pop("seed"))
    assert (code, "damaged: its first line has no seed" in words) == (2, True)
    code, words = replayed(lambda lines: lines.pop())
    assert (code, "cut off: it has 11 of 12 steps" in words) == (2, True)
    code, words = replayed(lambda lines: lines[0].update(schema=9))
    assert (code, "has schema 9" in words) == (2, True)
    code, words = replayed(lambda lines: lines[0].update(kind="other"))
    assert (code, "is no log of steps" in words) == (2, True)
    code, words = replayed(lambda lines: lines[0]["config"]["problem"].update(seed=1))
    assert (code, "begins at other values than those here: the base is another one" in words) == (2, True)
    code, words = replayed(lambda lines: lines[0]["config"]["problem"].update(hidden=[3]))
    assert (code, "is of other tensors than those here" in words) == (2, True)


def test_a_search_without_seeds_has_no_log(capsys: Any) -> None:
    text = """
problem: {type: sphere, dimension: 4}
strategy: {type: cma-es, sigma: 0.5}
budget: {queries: 40}
run: {checkpoint_every: 1}
"""
    run = ran(text)
    assert command("export", str(run), "--log") == 2
    assert "CMA" in told(capsys)
    assert command("export", str(run), "found") == 0
    assert torch.equal(load_file("found/parameters.safetensors")["x"], load(run).tensors()["x"])


def test_a_run_that_is_none_is_told(capsys: Any) -> None:
    assert command("export", "nowhere") == 2
    assert "nowhere" in told(capsys)
