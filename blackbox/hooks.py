"""Hooks: what a run tells those who watch it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blackbox.feedback import Cost


class Hook:
    """Base of the hooks; override what you need. A hook that returns True from ``on_step`` stops the run."""

    def on_start(self, steps: int, spent: Cost) -> None:
        """The run begins, or goes on after ``steps`` steps."""

    def on_step(self, record: dict[str, Any]) -> bool | None:
        """A step was made: {"step", "queries", "seconds", "progress", ...} and the facts of the strategy."""

    def on_evaluate(self, record: dict[str, Any]) -> None:
        """Metrics were taken: {"step", "queries", "seconds", and the metrics}."""

    def on_end(self, message: str) -> None:
        """The run stops, for the reason given in words."""


class MetricsFile(Hook):
    """Writes every step and every evaluation as a line of ``metrics.jsonl``; a resumed run writes no step twice."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"

    def on_start(self, steps: int, spent: Cost) -> None:
        """Drop what a killed run wrote beyond the point it is resumed from."""
        if not self.path.exists():
            return
        lines = []
        for line in self.path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # torn by the death of the process
            if record["step"] <= steps:
                lines.append(line)
        self.path.write_text("".join(line + "\n" for line in lines))

    def on_step(self, record: dict[str, Any]) -> None:
        """One line of kind "step"."""
        self._write({"kind": "step", **record})

    def on_evaluate(self, record: dict[str, Any]) -> None:
        """One line of kind "evaluation"."""
        self._write({"kind": "evaluation", **record})

    def _write(self, record: dict[str, Any]) -> None:
        clean = {k: (None if isinstance(v, float) and v != v else v) for k, v in record.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")
