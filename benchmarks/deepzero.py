"""Training image classifiers from scratch by forward passes: coordinates against random directions at equal queries.

The setting of DeepZero (arXiv:2310.02025, section 3) on images that are at hand. Sides, on the same splits, first
weights and minibatches:

    fo     first-order: Adam on exact gradients by backpropagation
    cge    Adam on a forward difference along each of the d coordinates, d + 1 queries a step, by layer access
    rge    Adam on d forward differences along random directions, d + 1 queries a step
    search pattern search: coordinates in turn, a step either way is kept if it is better; as many queries in all

Each side's learning rate (for the search: its first step) is chosen on validation images with a seed of its own, by
runs of a third of the steps. The accuracies are those on held-out test images. Besides: processor seconds of one
gradient on each side in turns, and coordinates over worker processes.

    python -m benchmarks.deepzero [--quick] [--data FOLDER_OR_NPZ] [--folder FOLDER]

``--data`` adds fo and cge on a larger data set. Each training is kept in ``--folder`` as it ends, so a command that was
stopped goes on where it is given again; after a change of the code, give another folder. ``--quick`` keeps nothing.
ResNet-20 has a command of its own, ``benchmarks.deepzero_resnet``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import alternate, arguments, finish, machine, median
from blackbox.budget import Budget
from blackbox.estimators import CoordinateWise, Estimator, ForwardDifference
from blackbox.estimators.base import Round
from blackbox.execution import Batched, Execution, LayerAccess
from blackbox.execution.workers import Workers
from blackbox.feedback import Answers
from blackbox.folder import read_json, write_json
from blackbox.optimizers import Schedule, TorchOptimizer
from blackbox.probe import Context
from blackbox.run import run
from blackbox.seeds import derive_seed
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from oracles import ObjectiveOracle
from problems.training import ImageClassification, first_order

IMAGES = Path(__file__).parents[1] / "docs" / "images"
RATES = {
    "fo": (3e-3, 1e-2, 3e-2),
    "cge": (3e-3, 1e-2, 3e-2),
    "rge": (3e-3, 1e-2, 3e-2, 1e-1),
    "search": (0.01, 0.03, 0.1, 0.3),
}
UNTUNED = {"fo": 2e-2, "cge": 2e-2, "rge": 2e-2, "search": 0.1}
EPSILON = 5e-3
TUNING = 100

Setting = Mapping[str, Any]
Curve = list[tuple[int, float]]


def problem_of(setting: Setting, seed: int) -> ImageClassification:
    """The problem of one seed: its split, its first weights."""
    return ImageClassification(**setting, seed=seed)


def strategy_of(side: str, rate: float, d: int) -> tuple[GradientStrategy, Execution]:
    """A side's strategy and the execution that is fastest for it."""
    estimator: Estimator = CoordinateWise(EPSILON) if side == "cge" else ForwardDifference(None, EPSILON, d)
    strategy = GradientStrategy(estimator, TorchOptimizer("Adam", rate, Schedule("cosine")))
    return strategy, LayerAccess() if side == "cge" else Batched(64)


