"""The problems and schemes that benchmarks.variance compares, and one run of a scheme.

A run is a function of its arguments alone, so its outcome is kept in a file and isn't computed twice (``Kept``).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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

EPSILON = 1e-4
FIRST_ORDER = ("SGD (gradients)", "gradient descent")


@dataclass(frozen=True)
class Setting:
    """One problem.

    Attributes:
        table, hidden, batch_size, l2: the finite sum's.
        probes: directions of the estimator inside.
        rows: blocks of a full estimate and of SAGA's table.
        every: steps between full estimates.
        passes: the budget, in evaluations of all data.
    """

    table: str
    hidden: tuple[int, ...]
    batch_size: int
    l2: float
    probes: int
    rows: int
    every: int
    passes: int

    def make(self) -> FiniteSum:
        """The problem, at its start."""
        return FiniteSum(self.table, self.hidden, self.batch_size, self.l2)  # type: ignore[arg-type]


LONG = "logistic, breast-cancer, well conditioned"
SETTINGS = {
    "logistic, breast-cancer": Setting("breast-cancer", (), 8, 1e-2, 2, 91, 30, 60),
    "logistic, digits": Setting("digits", (), 16, 1e-2, 4, 288, 25, 25),
    "network, digits": Setting("digits", (16,), 16, 1e-2, 4, 288, 25, 25),
    LONG: Setting("breast-cancer", (), 8, 0.1, 2, 91, 30, 800),
}
COORDINATES = ("SVRG-Coord-Rand", "SVRG-Coord", "SPIDER-Coord", "PAGE-Coord")


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
        case "PAGE-Coord":
            return PAGE(inner, coordinates, 1 / (4 * setting.every))
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
    "PAGE-Coord",
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


@dataclass(frozen=True)
class Outcome:
    """Of one run: the loss at its end, the median relative squared error, losses (against evaluations) on the way."""

    loss: float
    error: float
    course: list[tuple[float, float]]


class Kept:
    """Outcomes in a folder, one file each; what is there already isn't computed again.

    A file names all that its outcome depends on save the code, and is made anew if any of it has changed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def solve(self, name: str, title: str, rate: float, seed: int, passes: int, watch: bool) -> Outcome:
        """As ``solve``."""
        setting = SETTINGS[title]
        what = {"scheme": name, **asdict(setting), "rate": rate, "seed": seed, "passes": passes, "watch": watch}
        what = json.loads(json.dumps({**what, "epsilon": EPSILON}))
        place = self.folder / _slug(title) / _slug(name) / f"rate-{rate:g}-seed-{seed}-passes-{passes}.json"
        if place.exists():
            kept = json.loads(place.read_text())
            if kept["of"] == what:
                return Outcome(kept["loss"], kept["error"], [(x, y) for x, y in kept["course"]])
        outcome = solve(name, setting, rate, seed, passes, watch)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(".part")
        part.write_text(json.dumps({"of": what, **asdict(outcome)}))
        part.replace(place)
        return outcome


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


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
    return Outcome(loss if np.isfinite(loss) else float("inf"), error, course.points)


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
    error = float(np.median(errors)) if errors else 0.0
    return Outcome(loss if np.isfinite(loss) else float("inf"), error, points)


def minimum(problem: FiniteSum) -> float:
    """The lowest loss over all data, where the problem is convex: by L-BFGS on exact gradients."""
    x = problem.start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([x], 1.0, 5000, 10000, 1e-12, 0.0, 50, "strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem(x[None], ALL_DATA).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(problem(x.detach()[None], ALL_DATA).mean())
