"""Minimising by order alone against values and against other methods that need only an order, at equal queries.

d = 100, about 15 candidates a round, 10 seeds (arXiv:2303.03751, section 5.1): ZO-RankSGD with (15, k)-rankings, k in
{1, 3, 5, 10, 15}; rivals that see the same kind of order: GLD, one-bit comparisons, rank evolution strategies
(OpenAI-ES and NES), CMA-ES; and ZO-SGD, which sees values. Every method's one width or rate is chosen beforehand from
the same number of candidates on seeds of their own, at the same number of queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import arguments, finish, machine, median
from blackbox.budget import Budget
from blackbox.estimators import CentralDifference, OneBit, RankEstimator, RankEvolution
from blackbox.hooks import Hook
from blackbox.noise import Gaussian
from blackbox.optimizers import SGD
from blackbox.parameters import Parameters
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import CMAES, GLD, GradientStrategy, RankLineSearch, Strategy
from oracles import FunctionOracle, Oracle, Ranked

DIMENSION, CANDIDATES = 100, 15
IMAGES = Path(__file__).parents[1] / "docs" / "images"
MU = 1e-4  # of all difference-like estimators: small against every distance reached


def quadratic(x: np.ndarray) -> np.ndarray:
    return np.asarray((x**2).sum(-1))


def rosenbrock(x: np.ndarray) -> np.ndarray:
    head, tail = x[..., :-1], x[..., 1:]
    return np.asarray((100 * (tail - head**2) ** 2 + (1 - head) ** 2).sum(-1))


FUNCTIONS = {"quadratic": quadratic, "rosenbrock": rosenbrock}


@dataclass(frozen=True)
class Method:
    """One side.

    Attributes:
        make: the strategy, given the scale that is tuned.
        scales: its candidates.
        top: k of the ranking; None is a full one; 0 shows values.
    """

    make: Callable[[float], Strategy]
    scales: tuple[float, ...]
    top: int | None = None


def rank_sgd(scale: float) -> Strategy:
    return GradientStrategy(
        RankEstimator(epsilon=MU, probes=CANDIDATES), line_search=RankLineSearch(step=scale, candidates=5)
    )


def descent(estimator: Callable[[], object]) -> Callable[[float], Strategy]:
    return lambda scale: GradientStrategy(estimator(), SGD(scale, "linear"))  # type: ignore[arg-type]


PAIRS = CANDIDATES // 2
METHODS: dict[str, Method] = {
    **{f"ZO-RankSGD (15,{k})": Method(rank_sgd, (3.0, 1.0, 0.3, 0.1), k) for k in (1, 3, 5, 10, 15)},
    "GLD": Method(lambda s: GLD(s, 1e-5 * s, CANDIDATES - 1), (10.0, 3.0, 1.0, 0.3), None),
    "one-bit comparisons": Method(descent(lambda: OneBit(Gaussian(), MU, PAIRS)), (3.0, 1.0, 0.3, 0.1, 0.03), None),
    "rank ES, centred": Method(
        descent(lambda: RankEvolution(Gaussian(), MU, PAIRS)), tuple(MU * s for s in (10.0, 3.0, 1.0, 0.3, 0.1)), None
    ),
    "rank ES, NES": Method(
        descent(lambda: RankEvolution(Gaussian(), MU, PAIRS, "nes")),
        tuple(MU * s for s in (3.0, 1.0, 0.3, 0.1, 0.03)),
        None,
    ),
    "CMA-ES": Method(lambda s: CMAES(s, CANDIDATES), (3.0, 1.0, 0.3, 0.1), None),
    "ZO-SGD with values": Method(
        descent(lambda: CentralDifference(Gaussian(), MU, PAIRS)), (0.1, 3e-2, 1e-2, 1e-4, 3e-5, 1e-5, 3e-6), 0
    ),
}
RIVALS = ("GLD", "one-bit comparisons", "rank ES, centred", "rank ES, NES", "CMA-ES")


class Gradients(Hook):
    """The gradient's norm against queries, by autograd: for the plot, no method sees it."""

    def __init__(self, function: str, parameters: Parameters, every: int) -> None:
        self.function, self.parameters, self.every = function, parameters, every
        self.points: list[tuple[float, float]] = []

    def on_step(self, record: dict[str, Any]) -> None:
        if record["step"] % self.every == 1:
            x = self.parameters.flat().requires_grad_()
            head, tail = x[:-1], x[1:]
            rough = (100 * (tail - head**2) ** 2 + (1 - head) ** 2).sum()
            (x.square().sum() if self.function == "quadratic" else rough).backward()
            assert x.grad is not None
            self.points.append((record["queries"], float(x.grad.norm())))


