"""Streaming: a model larger than the device it is computed on, block after block; ZO2 (arXiv:2503.12668).

The weights live in host memory, or in a file that is mapped into it. Once for each pair of probes a block is brought
to the device; the last step's update is carried out there and taken home; the block runs at theta + c z and at
theta - c z, each displaced on the fly as by write-free; then the next block takes its place, and the activations of
both go on. So the device holds one block, a displaced copy of one tensor, and the activations of the probes that go
together.

Values and steps are those of write-free, bit for bit on the same kind of device: the same operations on the same
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from blackbox.errors import UserError
from blackbox.execution.base import Outcome, module_objective, single_probe
from blackbox.execution.displaced import Displaced, Owner
from blackbox.execution.mapped import MappedWeights, move_to_file
from blackbox.execution.streamed import Streamed, Usage
from blackbox.execution.units import Unit, units_of
from blackbox.execution.write_free import WriteFree, set_displacement
from blackbox.objective import ModuleObjective, Objective
from blackbox.parameters import Parameters
from blackbox.probe import CURRENT, Query


class Streaming(WriteFree):
    """Weights are brought to the device block by block.

    Args:
        device: where blocks are computed: `auto` (cuda where there is one, else cpu), or any that torch knows. The
            problem itself stays on the cpu.
        blocks: regular expressions of the blocks' names; the elements of the model's lists of layers if left out.
        together: probes that go through the model together, so that a block is brought once for all of them; each has
            its own activations.
        file: let the weights live in this file (safetensors), mapped into memory, rather than in memory: a working
            copy, written when the run begins.

    Attributes:
        usage: how much was there at once, and how often something was brought.
    """

    def __init__(
        self, device: str = "auto", blocks: Sequence[str] = (), together: int = 2, file: str | None = None
    ) -> None:
        super().__init__()
        if together < 1:
            raise UserError(f"together are probes that go through the model together, at least 1, not {together}.")
        if isinstance(blocks, str):
            raise UserError(f'blocks is a list of regular expressions, such as ["{blocks}"].')
        self.device = _resolve(device)
        self._patterns, self._together, self._file = tuple(blocks), together, file
        self._module: nn.Module | None = None
        self._units: list[Unit] = []
        self._mapped: MappedWeights | None = None
        self._notes: list[str] = []
        self.usage = Usage()

    @torch.no_grad()
    def evaluate(self, objective: Objective, queries: Sequence[Query], parameters: Parameters) -> list[Outcome]:
        """As the base says.

        Raises:
            UserError: the weights aren't on the cpu, the model can't be taken apart at its blocks, or weights are read
                outside the modules that own them.
        """
        module = module_objective(objective, self).module
        if module is not self._module:
            self._take_apart(module, parameters)
        parameters.streamed = True
        return super().evaluate(objective, queries, parameters)

    def take_notes(self) -> list[str]:
        """What is streamed, once."""
        notes, self._notes = self._notes, []
        return [*notes, *super().take_notes()]

    def settings(self) -> dict[str, object]:
        """The kind of device."""
        return {"execution": type(self).__name__, "device": self.device.type}

    def _take_apart(self, module: nn.Module, parameters: Parameters) -> None:
        for name, weight in module.named_parameters():
            if weight.device.type != "cpu":
                raise UserError(
                    f"Streaming brings weights from host memory, but '{name}' is on {weight.device}. Set the problem's "
                    "device to cpu; the execution's own `device` says where blocks are computed."
                )
        self._units = units_of(module, self._patterns)
        if self._file is not None:
            self._mapped = move_to_file(module, parameters, Path(self._file))
        self._module = module
        largest = max(self._units, key=lambda unit: unit.bytes)
        self._notes.append(
            f"streaming {len(self._units)} parts, {sum(unit.block for unit in self._units)} of them blocks, to "
            f"{self.device.type}; the largest, '{largest.name}', has {largest.bytes / 2**20:.1f} MiB"
        )

    def _forwards(self, owners: Sequence[Owner], parameters: Parameters) -> Displaced:
        assert self._module is not None
        return Streamed(self._module, self._units, owners, parameters, self.device, self.usage, self._mapped)

    def _next(
        self, objective: ModuleObjective, queries: Sequence[Query], parameters: Parameters, displaced: Displaced
    ) -> list[Outcome]:
        """Outcomes of the next query, or of the next few that go together."""
        assert isinstance(displaced, Streamed)
        group: list[Query] = []
        for query in queries[: self._together]:
            if query.base != CURRENT:
                break
            group.append(query)
        try:
            if id(objective.module) not in self._checked or len(group) < 2:
                watch = id(objective.module) not in self._checked
                return [self._one(objective, queries[0], parameters, displaced, watch)]
            return self._by_turns(objective, group, parameters, displaced)
        finally:
            if queries[0].base != CURRENT:
                displaced.settle()  # the anchor's weights must not be taken for the present ones

    def _by_turns(
        self, objective: ModuleObjective, queries: Sequence[Query], parameters: Parameters, displaced: Streamed
    ) -> list[Outcome]:
        found: list[Outcome] = [RuntimeError("not evaluated")] * len(queries)
        probes = [single_probe(query) for query in queries]

        def evaluate(number: int) -> None:
            try:
                found[number] = objective.values(queries[number].context)
            except Exception as error:
                found[number] = error

        calls = [partial(evaluate, number) for number in range(len(queries))]
        displaced.turns.run(calls, lambda number: set_displacement(displaced, probes[number], parameters))
        return found

    def _fall_back(self, names: list[str], parameters: Parameters) -> None:
        some = ", ".join(f"'{name}'" for name in names[:3])
        raise UserError(
            f"{len(names)} weights are read outside the modules that own them ({some}), so they can be neither "
            "displaced on the fly nor streamed. Tune other tensors, or use the in-place execution."
        )


def _resolve(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without the device
        raise UserError(f"device: there is no '{name}' here: {str(error).splitlines()[0]}") from error
    return device