def train(side: str, setting: Setting, rate: float, steps: int, seed: int, split: str = "test") -> tuple[float, Curve]:
    """Accuracy in the end, and (queries, accuracy) on the way."""
    problem = problem_of(setting, seed)
    if side == "fo":
        return first_order(problem, steps, "Adam", rate, seed=seed, split=split)["accuracy"], []
    d = problem.parameters().dimension
    if side == "search":
        curve = pattern_search(problem, rate, steps * (d + 1), seed, split)
        return curve[-1][1], curve
    strategy, execution = strategy_of(side, rate, d)
    session = Session(strategy, problem.parameters(), seed)
    run(
        session,
        ObjectiveOracle(problem, execution),
        Budget(steps=steps),
        metrics=lambda: problem.metrics(split),
        evaluate_every=max(steps // 20, 1),
    )
    curve = [(step * (d + 1), facts["accuracy"]) for step, facts in sorted(session.evaluated.items())]
    return curve[-1][1], curve


@torch.no_grad()
def pattern_search(problem: ImageClassification, step: float, queries: int, seed: int, split: str) -> Curve:
    """Sweeps over all coordinates in random order, each on one minibatch; the step is halved where none was better."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order"))
    flats = [tensor.view(-1) for tensor in problem.parameters().raw.values()]
    places = [(flat, index) for flat in flats for index in range(len(flat))]
    spent, sweep, best, curve = 0, 0, 0.0, [(0, problem.metrics(split)["accuracy"])]

    def value(context: Context) -> float:
        nonlocal spent
        spent += 1
        if spent * 20 // queries > (spent - 1) * 20 // queries:
            curve.append((spent, problem.metrics(split)["accuracy"]))
        return float(problem.values(context).mean())

    while spent < queries:
        context, moved = Context(derive_seed(seed, "batch", sweep)), False
        best, sweep = value(context), sweep + 1
        for place in torch.randperm(len(places), generator=generator).tolist():
            flat, index = places[place]
            before = flat[index].clone()
            for way in (step, -step):
                if spent >= queries:
                    break
                flat[index] = before + way
                found = value(context)
                if found < best:
                    best, moved = found, True
                    break
                flat[index] = before
        step = step if moved else step / 2
    return [*curve, (spent, problem.metrics(split)["accuracy"])]


@dataclass(frozen=True)
class Trained:
    """What is kept of one training."""

    accuracy: float
    curve: Curve
    seconds: float


def kept(
    folder: Path | None, side: str, setting: Setting, rate: float, steps: int, seed: int, split: str = "test"
) -> Trained:
    """``train`` with its processor seconds, or what an earlier call left in the folder."""
    rest = json.dumps([dict(setting), steps, split], sort_keys=True)
    name = f"{side}-{seed}-{rate:g}-{hashlib.sha256(rest.encode()).hexdigest()[:12]}.json"
    if folder is not None and (known := read_json(folder / name)):
        return Trained(known["accuracy"], [(int(at), float(a)) for at, a in known["curve"]], known["seconds"])
    began = time.process_time()
    accuracy, curve = train(side, setting, rate, steps, seed, split)
    trained = Trained(accuracy, curve, time.process_time() - began)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / name, asdict(trained))
    return trained


def chosen(folder: Path | None, side: str, setting: Setting, steps: int) -> float:
    """The rate of the highest validation accuracy after a third of the steps, on a seed that no result comes from."""
    third = steps // 3
    found = {rate: kept(folder, side, setting, rate, third, TUNING, "validation").accuracy for rate in RATES[side]}
    each = ", ".join(f"{accuracy:.3f} at {rate:g}" for rate, accuracy in found.items())
    print(f"    {side:6} validation accuracy {each}", flush=True)
    return max(found, key=lambda rate: found[rate])


def compare(
    folder: Path | None, setting: Setting, steps: int, seeds: Sequence[int], sides: Sequence[str], tune: bool
) -> tuple[dict[str, list[float]], dict[str, Curve]]:
    """Test accuracies by side, one a seed, and the curve of the first seed."""
    problem = problem_of(setting, 0)
    d = problem.parameters().dimension
    print(f"  {d:,} parameters, {problem.examples:,} images, {steps} steps of {d + 1:,} queries", flush=True)
    accuracies: dict[str, list[float]] = {}
    curves: dict[str, Curve] = {}
    for side in sides:
        rate = chosen(folder, side, setting, steps) if tune else UNTUNED[side]
        runs = [kept(folder, side, setting, rate, steps, seed) for seed in seeds]
        accuracies[side], curves[side] = [one.accuracy for one in runs], runs[0].curve
        each = " ".join(f"{a:.3f}" for a in accuracies[side])
        mean, seconds = sum(accuracies[side]) / len(seeds), sum(one.seconds for one in runs) / len(seeds)
        print(f"    {side:6} {mean:.4f}  ({each})  rate {rate:g}, {seconds:.0f} processor seconds a run", flush=True)
    return accuracies, curves


def gradient_of(side: str, setting: Setting) -> Callable[[], Any]:
    """One gradient of a side, to be timed."""
    problem = problem_of(setting, 0)
    strategy, execution = strategy_of(side, 1e-9, problem.parameters().dimension)
    session, oracle = Session(strategy, problem.parameters()), ObjectiveOracle(problem, execution)

    def step() -> None:
        run(session, oracle, Budget(steps=session.steps + 1))

    return step


def processor_seconds(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """As ``alternate``, without the time that other programs take."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for round in range(-1, rounds):
        for name, side in sides.items():
            began = time.process_time()
            side()
            if round >= 0:
                found[name].append(time.process_time() - began)
    return found


def scaling(rounds: int) -> dict[str, list[float]]:
    """Seconds of one gradient of 12,285 coordinates over one process and over two, in turns."""
    problem = problem_of({"data": "digits", "widths": (16, 32, 25)}, 0)
    parameters, estimator = problem.parameters(), CoordinateWise(EPSILON)
    here = Round(0, 0, 0, Context(1), parameters.layout)
    queries = estimator.next(here, 0, Answers()).queries
    sides = {"one": Workers(1, chunk=2048), "two": Workers(2, chunk=2048)}
    try:
        return alternate(
            {name: lambda w=w: w.evaluate_together(problem, queries, parameters) for name, w in sides.items()}, rounds
        )
    finally:
        for workers in sides.values():
            workers.close()


def plot(curves: Mapping[str, Curve], first_order_accuracy: float, d: int) -> None:
    """Test accuracy over queries."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    names = {"cge": "coordinates", "rge": "random directions", "search": "pattern search"}
    for side, curve in curves.items():
        if curve:
            axes.plot(*zip(*curve, strict=True), label=names[side])
    axes.axhline(first_order_accuracy, color="k", linestyle=":", label="first order, equal steps")
    axes.set(xlabel="queries", ylabel="test accuracy", title=f"digits, {d:,} parameters, one seed")
    axes.legend(fontsize=8)
    figure.tight_layout()
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "deepzero-digits.png", dpi=90)


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", help="a folder or .npz file: fo and cge on it besides")
    parser.add_argument("--folder", default="runs/deepzero", help="where trainings are kept")
    given = parser.parse_args()
    folder = None if given.quick else Path(given.folder)
    torch.set_num_threads(1)
    print(f"training from scratch on {machine()}")
    small: Setting = {"data": "digits", "widths": (4, 8) if given.quick else (8, 12)}
    steps, seeds = (20 if given.quick else 300), (0, 1, 2)
    found, curves = compare(folder, small, steps, seeds, ("fo", "cge", "search", "rge"), tune=not given.quick)
    means = {side: sum(each) / len(each) for side, each in found.items()}
    if not given.quick:
        plot(curves, found["fo"][0], problem_of(small, 0).parameters().dimension)
        compare(folder, {"data": "digits", "widths": (16, 32, 25)}, 60, seeds, ("fo", "cge"), tune=True)
    if given.data:
        larger = {"data": given.data, "widths": (8, 12), "batch_size": 32}
        compare(folder, larger, 60 if given.quick else 300, seeds, ("fo", "cge"), tune=not given.quick)
    seconds = processor_seconds({side: gradient_of(side, small) for side in ("cge", "rge")}, 3 if given.quick else 20)
    processes = scaling(2 if given.quick else 10)
    finish(
        {
            **{f"{side}_accuracy": mean for side, mean in means.items()},
            "gap_fo_cge": means["fo"] - means["cge"],
            "seconds_per_cge_gradient": median(seconds["cge"]),
            "seconds_per_rge_gradient": median(seconds["rge"]),
            "workers_speedup": median(processes["one"]) / median(processes["two"]),
        }
    )


if __name__ == "__main__":
    main()
