"""How a run ends: by a signal, by its oracle's own doing, amid a later life; and what its folder says then."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import rich.console  # noqa: F401 (draws a random number when it is first imported)

from blackbox import report
from blackbox.cli.main import main
from blackbox.hooks import Hook
from oracles.human import Inbox, Item

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


def process(*arguments, before="", **options):
    code = f"import signal, sys\n{before}\nfrom blackbox.cli.main import main\nmain(sys.argv[1:])"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, text=True, **pipes, **options)


@pytest.mark.parametrize("before", ["", "signal.signal(signal.SIGINT, signal.SIG_IGN)"], ids=["front", "background"])
def test_sigterm_saves_and_says_how_to_go_on_as_ctrl_c_does(here, before):
    (here / "users_slow.py").write_text("import time\ndef f(x):\n    time.sleep(0.01)\n    return float(x @ x)\n")
    ended = process("run", "sphere.yaml", "--set", "oracle=users_slow:f", before=before)
    metrics = here / "runs/sphere/metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 5:
        assert ended.poll() is None
        time.sleep(0.005)
    ended.send_signal(signal.SIGTERM)
    _, shown = ended.communicate(timeout=60)
    assert ended.returncode == 143
    assert "Interrupted: saved; resume with: blackbox run runs/sphere --resume" in shown
    assert report.load("runs/sphere").result["status"] == "INTERRUPTED"
    resumed = process("run", "runs/sphere", "--resume")
    resumed.communicate(timeout=120)
    assert resumed.returncode == 0
    assert len(report.load("runs/sphere").steps) == 20


def test_a_life_that_is_killed_leaves_no_former_lifes_end(here, monkeypatch):
    assert blackbox("run", "sphere.yaml") == 0
    assert "after" in report.load("runs/sphere").test

    class Killed(BaseException):
        pass

    def die(self, record):
        if record["step"] == 25:
            raise Killed

    monkeypatch.setattr("blackbox.cli.progress.ProgressHook.on_step", die)
    with pytest.raises(Killed):
        main(["run", "runs/sphere", "--resume", "--set", "budget.queries=60"])
    record = report.load("runs/sphere")
    assert [step["step"] for step in record.steps] == list(range(1, 26))
    assert record.message == "The run has not stopped in order; it may still be going."
    assert set(record.result) == {"peak_memory", "maximize"}
    assert set(record.test) == {"before"}
    monkeypatch.setattr("blackbox.cli.progress.ProgressHook.on_step", Hook.on_step)
    assert blackbox("run", "runs/sphere", "--resume", "--set", "budget.queries=60") == 0
    assert report.load("runs/sphere").result["steps"] == report.load("runs/sphere").test["after"]["step"] == 30


LEAVES = """
import sys
from oracles import RankingOracle, ValueOracle

def f(x):
    return sys.exit(3) if x[0] > 1 else 0.0

class Values(ValueOracle):
    def evaluate(self, candidates):
        sys.exit(3)

class Order(RankingOracle):
    def rank(self, candidates):
        sys.exit(3)

class Objective:
    start = (1.0, 2.0)
    def __call__(self, candidates, context):
        sys.exit(3)
    def parameters(self):
        from blackbox import Parameters
        return Parameters.from_vector([1.0, 2.0])
"""


@pytest.mark.parametrize("oracle", ["f", "Values", "Order"])
def test_an_oracle_that_calls_exit_has_failed_to_answer(here, capsys, oracle):
    (here / "users_leaving.py").write_text(LEAVES)
    more = ["--set", f"oracle=users_leaving:{oracle}", "--set", "problem.start=[2.0, 0.0, 0.0]"]
    more += ["--set", "estimator={type: rank, epsilon: 0.1}"] if oracle == "Order" else []
    assert blackbox("run", "sphere.yaml", *more) == 1
    result = report.load("runs/sphere").result
    assert result["status"] == "FAILURES"
    assert "RuntimeError: sys.exit(3) was called" in result["reasons"][0]
    assert "sys.exit(3)" in capsys.readouterr().out


def test_a_problem_that_calls_exit_ends_the_run_with_words(here, capsys):
    (here / "users_leaving.py").write_text(LEAVES)
    assert blackbox("run", "sphere.yaml", "--set", "problem={type: users_leaving:Objective}") == 2
    assert "sys.exit(3) was called while the run was going" in capsys.readouterr().err


def test_the_point_of_a_short_vector_is_in_the_result_and_in_the_report(here, capsys):
    assert blackbox("run", "sphere.yaml") == 0
    point = report.load("runs/sphere").result["point"]
    assert point == report.load("runs/sphere").tensors()["x"].tolist()
    assert f"{point[0]:.4g}, {point[1]:.4g}, {point[2]:.4g}" in capsys.readouterr().out
    larger = ["--set", "problem.dimension=10_001", "--set", "run.name=larger"]
    assert blackbox("run", "sphere.yaml", *larger) == 0
    assert "point" not in report.load("runs/larger").result


def test_the_end_of_what_is_piped_in_leaves_the_desk(here):
    inbox = Inbox(here / "inbox.sqlite")
    inbox.open_round("0.0", [Item(f"0.0.{i}", "text/plain", b"here") for i in range(2)])
    inbox.open_round("0.1", [Item(f"0.1.{i}", "text/plain", b"there") for i in range(2)])
    for typed, answered in (("", 0), ("2 1\n", 1)):
        desk = process("rank", ".", "--rater", "ann", stdin=subprocess.PIPE)
        _, complaint = desk.communicate(typed, timeout=60)
        assert (desk.returncode, complaint) == (0, "")
        assert sum(len(inbox.final(name)) for name in ("0.0", "0.1")) == answered


def test_the_journal_says_once_that_it_waits(here):
    (here / "users_desk.py").write_text(
        "from blackbox import Ranking\nfrom oracles import HumanOracle\n"
        "class Desk(HumanOracle):\n"
        "    calls = 0\n"
        "    def render(self, candidate):\n        return str(candidate)\n"
        "    def collect(self):\n"
        "        Desk.calls += 1\n"
        "        return [Ranking((tuple(self.artifacts),))] if Desk.calls % 2 == 0 else []\n"
    )
    more = ["--set", "oracle=users_desk:Desk", "--set", "estimator={type: rank, epsilon: 0.1}"]
    assert blackbox("run", "sphere.yaml", *more) == 0
    records = [json.loads(line) for line in (here / "runs/sphere/journal.jsonl").read_text().splitlines()]
    assert [record["kind"] for record in records].count("waiting") == 1
    assert blackbox("run", "runs/sphere", "--resume", "--set", "budget.queries=44") == 0
