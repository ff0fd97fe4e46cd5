"""Engine time per query on a free objective, journal on, against ask/tell loops of nevergrad, cma and cmaes.

    python -m benchmarks.query_overhead [--quick]

Ours is the path a user has: ``run`` drives a session with a journal (in a temporary folder) and an oracle over a
batched objective; central differences with 32 Rademacher probes and SGD, so a round is 64 queries and a step. The
objective is free: it hands out numbers made beforehand, which fall as in a run that goes well. The peers are asked for
64 candidates and told the same numbers; they keep no journal.

All sides of one size take turns in one process; the medians over the turns are quoted. At d = 1e6 the yardstick is the
time of drawing as much raw noise: ``torch.randn`` into a buffer of as many rows as there were queries, in the
parameters' precision (float32 there, float64 below).
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import alternate, arguments, finish, machine, median
from blackbox.budget import Budget
from blackbox.estimators import CentralDifference
from blackbox.execution import Batched
from blackbox.journal import Journal
from blackbox.noise import Rademacher
from blackbox.optimizers import SGD
from blackbox.parameters import Parameters
from blackbox.probe import Context
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from oracles import FunctionOracle, ObjectiveOracle

BATCH = 64
SIZES = (10, 100, 1000, 10_000, 100_000, 1_000_000)
TURN_SECONDS = 0.08
Side = Callable[[], Any]


@lru_cache
def falling_values() -> np.ndarray:
    """Batches of values that fall on average."""
    noise = np.random.Generator(np.random.Philox(0)).standard_normal((20_000, BATCH))
    values: np.ndarray = noise - 0.1 * np.arange(len(noise))[:, None]
    return values


class FreeValues:
    """The next batch at every call, whatever the candidates."""

    def __init__(self) -> None:
        self._batches = iter(falling_values())

    def numbers(self, candidates: Any = None) -> np.ndarray:
        return next(self._batches)

    def __call__(self, candidates: torch.Tensor, context: Context) -> torch.Tensor:
        return torch.from_numpy(next(self._batches))


class Ours:
    """A run that goes on by one round a call."""

    def __init__(self, dimension: int, folder: str, oracle: Any, dtype: torch.dtype) -> None:
        parameters = Parameters.from_vector(torch.zeros(dimension, dtype=dtype))
        strategy = GradientStrategy(CentralDifference(Rademacher(), 1e-3, BATCH // 2), SGD(lr=1e-3))
        self.oracle = oracle
        self.session = Session(strategy, parameters, journal=Journal(Path(folder)), settings=oracle.settings())

    def rounds(self, count: int) -> None:
        run(self.session, self.oracle, Budget(steps=self.session.steps + count))


def nevergrad_side(name: str, dimension: int) -> Callable[[int], None]:
    import nevergrad

    optimizer = nevergrad.optimizers.registry[name](dimension, budget=10**9, num_workers=BATCH)
    values = FreeValues()

    def rounds(count: int) -> None:
        for _ in range(count):
            asked = [optimizer.ask() for _ in range(BATCH)]
            for candidate, value in zip(asked, values.numbers().tolist(), strict=True):
                optimizer.tell(candidate, value)

    return rounds


def cma_side(dimension: int, diagonal: bool) -> Callable[[int], None]:
    import cma

    options = {"popsize": BATCH, "verbose": -9, "CMA_diagonal": diagonal, "seed": 1}
    strategy = cma.CMAEvolutionStrategy(np.zeros(dimension), 0.5, options)
    values = FreeValues()

    def rounds(count: int) -> None:
        for _ in range(count):
            strategy.tell(strategy.ask(), values.numbers())

    return rounds


def cmaes_side(dimension: int, separable: bool) -> Callable[[int], None]:
    import cmaes

    kind = cmaes.SepCMA if separable else cmaes.CMA
    values = FreeValues()

    def fresh() -> Any:
        return kind(np.zeros(dimension), 0.5, population_size=BATCH, seed=1)

    strategies = [fresh()]

    def rounds(count: int) -> None:
        for _ in range(count):
            asked = [strategies[0].ask() for _ in range(BATCH)]
            told = list(zip(asked, values.numbers().tolist(), strict=True))
            try:
                strategies[0].tell(told)
            except AssertionError:  # thousands of rounds on values that mean nothing: it has walked off to 1e32
                strategies[0] = fresh()

    return rounds


PEERS: dict[str, tuple[int, Callable[[int], Callable[[int], None]]]] = {
    "nevergrad OnePlusOne": (100_000, lambda d: nevergrad_side("OnePlusOne", d)),
    "nevergrad DE": (1000, lambda d: nevergrad_side("DE", d)),
    "nevergrad CMA": (100, lambda d: nevergrad_side("CMA", d)),
    "cma": (100, lambda d: cma_side(d, diagonal=False)),
    "cma diagonal": (100_000, lambda d: cma_side(d, diagonal=True)),
    "cmaes CMA": (100, lambda d: cmaes_side(d, separable=False)),
    "cmaes SepCMA": (1_000_000, lambda d: cmaes_side(d, separable=True)),
}
"""Name -> (largest d it manages in a few seconds a round, maker)."""
SLOW = {"nevergrad CMA", "cma", "cmaes CMA"}
"""Peers whose rounds grow with d cubed; up to d = 1000 in the full run."""


def sides_for(dimension: int, folder: str, quick: bool) -> dict[str, Callable[[int], None]]:
    dtype = torch.float64 if dimension < 1_000_000 else torch.float32
    sides = {"ours": Ours(dimension, f"{folder}/a{dimension}", ObjectiveOracle(FreeValues(), Batched()), dtype).rounds}
    if dimension < 1_000_000:
        function = FunctionOracle(FreeValues().numbers, batched=True)
        sides["ours, a numpy function"] = Ours(dimension, f"{folder}/b{dimension}", function, dtype).rounds
    else:
        sides["raw torch.randn"] = raw_normal(dimension)
        sides["raw Rademacher"] = raw_signs(dimension)
    for name, (largest, make) in PEERS.items():
        bound = largest if quick or name not in SLOW else 1000
        if dimension <= min(bound, 10_000 if quick else bound):
            sides[name] = make(dimension)
    return sides


def raw_normal(dimension: int) -> Callable[[int], None]:
    generator = torch.Generator().manual_seed(0)
    buffer = torch.empty(BATCH, dimension)

    def rounds(count: int) -> None:
        for _ in range(count):
            torch.randn(BATCH, dimension, generator=generator, out=buffer)

    return rounds


def raw_signs(dimension: int) -> Callable[[int], None]:
    """Our law's bare noise, once a query (the engine shares it between the two queries of a pair)."""
    law, spec = Rademacher(), Parameters.from_vector(torch.zeros(dimension)).layout.specs[0]
    seeds: Iterator[int] = iter(range(10**9))

    def rounds(count: int) -> None:
        for _ in range(count * BATCH):
            law.sample((next(seeds),), spec, 0, dimension)

    return rounds


