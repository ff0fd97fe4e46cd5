"""A scoring model fitted to recorded people's orders alone, against least squares on the same people's ratings.

The problem `preferences`: movie-review sentences as 64 components of encoder features, a linear model. The side by
order: in every round 16 candidate models are put in order by each of the people who rated ten sheets of 30 sentences
(`oracles.ReplayedRatings`), and ZO-RankSGD sees these orders and nothing else. The side by value: ridge regression on
the mean of the same people's ratings. Held out: 1,800 sentences on other sheets, rated by other people; Kendall's tau
between a model's scores and the mean of all ratings of a sentence. A person's order compares sentences of one sheet
only, while means of ratings compare all; so a third fit is by value with every sheet's mean taken off.

Each side's one setting (a learning rate, a ridge) is chosen by the tau on 1,200 validation sentences. Both see the same
people of the same sentences: the number of human judgements is equal. Rounds by order read them many times.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import kendalltau

from benchmarks.harness import arguments, finish, machine, median
from blackbox.budget import Budget
from blackbox.estimators import RankEstimator
from blackbox.optimizers import SGD
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from oracles import ReplayedRatings
from problems.preferences import Preferences
from problems.preferences.value_fit import mean_ratings

EPSILON, CANDIDATES = 0.2, 16
RATES = (0.1, 0.3, 0.6)
RATERS = (1, 3, 10)


def by_order(raters: int, train_sheets: int | None, rate: float, seed: int, queries: int) -> tuple[float, float]:
    """Kendall's tau on validation and on test sentences where the run stands in the end."""
    problem = Preferences(raters=raters, train_sheets=train_sheets, seed=seed)
    strategy = GradientStrategy(RankEstimator(epsilon=EPSILON, probes=CANDIDATES), SGD(rate, "linear"))
    run(Session(strategy, problem.parameters(), seed), ReplayedRatings(problem), Budget(queries=queries))
    weights = problem.parameters().flat().double().numpy()
    return problem.tau(weights, "validation"), problem.tau(weights, "test")


def compared(raters: int, train_sheets: int | None, seeds: range, queries: int) -> dict[str, float]:
    """Medians over seeds: tau by order, tau by value, and their gap; seeds draw the people, the sheets and the run."""
    found = []
    for seed in seeds:
        runs = [by_order(raters, train_sheets, rate, seed, queries) for rate in RATES]
        problem = Preferences(raters=raters, train_sheets=train_sheets, seed=seed)
        value, within = mean_ratings(problem)["tau"], mean_ratings(problem, within_sheets=True)["tau"]
        found.append((max(runs)[1], value, value - max(runs)[1], within, float(problem.judgements.size)))
    order, value, gap, within, judgements = (median(list(column)) for column in zip(*found, strict=True))
    low, high = min(one[0] for one in found), max(one[0] for one in found)
    print(
        f"  {train_sheets or 254:4d} sheets  {raters:2d} raters  {judgements:7.0f} judgements   "
        f"by order {order:.4f} ({low:.4f} .. {high:.4f})   by value {value:.4f}   gap {gap:.4f}   "
        f"by value within sheets {within:.4f}",
        flush=True,
    )
    return {"order": order, "value": value, "gap": gap, "within": within}


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    seeds, queries, few = (range(1), 8_000, 3_000) if options.quick else (range(3), 16_000, 4_800)
    print(f"human data on {machine()}\n  {len(seeds)} seeds, {queries} queries ({few} with 20 sheets); medians")
    whole = compared(3, None, seeds, queries)
    by_raters = {raters: compared(raters, 20, seeds, few) for raters in RATERS}
    people = Preferences(raters=1)
    items = people.items("test")
    means = people.records.means[items]
    one = float(np.mean([kendalltau(people.records.ratings[items, j], means).statistic for j in range(15)]))
    print(f"  one person's own ratings against the mean of all: tau {one:.4f}")
    finish(
        {
            "tau_gap": whole["gap"],
            "tau_by_order": whole["order"],
            "tau_by_value": whole["value"],
            "tau_by_value_within_sheets": whole["within"],
            **{f"tau_20_sheets_{r}_raters": found["order"] for r, found in by_raters.items()},
            **{f"tau_20_sheets_{r}_raters_by_value": found["value"] for r, found in by_raters.items()},
            **{f"tau_20_sheets_{r}_raters_by_value_within": found["within"] for r, found in by_raters.items()},
        }
    )


if __name__ == "__main__":
    main()
