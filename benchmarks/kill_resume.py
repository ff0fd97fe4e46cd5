"""Kill a run at random moments, resume it each time, and compare its end with the run never killed.

    python -m benchmarks.kill_resume [--quick]

Three cases: a vector problem with Adam, a small language model write-free, and the same in place. Every life of a
run is a forked process that SIGKILL ends: half of them at a random time, half at a random call inside a randomly
chosen file of the package, so that the short windows of journaling and checkpointing are hit as often as the long
ones. After some kills the journal's last line is cut in two, as if the process had died while writing it. A run ends
identical if its tensors, steps, answers in order, metrics and cost do, to the last bit. Evaluations are counted by a
log of their own, written before each; ``asked_twice`` counts queries evaluated although the journal had their answer.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive a fork

import numpy as np
import torch
import transformers  # noqa: F401 (imported before the forks, so that no life pays for it)

from benchmarks import harness
from blackbox.config.loader import load
from blackbox.execution import Batched, InPlace, WriteFree
from blackbox.experiment import Experiment, holds_run
from blackbox.probe import Context
from blackbox.seeds import derive_seed
from problems.llm.classification import Classification

VECTOR = """
problem: {type: rosenbrock, dimension: 20, seed: 1}
estimator: {type: central, noise: gaussian, epsilon: 1e-3, probes: 40}
optimizer: {type: torch, name: Adam, lr: 0.02}
budget: {steps: STEPS}
run: {evaluate_every: 7, checkpoint_every: 5, seed: 3}
"""
MODULE = """
problem: {type: llm-classification, model: tiny, data: tiny, batch_size: 4}
estimator: {type: central, noise: rademacher, epsilon: 1e-3}
optimizer: {type: sgd, lr: 2e-3, weight_decay: 0.01}
execution: EXECUTION
budget: {steps: STEPS}
run: {evaluate_every: 6, checkpoint_every: 4, seed: 3}
"""
CASES = {
    "vector": (VECTOR.replace("STEPS", "60"), 5),
    "write-free": (MODULE.replace("EXECUTION", "write-free").replace("STEPS", "22"), 4),
    "in place": (MODULE.replace("EXECUTION", "in-place").replace("STEPS", "22"), 4),
}
"""The configuration of each case, and how often each of its runs is killed."""

PLACES = (
    "experiment.py", "run.py", "session.py", "phase.py", "resume.py", "journal.py", "records.py", "checkpoint.py",
    "hooks.py", "parameters.py", "gradient.py", "in_place.py", "write_free.py", "batched.py", "objective.py",
)  # fmt: skip


@dataclass
class Case:
    """One configuration, and its run that was never killed."""

    config: Path
    folder: Path
    kills: int
    seconds: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)
    end: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def prepare(cls, name: str, text: str, kills: int, root: Path) -> Case:
        config = root / f"{name.replace(' ', '-')}.yaml"
        config.write_text(text)
        case = cls(config, root, kills)
        Experiment(load(config, [f"run.folder={root}", "run.name=warm", "budget.steps=1"])).run()  # imports
        shutil.rmtree(root / "warm")
        gc.freeze()  # or every child's collector would copy the parent's pages
        began = time.perf_counter()
        first = case.trial("first")
        case.run(first)
        case.seconds = time.perf_counter() - began
        case.run(case.trial("counted"), count=True)
        case.calls = Counter(json.loads((case.folder / "calls.json").read_text()))
        case.end = first.end()
        return case

    def trial(self, name: str) -> Trial:
        return Trial(self, self.folder / f"{self.config.stem}-{name}")

    def run(self, trial: Trial, death: Death | None = None, count: bool = False) -> bool:
        """One life; True if it came to the run's end."""
        trial.lives += 1
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _live(self, trial, death, count)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        if death is not None and death.place is None:
            time.sleep(death.seconds)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
            raise SystemExit(f"{trial.path} failed in its life {trial.lives}")
        return not os.WIFSIGNALED(status)

    def death(self, chance: random.Random) -> Death:
        """When the next life ends: at a time, or at a call inside one file."""
        if chance.random() < 0.5:
            return Death(seconds=chance.random() * self.seconds * chance.choice((0.1, 0.3, 0.6)))
        place = chance.choice([p for p in PLACES if self.calls[p]])
        return Death(place=place, call=1 + int(chance.random() * self.calls[place] * chance.choice((0.05, 0.2, 0.5))))


@dataclass(frozen=True)
class Death:
    """After ``seconds``, or at the n-th ``call`` seen in the file ``place``."""

    seconds: float = 0.0
    place: str | None = None
    call: int = 0


