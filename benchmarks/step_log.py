"""What a run's log of seeds and scalars weighs, and how long its weights take to rebuild.

    python -m benchmarks.step_log [--quick]

Fine-tunes SmolLM2-135M for some steps (full parameters; then LoRA), writes weights and log as `blackbox export` does,
and rebuilds the weights from the log on a base loaded anew. They are compared bit for bit. A step's line does not
depend on the model; the time to make the step again does: one pass over the tuned weights.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import harness
from blackbox import Journal, Session, run, steplog
from blackbox.cli.export import start
from blackbox.config.loader import build_strategy, check
from blackbox.config.source import parse
from blackbox.experiment import settings_of
from oracles import ObjectiveOracle

RUN = """
problem: {type: llm-classification, model: smollm2-135m, data: movie-reviews, batch_size: 2, tuning: TUNING}
estimator: {type: central, noise: rademacher, epsilon: EPSILON}
optimizer: {type: sgd, lr: 1e-5}
budget: {steps: STEPS}
"""


def main() -> None:
    options = harness.arguments(__doc__ or "").parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for tuning, epsilon in (("full", "1e-3"), ("lora", "1e-2")):
            steps = 4 if options.quick else 40
            text = RUN.replace("TUNING", tuning).replace("EPSILON", epsilon).replace("STEPS", str(steps))
            figures |= {f"{tuning}_{name}": value for name, value in measured(text, Path(folder) / tuning).items()}
    print(harness.machine())
    for name, value in figures.items():
        print(f"{name:28} {value:,.4g}")
    harness.finish(figures)


def measured(text: str, folder: Path) -> dict[str, Any]:
    """One run's log against its weights."""
    config = check(parse(text))
    assert config.problem is not None
    problem = config.problem.build()
    oracle, parameters = ObjectiveOracle(problem), problem.parameters()
    with closing(Journal(folder)) as journal:
        session = Session(build_strategy(config), parameters, 0, journal, settings_of(oracle, parameters))
        run(session, oracle, config.budget.build(), checkpoint_every=10**6)
    problem.export(folder / "export")
    weights = max((folder / "export").glob("*.safetensors"), key=lambda file: file.stat().st_size)
    base = start(config.problem)
    began = time.perf_counter()
    log = steplog.of_run(folder, config.resolved(), build_strategy(config), base.parameters())
    written = time.perf_counter() - began
    log.save(folder / "steps.jsonl")
    lines = (folder / "steps.jsonl").read_bytes().splitlines(keepends=True)
    began = time.perf_counter()
    steplog.rebuild(log, build_strategy(config), base.parameters())
    rebuilt = time.perf_counter() - began
    return {
        "steps": len(log.steps),
        "bytes_a_step": sum(map(len, lines[1:])) / len(log.steps),
        "bytes_of_the_head": len(lines[0]),
        "bytes_of_the_weights": weights.stat().st_size,
        "write_seconds": written,
        "rebuild_seconds": rebuilt,
        "identical": float(steplog.checksum(base.parameters()) == log.head["ends"]),
    }


if __name__ == "__main__":
    main()
