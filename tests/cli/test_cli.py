import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import rich.console  # noqa: F401 (draws a random number when it is first imported)

from blackbox.cli.main import main
from blackbox.errors import UserError
from blackbox.journal import Journal
from blackbox.report import load, plot, sparkline

SPHERE = """
problem: {type: sphere, dimension: 3}
estimator: {type: central, noise: rademacher, epsilon: 1e-3}
optimizer: {type: sgd, lr: 1e-2}
budget: {queries: 40}
run: {evaluate_every: 5, checkpoint_every: 5}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder with one configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sphere.yaml").write_text(SPHERE)
    return tmp_path


def blackbox(*arguments):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


def process(*arguments, **options):
    code = "import sys; from blackbox.cli.main import main; main(sys.argv[1:])"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, text=True, **options)


def test_help_and_list_load_nothing_heavy():
    code = "import sys; from blackbox.cli.main import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'numpy', 'scipy', 'transformers'} & set(sys.modules)\nassert not heavy, heavy"
    for arguments in (["--help"], ["list"], ["--version"]):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
        assert time.perf_counter() - began < 3.0  # a second, on a machine that is not busy


def test_a_run_leaves_a_folder_that_tells_everything(here, capsys):
    assert blackbox("run", "sphere.yaml") == 0
    folder = here / "runs" / "sphere"
    names = {path.name for path in folder.iterdir()}
    assert {
        "config.yaml",
        "journal.jsonl",
        "metrics.jsonl",
        "test.json",
        "result.json",
        "report.png",
    } <= names
    record = load(folder)
    assert record.result["status"] == "QUERIES"
    assert len(record.steps) == 20
    assert record.test["after"]["metrics"]["value"] < record.test["before"]["metrics"]["value"]
    assert record.tensors()["x"].shape == (3,)
    assert "The budget of queries is spent" in capsys.readouterr().out


def test_the_saved_configuration_gives_the_same_run(here):
    assert blackbox("run", "sphere.yaml") == 0
    assert blackbox("run", "runs/sphere/config.yaml", "--set", "run.name=again") == 0
    first, again = load("runs/sphere"), load("runs/again")
    assert [s["value"] for s in first.steps] == [s["value"] for s in again.steps]
    assert first.config["run"].pop("name") == "sphere"
    assert again.config["run"].pop("name") == "again"
    assert first.config == again.config


def test_a_run_is_not_written_over(here, capsys):
    assert blackbox("run", "sphere.yaml") == 0
    assert blackbox("run", "sphere.yaml") == 2
    assert "--resume" in capsys.readouterr().err


def test_resuming_needs_the_same_configuration_or_inexact(here, capsys):
    assert blackbox("run", "sphere.yaml") == 0
    more = ["run", "runs/sphere", "--resume", "--set", "budget.queries=60", "--set", "optimizer.lr=0.02"]
    assert blackbox(*more) == 2
    assert "optimizer.lr was 0.01, now 0.02" in capsys.readouterr().err
    assert blackbox(*more, "--inexact") == 0
    assert len(load("runs/sphere").steps) == 30


def test_a_raised_budget_needs_nothing_and_changes_no_step_that_was_made(here):
    assert blackbox("run", "sphere.yaml") == 0
    before = [step["value"] for step in load("runs/sphere").steps]
    assert blackbox("run", "runs/sphere", "--resume", "--set", "budget.queries=60") == 0
    steps = load("runs/sphere").steps
    assert [step["value"] for step in steps[:20]] == before
    assert len(steps) == 30
    assert steps[20]["lr"] > steps[19]["lr"]  # the schedule goes by the share of the larger budget from there on


def test_fresh_keeps_the_former_runs_under_numbered_names(here, capsys):
    assert blackbox("run", "sphere.yaml", "--fresh") == 0
    first = (here / "runs" / "sphere" / "journal.jsonl").read_bytes()
    assert blackbox("run", "sphere.yaml", "--fresh", "--set", "run.seed=1") == 0
    assert "kept in runs/sphere.1" in capsys.readouterr().err
    assert blackbox("run", "runs/sphere", "--fresh", "--set", "run.seed=2") == 0
    assert [load(f"runs/sphere{end}").config["run"]["seed"] for end in (".1", ".2", "")] == [0, 1, 2]
    assert (here / "runs" / "sphere.1" / "journal.jsonl").read_bytes() == first
    assert blackbox("run", "runs/sphere.1", "--resume", "--set", "budget.queries=44") == 0
    assert blackbox("run", "sphere.yaml", "--fresh", "--resume") == 2


def test_a_run_that_is_going_is_neither_set_aside_nor_cleared(here, capsys):
    assert blackbox("run", "sphere.yaml") == 0
    with closing(Journal(here / "runs" / "sphere")):
        assert blackbox("run", "sphere.yaml", "--fresh") == 2
        assert "in use" in capsys.readouterr().err
    with closing(Journal(here / "runs" / "other")):
        assert blackbox("run", "sphere.yaml", "--set", "run.name=other") == 2
    assert len(load("runs/sphere").steps) == 20
    assert not (here / "runs" / "sphere.1").exists()


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_a_run_that_died_before_anything_was_answered_blocks_nothing(here, lines):
    assert blackbox("run", "sphere.yaml") == 0
    folder = here / "runs" / "sphere"
    whole = [step["value"] for step in load(folder).steps]
    journal = folder / "journal.jsonl"
    kept = journal.read_bytes().splitlines(keepends=True)[:lines]  # the header, metrics of the start, what was asked
    assert not any(b'"values"' in line for line in kept)
    for begin in ("run sphere.yaml", "run sphere.yaml --fresh", "run runs/sphere --resume"):
        journal.write_bytes(b"".join(kept) + b'{"kind":"val')
        for checkpoint in (folder / "checkpoints").iterdir():
            checkpoint.unlink()
        assert blackbox(*begin.split()) == 0
        assert [step["value"] for step in load(folder).steps] == whole
        assert sorted(path.name for path in folder.parent.iterdir()) == ["sphere"]


def test_the_package_is_the_command_too(here):
    done = subprocess.run(
        [sys.executable, "-m", "blackbox", "validate", "sphere.yaml"], capture_output=True, text=True, check=True
    )
    assert "sphere.yaml is valid" in done.stdout


def test_a_run_notes_its_peak_memory(here, capsys):
    assert blackbox("run", "sphere.yaml") == 0
    peak = load("runs/sphere").result["peak_memory"]
    assert 2**24 < peak < 2**40
    shown = capsys.readouterr().out
    assert "peak memory" in shown
    assert "MiB" in shown or "GiB" in shown


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(here, capsys):
    (here / "users_flat.py").write_text("import numpy as np\ndef f(x):\n    return 1.0 + 1e-7 * float(np.tanh(x[0]))\n")
    assert blackbox("run", "sphere.yaml", "--set", "oracle=users_flat:f", "--set", "problem.dtype=float32") == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "Warning" in line]
    assert len(warned) == 1
    assert warned[0].startswith("Warning: By step 1")


def test_a_run_whose_problem_could_not_be_built_can_be_started_again(here):
    assert blackbox("run", "sphere.yaml", "--set", "problem.start=[1]") == 2
    assert blackbox("run", "sphere.yaml") == 0


def test_nothing_to_resume_is_said(here, capsys):
    assert blackbox("run", "sphere.yaml", "--resume") == 2
    assert "There is no run" in capsys.readouterr().err


SLOW = """
import time
from oracles import ValueOracle

