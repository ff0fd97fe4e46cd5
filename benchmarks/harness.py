"""What the benchmarks share: alternating timing, and one JSON object as the last line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with --quick."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a smaller run of under 50 seconds")
    return parser


def alternate(sides: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of every side in every round; each round runs all sides, in turning order."""
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round in range(-warmup, rounds):
        turn = round % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            sides[name]()
            if round >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median(seconds: list[float]) -> float:
    """The median."""
    return statistics.median(seconds)


def machine() -> str:
    """One line about where this ran."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    processor = platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}{load}"


def finish(figures: Mapping[str, Any]) -> None:
    """Print the headline figures as the last line."""
    print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in figures.items()}))
