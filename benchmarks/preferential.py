"""Preferential Bayesian optimisation in a subspace against its rivals, by order alone and at few, equal queries.

d = 100. "three directions": |B^T x - c|^2 with B three random orthonormal columns, so that all but three dimensions are
idle; "all directions": |x - c|^2, of which a subspace of six dimensions holds about 6 %. c is normal, the start is 0,
losses are relative to the start's. Every side sees full rankings; each side's one width is chosen beforehand from as
many candidates on a seed of its own, at as many queries.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.harness import arguments, finish, machine
from blackbox.budget import Budget
from blackbox.estimators import RankEstimator
from blackbox.parameters import Parameters
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import CMAES, GLD, GradientStrategy, PreferentialBayes, RankLineSearch, Strategy
from oracles import FunctionOracle, Ranked

DIMENSION, SUBSPACE, TUNING_SEED = 100, 6, 100
Function = Callable[[np.ndarray], np.ndarray]


def three_directions(generator: np.random.Generator) -> Function:
    basis = np.linalg.qr(generator.standard_normal((DIMENSION, 3)))[0]
    centre = generator.standard_normal(3)
    return lambda x: np.asarray(((x @ basis - centre) ** 2).sum(-1))


def all_directions(generator: np.random.Generator) -> Function:
    centre = generator.standard_normal(DIMENSION)
    return lambda x: np.asarray(((x - centre) ** 2).sum(-1))


FUNCTIONS = {"three directions": three_directions, "all directions": all_directions}
METHODS: dict[str, tuple[Callable[[float], Strategy], tuple[float, float, float]]] = {
    "preferential": (lambda s: PreferentialBayes(s, SUBSPACE, candidates=5), (3.0, 6.0, 12.0)),
    "ZO-RankSGD": (
        lambda s: GradientStrategy(
            RankEstimator(epsilon=1e-4, probes=15), line_search=RankLineSearch(step=s, candidates=5)
        ),
        (3.0, 10.0, 30.0),
    ),
    "GLD": (lambda s: GLD(s, 0.01 * s, 9), (1.0, 3.0, 10.0)),
    "CMA-ES": (lambda s: CMAES(s, 10), (0.1, 0.3, 1.0)),
}


def solve(name: str, function: str, scale: float, seed: int, queries: int) -> float:
    """The loss where the method stands in the end, over the start's."""
    f = FUNCTIONS[function](np.random.Generator(np.random.Philox(key=seed)))
    parameters = Parameters.from_vector(np.zeros(DIMENSION))
    session = Session(METHODS[name][0](scale), parameters, seed)
    run(session, Ranked(FunctionOracle(f, batched=True)), Budget(queries=queries))
    return float(f(parameters.flat().numpy()) / f(np.zeros(DIMENSION)))


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "").parse_args()
    queries, seeds = (30, range(1)) if options.quick else (60, range(3))
    torch.set_num_threads(1)
    print(
        f"preferential on {machine()}\n  d = {DIMENSION}, {queries} queries, {len(seeds)} seeds; loss over the start's"
    )
    median: dict[str, dict[str, float]] = {}
    for function in FUNCTIONS:
        print(f"  {function}")
        median[function] = {}
        for name, (_, scales) in METHODS.items():
            tuned = min(scales, key=lambda scale: solve(name, function, scale, TUNING_SEED, queries))
            found = [solve(name, function, tuned, seed, queries) for seed in seeds]
            median[function][name] = float(np.median(found))
            each = ", ".join(f"{loss:.3g}" for loss in sorted(found))
            print(f"    {name:14s} {median[function][name]:8.3g}  ({each})   scale {tuned:g}", flush=True)
    over = {
        f"{function.replace(' ', '_')}_over_best_rival": losses["preferential"]
        / min(loss for name, loss in losses.items() if name != "preferential")
        for function, losses in median.items()
    }
    finish(over)


if __name__ == "__main__":
    main()