@dataclass
class Trial:
    """A run in its folder, with the log of its evaluations beside it."""

    case: Case
    path: Path
    lives: int = 0

    def evaluated(self) -> dict[int, list[str]]:
        """What each life evaluated, in order; "objective" for a call of the objective itself."""
        lives: dict[int, list[str]] = {}
        for life, what in map(
            str.split,
            self.path.with_suffix(".log").read_text().splitlines() if self.path.with_suffix(".log").exists() else (),
        ):
            lives.setdefault(int(life), []).append(what)
        return lives

    def told(self) -> list[tuple[str, list[float]]]:
        """(query, its values) in the order of the journal's whole lines; read without the package's reader."""
        found, phase = [], ""
        path = self.path / "journal.jsonl"
        data = path.read_bytes() if path.exists() else b""
        for line in data[: data.rfind(b"\n") + 1].splitlines():
            record = json.loads(line)
            if record["kind"] == "asked":
                phase = f"{record['step']}.{record['phase']}"
            elif record["kind"] == "values":
                values = record["values"]
                if isinstance(values, dict):
                    count, where = int(np.prod(values["shape"])), self.path / "arrays.bin"
                    flat = np.fromfile(where, "<f8", count, offset=values["offset"])
                    values = flat.reshape(values["shape"]).tolist()
                ids = record.get("ids") or [f"{phase}.{i}" for i in range(len(values))]
                found += list(zip(ids, values, strict=True))
        return found

    def end(self) -> dict[str, Any]:
        """All that must not depend on kills."""
        lines = [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]
        return {
            **json.loads(self.path.with_suffix(".end").read_text()),
            "told": self.told(),
            "metrics.jsonl": [{k: v for k, v in line.items() if k != "seconds"} for line in lines],
            "test.json": json.loads((self.path / "test.json").read_text()),
        }

    def tear(self, chance: random.Random) -> bool:
        """Cut the journal's last line, as a death in the middle of writing it would."""
        path = self.path / "journal.jsonl"
        data = path.read_bytes() if path.exists() else b""
        start = data.rfind(b"\n", 0, len(data) - 1) + 1
        if start == 0:
            return False
        os.truncate(path, chance.randrange(start + 1, len(data)))
        return True


def _live(case: Case, trial: Trial, death: Death | None, count: bool) -> None:
    """In the child: begin or resume the run, and go on to its end."""
    log = os.open(trial.path.with_suffix(".log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for kind in (Batched, InPlace, WriteFree):
        _logged(kind, "evaluate", lambda objective, queries, parameters: [q.id for q in queries], log, trial.lives)
    _logged(Classification, "stacked_values", _objective_calls, log, trial.lives)
    calls: Counter[str] = Counter()
    if count or (death is not None and death.place is not None):
        _watch(calls, death)
    config = load(case.config, [f"run.folder={trial.path.parent}", f"run.name={trial.path.name}"])
    result = Experiment(config, resume=holds_run(trial.path)).run()
    sys.setprofile(None)
    digest = hashlib.sha256()
    for name, tensor in result.parameters.tensors.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    best = result.best and [result.best.value, result.best.query.id, result.best.point]
    end = {
        "tensors": digest.hexdigest(),
        "version": result.parameters.version,
        "steps": result.steps,
        "best": best,
    }
    cost = {coin: amount for coin, amount in result.cost.items() if "seconds" not in coin}
    end |= {"status": result.status.name, "metrics": result.metrics, "cost": cost}
    trial.path.with_suffix(".end").write_text(json.dumps(end))
    if count:
        (case.folder / "calls.json").write_text(json.dumps(calls))


def _objective_calls(context: Context, copies: int) -> list[str]:
    """One line for each copy of the batch; what write-free tries out on a batch of its own answers no query."""
    return ["trial" if context.batch_seed == derive_seed(0, "trial") else "objective"] * copies


def _logged(owner: type, method: str, names: Callable[..., list[str]], log: int, life: int) -> None:
    original = getattr(owner, method)

    def logging(self: Any, *args: Any) -> Any:
        os.write(log, "".join(f"{life} {name}\n" for name in names(*args)).encode())
        return original(self, *args)

    setattr(owner, method, logging)


def _watch(calls: Counter[str], death: Death | None) -> None:
    """Count the calls seen in each file of the package; die at the one named."""
    root = str(Path(__file__).parent.parent)
    short: dict[str, str] = {}

    def see(frame: Any, event: str, argument: Any) -> None:
        path = frame.f_code.co_filename
        place = short.get(path)
        if place is None:
            place = short[path] = os.path.basename(path) if path.startswith(root) else ""
        calls[place] += 1
        if death is not None and place == death.place and calls[place] == death.call:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(see)


def attempt(case: Case, number: int, deaths: Counter[str]) -> tuple[list[str], int]:
    """One trial: what differs at its end, and how many queries were asked although they had been answered."""
    chance = random.Random(f"{case.config.stem} {number}")
    trial = case.trial(f"{number:03}")
    answered: list[set[str]] = []
    for _ in range(case.kills * 3):
        death = case.death(chance)
        if case.run(trial, death):
            break
        deaths[death.place or "at a time"] += 1
        if chance.random() < 0.25 and trial.tear(chance):
            deaths["line torn"] += 1
        answered.append({query for query, _ in trial.told()})
        if len(answered) >= case.kills:
            break
    if not trial.path.with_suffix(".end").exists():
        case.run(trial)
    lives, twice = trial.evaluated(), 0
    for life, known in enumerate(answered, 2):
        asked = [query for query in lives.get(life, []) if query not in ("objective", "trial")]
        twice += sum(query in known for query in asked)
        twice += max(0, lives.get(life, []).count("objective") - len(asked))  # evaluated while replaying
    end = trial.end()
    return [key for key in case.end if end[key] != case.end[key]], twice


def main() -> None:
    quick = harness.arguments(__doc__ or "").parse_args().quick
    torch.set_num_threads(1)
    trials, identical, twice = 0, 0, 0
    with tempfile.TemporaryDirectory() as root:
        for name, (text, kills) in CASES.items():
            case = Case.prepare(name, text, kills, Path(root))
            deaths: Counter[str] = Counter()
            for number in range(4 if quick else 24):
                differs, again = attempt(case, number, deaths)
                trials, identical, twice = trials + 1, identical + (not differs), twice + again
                if differs or again:
                    print(f"{name}, trial {number}: differs in {differs or 'nothing'}; {again} asked twice")
            print(f"{name}: a run of {case.seconds:.2f} s; killed {dict(deaths.most_common())}", flush=True)
    harness.finish({"trials": trials, "identical": identical, "asked_twice": twice})


if __name__ == "__main__":
    main()
