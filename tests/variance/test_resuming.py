"""Runs with variance reduction that are ended after any line of their journal end as ones never ended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from blackbox import checkpoint
from blackbox.budget import Budget
from blackbox.estimators import CentralDifference, CoordinateWise, Estimator
from blackbox.execution import Batched
from blackbox.journal import Journal
from blackbox.optimizers import SGD, AdaMM, Optimizer, SignSGD
from blackbox.run import Tolerance, run
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from blackbox.variance import PAGE, SAGA, SPIDER, STORM, SVRG, Average, Blocks, ControlVariate, Shrinkage
from oracles import ObjectiveOracle
from problems.finite_sum import FiniteSum

# Not in a test: importing it for the first time draws a random number.
pytest.importorskip("sklearn.datasets", reason="the tables come with scikit-learn")


def central(probes: int = 1) -> CentralDifference:
    return CentralDifference(epsilon=1e-4, probes=probes)


class Fickle(FiniteSum):
    """Fails at some points. It is asked one by one: a product's bits may depend on how many are asked together."""

    def __call__(self, candidates: Any, context: Any = None) -> Any:
        values = super().__call__(candidates, context)
        if int(float(values.mean()) * 1e9) % 9 == 0:
            raise RuntimeError("not here")
        return values


MAKE: dict[str, Callable[[int], Estimator]] = {
    "average": lambda n: Average(central(), 2, own_batches=True),
    "control variate": lambda n: ControlVariate(central(2)),
    "shrinkage": lambda n: Shrinkage(central(), 2),
    "svrg": lambda n: SVRG(central(2), Blocks(central(), n, 5), every=3),
    "svrg along coordinates": lambda n: SVRG(central(2), CoordinateWise(1e-4), every=3),
    "spider": lambda n: SPIDER(central(2), every=3),
    "page": lambda n: PAGE(central(2), probability=0.3),
    "storm": lambda n: STORM(central(8), forget=0.3),  # dense before the end: 8 directions a step, 31 elements
    "saga": lambda n: SAGA(central(2), n, 4, redraw=2),
    "shrunken svrg": lambda n: Shrinkage(SVRG(Average(central(), 2), central(4), every=3)),
}


def whole_run(folder: Path, make: Callable[[int], Estimator], optimizer: Optimizer) -> tuple[Any, ...]:
    problem = Fickle("breast-cancer", batch_size=4)
    parameters, journal = problem.parameters(), Journal(folder)
    session = Session(GradientStrategy(make(problem.examples), optimizer), parameters, seed=4, journal=journal)
    result = run(
        session,
        ObjectiveOracle(problem, Batched(chunk=1)),
        Budget(steps=5),
        checkpoint_every=2,
        tolerance=Tolerance(share=1.0),
    )
    journal.close()
    anchors = {name: (ts["x"].numpy().tobytes(), version) for name, (ts, version) in parameters.anchors.items()}
    records = [json.loads(line) for line in journal.path.read_text().splitlines()]
    told = [r for r in records if r["kind"] in ("values", "failed")]
    for record in told:
        record["cost"].pop("seconds", None)
        if isinstance(record.get("values"), dict):
            record["values"].pop("offset")  # where a larger array lies in its file: a lost one leaves a gap
    return parameters.flat().numpy().tobytes(), told, anchors, result.steps


@pytest.mark.parametrize("name", MAKE)
def test_a_run_ended_after_any_line_ends_as_one_never_ended(tmp_path: Path, name: str) -> None:
    end = whole_run(tmp_path / "whole", MAKE[name], SGD(0.02))
    lines = (tmp_path / "whole/journal.jsonl").read_bytes().splitlines(keepends=True)
    kinds = {json.loads(line)["kind"] for line in lines}
    assert {"values", "failed", "checkpoint"} <= kinds
    for count in range(1, len(lines) + 1):
        folder = tmp_path / str(count)
        shutil.copytree(tmp_path / "whole", folder)
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:count]))
        assert whole_run(folder, MAKE[name], SGD(0.02)) == end, f"ended after line {count}: {lines[count - 1]!r}"


@pytest.mark.parametrize("make", [lambda: AdaMM(0.02, radius=0.05), lambda: SignSGD(0.01)])
def test_so_do_runs_with_the_optimizers(tmp_path: Path, make: Callable[[], Optimizer]) -> None:
    end = whole_run(tmp_path / "whole", MAKE["average"], make())
    lines = (tmp_path / "whole/journal.jsonl").read_bytes().splitlines(keepends=True)
    for count in range(1, len(lines) + 1, 2):
        folder = tmp_path / str(count)
        shutil.copytree(tmp_path / "whole", folder)
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:count]))
        assert whole_run(folder, MAKE["average"], make()) == end, f"ended after line {count}"


@pytest.mark.parametrize("name", MAKE)
def test_saved_state_is_json_and_tensors_and_comes_back_the_same(tmp_path: Path, name: str) -> None:
    problem = FiniteSum("breast-cancer", batch_size=4)
    estimator = MAKE[name](problem.examples)
    session = Session(GradientStrategy(estimator, SGD(0.02)), problem.parameters(), seed=4)
    run(session, ObjectiveOracle(problem), Budget(steps=5))
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    checkpoint.save(first, {"some": torch.zeros(1), "state": estimator.state_dict()})
    fresh = MAKE[name](problem.examples)
    fresh.load_state_dict(checkpoint.load(first)["state"])
    checkpoint.save(second, {"some": torch.zeros(1), "state": fresh.state_dict()})
    assert first.read_bytes() == second.read_bytes()
