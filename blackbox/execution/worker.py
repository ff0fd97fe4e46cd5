"""The other end of ``Workers``: one process with its own copy of the problem. An actor of ``ray`` holds one too.

    python -m blackbox.execution.worker FD      FD is the number of a connected socket that it has inherited

It ends when the other side is gone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blackbox.config.block import parse_block
from blackbox.config.source import parse
from blackbox.errors import UserError
from blackbox.execution import Execution, Outcome, choose
from blackbox.execution.wire import Message, decode, receive, send
from blackbox.objective import ModuleObjective, Objective
from blackbox.parameters import Parameters
from blackbox.probe import CURRENT


def main(descriptor: int) -> None:
    """Build what the first message says, then answer until nobody asks."""
    connection = Connection(descriptor)
    with suppress(EOFError, OSError):
        header, _ = receive(connection)
        try:
            worker = Worker(header)
        except UserError as error:
            send(connection, {"refused": str(error)})
            return
        send(connection, {})
        while True:
            send(connection, *worker.answer(*receive(connection)))


class Worker:
    """The problem, and where its parameters stand."""

    def __init__(self, header: Mapping[str, Any]) -> None:
        torch.set_num_threads(header["threads"])
        sys.path.extend(folder for folder in header["folders"] if folder not in sys.path)
        self.objective: Objective = _built(header["problem"], "problem")
        if isinstance(self.objective, ModuleObjective):
            self.objective.module.eval()  # as its oracle has it
        inside = header["inside"]
        self.execution: Execution = choose(self.objective) if inside is None else _built(inside, "execution")
        self.parameters = _parameters(self.objective, header["tensors"])

    def answer(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> Message:
        """Take up weights and anchors, or evaluate queries."""
        if header["kind"] == "weights":
            for name in list(self.parameters.anchors):
                self.parameters.drop_anchor(name)
            for number, name in enumerate([*header["anchors"], CURRENT]):
                own = f"{number}/"
                self.parameters.assign({k.removeprefix(own): t for k, t in tensors.items() if k.startswith(own)})
                if name != CURRENT:
                    self.parameters.take_anchor(name)
            return {}, {}
        try:
            found = self.execution.evaluate_together(self.objective, decode(header, tensors), self.parameters)
        except UserError as error:
            return {"refused": str(error)}, {}
        return _packed(found)


def _packed(found: Sequence[Outcome] | Tensor) -> Message:
    if isinstance(found, Tensor):
        return {"together": True}, {"values": found}
    errors = {str(i): f"{type(e).__name__}: {e}" for i, e in enumerate(found) if isinstance(e, Exception)}
    values = {str(i): one.clone() for i, one in enumerate(found) if isinstance(one, Tensor)}
    return {"together": False, "errors": errors, "count": len(found)}, values


def _built(block: Mapping[str, Any], kind: str) -> Any:
    source = parse(json.dumps({kind: block}), f"a worker's {kind}", Path.cwd())
    return parse_block(source.root.child(kind), kind).build()


def _parameters(objective: Any, wanted: Mapping[str, Sequence[int]]) -> Parameters:
    """The tensors that the other side tunes, by name; the shapes must agree."""
    of_module = isinstance(objective, ModuleObjective)
    own: Parameters = Parameters.from_module(objective.module) if of_module else objective.parameters()
    for name, shape in wanted.items():
        if name not in own.raw or list(own.raw[name].shape) != list(shape):
            have = list(own.raw[name].shape) if name in own.raw else "no such tensor"
            raise UserError(f"workers: the problem is another one there: '{name}' is {list(shape)} here, {have} there.")
    return Parameters({name: own.raw[name] for name in wanted}, own.module, own.fused)


if __name__ == "__main__":
    main(int(sys.argv[1]))
