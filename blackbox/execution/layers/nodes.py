"""Derivatives of weights by displacing what their layers put out: node perturbation, one node after the other.

A layer's weights reach the loss through its outputs y alone. One output ("node") j of it is displaced by a distance e
for all examples of a batch at once; the loss of each example b then gives

    delta_bj = [L_b(y + e e_j) - L_b(y)] / e,        dL/dW_jk = mean_b sum_p delta_bjp x_bkp

with x the layer's cached input and p the positions (pixels, tokens) at which the same weights are used. So a channel
asks as many questions as it has positions, however many weights: 64 instead of 576 for the last convolutions of a
ResNet-20 on CIFAR-10. No derivative is taken but that of the layer itself, which is linear in its weights. It is node
perturbation (arXiv:2310.00965) without noise, one node at a time; differences are carried as in ``LayerAccess``.

Convolutions, linear layers and batch norms in eval mode have nodes; a batch norm shares them with the layer before it
that it alone reads. Where there are fewer coordinates than positions, and for tensors without nodes, coordinates are
asked instead, so there are never more questions than coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from blackbox.errors import UserError
from blackbox.execution.layers.access import LayerAccess
from blackbox.execution.layers.differences import Carrier, Difference
from blackbox.execution.layers.effects import channels, windows
from blackbox.execution.layers.graph import Graph, owners
from blackbox.layout import Layout
from blackbox.noise import Coordinate
from blackbox.objective import LayeredObjective
from blackbox.parameters import Parameters
from blackbox.probe import Context, Probes, Queries


@dataclass(frozen=True)
class Owner:
    """One tensor of a layer: its name in the layout, the layer's node and what the layer calls it."""

    name: str
    node: fx.Node
    attribute: str


@dataclass(frozen=True)
class Unit:
    """Tensors that reach the loss through the same outputs.

    Attributes:
        place: the node whose output is displaced.
        positions: at which each channel is put out.
        owners: the tensors.
    """

    place: fx.Node
    positions: int
    owners: tuple[Owner, ...]


@dataclass(frozen=True)
class Asked:
    """What a set of coordinates asks: channels of units, and single coordinates."""

    units: tuple[tuple[Unit, Tensor, Tensor], ...]
    """Each with its channels int64, ascending, and which of the coordinates (places in the set) it answers."""
    alone: Tensor
    """Places in the set that are asked one by one."""

    @property
    def evaluations(self) -> int:
        """Evaluations of the network, besides the one at the base."""
        return len(self.alone) + sum(unit.positions * len(some) for unit, some, _ in self.units)