def microseconds(dimension: int, folder: str, turns: int, quick: bool) -> dict[str, float]:
    """Median microseconds per query by side."""
    sides = sides_for(dimension, folder, quick)
    calls: dict[str, Side] = {}
    counts: dict[str, int] = {}
    for name, rounds in sides.items():
        rounds(1)  # imports, compiles, fills what is filled once
        start = time.perf_counter()
        rounds(2)
        each = (time.perf_counter() - start) / 2
        counts[name] = max(1, round(TURN_SECONDS / each))
        calls[name] = lambda r=rounds, n=counts[name]: r(n)  # type: ignore[misc]
    times = alternate(calls, turns)
    return {name: 1e6 * median(times[name]) / (counts[name] * BATCH) for name in sides}


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module=r"nevergrad|cma|bayes_opt|sklearn")
    print(f"Microseconds per query, {BATCH} queries a round. {machine()}")
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for dimension in SIZES:
            turns = (5 if options.quick else 15) if dimension <= 10_000 else (3 if options.quick else 7)
            found[dimension] = microseconds(dimension, folder, turns, options.quick)
            row = "  ".join(f"{name} {value:.1f}" for name, value in found[dimension].items())
            print(f"d = {dimension:>9,}:  {row}", flush=True)
    at_100, at_1e6 = found[100], found[1_000_000]
    peers = {name: value for name, value in at_100.items() if name in PEERS}
    best = min(peers, key=lambda name: peers[name])
    print(f"The fastest peer at d = 100 is {best}.")
    print(f"With a numpy function at d = 100, over it: {at_100['ours, a numpy function'] / peers[best]:.2f}")
    print(f"At d = 1e6, over our own law's bare noise: {at_1e6['ours'] / at_1e6['raw Rademacher']:.2f}")
    finish(
        {
            "microseconds_per_query_d100": at_100["ours"],
            "over_best_peer_d100": at_100["ours"] / peers[best],
            "over_raw_noise_d1e6": at_1e6["ours"] / at_1e6["raw torch.randn"],
        }
    )


if __name__ == "__main__":
    main()
