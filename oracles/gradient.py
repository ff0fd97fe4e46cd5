"""Values, and gradients of some tensors by backpropagation: what hybrid descent asks (arXiv:2402.11592).

A query for a gradient names tensors. The graph begins at the first of them: of layers below no activation is kept.
Probes are evaluated by an execution, as by the oracle ``objective``. This oracle has access to the model, and says so
by what it answers: Gradients, not Values.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.estimators.hybrid import GRADIENT
from blackbox.execution import Execution, InPlace, WriteFree
from blackbox.feedback import Cost, Failed, Feedback, Gradients, add_cost
from blackbox.objective import ModuleObjective, Objective, cost_of
from blackbox.parameters import Parameters
from blackbox.probe import CURRENT, Context, Payload, Query
from oracles.base import LocalOracle
from oracles.door import FloatArray, reason_of
from oracles.modes import evaluated_in
from oracles.objective import fetch


class GradientOracle(LocalOracle):
    """Asks a problem for values, and for gradients of the tensors that a query names.

    Args:
        problem: a module and its values, in torch operations from the parameters to the values; or one that has
            ``training_losses(indices)`` with their graph, per micro-batch, and ``indices(context)``: of those the
            gradient is taken then. If it has ``maximize = True``, the sign is turned here.
        execution: how probes are evaluated; write-free if left out, and never in place.

    Raises:
        UserError: the problem has no module; the execution writes to the weights; from ``submit``: the values have no
            graph, or don't depend on a tensor.
    """

    answers = frozenset({Gradients, Failed})

    def __init__(self, problem: Objective, execution: Execution | None = None) -> None:
        if not isinstance(problem, ModuleObjective):
            raise UserError(
                f"Gradients of named tensors need a module, and {type(problem).__name__} has none. Use the oracle "
                "`derivative`, or `objective`, and an estimator that goes with it."
            )
        if isinstance(execution, InPlace):
            raise UserError("The oracle `gradient` needs the weights undisplaced; use the execution write-free.")
        self.problem: ModuleObjective = problem
        self.execution = execution if execution is not None else WriteFree()
        self._sign = -1.0 if getattr(problem, "maximize", False) else 1.0

    def answer(self, queries: Sequence[Query], parameters: Parameters) -> Sequence[Feedback]:
        """One Gradients for all that succeeded, one Failed for each that didn't."""
        began, found, gradients = time.perf_counter(), dict[str, float](), dict[str, FloatArray]()
        failed: dict[str, str] = {}
        asked = [query for query in queries if isinstance(query.candidate, Payload)]
        probes = [query for query in queries if query not in asked]
        with evaluated_in("eval", self.problem.module):
            for query in asked:
                parameters.flush()
                try:
                    found[query.id], some = self._gradient(query, parameters)
                    gradients |= some
                except UserError:
                    raise
                except Exception as error:
                    failed[query.id] = reason_of(error)
            outcomes = fetch(self.execution.evaluate_together(self.problem, probes, parameters)) if probes else []
        for query, outcome in zip(probes, outcomes, strict=True):
            if isinstance(outcome, Exception):
                failed[query.id] = reason_of(outcome)
            else:
                found[query.id] = self._sign * float(np.mean(outcome))
        bad = [i for i, value in found.items() if not np.isfinite(value)]
        failed |= {i: f"not finite: {found.pop(i)}" for i in bad}
        known = [query for query in queries if query.id in found]
        feedback: list[Feedback] = []
        if known:
            cost = self.cost(known) | {"seconds": time.perf_counter() - began}
            values = np.array([found[query.id] for query in known])
            feedback.append(Gradients(tuple(query.id for query in known), values, gradients, cost))
        by_id = {query.id: query for query in queries}
        return [*feedback, *(Failed((i,), reason, self.cost([by_id[i]])) for i, reason in failed.items())]

    def cost(self, queries: Sequence[Query]) -> Cost:
        """Queries, and what the problem counts of a value: examples, tokens; a gradient counts as one."""
        total: Cost = {"queries": len(queries)}
        for query in queries:
            add_cost(total, dict(cost_of(self.problem, query.context)))
        return total

    def settings(self) -> dict[str, Any]:
        """The execution's, and that there are gradients."""
        return self.execution.settings() | {"derivatives": "backward"}

    def take_notes(self) -> list[str]:
        """The execution's."""
        return self.execution.take_notes()

    def close(self) -> None:
        """Lets the execution go of processes that it holds."""
        getattr(self.execution, "close", lambda: None)()

    def _gradient(self, query: Query, parameters: Parameters) -> tuple[float, dict[str, FloatArray]]:
        assert isinstance(query.candidate, Payload)
        if query.candidate.kind != GRADIENT or query.base != CURRENT:
            raise UserError(f"Query {query.id} asks for '{query.candidate.kind}' at '{query.base}': no gradient here.")
        names = [str(name) for name in query.candidate.data["tensors"]]
        leaves = self._leaves(names, parameters)
        sums = [torch.zeros(leaf.shape, dtype=torch.float64) for leaf in leaves]
        total, count = 0.0, 0
        with only_these(self.problem.module, leaves), torch.enable_grad():
            for losses in self._losses(query.context):
                if not losses.requires_grad:
                    raise UserError(
                        f"{type(self.problem).__name__} has no gradients to give: its values do not depend on "
                        f"{', '.join(names[:3])} through torch operations alone (something is detached, or without a "
                        "graph). Use the oracle `objective`, and an estimator that works from values."
                    )
                parts = torch.autograd.grad(losses.double().sum(), leaves, allow_unused=True)
                for name, part, into in zip(names, parts, sums, strict=True):
                    if part is None:
                        raise UserError(f"The values don't depend on '{name}', so it has no gradient; leave it out.")
                    into += part.detach().cpu()
                total, count = total + float(losses.detach().double().sum()), count + losses.numel()
        if not all(bool(one.isfinite().all()) for one in sums):
            raise ArithmeticError("the gradient is not finite")
        found = {name: (one * (self._sign / count)).numpy() for name, one in zip(names, sums, strict=True)}
        return self._sign * total / count, found

    def _losses(self, context: Context) -> Iterator[Tensor]:
        training, indices = (getattr(self.problem, name, None) for name in ("training_losses", "indices"))
        if callable(training) and callable(indices):
            yield from training(indices(context))
        else:
            yield self.problem.values(context)

    def _leaves(self, names: Sequence[str], parameters: Parameters) -> list[Tensor]:
        """The module's own parameters that are these tensors."""
        own = {p.data_ptr(): p for p in self.problem.module.parameters()}
        missing = [n for n in names if n not in parameters.raw or parameters.raw[n].data_ptr() not in own]
        if missing:
            raise UserError(f"The module has no parameter '{missing[0]}' that is tuned.")
        return [own[parameters.raw[name].data_ptr()] for name in names]


@contextmanager
def only_these(module: torch.nn.Module, leaves: Sequence[Tensor]) -> Iterator[None]:
    """Within it these parameters of a module require a gradient, and no others."""
    chosen = {id(leaf) for leaf in leaves}
    before = [(p, p.requires_grad) for p in module.parameters()]
    try:
        for p, _ in before:
            p.requires_grad_(id(p) in chosen)
        yield
    finally:
        for p, required in before:
            p.requires_grad_(required)
