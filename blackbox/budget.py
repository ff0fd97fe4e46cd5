"""Budgets: what a run may spend, counted in answers by their cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from blackbox.errors import UserError
from blackbox.feedback import Cost
from blackbox.result import Status


@dataclass(frozen=True)
class Budget:
    """Limits of a run; None is no limit. The first one reached ends it.

    Args:
        queries: answered queries (failed attempts count, cache hits don't).
        examples: data examples evaluated (a query over n examples costs n).
        tokens: tokens evaluated.
        episodes: episodes of an environment.
        environment_steps: time steps of an environment; known afterwards, so the round that passes the limit is
            still made.
        money: what a service charges, in the currency of the oracle's prices.
        minutes: wall time of the run, over all its resumptions.
        steps: completed steps.
        target: stop once a value at or below this was seen.
        plateau: stop after this many steps without a new lowest smoothed value.
    """

    queries: float | None = None
    examples: float | None = None
    tokens: float | None = None
    episodes: float | None = None
    environment_steps: float | None = None
    money: float | None = None
    minutes: float | None = None
    steps: int | None = None
    target: float | None = None
    plateau: int | None = None

    def __post_init__(self) -> None:
        limits = {name: getattr(self, name) for name in (*_COINS, "minutes", "steps")}
        for name, limit in (*limits.items(), ("plateau", self.plateau)):
            if limit is not None and not limit > 0:
                raise UserError(f"budget.{name} must be positive, not {limit}.")
        if all(limit is None for limit in (*limits.values(), self.target, self.plateau)):
            names = ", ".join((*_COINS, "minutes", "steps", "target"))
            raise UserError(f"A budget needs a limit: {names} or plateau.")

    def progress(self, spent: Cost, minutes: float, steps: int) -> float:
        """The largest share of a limit that is spent, in [0, 1]; what schedules go by."""
        shares = [spent.get(coin, 0) / limit for coin, limit in self._coins]
        if self.minutes is not None:
            shares.append(minutes / self.minutes)
        if self.steps is not None:
            shares.append(steps / self.steps)
        return min(1.0, max(shares, default=0.0))

    def exceeded_by(self, spent: Cost, more: Cost, minutes: float, steps: int) -> Status | None:
        """Why nothing more may be asked if the next round costs ``more``; None if it may."""
        for coin, limit in self._coins:
            had = spent.get(coin, 0)
            # What the next round costs in some coins is known only afterwards.
            if had + more.get(coin, 0) > limit or (coin not in more and had >= limit):
                return _COINS[coin]
        if self.minutes is not None and minutes >= self.minutes:
            return Status.TIME
        if self.steps is not None and steps >= self.steps:
            return Status.STEPS
        return None

    def too_small_for(self, round: Cost) -> str | None:
        """In words: the first limit that not even one round keeps to, if there is one."""
        for coin, limit in self._coins:
            if (needed := round.get(coin, 0)) > limit:
                words = coin.replace("_", " ")
                return f"Nothing was asked: one round costs {needed:g} {words}, and budget.{coin} is {limit:g}."
        return None

    @cached_property
    def _coins(self) -> list[tuple[str, float]]:
        """The limits that there are."""
        return [(coin, float(limit)) for coin in _COINS if (limit := getattr(self, coin)) is not None]


_COINS = {
    "queries": Status.QUERIES,
    "examples": Status.EXAMPLES,
    "tokens": Status.TOKENS,
    "episodes": Status.EPISODES,
    "environment_steps": Status.ENVIRONMENT_STEPS,
    "money": Status.MONEY,
}