class NodeAccess:
    """Partial derivatives by differences at nodes.

    Args:
        mixed: ask coordinates where they are fewer, or there are no nodes; otherwise that is refused.
        elements: as ``LayerAccess``.
    """

    def __init__(self, mixed: bool = True, elements: int = 1 << 21) -> None:
        self.mixed = mixed
        self.elements = elements
        self._coordinates = LayerAccess(elements=elements)
        self._graph: Graph | None = None
        self._units: dict[tuple[tuple[int, ...], Layout], list[Unit]] = {}

    def asked(self, objective: LayeredObjective, context: Context, parameters: Parameters, index: Tensor) -> Asked:
        """What is asked for the derivatives along coordinates ``index`` int64 [n] of the concatenation.

        Raises:
            UserError: a tensor has no nodes and ``mixed`` is off; what ``Graph.run`` raises.
        """
        layout, units = parameters.layout, self._units_of(objective, context, parameters)
        left = torch.ones(len(index), dtype=torch.bool)
        found = []
        for unit in units:
            rows, reached = [], []
            for owner in unit.owners:
                spec = layout.by_name[owner.name]
                at = ((index >= spec.offset) & (index < spec.offset + spec.numel)).nonzero()[:, 0]
                rows.append(at)
                part = self.graph.part(owner.node)
                assert part is not None
                reached.append(channels(part, owner.attribute, index[at] - spec.offset))
            rows_here, some = torch.cat(rows), torch.unique(torch.cat(reached))
            if len(rows_here) and not (self.mixed and len(rows_here) < unit.positions * len(some)):
                found.append((unit, some, rows_here))
                left[rows_here] = False
        alone = left.nonzero()[:, 0]
        if len(alone) and not self.mixed:
            raise UserError(
                f"'{name_at(layout, int(index[alone[0]]))}' has no nodes: it is used more than once, or is no "
                "convolution's, linear layer's or batch norm's. Leave it out by `tensors`, or set mixed: true."
            )
        return Asked(tuple(found), alone)

    @torch.no_grad()
    def derivatives(
        self, objective: LayeredObjective, context: Context, parameters: Parameters, index: Tensor, distance: float
    ) -> tuple[Tensor, Tensor]:
        """Of the mean loss along coordinates ``index`` [n]: float64 [n]; and the losses at the base, float64 [batch].

        ``distance`` is that of the differences, which may be negative.
        """
        parameters.flush()
        asked = self.asked(objective, context, parameters, index)
        graph = self.graph
        try:
            outputs = graph.run(objective.inputs(context)).double()
            base = objective.losses(outputs[None], context)[0].double()
            carrier = Carrier(graph, None, self.elements)

            def finish(there: Difference) -> Tensor:
                losses = objective.losses(outputs + there.whole(outputs).double(), context)
                return (losses.double() - base) / distance

            out = base.new_full((len(index),), torch.nan)
            for unit, some, rows in asked.units:
                slopes = self._slopes(carrier, unit, some, distance, finish)
                for owner in unit.owners:
                    spec = parameters.layout.by_name[owner.name]
                    at = rows[(index[rows] >= spec.offset) & (index[rows] < spec.offset + spec.numel)]
                    if len(at):
                        whole = gradient(graph, unit, owner, some, slopes)
                        out[at.to(out.device)] = whole.flatten()[(index[at] - spec.offset).to(out.device)]
        finally:
            graph.release()
        if len(asked.alone):
            at = asked.alone.to(out.device)
            out[at] = self._one_by_one(objective, context, parameters, index[asked.alone], distance, base)
        return out, base

    @property
    def graph(self) -> Graph:
        """The network's, once it has been traced."""
        assert self._graph is not None
        return self._graph

    def _units_of(self, objective: LayeredObjective, context: Context, parameters: Parameters) -> list[Unit]:
        """Found once for each shape of the inputs."""
        if self._graph is None or self._graph.module is not objective.module:
            self._graph, self._units = Graph(objective.module), {}
        inputs = objective.inputs(context)
        key = tuple(inputs.shape), parameters.layout
        if key not in self._units:
            with torch.no_grad():
                self._units[key] = list(units(self._graph, inputs, parameters))
            self._graph.release()
        return self._units[key]

    def _slopes(self, carrier: Carrier, unit: Unit, some: Tensor, distance: float, finish: Any) -> Tensor:
        """delta [channels, positions, batch] at the nodes of these channels, float64."""
        value: Tensor = carrier.graph.values[unit.place]
        last = last_is_channel(carrier.graph, unit.place)
        size = value.numel() if last and value.ndim > 2 else value[:, 0].numel()
        portion = max(1, self.elements // max(1, size))
        found = []
        for channel in some.tolist():
            pieces = []
            for low in range(0, unit.positions, portion):
                positions = torch.arange(low, min(low + portion, unit.positions), device=value.device)
                there = displaced(value, last, channel, positions, distance)
                pieces.append(carrier.carry(unit.place, there, finish))
            found.append(torch.cat(pieces))
        return torch.stack(found)

    def _one_by_one(
        self,
        objective: LayeredObjective,
        context: Context,
        parameters: Parameters,
        index: Tensor,
        distance: float,
        base: Tensor,
    ) -> Tensor:
        coefficient = distance / parameters.dimension**0.5  # the law's z is sqrt(d) long
        probes = Probes(Coordinate(), tuple(index.tolist()), (coefficient,) * len(index))
        queries = Queries(tuple(str(i) for i in range(len(index))), probes, context=context)
        found = self._coordinates.evaluate_together(objective, queries, parameters)
        if not isinstance(found, Tensor):
            for one in found:
                if isinstance(one, Exception):
                    raise one
            found = torch.stack([one for one in found if isinstance(one, Tensor)])
        return (found.double() - base).mean(1) / distance


def units(graph: Graph, inputs: Tensor, parameters: Parameters) -> Iterator[Unit]:
    """The units of a network for inputs of this shape; the graph is left with the values of some batch."""
    batch = len(inputs)
    try:
        graph.run(inputs[:-1] if batch > 1 else inputs)
        fewer = {node: value.shape for node, value in graph.values.items() if isinstance(value, Tensor)}
    except UserError:
        raise
    except Exception:  # it takes batches of this size only
        fewer = {}
    graph.run(inputs)
    smooth, places = graph.smooth(), dict[fx.Node, list[Owner]]()
    for name, found in owners(graph, parameters).items():
        if found is None or found[0] not in smooth:
            continue
        node, attribute = found
        part, value = graph.part(node), graph.values[node]
        shape = (batch - 1 if batch > 1 else 1, *value.shape[1:])
        examples_first = (
            len(value) == batch and fewer.get(node) == shape
        )  # else one example's loss depends on many rows
        if examples_first and len(node.all_input_nodes) == 1 and has_nodes(graph, node, part):
            places.setdefault(graph.norm_after(node) or node, []).append(Owner(name, node, attribute))
    for place, here in places.items():
        value = graph.values[place]
        channel = value.shape[-1] if last_is_channel(graph, place) else value.shape[1]
        yield Unit(place, value[0].numel() // channel, tuple(here))


def has_nodes(graph: Graph, node: fx.Node, part: nn.Module | None) -> bool:
    """Whether a layer is one whose weights' derivatives are known from those of its outputs."""
    if isinstance(part, nn.Conv2d):
        return bool(part.padding_mode == "zeros" and graph.values[node].ndim == 4)
    return isinstance(part, nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)


def last_is_channel(graph: Graph, node: fx.Node) -> bool:
    """Linear layers have their channels last, all others second."""
    return isinstance(graph.part(node), nn.Linear)


def displaced(value: Tensor, last: bool, channel: int, positions: Tensor, distance: float) -> Difference:
    """One node displaced in all examples, for each of the positions [k] of one channel."""
    k, rows = len(positions), torch.arange(len(positions), device=value.device)
    if last and value.ndim > 2:
        values = value.new_zeros(k, *value.shape)
        values.view(k, len(value), -1, value.shape[-1])[rows, :, positions, channel] = distance
        return Difference(values)
    values = value.new_zeros(k, len(value), 1, *value.shape[2:])
    values.view(k, len(value), -1)[rows, :, positions] = distance
    return Difference(values, channel)


def gradient(graph: Graph, unit: Unit, owner: Owner, some: Tensor, slopes: Tensor) -> Tensor:
    """A tensor's derivative where it belongs to channels ``some``, NaN elsewhere.

    Args:
        slopes: float64 [channels, positions, batch] at the unit's nodes.
    """
    part: Any = graph.part(owner.node)
    tensor: Tensor = getattr(part, owner.attribute)
    some = some.to(slopes.device)
    deltas = slopes.transpose(1, 2)  # [channels, batch, positions]
    if owner.node is not unit.place:  # a batch norm follows, and scales
        deltas = deltas * Carrier(graph).scale(unit.place).double()[some, None, None]
    out = torch.full_like(tensor, torch.nan, dtype=torch.float64)
    batch, flat = deltas.shape[1], deltas.reshape(len(some), -1)
    x: Tensor = graph.values[owner.node.all_input_nodes[0]]
    if owner.attribute == "bias":
        out[some] = flat.sum(1) / batch
    elif isinstance(part, nn.Conv2d):
        rows = windows(part, x).double()  # [channels x kernel, batch x positions]
        inner, per_group = part.weight[0].numel(), part.out_channels // part.groups
        for group in range(part.groups):
            here = some // per_group == group
            read = rows[group * inner : (group + 1) * inner]
            out[some[here]] = (flat[here] @ read.t() / batch).view(-1, *part.weight.shape[1:])
    elif isinstance(part, nn.Linear):
        out[some] = flat @ x.reshape(-1, x.shape[-1]).double() / batch
    else:  # a batch norm's weight
        shaped = x.double()[:, some].flatten(2) if x.ndim > 2 else x.double()[:, some, None]
        mean, scale = part.running_mean.double()[some, None], torch.rsqrt(part.running_var.double() + part.eps)
        out[some] = (deltas.transpose(0, 1) * ((shaped - mean) * scale[some, None])).sum((0, 2)) / batch
    return out


def name_at(layout: Layout, index: int) -> str:
    """The tensor that a place in the concatenation belongs to."""
    return next(spec.name for spec in layout.specs if index < spec.offset + spec.numel)
