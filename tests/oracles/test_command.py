"""Programs as oracles."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from blackbox.budget import Budget
from blackbox.config.loader import load
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference
from blackbox.experiment import Experiment
from blackbox.feedback import Failed, Feedback, Ranking, Values
from blackbox.journal import Journal
from blackbox.noise import Gaussian
from blackbox.optimizers import SGD
from blackbox.parameters import Parameters
from blackbox.probe import Query
from blackbox.result import Status
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from blackbox.testing.oracles import OracleSuite
from oracles import Retried
from oracles.command import CommandOracle, CommandTransport
from oracles.remote import RemoteFunction

SQUARES = """
import json, sys
for line in sys.stdin:
    candidates = json.loads(line)["candidates"]
    print(json.dumps({"values": [sum(x * x for x in c) for c in candidates]}), flush=True)
"""
ORDER = """
import json, sys
for line in sys.stdin:
    values = [sum(x * x for x in c) for c in json.loads(line)["candidates"]]
    print(json.dumps({"ranking": sorted(range(len(values)), key=values.__getitem__)}), flush=True)
"""
Make = Callable[..., CommandOracle]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Oracles over a program's text; they end with the test."""
    made: list[CommandOracle] = []

    def program(text: str, **arguments: Any) -> CommandOracle:
        (tmp_path / "program.py").write_text(text)
        made.append(CommandOracle(["python", str(tmp_path / "program.py")], **arguments))
        return made[-1]

    yield program
    for oracle in made:
        oracle.close()


@pytest.fixture(params=[False, True], ids=["a process each", "persistent"])
def persistent(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def ask(oracle: Any, queries: list[Query], parameters: Parameters) -> list[Feedback]:
    oracle.submit(queries, parameters)
    feedback: list[Feedback] = []
    while {i for one in feedback for i in one.ids} < {q.id for q in queries}:
        feedback += oracle.poll(1)
    return feedback


def values(feedback: list[Feedback]) -> dict[str, float]:
    return {i: float(v) for f in feedback if isinstance(f, Values) for i, v in zip(f.ids, f.values, strict=True)}


def failures(feedback: list[Feedback]) -> dict[str, str]:
    return {i: f.reason for f in feedback if isinstance(f, Failed) for i in f.ids}


class TestValues(OracleSuite):
    @pytest.fixture
    def oracle(self, make: Make, persistent: bool) -> CommandOracle:
        return make(SQUARES, persistent=persistent)


class TestRanking(OracleSuite):
    @pytest.fixture
    def oracle(self, make: Make) -> CommandOracle:
        return make(ORDER, answers="ranking", persistent=True)


def test_values_and_orders(make, persistent, parameters, asks):
    queries = asks([[3, 0, 0], [1, 0, 0], [2, 0, 0]])
    found = values(ask(make(SQUARES, persistent=persistent, batch=2), queries, parameters))
    assert found == {"0.0.0": 9.0, "0.0.1": 1.0, "0.0.2": 4.0}
    (feedback,) = ask(make(ORDER, persistent=persistent, answers="ranking"), queries, parameters)
    assert isinstance(feedback, Ranking) and feedback.groups == (("0.0.1",), ("0.0.2",), ("0.0.0",))


def test_folder_environment_and_no_shell(make, parameters, asks, tmp_path, monkeypatch):
    monkeypatch.setenv("INHERITED", "there")
    program = """
import json, os, sys
json.load(sys.stdin)
json.dump([sys.argv[1], os.getcwd(), os.environ["ADDED"], os.environ["INHERITED"]], open("seen.json", "w"))
print('{"values": [1.0]}')
"""
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "here").mkdir()
    transport = CommandTransport(
        ["python", str(tmp_path / "program.py"), "$HOME; *"], folder=str(tmp_path / "here"), environment={"ADDED": "x"}
    )
    assert transport.send({"candidates": [[1.0]], "context": {}}).body == {"values": [1.0]}
    seen = json.loads((tmp_path / "here" / "seen.json").read_text())
    assert seen == ["$HOME; *", str((tmp_path / "here").resolve()), "x", "there"]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import sys; input(); sys.exit('the furnace is cold')", "exit code 1"),
        ("import sys; input(); sys.exit('the furnace is cold')", "the furnace is cold"),
        ("input(); raise ValueError('too hot')", "ValueError: too hot"),
        ("import os; input(); os.abort()", "ended by SIGABRT"),
        ("input(); print('ready')", "no JSON: 'ready"),
        ("""input(); print('{"values": [1.0, 2.0]}')""", "2 values for 1 candidates"),
        ("""input(); print('{"values": ["1.0"]}')""", "is no number"),
        ("""input(); print('{"values": [NaN]}')""", "not finite: nan"),
        ("""input(); print('{"ranking": [0]}')""", "expected"),
        ("import time; time.sleep(60)", "TooSlow: no answer within 1 s; killed"),
    ],
)
def test_what_goes_wrong_is_said(program, reason, make, persistent, parameters, asks):
    slow = "sleep" in program
    found = failures(
        ask(make(program, persistent=persistent, timeout=1 if slow else 20), asks([[1, 0, 0]]), parameters)
    )
    assert reason in found["0.0.0"]


def test_a_program_that_says_nothing_or_isnt_there(make, parameters, asks, persistent):
    reason = failures(ask(make("", persistent=persistent), asks([[1, 0, 0]]), parameters))["0.0.0"]
    assert ("exit code 0 instead of answering" if persistent else "no JSON: it is empty") in reason
    missing = CommandOracle(["/no/such/program"], persistent=persistent)
    assert "can't be started" in failures(ask(missing, asks([[1, 0, 0]]), parameters))["0.0.0"]
    missing.close()


