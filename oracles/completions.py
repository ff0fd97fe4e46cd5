"""Orders of texts: what a language model writes at each candidate is put in order by a function of the user's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from blackbox.execution import Execution
from blackbox.feedback import Cost, Failed, Feedback, Ranking
from blackbox.parameters import Parameters
from blackbox.probe import Context, Query, by_context, ids_of
from oracles.asking import named
from oracles.door import exited, reason_of
from oracles.function import import_function
from oracles.objective import ObjectiveOracle


class Writer(Protocol):
    """A problem whose module writes text."""

    module: nn.Module

    def completed(self, context: Context) -> list[str]:
        """A text for each prompt of the context, at the weights the module holds."""

    def asked(self, context: Context) -> tuple[list[str], dict[str, list[Any]]]:
        """The prompts of a context, and the data's columns."""


class RankedCompletions(ObjectiveOracle):
    """A ranking of the candidates by each prompt, from the texts that they write.

    Args:
        problem: one that writes text, such as `llm-generation`.
        judge: `(prompts, completions, **columns)` -> an order for each prompt; or an import path
            "package.module:function". `completions` has for each prompt a list of the candidates' texts, `columns` the
            data's columns. An order is positions in that list, best first; an inner list is a tie; who is left out was
            not judged.
        execution: how the weights are displaced; write-free if left out. It works in this process.
    """

    answers = frozenset({Ranking, Failed})

    def __init__(self, problem: Writer, judge: Callable[..., Any] | str, execution: Execution | None = None) -> None:
        super().__init__(problem, execution)  # type: ignore[arg-type]  # a writer need have no values
        self.judge: Callable[..., Any] = import_function(judge) if isinstance(judge, str) else judge
        self._texts = _Texts(problem)

    def answer(self, queries: Sequence[Query], parameters: Parameters) -> Sequence[Feedback]:
        """A Ranking by each prompt, one Failed for each candidate that could not write."""
        feedback: list[Feedback] = []
        for context, same in by_context(queries):
            feedback += self._judged(context, same, parameters)
        return feedback

    def _judged(self, context: Context, queries: Sequence[Query], parameters: Parameters) -> list[Feedback]:
        began = time.perf_counter()
        outcomes = self.execution.evaluate(self._texts, queries, parameters)
        written = [(query, one) for query, one in zip(queries, outcomes, strict=True) if isinstance(one, Tensor)]
        failed: list[Feedback] = [
            Failed((query.id,), reason_of(one), self.cost([query]))
            for query, one in zip(queries, outcomes, strict=True)
            if isinstance(one, Exception)
        ]
        kept = [query for query, _ in written]
        texts = self._texts.take([one for _, one in written])
        if len(kept) == 1:
            return [*failed, Failed((kept[0].id,), "there is nothing to compare it with", self.cost(kept))]
        if not kept:
            return failed
        try:
            orders = self._orders(context, texts, ids_of(kept))
        except (Exception, SystemExit) as error:
            reason = reason_of(exited(error) if isinstance(error, SystemExit) else error)
            return [*failed, *(Failed((query.id,), reason, self.cost([query])) for query in kept)]
        # What writing cost goes to the first ranking; every ranking counts itself.
        cost: Cost = {**self.cost(kept), "seconds": time.perf_counter() - began}
        rankings: list[Feedback] = []
        for place, (groups, skipped) in enumerate(orders):
            rankings.append(Ranking(groups, skipped, f"prompt {place + 1}", 1.0, {**cost, "rankings": 1.0}))
            cost = {"queries": 0.0}
        return [*failed, *rankings]

    def _orders(
        self, context: Context, texts: Sequence[Sequence[str]], ids: Sequence[str]
    ) -> list[tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]]:
        prompts, columns = self._texts.problem.asked(context)
        found = list(self.judge(prompts, [list(one) for one in zip(*texts, strict=True)], **columns))
        if len(found) != len(prompts):
            raise ValueError(f"the judge gave {len(found)} orders for {len(prompts)} prompts")
        return [named(order, ids) for order in found]


class _Texts:
    """An objective whose values stand for texts: executions hand on numbers, so a text goes by its place in a list."""

    def __init__(self, problem: Writer) -> None:
        self.problem = problem
        self.module = problem.module
        self._kept: list[str] = []

    def values(self, context: Context) -> Tensor:
        found = self.problem.completed(context)
        self._kept += found
        return torch.arange(len(self._kept) - len(found), len(self._kept), dtype=torch.float64)

    def take(self, values: Sequence[Tensor]) -> list[list[str]]:
        """The texts that these values stand for; all that were kept are let go."""
        texts = [[self._kept[int(place)] for place in one.tolist()] for one in values]
        self._kept.clear()
        return texts
