"""Values of a problem's objective, evaluated by an execution."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.execution import Execution, InPlace, WriteFree, choose
from blackbox.execution.base import Outcome as DeviceOutcome
from blackbox.feedback import Cost, Failed, Feedback, Values, add_cost
from blackbox.objective import ModuleObjective, Objective, cost_of, taken_cost
from blackbox.parameters import Parameters
from blackbox.probe import Query, by_context
from oracles.base import LocalOracle
from oracles.door import FloatArray, Outcome, settle
from oracles.modes import InTrainMode, Mode, evaluated_in


class ObjectiveOracle(LocalOracle):
    """Asks a problem. Nothing waits for the device until all queries of a round are on their way.

    Args:
        problem: a function of vectors, or a module and its values. If it has ``maximize = True``, the sign is
            turned here, and only here.
        execution: how queries are evaluated; write-free for a module and batched for vectors if left out.
        mode: what a module is in meanwhile, whatever it is in otherwise: "eval", or "train", where dropout is the same
            for all queries of a context and buffers are put back after each. Train mode goes with the executions
            write-free and in-place.
    """

    answers = frozenset({Values, Failed})

    def __init__(self, problem: Objective, execution: Execution | None = None, mode: Mode = "eval") -> None:
        if mode not in ("eval", "train"):
            raise UserError(f"mode is 'eval' or 'train', not {mode!r}.")
        self.problem = problem
        self._asked = _in_train_mode(problem, execution) if mode == "train" else problem
        self.execution = execution if execution is not None else choose(self._asked)

    def answer(self, queries: Sequence[Query], parameters: Parameters) -> Sequence[Feedback]:
        """One Values for all that succeeded, one Failed for each that didn't."""
        began = time.perf_counter()
        # An execution may hand all values over in one piece; taking them apart to join them again takes longer.
        with evaluated_in("eval", getattr(self.problem, "module", None)):
            found = self.execution.evaluate_together(self._asked, queries, parameters)
        outcomes = fetch(found, negate=bool(getattr(self.problem, "maximize", False)))
        extra = {**taken_cost(self.problem), "seconds": time.perf_counter() - began}
        return settle(queries, outcomes, self.cost, extra, self.per_example)

    def cost(self, queries: Sequence[Query]) -> Cost:
        """Queries, and what the problem counts: examples, tokens, episodes."""
        total: Cost = {"queries": len(queries)}
        if not hasattr(self.problem, "cost"):
            return total
        for context, same in by_context(queries):
            add_cost(total, {coin: len(same) * one for coin, one in cost_of(self.problem, context).items()})
        return total

    def replay(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """The execution's passes over the tensors, nothing asked."""
        self.execution.replay(queries, parameters)

    def take_memory(self) -> Mapping[str, Any] | None:
        """The problem's."""
        take = getattr(self.problem, "take_memory", None)
        memory: Mapping[str, Any] | None = take() if callable(take) else None
        return memory

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Tells the problem."""
        getattr(self.problem, "recall", super().recall)(memory)

    def take_notes(self) -> list[str]:
        """The execution's."""
        return self.execution.take_notes()

    def settings(self) -> dict[str, Any]:
        """The execution's, and the mode where it isn't the usual one."""
        return self.execution.settings() | ({} if self._asked is self.problem else {"mode": "train"})

    def close(self) -> None:
        """Lets the execution go of processes that it holds."""
        getattr(self.execution, "close", lambda: None)()


def _in_train_mode(problem: Objective, execution: Execution | None) -> ModuleObjective:
    if not isinstance(problem, ModuleObjective):
        raise UserError(f"mode: {type(problem).__name__} is a function of vectors; only a module has a train mode.")
    if execution is not None and type(execution) not in (WriteFree, InPlace):
        raise UserError(f"mode: train mode goes with write-free or in-place, not with {type(execution).__name__}.")
    return InTrainMode(problem)


def fetch(outcomes: Sequence[DeviceOutcome] | Tensor, negate: bool = False) -> Sequence[Outcome] | FloatArray:
    """Outcomes on the host, in float64, by one transfer; an array [n] or [n, batch] if all have one shape."""
    if isinstance(outcomes, Tensor):
        return -_to_host(outcomes) if negate else _to_host(outcomes)
    tensors = [one for one in outcomes if isinstance(one, Tensor)]
    sign = -1.0 if negate else 1.0
    if len(tensors) == len(outcomes) and len({one.shape for one in tensors}) == 1:
        return sign * _to_host(torch.stack(tensors))
    flat = sign * _to_host(torch.cat([one.reshape(-1) for one in tensors])) if tensors else np.empty(0)
    ends = np.cumsum([one.numel() for one in tensors])
    rows = iter(np.split(flat, ends[:-1]) if tensors else [])
    return [next(rows).reshape(one.shape) if isinstance(one, Tensor) else _as_error(one) for one in outcomes]


def _to_host(values: Tensor) -> FloatArray:
    # The transfer comes first: not every device has float64.
    values = values.detach().cpu()
    host: FloatArray = (values if values.dtype == torch.float64 else values.double()).numpy()
    return host


def _as_error(outcome: Any) -> Exception:
    if isinstance(outcome, Exception):
        return outcome
    return TypeError(f"the objective gave a {type(outcome).__name__}, not a tensor")
