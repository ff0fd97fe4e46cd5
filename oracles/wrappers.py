"""Oracles around oracles: noisy, counted, retried. They take any oracle and can be nested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from blackbox.errors import UserError
from blackbox.execution import Execution, InPlace
from blackbox.feedback import Cost, Failed, Feedback, Values, add_cost
from blackbox.parameters import Parameters
from blackbox.probe import Query
from blackbox.seeds import derive_seed
from blackbox.steering import Steer
from oracles.base import BaseOracle, Oracle


class Wrapper(BaseOracle):
    """Passes everything through; subclasses change what they are about."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.answers = oracle.answers | {Failed}

    @property
    def per_example(self) -> bool:
        """The inner oracle's."""
        return bool(getattr(self.oracle, "per_example", False))

    @per_example.setter
    def per_example(self, wanted: bool) -> None:
        self.oracle.per_example = wanted  # type: ignore[attr-defined]

    @property
    def execution(self) -> Execution | None:
        """The innermost oracle's, if it has one."""
        return getattr(self.oracle, "execution", None)

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Asks the inner oracle."""
        self.oracle.submit(queries, parameters)

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """The inner oracle's answers."""
        return self.oracle.poll(timeout)

    def cost(self, queries: Sequence[Query]) -> Cost:
        """The inner oracle's estimate."""
        inner = getattr(self.oracle, "cost", super().cost)
        cost: Cost = inner(queries)
        return cost

    def replay(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """The inner oracle's."""
        getattr(self.oracle, "replay", super().replay)(queries, parameters)

    def settings(self) -> dict[str, Any]:
        """The inner oracle's."""
        settings: dict[str, Any] = getattr(self.oracle, "settings", super().settings)()
        return settings

    def attach(self, folder: Path) -> None:
        """Tells the inner oracle."""
        getattr(self.oracle, "attach", super().attach)(folder)

    def steering(self) -> Sequence[Steer]:
        """The inner oracle's."""
        requests: Sequence[Steer] = getattr(self.oracle, "steering", super().steering)()
        return requests

    def take_memory(self) -> Mapping[str, Any] | None:
        """The inner oracle's."""
        memory: Mapping[str, Any] | None = getattr(self.oracle, "take_memory", super().take_memory)()
        return memory

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Tells the inner oracle."""
        getattr(self.oracle, "recall", super().recall)(memory)

    def take_notes(self) -> Sequence[str]:
        """The inner oracle's."""
        notes: Sequence[str] = getattr(self.oracle, "take_notes", super().take_notes)()
        return notes

    def close(self) -> None:
        """Closes the inner oracle."""
        getattr(self.oracle, "close", super().close)()

    def _need_values(self) -> None:
        if Values not in self.oracle.answers:
            kinds = ", ".join(sorted(kind.__name__ for kind in self.oracle.answers))
            raise UserError(
                f"{type(self).__name__} needs an oracle that answers Values, but "
                f"{type(self.oracle).__name__} answers {kinds}."
            )

    def _refuse_in_place(self) -> None:
        # A resumed run repeats the passes of the queries that were planned, no more and no fewer.
        if isinstance(self.execution, InPlace):
            raise UserError(
                f"{type(self).__name__} changes which queries are evaluated, so a run with the in-place "
                "execution could not be resumed bit for bit. Use the write-free execution."
            )


class Noisy(Wrapper):
    """Adds Gaussian noise to every number. The noise is a function of the query's id and the seed.

    Args:
        oracle: one that answers Values.
        sigma: standard deviation, of each example's value where there are several.
        seed: of the noise.
    """

    def __init__(self, oracle: Oracle, sigma: float, seed: int = 0) -> None:
        super().__init__(oracle)
        self._need_values()
        if not 0 <= sigma < float("inf"):
            raise UserError(f"sigma is a standard deviation: 0 or more and finite, not {sigma}.")
        self.sigma = sigma
        self.seed = seed

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """The inner answers with noise."""
        return [self._disturbed(one) if isinstance(one, Values) else one for one in self.oracle.poll(timeout)]

    def _disturbed(self, feedback: Values) -> Values:
        shape = feedback.values.shape[1:]
        noise = np.array([self._noise(query_id, shape) for query_id in feedback.ids])
        return replace(feedback, values=feedback.values + self.sigma * noise)

    def _noise(self, query_id: str, shape: tuple[int, ...]) -> Any:
        seed = derive_seed(self.seed, f"noise of {query_id}")
        return np.random.Generator(np.random.Philox(key=seed)).standard_normal(shape)


class Counted(Wrapper):
    """Counts what passes.

    Attributes:
        counts: "queries" asked, and ids answered by kind: "Values", "Ranking", "Preferences", "Failed".
        failures: failed ids by what the reason begins with: the exception's name where there was one.
        spent: the sum of all costs.
    """

    def __init__(self, oracle: Oracle) -> None:
        super().__init__(oracle)
        self.counts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.spent: Cost = {}

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Counts and asks."""
        self.counts["queries"] += len(queries)
        self.oracle.submit(queries, parameters)

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """The inner answers, counted."""
        feedback = self.oracle.poll(timeout)
        for one in feedback:
            self.counts[type(one).__name__] += len(one.ids)
            add_cost(self.spent, one.cost)
            if isinstance(one, Failed):
                self.failures[one.reason.partition(":")[0]] += len(one.ids)
        return feedback


@dataclass(slots=True)
class _Trial:
    query: Query
    attempts: int = 0
    spent: Cost = field(default_factory=dict)


class Retried(Wrapper):
    """Asks again when an answer is Failed; the final answer's cost includes that of the failed attempts.

    Args:
        oracle: any that isn't evaluated in place.
        attempts: how often a query is asked at most.
    """

    def __init__(self, oracle: Oracle, attempts: int = 3) -> None:
        super().__init__(oracle)
        self._refuse_in_place()
        if attempts < 1:
            raise UserError(f"attempts must be at least 1, not {attempts}.")
        self.attempts = attempts
        self._trials: dict[str, _Trial] = {}
        self._parameters: Parameters | None = None

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """The first attempt."""
        self._parameters = parameters
        for query in queries:
            self._trials.setdefault(query.id, _Trial(query))
        self.oracle.submit(queries, parameters)

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """Answers; failed queries with attempts left are asked again at once."""
        final: list[Feedback] = []
        arrived = self.oracle.poll(timeout)
        while arrived:
            again: list[Query] = []
            for feedback in arrived:
                retried = self._retry(feedback) if isinstance(feedback, Failed) else []
                again += retried
                left = tuple(i for i in feedback.ids if i not in {query.id for query in retried})
                if left:
                    final.append(self._finished(feedback, left))
            if not again or self._parameters is None:
                break
            self.oracle.submit(again, self._parameters)
            arrived = self.oracle.poll()
        return final

    def _retry(self, failed: Failed) -> list[Query]:
        """The queries to ask again; they bear the cost of the failure."""
        trials = [self._trials[i] for i in failed.ids if i in self._trials]
        for trial in trials:
            trial.attempts += 1
        again = [trial for trial in trials if trial.attempts < self.attempts]
        if again:
            add_cost(again[0].spent, failed.cost)
        return [trial.query for trial in again]

    def _finished(self, feedback: Feedback, ids: tuple[str, ...]) -> Feedback:
        partly = len(ids) < len(feedback.ids)  # then the retried queries have taken the cost over
        cost: Cost = {} if partly else dict(feedback.cost)
        for query_id in ids:
            trial = self._trials.pop(query_id, None)
            if trial is not None:
                add_cost(cost, trial.spent)
        if isinstance(feedback, Failed):
            tries = f" (asked {self.attempts} times)" if self.attempts > 1 else ""
            return Failed(ids, feedback.reason + tries, cost)
        return replace(feedback, cost=cost)
