"""Layer access: a query that moves one coordinate runs only what that coordinate reaches.

Exact forms of coordinate-wise estimation, each equal to evaluating the displaced network:

    closed form   the last linear layer under cross-entropy: one logit moves, the log-sum-exp is updated
    rank one      a convolution's or linear layer's weight: one output channel moves, and the next such layer reads
                  that channel alone; from there on everything that is reached is run
    one channel   a bias, or a batch norm's tensors in eval mode: as rank one
    restart       any other layer: it is run again on its cached input, then everything that is reached
    forward       tensors that are used more than once, outside a layer, or before what gives no tensor of real numbers
                  (attention and recurrent layers give tuples): write-free, as without layer access

The three in between are DeepZero's feature reuse (arXiv:2310.02025, section 4) at every layer, with the differences
carried instead of the values. Needs an objective that offers its layers (``LayeredObjective``); one that offers only
losses never gets here. Queries that aren't single coordinates are evaluated write-free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx, nn

from blackbox.errors import UserError
from blackbox.execution.base import Execution, Outcome
from blackbox.execution.layers.differences import Carrier, Difference
from blackbox.execution.layers.effects import channels, on_one_channel, one_channel, restarted
from blackbox.execution.layers.graph import Graph, owners
from blackbox.execution.write_free import WriteFree
from blackbox.layout import TensorSpec
from blackbox.noise import Coordinate
from blackbox.objective import LayeredObjective, Objective
from blackbox.parameters import Parameters
from blackbox.probe import CURRENT, Context, Probe, Probes, Queries, Query, by_context


@dataclass(frozen=True)
class _Reach:
    """How one tensor's coordinates are evaluated; ``node`` is None for form "forward"."""

    form: str
    node: fx.Node | None = None
    attribute: str = ""


class LayerAccess(Execution):
    """Fast exact forms for queries about single coordinates.

    Args:
        precision: "exact" computes in the weights' type; "bfloat16" carries differences through convolutions and linear
            layers in bfloat16, several times faster where the processor has such products. It is the difference
            that is rounded, to 3 digits, not the loss.
        elements: numbers of one node held at once; changes are carried in portions of it.
    """

    def __init__(self, precision: Literal["exact", "bfloat16"] = "exact", elements: int = 1 << 21) -> None:
        if precision not in ("exact", "bfloat16"):
            raise UserError(f"precision is 'exact' or 'bfloat16', not {precision!r}.")
        if elements < 1:
            raise UserError(f"elements must be at least 1, not {elements}.")
        self.precision = precision
        self.elements = elements
        self._whole = WriteFree()
        self._told = False
        self._graph: Graph | None = None
        self._notes: list[str] = []

    def settings(self) -> dict[str, object]:
        """The precision and the portions: both can change bits."""
        return super().settings() | {"precision": self.precision, "elements": self.elements}

    def take_notes(self) -> list[str]:
        """How many tensors are evaluated in which form, once."""
        notes, self._notes = self._notes, []
        return notes

    def replay(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """As the write-free execution's."""
        self._whole.replay(queries, parameters)

    def evaluate(self, objective: Objective, queries: Sequence[Query], parameters: Parameters) -> list[Outcome]:
        """As the base says."""
        return list(self.evaluate_together(objective, queries, parameters))

    @torch.no_grad()
    def evaluate_together(
        self, objective: Objective, queries: Sequence[Query], parameters: Parameters
    ) -> list[Outcome] | Tensor:
        """[n, batch] float64 if all queries are about single coordinates of layers; as the base says."""
        layered = layered_objective(objective)
        parts: list[list[Outcome] | Tensor] = []
        for context, same in by_context(queries):
            moved = moves(same, parameters.dimension)
            if moved is None:
                parts.append(self._whole.evaluate(objective, same, parameters))
                continue
            try:
                parts.append(self._answer(layered, context, same, moved, parameters))
            except UserError:
                raise
            except Exception as error:  # the objective's own
                parts.append([error] * len(same))
            finally:
                if self._graph is not None:
                    self._graph.release()
        if len(parts) == 1:
            return parts[0]
        return [outcome for part in parts for outcome in part]

    def forms(self, objective: Objective, parameters: Parameters, context: Context) -> dict[str, str]:
        """The form in which each tensor's coordinates are evaluated, by its name."""
        graph = Graph(layered_objective(objective).module)
        with torch.no_grad():
            graph.run(layered_objective(objective).inputs(context))
        return {name: one.form for name, one in _reaches(graph, layered_objective(objective), parameters).items()}

    def _graph_of(self, objective: LayeredObjective) -> Graph:
        """Traced once a module: of a small network that takes as long as a round."""
        if self._graph is None or self._graph.module is not objective.module:
            self._graph = Graph(objective.module)
        return self._graph

    def _answer(
        self,
        objective: LayeredObjective,
        context: Context,
        queries: Sequence[Query],
        moved: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]],
        parameters: Parameters,
    ) -> list[Outcome] | Tensor:
        parameters.flush()
        graph = self._graph_of(objective)
        outputs = graph.run(objective.inputs(context)).double()
        base = objective.losses(outputs[None], context)[0].double()
        out = base.expand(len(queries), -1).clone()
        reaches = _reaches(graph, objective, parameters)
        if not self._told:
            self._told = True
            forms = Counter(one.form for one in reaches.values())
            self._notes.append("layer access: " + ", ".join(f"{form} ({n} tensors)" for form, n in forms.items()))
        carrier = Carrier(graph, torch.bfloat16 if self.precision == "bfloat16" else None, self.elements)
        index, amounts = (torch.from_numpy(one).to(base.device) for one in moved)
        left = []
        for spec in parameters.layout.specs:
            rows = ((index >= spec.offset) & (index < spec.offset + spec.numel) & (amounts != 0)).nonzero()[:, 0]
            reach = reaches[spec.name]
            if reach.node is None:
                left += rows.tolist()
                continue
            for some in _portions(graph, reach, spec, rows, index):
                at, by = index[some] - spec.offset, amounts[some]
                out[some] = self._losses(objective, context, carrier, reach, at, by, outputs)
        if left:
            found = self._whole.evaluate(objective, [queries[row] for row in left], parameters)
            if any(isinstance(one, Exception) for one in found):
                outcomes: list[Outcome] = list(out)
                for row, one in zip(left, found, strict=True):
                    outcomes[row] = one
                return outcomes
            out[left] = torch.stack([one for one in found if isinstance(one, Tensor)]).double()
        return out

    def _losses(
        self,
        objective: LayeredObjective,
        context: Context,
        carrier: Carrier,
        reach: _Reach,
        index: Tensor,
        amounts: Tensor,
        outputs: Tensor,
    ) -> Tensor:
        """[k, batch] at every moved coordinate of one channel (or, for a restart, of one tensor)."""
        graph, node = carrier.graph, reach.node
        assert node is not None
        if reach.form == "restart":
            difference = restarted(graph, node, reach.attribute, index, amounts)
        else:
            part = graph.part(node)
            assert part is not None
            channel = int(channels(part, reach.attribute, index[:1]))
            difference = one_channel(graph, node, reach.attribute, channel, index, amounts)
            if reach.form == "closed form":
                return _closed_form(objective, context, difference, outputs, graph)

        def finish(there: Difference) -> Tensor:
            return objective.losses(outputs + there.whole(outputs).double(), context)

        return carrier.carry(node, difference, finish)


