"""ResNet-20 from scratch, asking about one coordinate in ten, beside backpropagation on the same batches.

The run is ``configs/deepzero-sparse.yaml`` (DeepZero, arXiv:2310.02025: ZO-GraSP's shares, random masks at these
shares, layer access) as ``blackbox run`` makes it, in a folder from which it goes on when it was stopped. After its two
steps of scoring, backpropagation trains the same first weights on the same batches, with the same optimizer, rate and
schedule: once with its whole gradient (fo), once with what the masks leave of it (masked), so that what the masks cost
and what the differences cost can be told apart. Besides: the cosine of the differences with autograd's gradient on the
mask, at the newest checkpoint and at the first weights.

    python -m benchmarks.deepzero_resnet [--quick] [--data FOLDER_OR_NPZ] [--folder FOLDER] [--workers N] [--look]

``--look`` takes the run as far as it is, and needn't wait for its end. ``--quick`` makes 3 steps along one coordinate
in a hundred, and without ``--data`` on images of noise.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import arguments, finish, machine
from blackbox.checkpoint import load as load_checkpoint
from blackbox.config.loader import Config, build_strategy, load
from blackbox.estimators import CoordinateWise
from blackbox.estimators.base import Round
from blackbox.execution import LayerAccess
from blackbox.experiment import Experiment, holds_run
from blackbox.feedback import Answers
from blackbox.optimizers import Schedule
from blackbox.probe import Context
from blackbox.report import RunRecord
from blackbox.report import load as load_run
from blackbox.seeds import derive_seed
from blackbox.strategies.grasp import GraSP
from problems.training import ImageClassification
from problems.training.baselines import descent

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "deepzero-sparse.yaml"
IMAGES = ROOT / "docs" / "images"
NAMES = {
    "cge": "coordinates, a tenth of them",
    "masked": "backpropagation on the same masks",
    "fo": "backpropagation",
}
SCORING = 2
"""Steps before the training: the two gradients of ZO-GraSP."""


@dataclass(frozen=True)
class Course:
    """Of one training: each step's loss before it, and test accuracies by steps made, the scoring's included."""

    losses: list[float]
    accuracies: dict[int, float]


@dataclass(frozen=True)
class Compared:
    """Of one gradient: its cosine with autograd's, what it asked, processor seconds."""

    cosine: float
    queries: int
    seconds: float


def noise(folder: Path) -> str:
    """An .npz file of images and labels without sense."""
    generator = np.random.Generator(np.random.Philox(0))
    arrays = {
        f"{split}_{what}": generator.integers(0, high, (count, *shape), np.uint8)
        for split, count in (("train", 320), ("test", 100))
        for what, high, shape in (("images", 256, (32, 32, 3)), ("labels", 10, ()))
    }
    np.savez(folder / "noise.npz", **arrays)
    return str(folder / "noise.npz")


def advance(config: Config, look: bool) -> RunRecord:
    """The run, brought to its end; with ``look``, as far as it is."""
    if not look:
        Experiment(config, resume=holds_run(config.folder)).run()
    return load_run(config.folder)


def newest(config: Config) -> tuple[int, dict[str, Any]]:
    """(steps made, state) of the run's last checkpoint."""
    path = max((config.folder / "checkpoints").glob("step-*.safetensors"))
    return int(path.stem.removeprefix("step-")), load_checkpoint(path)


def estimator_of(config: Config, state: dict[str, Any]) -> CoordinateWise:
    """The run's estimator, with the shares that ZO-GraSP has found."""
    strategy: GraSP = build_strategy(config)
    strategy.load_state_dict(state["strategy"])
    assert isinstance(strategy.estimator, CoordinateWise)
    return strategy.estimator


def round_of(config: Config, problem: ImageClassification, step: int) -> Round:
    """A step of the run, as its plans see it."""
    seed = config.run.seed
    context = Context(derive_seed(seed, "batch", step), None, derive_seed(seed, "reset", step))
    return Round(step, step, seed, context, problem.parameters().layout)


def places_of(config: Config, problem: ImageClassification, estimator: CoordinateWise, step: int) -> Tensor:
    """Where the run asks in a step, int64 [n]."""
    dimension = problem.parameters().dimension
    return torch.from_numpy(estimator.select.choose(round_of(config, problem, step), dimension).places)


def backpropagation(record: RunRecord, config: Config, mask: CoordinateWise | None) -> Course:
    """The course on the run's batches, from the end of the scoring to where the run is."""
    problem = problem_of(config)
    given = {key: value for key, value in record.config["baselines"][0].items() if key in ("name", "lr", "options")}
    schedule = Schedule(**record.config["baselines"][0]["schedule"])
    steps = record.config["budget"]["steps"]

    def kept(step: int) -> Tensor:
        assert mask is not None
        return torch.zeros(problem.parameters().dimension).index_fill_(0, places_of(config, problem, mask, step), 1.0)

    hidden = None if mask is None else kept
    training = descent(problem, steps, schedule=schedule, seed=config.run.seed, first=SCORING, mask=hidden, **given)
    losses: list[float] = []
    accuracies = {SCORING: problem.metrics("test")["accuracy"]}
    for step in range(SCORING, len(record.steps)):
        losses.append(next(training))
        if step + 1 in evaluated(record) or step + 1 == len(record.steps):
            accuracies[step + 1] = problem.metrics("test")["accuracy"]
    return Course(losses, accuracies)


