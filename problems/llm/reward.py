"""An objective of one's own: a function of prompts and completions, as the trainers of TRL take their rewards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Reward:
    """Rewards of completions, one of each prompt; higher is better.

    Args:
        function: `(prompts, completions, **columns)` -> a number for each prompt. `columns` has the data's columns,
            each a list as long as the prompts.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], rows: Sequence[Mapping[str, Any]]
    ) -> list[float]:
        """Rewards `[prompts]`.

        Raises:
            ValueError: not a finite number for each prompt; a query's failure.
        """
        found = self.function(list(prompts), list(completions), **columns_of(rows))
        rewards = [math.nan if one is None else float(one) for one in found]
        if len(rewards) != len(prompts):
            raise ValueError(f"the objective gave {len(rewards)} rewards for {len(prompts)} prompts")
        if not all(map(math.isfinite, rewards)):
            place = next(i for i, reward in enumerate(rewards) if not math.isfinite(reward))
            raise ValueError(f"the objective gave no finite reward for completion {place + 1}: {completions[place]!r}")
        return rewards


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The columns that all rows have, as keyword arguments; `prompts` and `completions` are the function's own."""
    names = [name for name in (rows[0] if rows else {}) if name not in ("prompts", "completions")]
    return {name: [row[name] for row in rows] for name in names if all(name in row for row in rows)}