def layered_objective(objective: Objective) -> LayeredObjective:
    """The objective, if it offers its layers; raises UserError otherwise."""
    if not isinstance(objective, LayeredObjective):
        raise UserError(
            f"LayerAccess restarts a network at its layers, but {type(objective).__name__} offers losses only (it "
            "needs `module`, `inputs(context)` and `losses(outputs, context)`). Use the write-free execution."
        )
    return objective


def moves(queries: Sequence[Query], dimension: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
    """(coordinates int64 [n], by how much float64 [n]) if that is all that is asked; 0 is the base itself."""
    if isinstance(queries, Queries) and isinstance(queries.candidates, Probes):
        if not isinstance(queries.candidates.law, Coordinate) or queries.base != CURRENT:
            return None
        seeds, coefficients = queries.candidates.seeds, queries.candidates.coefficients
        return np.array(seeds, np.int64) % dimension, np.array(coefficients) * np.sqrt(dimension)
    pairs = []
    for query in queries:
        candidate = query.candidate
        if query.base != CURRENT:
            return None
        if candidate is None:
            pairs.append((0, 0.0))
        elif isinstance(candidate, Probe) and isinstance(candidate.law, Coordinate) and len(candidate.terms) == 1:
            pairs.append(candidate.terms[0])
        else:
            return None
    index = np.array([seed for seed, _ in pairs], np.int64) % dimension
    return index, np.array([coefficient for _, coefficient in pairs]) * np.sqrt(dimension)


def _reaches(graph: Graph, objective: LayeredObjective, parameters: Parameters) -> dict[str, _Reach]:
    def make() -> dict[str, _Reach]:
        smooth = graph.smooth()
        return {
            name: _Reach(_form(graph, *one, objective), *one)
            if one is not None and one[0] in smooth
            else _Reach("forward")
            for name, one in owners(graph, parameters).items()
        }

    made: dict[str, _Reach] = graph.kept("reaches", make)
    return made


def _form(graph: Graph, node: fx.Node, attribute: str, objective: LayeredObjective) -> str:
    if not on_one_channel(graph, node, attribute):
        return "restart"
    part = graph.part(node)
    if (
        isinstance(part, nn.Linear)
        and graph.nodes[-1].args[0] is node
        and callable(getattr(objective, "targets", None))
    ):
        return "closed form"
    return "rank one" if isinstance(part, nn.Linear | nn.Conv2d) and attribute == "weight" else "one channel"


def _portions(graph: Graph, reach: _Reach, spec: TensorSpec, rows: Tensor, index: Tensor) -> list[Tensor]:
    """The rows of one tensor by output channel; a few at a time for a restart."""
    if not len(rows):
        return []
    if reach.form == "restart":
        return list(torch.split(rows, 16))
    assert reach.node is not None
    part = graph.part(reach.node)
    assert part is not None
    channel = channels(part, reach.attribute, index[rows] - spec.offset)
    order = channel.argsort(stable=True)
    counts = torch.unique_consecutive(channel[order], return_counts=True)[1]
    return list(torch.split(rows[order], counts.tolist()))


def _closed_form(
    objective: LayeredObjective, context: Context, difference: Difference, outputs: Tensor, graph: Graph
) -> Tensor:
    """Cross-entropy where one logit moves: logaddexp of all the others and it, less the target's."""
    targets: Tensor = objective.targets(context)  # type: ignore[attr-defined]
    channel = difference.start
    assert channel is not None

    def make() -> Tensor:
        others = outputs.clone()
        others[:, channel] = -torch.inf
        return others.logsumexp(1)

    others: Tensor = graph.kept(("others", channel), make)
    moved = outputs[:, channel] + difference.values[:, :, 0].double()
    chosen = torch.where(targets == channel, moved, outputs.gather(1, targets[:, None])[:, 0])
    return torch.logaddexp(others, moved) - chosen
