"""The execution protocol: how the queries of a value oracle are evaluated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from blackbox.errors import UserError
from blackbox.objective import ModuleObjective, Objective
from blackbox.parameters import Parameters
from blackbox.probe import CURRENT, Probe, Query

Outcome = Tensor | Exception
"""The values of one query (0-d or [batch], on the device, not waited for), or why there are none."""


class Execution(ABC):
    """Evaluates queries at displaced parameters and leaves the parameters as they were."""

    @abstractmethod
    def evaluate(self, objective: Objective, queries: Sequence[Query], parameters: Parameters) -> list[Outcome]:
        """One outcome a query. An exception of the objective is an outcome; the tensors are restored first."""

    def evaluate_together(
        self, objective: Objective, queries: Sequence[Query], parameters: Parameters
    ) -> list[Outcome] | Tensor:
        """As ``evaluate``, or one tensor [n] or [n, batch] where all outcomes came as one."""
        return self.evaluate(objective, queries, parameters)

    def replay(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Repeat what evaluating these queries does to the tensors' bits, without asking the objective."""

    def take_notes(self) -> list[str]:
        """What the run's log should say of how queries are evaluated, once each."""
        return []

    def settings(self) -> dict[str, Any]:
        """What could change the bits of a run, for the journal's header."""
        return {"execution": type(self).__name__}


def single_probe(query: Query) -> Probe | None:
    """The query's probe, None for the base; raises UserError for candidates that a module can't take."""
    if query.candidate is None or isinstance(query.candidate, Probe):
        if query.candidate is not None and query.base != CURRENT and query.candidate.law.stepwise:
            raise UserError(
                f"Query {query.id} is about the anchor '{query.base}', but noise that depends on the step (a mask "
                "with recompute: true, hizoo) can't be had at another point. Leave it out, or the variance reduction."
            )
        return query.candidate
    raise UserError(
        f"Query {query.id} is a {type(query.candidate).__name__}; a module is evaluated at probes only. "
        "Strategies with dense candidates need a vector problem."
    )


def module_objective(objective: Objective, execution: Execution) -> ModuleObjective:
    """The objective, if it is a module's; raises UserError otherwise."""
    if not isinstance(objective, ModuleObjective):
        raise UserError(
            f"{type(execution).__name__} displaces the weights of a module, but {type(objective).__name__} has "
            "none (it needs `module` and `values(context)`). Use the batched execution for functions of vectors."
        )
    return objective
