"""What a run returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path

from blackbox.feedback import Cost
from blackbox.parameters import Parameters
from blackbox.probe import Query


class Status(Enum):
    """Why a run stopped; the value is the message."""

    QUERIES = "The budget of queries is spent."
    EXAMPLES = "The budget of examples is spent."
    TOKENS = "The budget of tokens is spent."
    EPISODES = "The budget of episodes is spent."
    ENVIRONMENT_STEPS = "The budget of environment steps is spent."
    MONEY = "The budget of money is spent."
    TIME = "The time is up."
    STEPS = "The steps asked for are done."
    TARGET = "The target value was reached."
    PLATEAU = "The value has stopped improving."
    PENDING = "Answers are still to come; resume the run when they are there."
    FAILURES = "Too many queries failed; mend the oracle and resume the run."
    INTERRUPTED = "The run was interrupted; resume it to go on."
    STOPPED = "A hook asked the run to stop."

    @property
    def finished(self) -> bool:
        """False where resuming the run makes sense as it is."""
        return self not in (Status.PENDING, Status.FAILURES, Status.INTERRUPTED)


@dataclass(frozen=True)
class Best:
    """The lowest value answered so far: one answer, so perhaps a lucky one.

    Attributes:
        value: the value.
        query: the query it answered.
        find_point: works out ``point``.
    """

    value: float
    query: Query
    find_point: Callable[[], list[float] | None] = field(default=lambda: None, compare=False, repr=False)

    @cached_property
    def point(self) -> list[float] | None:
        """The candidate as a list of numbers, for vectors of up to 10,000 elements."""
        return self.find_point()


@dataclass(frozen=True)
class Result:
    """The outcome of a run.

    Attributes:
        status: why it stopped.
        parameters: the recommended point: where the strategy stands, not the luckiest noisy answer.
        best: the lowest single value answered, if the oracle answers values.
        cost: all that was spent: {"queries", "seconds", "failed", ...}.
        steps: completed steps.
        metrics: the last evaluation's metrics.
        journal: the journal's path, if there is one.
        reasons: what went wrong, for status FAILURES.
        detail: the status in words of its own, where there is more to say than usual.
    """

    status: Status
    parameters: Parameters
    best: Best | None
    cost: Cost
    steps: int
    metrics: dict[str, float] = field(default_factory=dict)
    journal: Path | None = None
    reasons: tuple[str, ...] = ()
    detail: str = ""

    @property
    def message(self) -> str:
        """The status in words."""
        return self.detail or self.status.value
