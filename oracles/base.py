"""What an oracle is, and the three classes a user fills in with one method each.

An oracle judges candidates: by numbers (ValueOracle), by an order (RankingOracle) or by asking people
(HumanOracle). The classes hide probes, versions and ids: a method sees vectors, or structured data.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from blackbox.feedback import Cost, Failed, Feedback, Ranking, Values, add_cost
from blackbox.parameters import Parameters
from blackbox.probe import Query, ids_of
from blackbox.steering import Steer
from oracles.asking import Groups, candidates_of, named, parts, takes_context
from oracles.door import FloatArray, Outcome, as_float64, exited, reason_of, settle


@runtime_checkable
class Oracle(Protocol):
    """Anything that answers queries. It may also offer what ``BaseOracle`` adds."""

    @property
    def answers(self) -> frozenset[type[Feedback]]:
        """The kinds of feedback it gives."""

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Ask. A query whose id is already waiting is not asked twice."""

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """Answers that have come, waiting ``timeout`` seconds for the first. Empty means not yet."""


class BaseOracle(ABC):
    """An oracle with the optional parts at their defaults.

    Attributes:
        answers: kinds of feedback it gives.
        per_example: whether values [n, batch] are wanted rather than their means; the run sets it.
    """

    answers: frozenset[type[Feedback]]
    per_example: bool = False

    @abstractmethod
    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """As the protocol says."""

    @abstractmethod
    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """As the protocol says."""

    def cost(self, queries: Sequence[Query]) -> Cost:
        """What asking these would cost, as far as it is known beforehand; never seconds."""
        return {"queries": len(queries)}

    def replay(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Repeat what evaluating these does to the parameters' bits, without evaluating."""
        return

    def settings(self) -> dict[str, Any]:
        """What could change the bits of a run, for the journal's header."""
        return {}

    def take_memory(self) -> Mapping[str, Any] | None:
        """What later answers depend on, as JSON values, if answering has changed it; journaled with the answers."""
        return None

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Told before a resumed run what ``take_memory`` gave last."""
        return

    def take_notes(self) -> Sequence[str]:
        """What the run's log should say of how questions are answered, once each."""
        return ()

    def attach(self, folder: Path) -> None:
        """Told before a run where its folder is; for what an oracle keeps there."""
        return

    def steering(self) -> Sequence[Steer]:
        """What people ask for besides answering, each once by its id or until the next ``submit``."""
        return ()

    def close(self) -> None:
        """Let go of what it holds."""
        return


class LocalOracle(BaseOracle):
    """An oracle that answers while it is asked.

    A query that waits is not asked twice; once ``poll`` has handed its answer out, asking again asks anew.
    """

    @abstractmethod
    def answer(self, queries: Sequence[Query], parameters: Parameters) -> Sequence[Feedback]:
        """Feedback on every one of the queries (at least one)."""

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Answers before it returns."""
        waiting = self._waiting
        new = [query for query in queries if query.id not in waiting] if waiting else queries
        if not new:
            return
        ids = ids_of(new)
        self._waiting.update(ids)
        try:
            self._ready.extend(self.answer(new, parameters))
        except BaseException:
            self._waiting.difference_update(ids)
            raise

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """All answers since the last call, at once."""
        ready = list(self._ready)
        del self._ready[: len(ready)]
        for feedback in ready:
            self._waiting.difference_update(feedback.ids)
        return ready

    # Made when first needed, so that a subclass may have a constructor that doesn't call this one's.
    @cached_property
    def _waiting(self) -> set[str]:
        return set()

    @cached_property
    def _ready(self) -> list[Feedback]:
        return []


class ValueOracle(LocalOracle):
    """Judges by numbers; lower is better. Fill in ``evaluate``.

    Attributes:
        library: "numpy" or "torch": what vectors come as.
        chunk: candidates that one call of ``evaluate`` gets at most; None for all that share a context.
        ask_singly: when a call raises, ask its candidates again one by one, so that one bad candidate doesn't
            cost the others their values. Those evaluations count. False where calls are dear or fail as a
            whole.
    """

    answers = frozenset({Values, Failed})
    library: str = "numpy"
    chunk: int | None = None
    ask_singly: bool = True

    @abstractmethod
    def evaluate(self, candidates: Any) -> Any:
        """Values [n], or [n, batch] per example, of n candidates.

        Args:
            candidates: vectors, float64 [n, d] (if ``library`` is "torch" a tensor on the parameters' device,
                float64 if they are, else float32), or a list of n dicts where the strategy asks about
                structured data.

        A method with a second parameter named ``context`` is given the Context that its candidates share.
        An exception, a value that isn't finite and a wrong shape become Failed answers.
        """

    def answer(self, queries: Sequence[Query], parameters: Parameters) -> Sequence[Feedback]:
        """One Values for all that succeeded, one Failed for each that didn't."""
        began = time.perf_counter()
        extra: Cost = {}
        found = [
            self._outcomes(part, candidates_of(part, parameters, self.library), keywords, extra)
            for part, keywords in parts(queries, self._wants_context)
        ]
        outcomes = found[0] if len(found) == 1 else [outcome for part in found for outcome in part]
        extra["seconds"] = time.perf_counter() - began
        return settle(queries, outcomes, self.cost, extra, self.per_example)

    @cached_property
    def _wants_context(self) -> bool:
        return takes_context(self.evaluate)

    def _outcomes(
        self, queries: Sequence[Query], candidates: Any, keywords: dict[str, Any], extra: Cost
    ) -> list[Outcome] | FloatArray:
        """One outcome a query; the array itself if one call gave them all."""
        outcomes: list[Outcome] = []
        size = self.chunk or len(queries)
        for start in range(0, len(queries), size):
            piece = candidates[start : start + size]
            outcome = self._call(piece, keywords)
            if isinstance(outcome, Exception) and len(piece) > 1 and self.ask_singly:
                add_cost(extra, self.cost(queries[start : start + size]))
                singles = [self._call(piece[i : i + 1], keywords) for i in range(len(piece))]
                outcomes += [one if isinstance(one, Exception) else one[0] for one in singles]
            elif isinstance(outcome, Exception):
                outcomes += [outcome] * len(piece)
            elif outcome.ndim == 0 or len(outcome) != len(piece):
                shape = list(outcome.shape)
                outcomes += [ValueError(f"got shape {shape} for {len(piece)} candidates")] * len(piece)
            elif len(piece) == len(queries):
                return outcome
            else:
                outcomes += list(outcome)
        return outcomes

    def _call(self, candidates: Any, keywords: dict[str, Any]) -> Outcome:
        try:
            return as_float64(self.evaluate(candidates, **keywords))
        except Exception as error:
            return error
        except SystemExit as error:
            return exited(error)


class RankingOracle(LocalOracle):
    """Judges by an order. Fill in ``rank``; ``library`` is as for ValueOracle."""

    answers = frozenset({Ranking, Failed})
    library: str = "numpy"

    @abstractmethod
    def rank(self, candidates: Any) -> Groups:
        """Positions of the candidates, best first: [2, 0, 1], or [2, [0, 1]] where two tie.

        Positions left out count as seen and not judged. Candidates and ``context`` are as for
        ``ValueOracle.evaluate``. An exception and an impossible order become Failed answers.
        """

    def answer(self, queries: Sequence[Query], parameters: Parameters) -> Sequence[Feedback]:
        """One Ranking (or one Failed) of all queries that share a context."""
        return [
            self._judge(part, candidates_of(part, parameters, self.library), keywords)
            for part, keywords in parts(queries, self._wants_context)
        ]

    @cached_property
    def _wants_context(self) -> bool:
        return takes_context(self.rank)

    def _judge(self, queries: Sequence[Query], candidates: Any, keywords: dict[str, Any]) -> Feedback:
        began = time.perf_counter()
        ids = tuple(query.id for query in queries)
        try:
            groups, skipped = named(self.rank(candidates, **keywords), ids)
        except Exception as error:
            return Failed(ids, reason_of(error), self._paid(queries, began))
        except SystemExit as error:
            return Failed(ids, reason_of(exited(error)), self._paid(queries, began))
        return Ranking(groups, skipped, cost=self._paid(queries, began))

    def _paid(self, queries: Sequence[Query], began: float) -> Cost:
        return self.cost(queries) | {"seconds": time.perf_counter() - began}


class HumanOracle(BaseOracle):
    """Judges by asking people. Fill in ``render`` and ``collect``; waiting for an answer is never a failure.

    Attributes:
        artifacts: what to show, by name, in the order asked, until the next round replaces it.
    """

    answers = frozenset({Ranking, Failed})

    @abstractmethod
    def render(self, candidate: Any) -> Any:
        """What a person is shown of a candidate (a float64 vector [d] or a dict)."""

    @abstractmethod
    def collect(self) -> Sequence[Ranking]:
        """Orders that people gave since the last call, over names in ``artifacts``; empty if nobody did."""

    @cached_property
    def artifacts(self) -> dict[str, Any]:
        """See the class."""
        return {}

    @cached_property
    def _broken(self) -> list[Feedback]:
        return []

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Renders what is new. A round that shares no query with the open one replaces it."""
        new = [query for query in queries if query.id not in self.artifacts]
        if not new:
            return
        if len(new) == len(queries):
            self.artifacts.clear()
        for part, _ in parts(new, False):
            for query, candidate in zip(part, candidates_of(part, parameters, "numpy"), strict=True):
                try:
                    self.artifacts[query.id] = self.render(candidate)
                except Exception as error:
                    self._broken.append(Failed((query.id,), reason_of(error), self.cost([query])))
                except SystemExit as error:
                    self._broken.append(Failed((query.id,), reason_of(exited(error)), self.cost([query])))

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """Rankings of the open round; those of an earlier round came too late and are left out."""
        until = time.monotonic() + timeout
        while True:
            feedback, self._broken[:] = list(self._broken), []
            feedback += [ranking for ranking in self.collect() if self.artifacts.keys() >= set(ranking.ids)]
            left = until - time.monotonic()
            if feedback or left <= 0:
                return feedback
            time.sleep(min(left, 0.05))