class Slow(ValueOracle):
    def evaluate(self, candidates):
        time.sleep(0.01)
        return (candidates ** 2).sum(1)
"""


def test_ctrl_c_saves_and_says_how_to_go_on(here):
    (here / "users_slow.py").write_text(SLOW)
    more = "oracle: users_slow:Slow\nrun: {start: [1, 2, 3]}\n"
    lines = [line for line in SPHERE.splitlines() if not line.startswith(("problem", "run"))]
    (here / "slow.yaml").write_text("\n".join(lines) + "\n" + more)
    whole = process("run", "slow.yaml", "--set", "run.name=whole", stdout=subprocess.PIPE)
    whole.communicate(timeout=120)
    assert whole.returncode == 0
    cut = process("run", "slow.yaml", "--set", "budget.queries=40", stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    metrics = here / "runs" / "slow" / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 5:
        assert cut.poll() is None
        time.sleep(0.005)
    cut.send_signal(signal.SIGINT)
    _, shown = cut.communicate(timeout=60)
    assert cut.returncode == 130
    assert "resume with: blackbox run runs/slow --resume" in shown
    assert "Traceback" not in shown
    resumed = process("run", "runs/slow", "--resume", stdout=subprocess.PIPE)
    resumed.communicate(timeout=120)
    assert resumed.returncode == 0
    whole_steps, steps = load("runs/whole").steps, load("runs/slow").steps
    assert [s["value"] for s in steps] == [s["value"] for s in whole_steps]


def test_too_many_failures_stop_the_run_with_the_reasons(here, capsys):
    (here / "users_broken.py").write_text("def f(x):\n    raise ValueError('out of tea')\n")
    settings = ["--set", "oracle=users_broken:f", "--set", "budget.queries=100"]
    assert blackbox("run", "sphere.yaml", *settings) == 1
    shown = capsys.readouterr()
    assert "out of tea" in shown.out
    assert "resume" in shown.err.lower()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "no.yaml"],
        ["validate", "sphere.yaml", "--set", "optimizer.lrr=1"],
        ["report", "."],
        ["list", "noises"],
        ["frobnicate"],
        ["run"],
        ["run", "example:nothing"],
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(here, capsys, arguments):
    assert blackbox(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.err
    assert "Traceback" not in shown.err + shown.out


def test_validate_shows_the_defaults(here, capsys):
    assert blackbox("validate", "sphere.yaml", "--show") == 0
    assert "weight_decay: 0.0" in capsys.readouterr().out


def test_the_json_schema_covers_every_block_and_component(capsys):
    assert blackbox("schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"problem", "oracle", "estimator", "budget", "run"} <= set(schema["properties"])
    sgd = next(o for o in schema["$defs"]["optimizer"]["anyOf"] if o.get("description", "").startswith("descent"))
    assert sgd["required"] == ["type", "lr"]
    assert sgd["properties"]["lr"]["type"] == "number"
    assert sgd["properties"]["lr"]["description"]


def test_a_report_needs_a_runs_folder(here):
    assert blackbox("run", "sphere.yaml") == 0
    assert blackbox("report", "runs/sphere") == 0
    with pytest.raises(UserError, match="runs/sphere"):
        load(Path("runs"))
    assert plot(load("runs/sphere"), here / "other.png") == here / "other.png"


def test_a_function_has_one_column_for_the_end(here, capsys):
    assert blackbox("run", "sphere.yaml") == 0
    shown = capsys.readouterr().out
    assert "after" in shown
    assert "validation, last" not in shown


def test_a_sparkline_spans_its_range():
    assert sparkline([0.0, 1.0, 2.0, 3.0]) == "▁▃▆█"
    assert sparkline([]) == ""
