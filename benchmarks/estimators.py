"""Estimators of gradients from values against each other, at equal queries, where each should pay and where not.

d = 100, about 16 queries a round (101 for one side), float64, plain descent at a constant rate. The rate of every
side is chosen on a seed of its own, from the same ladder, at the same number of queries. Functions, minimum 0, started
at random:

    rotated      quadratic of condition 100, its axes turned at random: the plain case
    scaled       quadratic along the coordinates, curvatures from 1 to 1000
    few          curvatures from 1 to 10 along 5 of the 100 coordinates: the others don't matter
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.harness import arguments, finish, machine, median
from blackbox.budget import Budget
from blackbox.estimators import (
    CentralDifference,
    CoordinateWise,
    Estimator,
    ForwardDifference,
    Guided,
    HessianDiagonal,
    HistoryAligned,
    Orthogonal,
    Regression,
    SelfGuided,
)
from blackbox.estimators.selection import Blocks, Importance, Sample
from blackbox.feedback import Values
from blackbox.journal import Journal
from blackbox.optimizers import SGD, Schedule
from blackbox.parameters import Parameters
from blackbox.probe import ids_of
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from oracles import FunctionOracle

D, MU, Q = 100, 1e-4, 8
Function = Callable[[np.ndarray], np.ndarray]

TURN = np.linalg.qr(np.random.Generator(np.random.Philox(5)).standard_normal((D, D)))[0]
CURVATURES = np.logspace(0, 2, D)
FUNCTIONS: dict[str, Function] = {
    "rotated": lambda x: 0.5 * np.square(x @ TURN) @ CURVATURES,
    "scaled": lambda x: 0.5 * np.square(x) @ np.logspace(0, 3, D),
    "few": lambda x: 0.5 * np.square(x[:, ::20]) @ np.logspace(0, 1, 5),
}
METHODS: dict[str, Callable[[], Estimator]] = {
    "central": lambda: CentralDifference(epsilon=MU, probes=Q),
    "forward": lambda: ForwardDifference(epsilon=MU, probes=2 * Q - 1),
    "orthogonal": lambda: Orthogonal(epsilon=MU, probes=2 * Q - 1, stencil="forward"),
    "coordinate, all": lambda: CoordinateWise(MU),
    "coordinate, sample": lambda: CoordinateWise(MU, select=Sample(2 * Q - 1)),
    "coordinate, blocks": lambda: CoordinateWise(MU, select=Blocks(2 * Q - 1)),
    "coordinate, importance": lambda: CoordinateWise(MU, select=Importance(2 * Q - 1)),
    "regression": lambda: Regression(epsilon=MU, probes=2 * Q - 1, stencil="forward"),
    "guided": lambda: Guided(epsilon=MU, probes=Q),
    "self-guided": lambda: SelfGuided(epsilon=MU, probes=Q, history=10),
    "history-aligned": lambda: HistoryAligned(epsilon=MU, probes=Q - 1),
    "hessian-diagonal": lambda: HessianDiagonal(epsilon=1e-2, probes=Q),
}
RATES = tuple(10.0**e for e in np.arange(-5, 0.75, 0.5))


def solve(name: str, function: str, rate: float, seed: int, queries: int) -> float:
    """The value where the method stands in the end over that at the start; infinite if it left the numbers."""
    f = FUNCTIONS[function]
    start = np.random.Generator(np.random.Philox(key=seed)).standard_normal(D)
    parameters = Parameters.from_vector(start)
    strategy = GradientStrategy(METHODS[name](), SGD(rate, Schedule("constant")))
    run(Session(strategy, parameters, seed), FunctionOracle(f, batched=True), Budget(queries=queries))
    before, after = f(np.stack([start, parameters.flat().numpy()]))
    return float(after / before) if np.isfinite(after) else float("inf")


def tuned(name: str, function: str, queries: int) -> float:
    """The rate of the lowest value on a seed that isn't reported; rates are tried upwards until it diverges."""
    best, least = RATES[0], float("inf")
    for rate in RATES:
        loss = solve(name, function, rate, 100, queries)
        if loss < least:
            best, least = rate, loss
        elif not loss < 1e3:
            break
    return best


def engine_microseconds(dimension: int, rounds: int) -> float:
    """CPU time of a query of ``coordinate`` over all coordinates in the engine alone: ask, tell, journal and step."""
    halves = {"a": torch.zeros(dimension // 2), "b": torch.zeros(dimension - dimension // 2)}
    strategy = GradientStrategy(CoordinateWise(), SGD(0.1, Schedule("constant")))
    values = np.random.Generator(np.random.Philox(1)).standard_normal(dimension + 1)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(folder)
        session = Session(strategy, Parameters(halves), journal=journal)
        for _ in range(rounds):
            began = time.process_time()
            session.tell(Values(ids_of(session.ask()), values))
            session.advance()
            seconds.append(time.process_time() - began)
        journal.close()
    return 1e6 * median(seconds) / (dimension + 1)


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "").parse_args()
    queries, seeds = (400, range(2)) if options.quick else (2000, range(3))
    torch.set_num_threads(1)
    print(f"estimators on {machine()}\n  d = {D}, {queries} queries, {len(seeds)} seeds; median of f/f(start) (range)")
    medians: dict[str, dict[str, float]] = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for function in FUNCTIONS:
            print(f"  {function}")
            medians[function] = {}
            for name in METHODS:
                rate = tuned(name, function, queries)
                found = [solve(name, function, rate, seed, queries) for seed in seeds]
                medians[function][name] = median(found)
                print(
                    f"    {name:24s} {median(found):10.2e}  ({min(found):.1e} .. {max(found):.1e})   rate {rate:.1e}",
                    flush=True,
                )
    cost = engine_microseconds(100_000, 5)
    print(f"  coordinate over all of 100,000: {cost:.2f} us a query in the engine")
    best = {f"{function}_best": min(sides, key=lambda n: sides[n]) for function, sides in medians.items()}
    finish({**best, "coordinate_engine_us_per_query": cost})


if __name__ == "__main__":
    main()
