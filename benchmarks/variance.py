"""Schemes of variance reduction on finite sums, at equal cost: evaluations of a component (one example's loss).

Problems (scikit-learn's tables): logistic regression on breast-cancer (n = 455, d = 31) and on digits (n = 1438, d =
650), and a network with 16 hidden units on digits (d = 1210), which isn't convex; each with a penalty of .01, so that
examples still disagree at the minimum. A query over b examples costs b, over all data n. Every scheme has the same
estimator inside (central differences, random signs, the same probes and minibatch) and takes plain steps (SGD, linear
decay); its step size is the best of one grid, by factors of about 3, on a seed of its own. "averaging" is the
reference: the mean of four estimates, each on a minibatch of its own. First-order descent, with a gradient over b
examples counted as b evaluations, is the bound.

A fourth problem, breast-cancer with a penalty of .1 and a budget of 800 n, was added after the first three had been
run: well conditioned and long is where the theory of snapshots promises most. At first averaging, SVRG-Coord-Rand and
SPIDER-Coord alone were run on it; then all the others, and PAGE-Coord on both problems that allow it.

Measured: the training loss over all data at the end, and along the way the squared error of the estimate over the
squared length of the full gradient (autograd), median over steps past the first tenth.

"Ahead of averaging", worded before the runs (the long, well-conditioned problem was added after no scheme was ahead on
the other three): on at least one problem for which its theory promises something, the scheme's
median loss is below averaging's by more than the seeds' spread, the larger of the two interquartile ranges. Theory
promises it for SVRG, SPIDER, PAGE, STORM and SAGA on every finite sum, for the control variate wherever gradients
change slowly (all of them), for shrinkage (a step size that adapts) where noise swamps the slope (all of them). It
promises nothing for antithetic pairs around a forward difference, which has no even part to cancel at this epsilon,
nor for a single estimate.

Every run's outcome is kept under ``--folder`` (runs/variance), so a benchmark that was cut off goes on where it was.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import arguments, finish, machine
from benchmarks.variance_schemes import COORDINATES, FIRST_ORDER, SCHEMES, SETTINGS, Kept, minimum

IMAGES = Path(__file__).parents[1] / "docs" / "images"
REFERENCE = "averaging"
UNPROMISED = ("one estimate", "antithetic")
RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
FIRST_RATE = RATES.index(0.01)
TUNING_SEED = 1000

Found = dict[str, dict[str, Any]]
"""By scheme: loss, low, high, error, rate, course."""


def tuned(name: str, title: str, passes: int, kept: Kept) -> float:
    """The rate of the lowest loss on a seed that isn't reported: up from .01 until it gets worse twice, then down."""
    losses: dict[float, float] = {}

    def best() -> float:
        return min(losses, key=losses.__getitem__)

    def run(rate: float) -> None:
        losses[rate] = kept.solve(name, title, rate, TUNING_SEED, passes, watch=False).loss

    for i in range(FIRST_RATE, len(RATES)):
        run(RATES[i])
        if losses[RATES[i]] > 3 * losses[best()] or i >= RATES.index(best()) + 2:
            break
    for i in range(FIRST_RATE - 1, -1, -1):
        if best() != RATES[i + 1]:
            break
        run(RATES[i])
    return best()


def compare(title: str, passes: int, seeds: range, kept: Kept) -> Found:
    """Every scheme on one problem."""
    n, d = (problem := SETTINGS[title].make()).examples, problem.parameters().dimension
    lowest = minimum(problem) if not SETTINGS[title].hidden else None
    known = "" if lowest is None else f"; the minimum is {lowest:.9f}"
    print(f"  {title}: n = {n}, d = {d}, {passes} n evaluations{known}", flush=True)
    found: Found = {}
    for name in (*SCHEMES, *FIRST_ORDER):
        if name in COORDINATES and d > passes:  # a full estimate alone would cost d n or more
            print(f"    {name:20s} a full estimate costs (d + 1) n: more than there is")
            continue
        rate = tuned(name, title, passes, kept)
        outcomes = [kept.solve(name, title, rate, seed, passes, watch=True) for seed in seeds]
        low, middle, high = (float(q) for q in np.quantile([one.loss for one in outcomes], (0.25, 0.5, 0.75)))
        error = float(np.median([one.error for one in outcomes]))
        found[name] = {"loss": middle, "low": low, "high": high, "error": error, "rate": rate}
        found[name]["course"] = [(x, y - (lowest or 0.0)) for x, y in outcomes[0].course]
        above = "" if lowest is None else f"  above {middle - lowest:8.2g} ({low - lowest:.2g} .. {high - lowest:.2g})"
        print(
            f"    {name:20s} loss {middle:.5f} ({low:.5f} .. {high:.5f}){above}  error {error:9.3g}  rate {rate:g}",
            flush=True,
        )
    return found


def ahead(found: Found) -> list[str]:
    """The schemes that are, on one problem, as the module says."""
    names = []
    for name in SCHEMES:
        if name == REFERENCE or name in UNPROMISED or name not in found:
            continue
        ours, theirs = found[name], found[REFERENCE]
        spread = max(ours["high"] - ours["low"], theirs["high"] - theirs["low"])
        if ours["loss"] < theirs["loss"] - spread:
            names.append(name)
    return names


def plot(results: dict[str, Found]) -> None:
    """docs/images/variance.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = (*SCHEMES, *FIRST_ORDER)
    colours = {name: pyplot.get_cmap("tab20")(i) for i, name in enumerate(names)}
    figure, axes = pyplot.subplots(1, len(results), figsize=(14, 4.2))
    for axis, (title, found) in zip(axes, results.items(), strict=True):
        n, convex = SETTINGS[title].make().examples, not SETTINGS[title].hidden
        for name, result in found.items():
            costs, losses = (np.array(one) for one in zip(*result["course"], strict=True))
            style = ":" if name in FIRST_ORDER else "--" if name in (REFERENCE, *UNPROMISED) else "-"
            axis.plot(costs / n, np.maximum(losses, 1e-12), style, label=name, linewidth=1.4, color=colours[name])
        label = "training loss - minimum" if convex else "training loss"
        axis.set(xlabel="evaluations / n", ylabel=label, title=title.replace(", well", "\nwell"), yscale="log")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="center right")
    figure.tight_layout(rect=(0, 0, 0.89, 1))
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "variance.png", dpi=80)
    pyplot.close(figure)


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--folder", type=Path, default=Path("runs/variance"), help="where outcomes are kept")
    parser.add_argument("--scale", type=float, default=1.0, help="a factor on the budgets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"variance on {machine()}; median loss (quartiles), squared error of the estimate over |gradient|^2")
    kept, results = Kept(options.folder), {}
    for title in list(SETTINGS)[:1] if options.quick else SETTINGS:
        passes = 12 if options.quick else round(SETTINGS[title].passes * options.scale)
        results[title] = compare(title, passes, range(2 if options.quick else 3), kept)
    if not options.quick and options.scale == 1.0:
        plot(results)
    where = {title: ahead(found) for title, found in results.items()}
    names = [name for name in SCHEMES if any(name in found for found in where.values())]
    best = {t: min((r["loss"], n) for n, r in f.items() if n not in FIRST_ORDER)[1] for t, f in results.items()}
    finish(
        {
            "schemes_ahead_of_averaging": len(names),
            "ahead": names,
            "ahead_by_problem": where,
            "best": best,
            "problems": len(results),
        }
    )


if __name__ == "__main__":
    sys.exit(main())