def solve(name: str, function: str, scale: float, seed: int, queries: int) -> tuple[float, Gradients]:
    """The loss where the method stands in the end, and the gradient's course."""
    method, f = METHODS[name], FUNCTIONS[function]
    start = np.random.Generator(np.random.Philox(key=seed)).standard_normal(DIMENSION)
    parameters = Parameters.from_vector(start)
    oracle: Oracle = FunctionOracle(f, batched=True)
    if method.top != 0:
        oracle = Ranked(oracle, method.top)
    hook = Gradients(function, parameters, 10)
    run(Session(method.make(scale), parameters, seed), oracle, Budget(queries=queries), [hook])
    loss = float(f(parameters.flat().numpy()))
    return (loss if np.isfinite(loss) else float("inf")), hook


def tuned(name: str, function: str, queries: int, seeds: range) -> float:
    """The scale of the lowest median loss on seeds that aren't reported."""
    losses = {s: median([solve(name, function, s, seed, queries)[0] for seed in seeds]) for s in METHODS[name].scales}
    return min(losses, key=lambda s: losses[s])


def cosine(top: int, trials: int) -> float:
    """Mean cosine of the estimate to the gradient at a random point of the quadratic."""
    parameters = Parameters.from_vector(np.random.Generator(np.random.Philox(key=1)).standard_normal(DIMENSION))
    strategy = RankEstimator(epsilon=MU, probes=CANDIDATES)
    session = Session(GradientStrategy(strategy, SGD(1e-4)), parameters)
    oracle = Ranked(FunctionOracle(quadratic, batched=True), top)
    total = 0.0
    for _ in range(trials):
        before = parameters.flat()
        gradient = 2 * before
        oracle.submit(session.ask(), parameters)
        session.tell_all(oracle.poll())
        session.advance()
        moved = before - parameters.flat()
        total += float(torch.nn.functional.cosine_similarity(moved, gradient, dim=0))
    return total / trials


def plot(curves: dict[str, dict[str, list[Gradients]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(12, 4.6))
    for axis, (function, sides) in zip(axes, curves.items(), strict=True):
        for name, hooks in sides.items():
            length = min(len(hook.points) for hook in hooks)
            queries = [point[0] for point in hooks[0].points[:length]]
            norms = np.median([[point[1] for point in hook.points[:length]] for hook in hooks], 0)
            style = "-" if name.startswith("ZO-RankSGD") else "--" if name in RIVALS else ":"
            axis.plot(queries, norms, style, label=name, linewidth=1.6)
        axis.set(yscale="log", xlabel="queries", title=f"{function}, d = {DIMENSION}")
    axes[0].set_ylabel("norm of the gradient, median")
    axes[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    figure.tight_layout()
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "ranking.png", dpi=110)


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "").parse_args()
    queries, seeds, tuning = (1500, range(3), range(100, 101)) if options.quick else (6000, range(10), range(100, 103))
    torch.set_num_threads(1)
    print(f"ranking on {machine()}\n  d = {DIMENSION}, {queries} queries, {len(seeds)} seeds; median loss (quartiles)")
    losses: dict[str, dict[str, float]] = {}
    curves: dict[str, dict[str, list[Gradients]]] = {}
    for function in FUNCTIONS:
        print(f"  {function}")
        losses[function], curves[function] = {}, {}
        for name in METHODS:
            scale = tuned(name, function, queries, tuning)
            found = [solve(name, function, scale, seed, queries) for seed in seeds]
            low, middle, high = np.quantile([loss for loss, _ in found], (0.25, 0.5, 0.75))
            losses[function][name], curves[function][name] = float(middle), [hook for _, hook in found]
            print(f"    {name:22s} {middle:10.3e}  ({low:.2e} .. {high:.2e})   scale {scale:g}", flush=True)
    if not options.quick:
        plot(curves)
    found_cosines = {k: cosine(k, 300 if options.quick else 2000) for k in (5, 15)}
    ours = min(losses["quadratic"][f"ZO-RankSGD (15,{k})"] for k in (5, 10, 15))
    best = min(losses["quadratic"][name] for name in RIVALS)
    finish(
        {
            "cosine_15_5": found_cosines[5],
            "cosine_15_15": found_cosines[15],
            "quadratic_loss_over_best_ranking_rival": ours / best,
        }
    )


if __name__ == "__main__":
    main()