def evaluated(record: RunRecord) -> dict[int, float]:
    """Steps made -> test accuracy, of the run's training."""
    return {e["step"]: e["accuracy"] for e in record.evaluations if e["step"] >= SCORING}


def problem_of(config: Config) -> ImageClassification:
    """The run's problem at its first weights."""
    assert config.problem is not None
    problem = config.problem.build()
    assert isinstance(problem, ImageClassification)
    return problem


def cosine(config: Config, estimator: CoordinateWise, step: int, tensors: dict[str, Tensor] | None) -> Compared:
    """Difference quotients of a step's queries at some weights (None: the first ones) against autograd."""
    problem = problem_of(config)
    parameters = problem.parameters()
    if tensors is not None:
        parameters.assign(tensors)
    here = round_of(config, problem, step)
    began = time.process_time()
    queries = estimator.next(here, 0, Answers()).queries
    values = LayerAccess("bfloat16").evaluate_together(problem, queries, parameters)
    assert isinstance(values, Tensor)
    slopes = ((values[1:] - values[:1]) / estimator.epsilon).mean(1)
    seconds = time.process_time() - began
    weights = [dict(problem.module.named_parameters())[spec.name] for spec in parameters.layout.specs]
    with torch.enable_grad():
        exact = torch.autograd.grad(problem.values(here.context).mean(), weights)
    there = torch.cat([part.reshape(-1) for part in exact])[places_of(config, problem, estimator, step)].double()
    return Compared(float(slopes @ there / (slopes.norm() * there.norm())), len(queries), seconds)


def plot(courses: dict[str, Course]) -> None:
    """Loss and test accuracy over steps of training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3.2))
    for name, course in courses.items():
        tail = [float(np.mean(course.losses[max(0, i - 9) : i + 1])) for i in range(len(course.losses))]
        left.plot(range(1, len(tail) + 1), tail, label=NAMES[name])
        right.plot([step - SCORING for step in course.accuracies], list(course.accuracies.values()))
    left.set(xlabel="steps", ylabel="training loss, mean of 10 batches")
    right.set(xlabel="steps", ylabel="test accuracy")
    left.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(IMAGES / "deepzero-resnet20.png", dpi=90)


def table(courses: dict[str, Course]) -> None:
    """Losses by tens of steps, and test accuracies."""
    count = len(courses["cge"].losses)
    for start in range(0, count, 10):
        each = " ".join(f"{name} {np.mean(c.losses[start : start + 10]):.3f}" for name, c in courses.items())
        print(f"  steps {start + 1:3}-{min(start + 10, count):3}: loss {each}")
    for step in courses["cge"].accuracies:
        each = " ".join(f"{name} {c.accuracies[step]:.3f}" for name, c in courses.items() if step in c.accuracies)
        print(f"  after {step - SCORING:3} steps: test accuracy {each}")


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", help="a folder or .npz file: CIFAR-10")
    parser.add_argument("--folder", default="runs", help="where the run's folder is")
    parser.add_argument("--workers", type=int, default=2, help="processes; any number gives the same bits")
    parser.add_argument("--look", action="store_true", help="take the run as far as it is")
    given = parser.parse_args()
    if given.data is None and not given.quick:
        parser.error("--data is needed: a folder of CIFAR-10's binary version, or an .npz file")
    torch.set_num_threads(1)
    print(f"ResNet-20 from scratch on {machine()}")
    with tempfile.TemporaryDirectory() as scratch:
        settings = [
            f"problem.data={json.dumps(given.data or noise(Path(scratch)))}",
            f"run.folder={json.dumps(scratch if given.quick else given.folder)}",
            f"execution.count={1 if given.quick else given.workers}",
        ]
        quick = [
            "problem.batch_size=8",
            "estimator.select.keep=0.01",
            "strategy.score.probes=16",
            f"budget.steps={SCORING + 3}",
        ]
        config = load(CONFIG, settings + (quick if given.quick else []))
        record = advance(config, given.look)
        report(record, config, quick=given.quick)


def report(record: RunRecord, config: Config, quick: bool) -> None:
    """Everything about a run that has made its scoring, and a step more."""
    made, state = newest(config)
    estimator = estimator_of(config, state)
    losses = [step["value"] for step in record.steps[SCORING:]]
    accuracies = evaluated(record)
    courses = {
        "cge": Course(losses, accuracies),
        "masked": backpropagation(record, config, estimator),
        "fo": backpropagation(record, config, None),
    }
    table(courses)
    shares = estimator.select.shares  # type: ignore[attr-defined]
    print("  shares of ZO-GraSP: " + ", ".join(f"{name} {share:.3f}" for name, share in shares.items()))
    last = cosine(config, estimator, made, state["tensors"])
    print(f"  cosine with autograd on the mask: {last.cosine:.4f} after {made} steps", flush=True)
    if not quick:
        first = cosine(config, estimator, SCORING, None)
        print(f"  and {first.cosine:.4f} at the first weights")
        plot(courses)
    tens = {name: float(np.mean(course.losses[-10:])) for name, course in courses.items()}
    ends = {name: list(course.accuracies.values())[-1] for name, course in courses.items()}
    finish(
        {
            "steps": len(losses),
            "queries": record.steps[-1]["queries"],
            **{f"{name}_loss": value for name, value in tens.items()},
            **{f"{name}_accuracy": value for name, value in ends.items()},
            "cosine": last.cosine,
            "seconds_per_gradient": last.seconds,
            "queries_per_gradient": last.queries,
        }
    )


if __name__ == "__main__":
    main()
