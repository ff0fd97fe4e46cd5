"""Executions: how queries of a value oracle are evaluated."""

from blackbox.execution.base import Execution, Outcome
from blackbox.execution.batched import Batched, materialise
from blackbox.execution.in_place import InPlace
from blackbox.execution.write_free import WriteFree
from blackbox.objective import ModuleObjective, Objective


def choose(objective: Objective) -> Execution:
    """The default execution: write-free for a module, batched for a function of vectors."""
    return WriteFree() if isinstance(objective, ModuleObjective) else Batched()


__all__ = ["Batched", "Execution", "InPlace", "Outcome", "WriteFree", "choose", "materialise"]
