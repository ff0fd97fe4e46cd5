"""What a run's folder tells: ``load`` reads it, ``table`` shows it in a terminal, ``plot`` draws a curve."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blackbox.agreement import of_run
from blackbox.config.source import read
from blackbox.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from torch import Tensor

_SHOWN_OF_A_POINT = 10
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder records it.

    Attributes:
        config: the resolved configuration.
        steps: one record a step: "step", "queries", "seconds", "value", ...
        evaluations: one record an evaluation: "step", "queries" and the metrics.
        test: "before", "after" and "baselines", as far as they are known.
        result: "status", "message", "cost", ...; empty while the run has not stopped in order.
    """

    folder: Path
    config: dict[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    test: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """Why the run stopped, in words."""
        return str(self.result.get("message", "The run has not stopped in order; it may still be going."))

    def tensors(self) -> dict[str, Tensor]:
        """The tuned tensors of the newest checkpoint, on the CPU; raises UserError if there is none."""
        tensors: dict[str, Tensor] = self._checkpoint()["tensors"]
        return tensors

    def memory(self) -> dict[str, Any] | None:
        """What the oracle's answers depended on besides the questions, by the newest checkpoint."""
        return self._checkpoint().get("memory")

    def _checkpoint(self) -> dict[str, Any]:
        from blackbox import checkpoint

        saved = sorted((self.folder / "checkpoints").glob("step-*.safetensors"))
        if not saved:
            raise UserError(f"{self.folder} has no checkpoint (run.checkpoint_every is 0, or it was too short).")
        return checkpoint.load(saved[-1])


def load(folder: str | Path) -> RunRecord:
    """Read a run's folder; raises UserError if it is none."""
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is no run's folder: it has no config.yaml.{_runs_near(folder)}")
    records = _lines(folder / "metrics.jsonl")
    return RunRecord(
        folder,
        read(folder / "config.yaml").data,
        [r for r in records if r.get("kind") == "step"],
        [r for r in records if r.get("kind") == "evaluation"],
        _object(folder / "test.json"),
        _object(folder / "result.json"),
    )


def table(record: RunRecord) -> RenderableType:
    """Status, curve, metrics before and after, and samples."""
    from rich.console import Group
    from rich.table import Table

    parts: list[RenderableType] = [_facts(record)]
    before, after = record.test.get("before", {}), record.test.get("after", {})
    columns = {
        "before": before.get("metrics", {}),
        "after": after.get("metrics", {}),
        **record.test.get("baselines", {}),
    }
    if record.evaluations:
        split = record.config.get("run", {}).get("evaluate_on", "held out")
        last = record.evaluations[-1]
        found = {k: v for k, v in last.items() if k not in _BOOKKEEPING}
        if found != columns["after"]:  # a problem without data has the same metrics on every split
            columns[f"{split}, last"] = found
    columns = {name: metrics for name, metrics in columns.items() if metrics}
    if columns:
        metrics = Table("metric", *columns, title="Metrics")
        for row in dict.fromkeys(key for values in columns.values() for key in values):
            shown = _bytes if row == "peak_memory" else _number
            metrics.add_row(row, *(shown(values.get(row)) for values in columns.values()))
        parts.append(metrics)
    together = of_run(record.folder)
    if together:
        raters = Table("raters", "Kendall's tau", "rounds", "pairs", title="Agreement")
        for one in together:
            raters.add_row(" and ".join(one.raters), f"{one.tau:.2f}", str(one.rounds), str(one.pairs))
        parts.append(raters)
    if before.get("samples"):
        samples = Table(title="Samples", expand=True)
        samples.add_column("sample", no_wrap=True, overflow="ellipsis", ratio=1)
        later = after.get("samples") or [{}] * len(before["samples"])
        cells = [
            (_sample(first), str(first.get("label", "")), _answer(first), _answer(last))
            for first, last in zip(before["samples"], later, strict=False)
        ]
        for index, name in enumerate(("label", "before", "after"), 1):
            # Rich would rather shorten these than the sentence, down to nothing.
            width = max(len(name), *(len(row[index]) for row in cells))
            samples.add_column(name, no_wrap=True, overflow="ellipsis", min_width=min(width, 18))
        for row in cells:
            samples.add_row(*row)
        parts.append(samples)
    return Group(*parts)


def plot(record: RunRecord, path: Path | None = None) -> Path | None:
    """Draw value and metrics against queries into report.png; None without matplotlib or without a step."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    if not record.steps:
        return None
    path = path or record.folder / "report.png"
    names = [k for k in (record.evaluations[-1] if record.evaluations else {}) if k not in (*_BOOKKEEPING, "examples")]
    figure = Figure(figsize=(5.5 * (1 + bool(names)), 3.6), layout="constrained")
    axes = figure.subplots(1, 1 + bool(names), squeeze=False)[0]
    queries, values = _series(record.steps, "value")
    axes[0].plot(queries, values, color="0.8", linewidth=0.8, label="one step")
    axes[0].plot(queries, smoothed(values), color="C0", label="running mean")
    axes[0].set(xlabel="queries", title="value (lower is better)")
    for name in names:
        axes[1].plot(*_series(record.evaluations, name), marker="o", markersize=3, label=name)
    if names:
        axes[1].set(xlabel="queries", title="metrics")
    for ax in axes:
        ax.legend(frameon=False, fontsize="small")
        ax.grid(alpha=0.3)
    figure.suptitle(record.folder.name)
    figure.savefig(path, dpi=130)
    return path


def smoothed(values: list[float]) -> list[float]:
    """Running mean over about a twentieth of the series."""
    weight, mean, result = 2.0 / (len(values) / 20 + 2), math.nan, []
    for value in values:
        mean = value if math.isnan(mean) else (1 - weight) * mean + weight * value
        result.append(mean)
    return result


def sparkline(values: list[float], width: int = 40) -> str:
    """A curve in one line of text."""
    if not values:
        return ""
    width = min(width, len(values))
    picked = [values[(i + 1) * len(values) // width - 1] for i in range(width)]
    low, span = min(picked), (max(picked) - min(picked)) or 1.0
    return "".join(_BARS[round((v - low) / span * (len(_BARS) - 1))] for v in picked)


_BOOKKEEPING = ("kind", "step", "queries", "seconds")


def _facts(record: RunRecord) -> RenderableType:
    from rich.table import Table

    facts = Table.grid(padding=(0, 2))
    facts.add_row("run", str(record.folder))
    facts.add_row("status", record.message)
    cost = record.result.get("cost") or (record.steps[-1] if record.steps else {})
    spent = [f"{_number(value)} {name.replace('_', ' ')}" for name, value in cost.items() if name in _COINS]
    if record.steps:
        spent.insert(0, f"{_number(record.steps[-1]['step'])} steps")
    facts.add_row("spent", ", ".join(spent) or "nothing yet")
    _, values = _series(record.steps, "value")
    if values:
        mean = smoothed(values)
        facts.add_row("value", f"{_number(mean[0])} {sparkline(mean)} {_number(mean[-1])}")
    if record.result.get("best"):
        facts.add_row("lowest value", _number(record.result["best"]["value"]))
    point = record.result.get("point") or []
    if 0 < len(point) <= _SHOWN_OF_A_POINT:
        facts.add_row("point", ", ".join(map(_number, point)))
    if record.result.get("peak_memory"):
        facts.add_row("peak memory", _bytes(record.result["peak_memory"]))
    for reason in record.result.get("reasons", []):
        facts.add_row("failure", str(reason))
    if (worse := what_got_worse(record)) is not None:
        facts.add_row("note", worse)
    return facts


def what_got_worse(record: RunRecord) -> str | None:
    """One sentence if the run ended worse than it began, by its values or by most of its metrics; else None."""
    _, values = _series(record.steps, "value")
    mean = smoothed(values)
    if len(mean) > 1 and mean[-1] > mean[0]:
        what = f"The value ended above where it began ({_number(mean[0])}, now {_number(mean[-1])})"
    elif (found := _worse_metrics(record)) is not None:
        what = f"The metrics ended worse than they began ({found})"
    else:
        return None
    advice = "lower optimizer.lr" if "lr" in (record.config.get("optimizer") or {}) else "take smaller steps"
    return f"{what}: {advice}, or ask more probes a step."


_HIGHER_IS_BETTER = {"accuracy": True, "auc": True, "median_accuracy": True, "cross_entropy": False}


def _worse_metrics(record: RunRecord) -> str | None:
    """The metrics that got worse, if they are most of those that have a known better side."""
    better = {**_HIGHER_IS_BETTER, "value": bool(record.result.get("maximize", False))}
    first, last = (record.test.get(moment, {}).get("metrics", {}) for moment in ("before", "after"))
    if record.evaluations and not last:
        first, last = record.evaluations[0], record.evaluations[-1]
    pairs = {name: (first[name], last[name]) for name in better if _are_numbers(first.get(name), last.get(name))}
    worse = {name: (a, b) for name, (a, b) in pairs.items() if (b < a if better[name] else b > a)}
    if 2 * len(worse) <= len(pairs):
        return None
    return ", ".join(f"{name} {_number(a)}, now {_number(b)}" for name, (a, b) in worse.items())


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


_COINS = ("queries", "examples", "tokens", "failed", "wall_seconds")


def _series(records: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    pairs = [(r["queries"], r[key]) for r in records if isinstance(r.get(key), int | float) and math.isfinite(r[key])]
    return [float(x) for x, _ in pairs], [float(y) for _, y in pairs]


def _number(value: Any) -> str:
    if not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e12 else f"{value:.4g}"


def _bytes(count: float | None) -> str:
    if count is None:
        return ""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _sample(sample: dict[str, Any]) -> str:
    return " ".join(str(sample.get("text", sample)).split())


def _answer(sample: dict[str, Any]) -> str:
    margin = sample.get("margin")
    return f"{sample.get('answer', '')}{f' ({margin:+.2f})' if isinstance(margin, float) else ''}"


def _object(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole: the last one may still be in the writing."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def _runs_near(folder: Path) -> str:
    found = sorted(str(p.parent) for near in (folder, folder.parent, Path("runs")) for p in near.glob("*/config.yaml"))
    return f" Runs near it: {', '.join(found[:5])}." if found else ""
