"""Schemes of variance reduction on finite sums, at equal cost: evaluations of a component (one example's loss).

Problems (scikit-learn's tables): logistic regression on breast-cancer (n = 455, d = 31) and on digits (n = 1438, d =
650), and a network with 16 hidden units on digits (d = 1210), which isn't convex; each with a penalty of .01, so that
examples still disagree at the minimum. A query over b examples costs b, over all data n. Every scheme has the same
estimator inside (central differences, random signs, the same probes and minibatch) and takes plain steps (SGD, linear
decay); its step size is the best of one grid, by factors of about 3, on a seed of its own. "averaging" is the
reference: the mean of four estimates, each on a minibatch of its own. First-order descent, with a gradient over b
examples counted as b evaluations, is the bound.

A fourth problem, breast-cancer with a penalty of .1 and a budget of 800 n, was added after the first three had been
run: well conditioned and long is where the theory of snapshots promises most. Averaging and the schemes with exact
snapshots are run on it.

Measured: the training loss over all data at the end, and along the way the squared error of the estimate over the
squared length of the full gradient (autograd), median over steps past the first tenth.

"Ahead of averaging", worded before the runs (the long, well-conditioned problem was added after no scheme was ahead on
the other three): on at least one problem for which its theory promises something, the scheme's
median loss is below averaging's by more than the seeds' spread, the larger of the two interquartile ranges. Theory
promises it for SVRG, SPIDER, PAGE, STORM and SAGA on every finite sum, for the control variate wherever gradients
change slowly (all three), for shrinkage (a step size that adapts) where noise swamps the slope (all three). It
promises nothing for antithetic pairs around a forward difference, which has no even part to cancel at this epsilon,
nor for a single estimate.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import arguments, finish, machine
from blackbox.budget import Budget
from blackbox.estimators import CentralDifference, CoordinateWise, Estimator, ForwardDifference
from blackbox.hooks import Hook
from blackbox.optimizers import SGD
from blackbox.parameters import Parameters
from blackbox.probe import ALL_DATA
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from blackbox.variance import (
    PAGE,
    SAGA,
    SPIDER,
    STORM,
    SVRG,
    Antithetic,
    Average,
    Blocks,
    ControlVariate,
    Shrinkage,
)
from blackbox.variance.terms import vector
from oracles import ObjectiveOracle
from problems.finite_sum import FiniteSum

IMAGES = Path(__file__).parents[1] / "docs" / "images"
EPSILON = 1e-4
REFERENCE = "averaging"
FIRST_ORDER = ("SGD (gradients)", "gradient descent")
UNPROMISED = ("one estimate", "antithetic")


@dataclass(frozen=True)
class Setting:
    """One problem.

    Attributes:
        make: the problem.
        probes: directions of the estimator inside.
        rows: blocks of a full estimate and of SAGA's table.
        every: steps between full estimates.
        passes: the budget, in evaluations of all data.
        schemes: those that are run; None for all.
    """

    make: Callable[[], FiniteSum]
    probes: int
    rows: int
    every: int
    passes: int
    schemes: tuple[str, ...] | None = None


LONG = "logistic, breast-cancer, well conditioned"
LONG_SCHEMES = ("averaging", "SVRG-Coord-Rand", "SPIDER-Coord")
SETTINGS = {
    "logistic, breast-cancer": Setting(lambda: FiniteSum("breast-cancer", batch_size=8, l2=1e-2), 2, 91, 30, 60),
    "logistic, digits": Setting(lambda: FiniteSum("digits", batch_size=16, l2=1e-2), 4, 288, 25, 25),
    "network, digits": Setting(lambda: FiniteSum("digits", (16,), batch_size=16, l2=1e-2), 4, 288, 25, 25),
    LONG: Setting(lambda: FiniteSum("breast-cancer", batch_size=8, l2=0.1), 2, 91, 30, 800, LONG_SCHEMES),
}
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
COORDINATES = ("SVRG-Coord-Rand", "SVRG-Coord", "SPIDER-Coord")


def scheme(name: str, setting: Setting, n: int) -> Estimator:
    """The estimator of a scheme."""
    inner = CentralDifference(epsilon=EPSILON, probes=setting.probes)
    full = Blocks(CentralDifference(epsilon=EPSILON), n, setting.rows)
    coordinates = CoordinateWise(EPSILON, "forward")
    match name:
        case "one estimate":
            return inner
        case "averaging":
            return Average(inner, 4, own_batches=True)
        case "antithetic":
            return Average(Antithetic(ForwardDifference(epsilon=EPSILON, probes=setting.probes)), 4, own_batches=True)
        case "control variate":
            return ControlVariate(Average(inner, 4, own_batches=True))
        case "shrinkage":
            return Shrinkage(inner, 4, own_batches=True)
        case "SVRG":
            return SVRG(inner, full, setting.every)
        case "SVRG-Coord-Rand":
            return SVRG(inner, coordinates, 4 * setting.every)
        case "SVRG-Coord":
            return SVRG(coordinates, coordinates, setting.every)
        case "SPIDER-Coord":
            return SPIDER(inner, coordinates, 4 * setting.every)
        case "SPIDER":
            return SPIDER(inner, full, setting.every)
        case "PAGE":
            return PAGE(inner, full, 1 / setting.every)
        case "STORM":
            return STORM(inner, forget=0.1)
        case "SAGA":
            return SAGA(inner, n, setting.rows)
    raise KeyError(name)


SCHEMES = (
    "one estimate",
    "averaging",
    "antithetic",
    "control variate",
    "shrinkage",
    "SVRG",
    "SVRG-Coord-Rand",
    "SVRG-Coord",
    "SPIDER",
    "SPIDER-Coord",
    "PAGE",
    "STORM",
    "SAGA",
)


class Watched(Estimator):
    """The estimator inside, with the error of some of its estimates measured."""

    def __init__(self, estimator: Estimator, problem: FiniteSum, parameters: Parameters, every: int) -> None:
        self.estimator, self.problem, self.parameters, self.every = estimator, problem, parameters, every
        self.accepts = estimator.accepts  # type: ignore[misc]
        self.next = estimator.next  # type: ignore[method-assign]
        self.errors: list[float] = []

    def next(self, *arguments: Any) -> Any:
        raise NotImplementedError

    def estimate(self, round: Any, answers: Any) -> Any:
        found = self.estimator.estimate(round, answers)
        if round.step % self.every == 0 and round.progress > 0.1:
            gradient = gradient_of(self.problem, self.parameters.flat())
            gap = vector(found.direction, round.layout) - gradient
            self.errors.append(float(gap.square().sum() / gradient.square().sum()))
        return found


class Course(Hook):
    """The loss over all data against the cost: for the plot, no scheme sees it."""

    def __init__(self, problem: FiniteSum, spent: dict[str, float], points: int, budget: int) -> None:
        self.problem, self.spent, self.gap, self.points = problem, spent, budget / points, [(0.0, loss_of(problem))]

    def on_step(self, record: dict[str, Any]) -> None:
        examples = self.spent.get("examples", 0.0)
        if examples >= self.points[-1][0] + self.gap:
            self.points.append((examples, loss_of(self.problem)))


def loss_of(problem: FiniteSum) -> float:
    return problem.metrics("train")["loss"]


def gradient_of(problem: FiniteSum, x: Tensor, context: Any = ALL_DATA) -> Tensor:
    x = x.clone().requires_grad_()
    problem(x[None], context).mean().backward()
    assert x.grad is not None
    return x.grad


Outcome = tuple[float, float, list[tuple[float, float]]]
"""Loss, relative squared error, course."""


def solve(name: str, setting: Setting, rate: float, seed: int, passes: int, watch: bool) -> Outcome:
    """One run to the end of the budget."""
    problem = setting.make()
    budget = passes * problem.examples
    if name in FIRST_ORDER:
        return first_order(name, problem, rate, seed, budget)
    parameters, oracle = problem.parameters(), ObjectiveOracle(problem)
    estimator = scheme(name, setting, problem.examples)
    watched = Watched(estimator, problem, parameters, 7)
    strategy = GradientStrategy(watched if watch else estimator, SGD(rate))
    session = Session(strategy, parameters, seed)
    course = Course(problem, session.spent, 40, budget)
    run(session, oracle, Budget(examples=budget), [course] if watch else [])
    loss = loss_of(problem)
    error = float(np.median(watched.errors)) if watched.errors else float("nan")
    return (loss if np.isfinite(loss) else float("inf")), error, course.points


def first_order(name: str, problem: FiniteSum, rate: float, seed: int, budget: int) -> Outcome:
    """The bound: gradients by autograd."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    x, n = problem.start.clone(), problem.examples
    batch = problem.batch_size if name == FIRST_ORDER[0] else n
    steps, points, errors = budget // batch, [(0.0, loss_of(problem))], []
    for step in range(steps):
        context = ALL_DATA
        if batch < n:
            context = type(ALL_DATA)(indices=tuple(generator.choice(n, batch, replace=False).tolist()))
        gradient = gradient_of(problem, x, context)
        if step % 97 == 0 and step > steps / 10:
            whole = gradient_of(problem, x)
            errors.append(float((gradient - whole).square().sum() / whole.square().sum()))
        x = x - rate * (1 - step / steps) * gradient
        if (step + 1) % max(steps // 40, 1) == 0:
            points.append(((step + 1.0) * batch, float(problem(x[None], ALL_DATA).mean())))
    loss = float(problem(x[None], ALL_DATA).mean())
    return (loss if np.isfinite(loss) else float("inf")), float(np.median(errors)) if errors else 0.0, points


def tuned(name: str, setting: Setting, passes: int) -> float:
    """The rate of the lowest loss on a seed that isn't reported, upwards until it gets worse twice."""
    losses: dict[float, float] = {}
    for rate in RATES:
        losses[rate] = solve(name, setting, rate, 1000, passes, watch=False)[0]
        best = min(losses, key=losses.__getitem__)
        if losses[rate] > 3 * losses[best] or RATES.index(rate) >= RATES.index(best) + 2:
            break
    if best == RATES[0]:
        losses[RATES[0] / 3] = solve(name, setting, RATES[0] / 3, 1000, passes, watch=False)[0]
    return min(losses, key=losses.__getitem__)


def compare(title: str, setting: Setting, passes: int, seeds: range) -> dict[str, dict[str, Any]]:
    """Every scheme on one problem."""
    n, d = (problem := setting.make()).examples, problem.parameters().dimension
    print(f"  {title}: n = {n}, d = {d}, {passes} n evaluations", flush=True)
    found: dict[str, dict[str, Any]] = {}
    for name in setting.schemes or (*SCHEMES, *FIRST_ORDER):
        if name in COORDINATES and d > passes:  # a full estimate alone would cost d n or more
            print(f"    {name:20s} a full estimate costs (d + 1) n: more than there is")
            continue
        rate = tuned(name, setting, passes)
        outcomes = [solve(name, setting, rate, seed, passes, watch=True) for seed in seeds]
        low, middle, high = np.quantile([loss for loss, _, _ in outcomes], (0.25, 0.5, 0.75))
        error = float(np.median([error for _, error, _ in outcomes]))
        found[name] = {"loss": float(middle), "low": float(low), "high": float(high), "error": error, "rate": rate}
        found[name]["course"] = outcomes[0][2]
        print(
            f"    {name:20s} loss {middle:.5f} ({low:.5f} .. {high:.5f})  error {error:9.3g}  rate {rate:g}", flush=True
        )
    return found


def ahead(results: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """As the module says."""
    names = []
    for name in SCHEMES:
        if name == REFERENCE or name in UNPROMISED:
            continue
        for found in results.values():
            if name not in found:
                continue
            ours, theirs = found[name], found[REFERENCE]
            spread = max(ours["high"] - ours["low"], theirs["high"] - theirs["low"])
            if ours["loss"] < theirs["loss"] - spread:
                names.append(name)
                break
    return names


def plot(results: dict[str, dict[str, dict[str, Any]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = (*SCHEMES, *FIRST_ORDER)
    colours = {name: pyplot.get_cmap("tab20")(i) for i, name in enumerate(names)}
    figure, axes = pyplot.subplots(1, len(results), figsize=(13, 4.2))
    for axis, (title, found) in zip(np.atleast_1d(axes), results.items(), strict=True):
        n = SETTINGS[title].make().examples
        for name, result in found.items():
            costs, losses = zip(*result["course"], strict=True)
            style = ":" if name in FIRST_ORDER else "--" if name in (REFERENCE, *UNPROMISED) else "-"
            axis.plot(np.array(costs) / n, losses, style, label=name, linewidth=1.4, color=colours[name])
        axis.set(xlabel="evaluations / n", title=title.replace(", well", "\nwell"), yscale="log")
    np.atleast_1d(axes)[0].set_ylabel("training loss, one seed")
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="center right")
    figure.tight_layout(rect=(0, 0, 0.88, 1))
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "variance.png", dpi=80)


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", choices=list(SETTINGS), help="one problem; its results are added to --keep")
    parser.add_argument("--keep", type=Path, help="a JSON file that gathers results of runs with --only")
    parser.add_argument("--scale", type=float, default=1.0, help="a factor on the budgets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"variance on {machine()}; median loss (quartiles), squared error of the estimate over |gradient|^2")
    results: dict[str, dict[str, dict[str, Any]]] = {}
    if options.keep is not None and options.keep.exists():
        results = json.loads(options.keep.read_text())
    chosen = [options.only] if options.only else list(SETTINGS)[:1] if options.quick else list(SETTINGS)
    for title in chosen:
        setting = SETTINGS[title]
        passes, seeds = round(setting.passes * options.scale), range(3)
        if options.quick:
            passes, seeds = 12, range(2)
        results[title] = compare(title, setting, passes, seeds)
        if options.keep is not None:
            options.keep.write_text(json.dumps(results))
    if not options.quick and set(results) == set(SETTINGS):
        plot({title: results[title] for title in SETTINGS})
    names = ahead(results)
    best = {t: min((r["loss"], n) for n, r in f.items() if n not in FIRST_ORDER)[1] for t, f in results.items()}
    finish({"schemes_ahead_of_averaging": len(names), "ahead": names, "best": best, "problems": len(results)})


if __name__ == "__main__":
    sys.exit(main())
