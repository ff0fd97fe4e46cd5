"""Policies by the order of their returns: CartPole solved by ranks alone, Swimmer within a budget of time steps.

CartPole-v1: a linear policy, 8 antithetic pairs a round with common reset seeds, seen only as an order (rank-es), until
the policy's mean return over 20 fresh episodes is 475 or more; 10 seeds. Episodes of the search are counted, not those
that test the policy.

Swimmer-v5 (extra ``mujoco``): a linear policy of 16 weights; ZO-RankSGD with a (5,5)-ranking oracle and line search by
ranking against CMA-ES (ranks too) and ARS V1 (values) with the settings its paper gives for Swimmer, each with the same
number of time steps; 3 seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import arguments, finish, machine, median
from blackbox.budget import Budget
from blackbox.errors import UserError
from blackbox.estimators import AugmentedRandomSearch, RankEstimator, RankEvolution
from blackbox.hooks import Hook
from blackbox.noise import Gaussian
from blackbox.optimizers import SGD
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import CMAES, GradientStrategy, RankLineSearch, Strategy
from oracles import ObjectiveOracle, Oracle, Ranked
from problems.control import Control

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SOLVED = 475.0


class UntilSolved(Hook):
    """Stops when the policy's mean return over fresh episodes is high enough."""

    def __init__(self, problem: Control) -> None:
        self.problem, self.solved = problem, False

    def on_step(self, record: dict[str, Any]) -> bool:
        self.solved = self.problem.metrics()["return"] >= SOLVED
        return self.solved


def cartpole(seed: int) -> int | None:
    """Episodes until it is solved; None if 1,000 aren't enough."""
    problem = Control("CartPole-v1", seed=seed)
    strategy = GradientStrategy(RankEvolution(Gaussian(), epsilon=0.5, probes=8), SGD(1.0, "constant"))
    session, watch = Session(strategy, problem.parameters(), seed), UntilSolved(problem)
    run(session, Ranked(ObjectiveOracle(problem)), Budget(episodes=1000), [watch])
    return int(session.spent["episodes"]) if watch.solved else None


SIDES: dict[str, tuple[Callable[[], Strategy], bool]] = {
    "ZO-RankSGD (5,5)": (
        lambda: GradientStrategy(
            RankEstimator(Gaussian(), epsilon=0.1, probes=5), line_search=RankLineSearch(step=0.5, candidates=3)
        ),
        True,
    ),
    "CMA-ES": (lambda: CMAES(0.3), True),
    "ARS V1": (lambda: GradientStrategy(AugmentedRandomSearch(Gaussian(), 0.01, 1), SGD(0.02, "constant")), False),
}


class Curve(Hook):
    """Mean test return every so many time steps of the search."""

    def __init__(self, problem: Control, session: Session, every: int) -> None:
        self.problem, self.session, self.every = problem, session, every
        self.points: list[tuple[float, float]] = []

    def on_step(self, record: dict[str, Any]) -> None:
        spent = self.session.spent["environment_steps"]
        if not self.points or spent - self.points[-1][0] >= self.every:
            self.points.append((spent, self.problem.metrics()["return"]))


def swimmer(name: str, seed: int, steps: int) -> tuple[float, list[tuple[float, float]]]:
    """The final mean return over 5 fresh episodes, and its course."""
    make, by_order = SIDES[name]
    problem = Control("Swimmer-v5", test_episodes=5, seed=seed)
    oracle: Oracle = ObjectiveOracle(problem)
    session = Session(make(), problem.parameters(), seed)
    curve = Curve(problem, session, steps // 20)
    run(session, Ranked(oracle) if by_order else oracle, Budget(environment_steps=steps), [curve])
    return problem.metrics()["return"], curve.points


def plot(curves: dict[str, list[list[tuple[float, float]]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.2))
    for color, (name, runs) in zip(("C0", "C1", "C2"), curves.items(), strict=True):
        for number, points in enumerate(runs):
            axis.plot(*zip(*points, strict=True), color=color, alpha=0.75, label=None if number else name)
    axis.set(xlabel="time steps of the environment", ylabel="mean return of 5 fresh episodes", title="Swimmer-v5")
    axis.legend()
    figure.tight_layout()
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "control.png", dpi=110)


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "").parse_args()
    print(f"control on {machine()}")
    episodes = [cartpole(seed) for seed in range(10)]
    solved = [count for count in episodes if count is not None]
    print(f"  CartPole-v1, episodes until solved: {episodes}", flush=True)
    steps, seeds = (20_000, 1) if options.quick else (400_000, 3)
    curves: dict[str, list[list[tuple[float, float]]]] = {}
    try:
        for name in SIDES:
            found = [swimmer(name, seed, steps) for seed in range(seeds)]
            curves[name] = [points for _, points in found]
            returns = [final for final, _ in found]
            print(f"  Swimmer-v5, {steps} steps, {name:18s} returns {np.round(returns, 1).tolist()}", flush=True)
        if not options.quick:
            plot(curves)
    except UserError as error:
        print(f"  Swimmer-v5 left out: {error}")
    middle = {"cartpole_median_episodes": median([float(count) for count in solved])} if solved else {}
    finish({"cartpole_solved_of_10": len(solved), **middle})


if __name__ == "__main__":
    main()
