"""Forward-only fine-tuning of SmolLM2-135M on movie reviews against zero-shot and AdamW, on the held-out split.

Rows: zero-shot (raw, and with the threshold at the median score), full-parameter MeZO over several seeds
(configs/demo-hour.yaml), LoRA (configs/lora.yaml), accuracy as the objective (configs/accuracy.yaml), AdamW with
backpropagation. Every MeZO row says how it compares with median-threshold zero-shot by McNemar's exact test on the
same held-out examples. Runs live in a folder and are resumed if they are there, so the script may be stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import arguments, finish, machine
from blackbox.cli.progress import ProgressHook
from blackbox.config.loader import load
from blackbox.experiment import Experiment, holds_run
from blackbox.memory import PeakMemory
from blackbox.report import RunRecord
from blackbox.report import load as load_run
from problems.llm import metrics
from problems.llm.baselines import adamw

CONFIGS = Path(__file__).parents[1] / "configs"
ROWS = ("demo-hour", "lora", "accuracy", "adamw")
Flags = np.ndarray[Any, Any]


def run_config(name: str, folder: Path, seed: int, settings: list[str]) -> RunRecord:
    """A finished run; resumed if it was begun, read if it is there."""
    places = [f"run.seed={seed}", f"run.name={name}-{seed}", f"run.folder={folder}"]
    config = load(CONFIGS / f"{name}.yaml", [*places, *settings])
    if not (config.folder / "result.json").exists():
        with ProgressHook() as progress:
            Experiment(config, resume=holds_run(config.folder)).run([progress])
    return load_run(config.folder)


def row_of_run(record: RunRecord, zero_shot: Flags) -> dict[str, Any]:
    """A run's last point on the held-out split, beside median-threshold zero-shot on the same examples."""
    config = load(record.folder)
    assert config.problem is not None
    problem = config.problem.build()
    problem.parameters().assign(record.tensors())
    scores, labels = problem.scores("test"), problem.labels("test")
    right = scores.argmax(1) == labels
    slopes = [step["zero_differences"] for step in record.steps]
    return {
        "accuracy": metrics.accuracy(scores, labels),
        "auc": metrics.auc(scores[:, 1] - scores[:, 0], labels == 1),
        "p": metrics.mcnemar(right, zero_shot),
        "queries": record.result["cost"]["queries"],
        "minutes": record.result["cost"]["wall_seconds"] / 60,
        "peak_memory": record.result["peak_memory"],
        "zero_differences": float(np.mean(slopes)),
    }


def show(name: str, row: dict[str, Any]) -> None:
    """One row of the table."""
    p = f"  p {row['p']:.1e}" if "p" in row else ""
    zeros = f"  zero differences {row['zero_differences']:.1%}" if "zero_differences" in row else ""
    print(
        f"  {name:28s} accuracy {row['accuracy']:.3f}  AUC {row['auc']:.3f}  queries {row.get('queries', 0):6.0f}"
        f"  peak {row['peak_memory'] / 2**30:.2f} GiB{p}{zeros}",
        flush=True,
    )


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--folder", type=Path, default=Path("runs/llm"), help="where the runs are kept")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the full-parameter row")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=ROWS, help="which rows")
    options = parser.parse_args()
    print(f"llm on {machine()}")
    settings: list[str] = []
    if options.quick:
        # Shows that every row runs; the figures mean nothing.
        options.folder, options.seeds = options.folder / "quick", 1
        settings = [
            "problem.model=tiny",
            "problem.data=tiny",
            "problem.window=0",
            "budget.queries=40",
        ]
    problem = base_problem(settings)
    scores, labels = problem.scores("test"), problem.labels("test")
    margin = scores[:, 1] - scores[:, 0]
    median = metrics.median_flags(margin)
    zero = {"auc": metrics.auc(margin, labels == 1), "peak_memory": PeakMemory.of_process()}
    print(f"  {len(labels)} held-out examples")
    show("zero-shot, raw", {"accuracy": metrics.accuracy(scores, labels), **zero})
    show("zero-shot, median threshold", {"accuracy": float((median == (labels == 1)).mean()), **zero})
    reference = median == (labels == 1)
    del problem
    figures: dict[str, Any] = {"zero_shot_median": float(reference.mean())}
    for name in options.rows:
        if name == "adamw":
            row: dict[str, Any] = adamw(base_problem(settings))
            show("AdamW, 512 examples x 2", row)
            figures["adamw"] = row["accuracy"]
            continue
        seeds = range(options.seeds if name == "demo-hour" else 1)
        rows = [row_of_run(run_config(name, options.folder, seed, settings), reference) for seed in seeds]
        for seed, row in zip(seeds, rows, strict=True):
            show(f"{name}, seed {seed}", row)
        figures[f"{name}_accuracy"] = min(row["accuracy"] for row in rows)
        figures[f"{name}_p"] = max(row["p"] for row in rows)
    finish(figures)


def base_problem(settings: list[str]) -> Any:
    """The problem of the full-parameter rows, untouched."""
    config = load(CONFIGS / "demo-hour.yaml", settings)
    assert config.problem is not None
    return config.problem.build()


if __name__ == "__main__":
    main()