def test_a_program_that_crashed_is_started_again(make, parameters, asks, tmp_path):
    mark = tmp_path / "crashed"
    program = f"""
import json, os, sys
for line in sys.stdin:
    if not os.path.exists({str(mark)!r}):
        open({str(mark)!r}, "w")
        os._exit(3)
    print(json.dumps({{"values": [1.0]}}), flush=True)
"""
    oracle = make(program, persistent=True)
    assert "exit code 3" in failures(ask(oracle, asks([[1, 0, 0]]), parameters))["0.0.0"]
    assert values(ask(oracle, asks([[1, 0, 0]]), parameters)) == {"0.0.0": 1.0}
    mark.unlink()
    assert values(ask(Retried(oracle), asks([[1, 0, 0]]), parameters)) == {"0.0.0": 1.0}


def test_a_persistent_program_lives_on_and_ends_with_the_oracle(make, parameters, asks):
    program = SQUARES.replace("sum(x * x for x in c)", "os.getpid()").replace("sys\n", "sys, os\n", 1)
    oracle = make(program, persistent=True)
    first = values(ask(oracle, asks([[1, 0, 0]]), parameters))
    assert values(ask(oracle, asks([[2, 0, 0]]), parameters)) == first
    pid = int(first["0.0.0"])
    os.kill(pid, 0)  # raises where there is none
    oracle.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_line_too_many_never_becomes_the_next_answer(make, parameters, asks):
    program = SQUARES + "    print('debug', flush=True)\n"
    oracle = make(program, persistent=True)
    assert values(ask(oracle, asks([[1, 0, 0]]), parameters)) == {"0.0.0": 1.0}
    time.sleep(0.2)
    assert "more than one line" in failures(ask(oracle, asks([[2, 0, 0]]), parameters))["0.0.0"]
    assert values(ask(oracle, asks([[2, 0, 0]]), parameters)) == {"0.0.0": 4.0}


def test_complaints_and_long_questions_block_nobody(make, parameters, asks):
    noisy = SQUARES.replace("    candidates", "    sys.stderr.write('x' * 200_000 + '\\n')\n    candidates")
    assert values(ask(make(noisy, persistent=True, timeout=20), asks([[1, 0, 0]]), parameters)) == {"0.0.0": 1.0}
    deaf = make("import time\ntime.sleep(60)", persistent=True, timeout=1)
    long = Parameters.from_vector(torch.zeros(50_000, dtype=torch.float64))
    assert "TooSlow" in failures(ask(deaf, [Query("0", None)], long))["0"]


def test_what_a_program_started_dies_with_it(make, parameters, asks, tmp_path):
    program = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
time.sleep(60)
"""
    ask(make(program, timeout=2), asks([[1, 0, 0]]), parameters)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(50):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split(")")[1].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the child is alive")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"command": "python my.py"}, "list"),
        ({"command": []}, "list"),
        ({"command": ["python", "no-such-file.py"]}, "no-such-file.py"),
        ({"folder": "no/such/folder"}, "no/such/folder"),
        ({"timeout": 0.0}, "timeout"),
        ({"persistent": True, "concurrency": 2}, "persistent"),
        ({"answers": "words"}, "answers"),
    ],
)
def test_mistakes_are_told(arguments, words):
    with pytest.raises(UserError, match=words):
        CommandOracle(**{"command": [sys.executable], **arguments})


def test_a_program_that_breaks_amid_a_run_is_mended_and_nothing_asked_twice(make, tmp_path):
    log, broken = tmp_path / "log", tmp_path / "broken"
    program = f"""
import json, os, sys
for line in sys.stdin:
    if os.path.exists({str(broken)!r}):
        sys.exit("out of order")
    candidates = json.loads(line)["candidates"]
    with open({str(log)!r}, "a") as file:
        file.writelines(json.dumps(c) + "\\n" for c in candidates)
    if len(open({str(log)!r}).readlines()) == 40:
        open({str(broken)!r}, "w")
    print(json.dumps({{"values": [sum(x * x for x in c) for c in candidates]}}), flush=True)
"""

    def until_done():
        strategy = GradientStrategy(CentralDifference(Gaussian(), probes=2), SGD(lr=0.1, schedule="constant"))
        journal = Journal(tmp_path / "run")
        session = Session(strategy, Parameters.from_vector([1.0, 2.0]), journal=journal)
        result = run(session, make(program, persistent=True, batch=2), Budget(queries=100))
        journal.close()
        return result

    stopped = until_done()
    assert stopped.status is Status.FAILURES and "out of order" in stopped.reasons[-1]
    broken.unlink()
    done = until_done()
    assert done.status is Status.QUERIES and done.steps > stopped.steps
    asked = log.read_text().splitlines()
    assert len(asked) == len(set(asked)) > 60


def test_the_example_is_found_again_when_its_run_is_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load("example:command", ["budget.queries=40"])
    assert Experiment(config).run().status is Status.QUERIES
    longer = load("runs/command", ["budget.queries=80"])
    assert Experiment(longer, resume=True).run().steps == 20


def test_as_a_function_of_a_batch(make):
    program = SQUARES.replace("sum(x * x for x in c)", "[sum(c), 0.5]")
    predict = RemoteFunction(make(program, persistent=True).transport, batch=2)
    torch.testing.assert_close(predict(torch.eye(3)), torch.tensor([[1.0, 0.5]] * 3))
