"""Derivatives along coordinates, by displacing what layers put out: node perturbation (arXiv:2310.00965).

The arithmetic is ``blackbox.execution.layers.nodes``'s. This oracle needs layers, and says so by what it answers:
Slopes, not Values. It takes no derivative by automatic differentiation; ``DerivativeOracle`` does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.execution.layers.access import moves
from blackbox.execution.layers.nodes import NodeAccess
from blackbox.feedback import Cost, Failed, Feedback, Slopes, add_cost
from blackbox.objective import LayeredObjective, Objective, cost_of
from blackbox.parameters import Parameters
from blackbox.probe import Context, Query, by_context, ids_of
from oracles.base import LocalOracle
from oracles.door import reason_of
from oracles.modes import evaluated_in


class NodeOracle(LocalOracle):
    """Asks a network for derivatives along single coordinates, many of them by one displaced node.

    A probe's length is the distance of the difference: of the displacement of a node, or of the coordinate where
    coordinates are asked. What counts as ``queries`` is evaluations of the network: one at the base, and one for
    each displaced node or coordinate.

    Args:
        problem: offers its layers: ``module``, ``inputs(context)`` and ``losses(outputs, context)``. Each example's
            loss must depend on that example alone; the module is in eval mode while it is asked. If it has
            ``maximize = True``, the sign is turned here.
        mixed: ask coordinates where they are fewer, or where there are no nodes; otherwise that is refused.
        elements: numbers of one node held at once; changes are carried in portions of it.

    Raises:
        UserError: the problem offers losses only; from ``submit``: a batch norm takes its statistics from the batch, a
            query is about something else than one coordinate of the present point, or a tensor has no nodes and
            ``mixed`` is off.
    """

    answers = frozenset({Slopes, Failed})

    def __init__(self, problem: Objective, mixed: bool = True, elements: int = 1 << 21) -> None:
        if not isinstance(problem, LayeredObjective):
            raise UserError(
                f"Node perturbation displaces what layers put out, but {type(problem).__name__} offers losses only (it "
                "needs `module`, `inputs(context)` and `losses(outputs, context)`). Use the oracle `objective`, and an "
                "estimator that works from values, such as `coordinate`."
            )
        self.problem: LayeredObjective = problem
        self._access = NodeAccess(mixed, elements)
        self._parameters: Parameters | None = None
        self._sign = -1.0 if getattr(problem, "maximize", False) else 1.0

    def answer(self, queries: Sequence[Query], parameters: Parameters) -> Sequence[Feedback]:
        """One Slopes a context for all that succeeded, one Failed for the others."""
        self._parameters = parameters
        with evaluated_in("eval", self.problem.module):
            return [one for context, same in by_context(queries) for one in self._answer(context, same, parameters)]

    def cost(self, queries: Sequence[Query]) -> Cost:
        """Evaluations of the network, and what the problem counts of each; at most one a query before the first."""
        total: Cost = {}
        for context, same in by_context(queries):
            evaluations = 1.0 + self._evaluations(context, same)
            add_cost(total, {"queries": evaluations})
            add_cost(total, {coin: evaluations * one for coin, one in cost_of(self.problem, context).items()})
        return total

    def settings(self) -> dict[str, Any]:
        """That these are derivatives, and how they are found."""
        return {"derivatives": "nodes", "mixed": self._access.mixed, "elements": self._access.elements}

    def _answer(self, context: Context, queries: Sequence[Query], parameters: Parameters) -> list[Feedback]:
        began = time.perf_counter()
        index, amounts = _coordinates(queries, parameters)
        slopes, value = torch.zeros(len(index), dtype=torch.float64), torch.nan
        try:
            for distance in torch.unique(amounts).tolist():
                rows = (amounts == distance).nonzero()[:, 0] if distance else torch.empty(0, dtype=torch.int64)
                found, losses = self._access.derivatives(
                    self.problem, context, parameters, index[rows], distance or 1.0
                )
                slopes[rows], value = distance * found.cpu(), float(losses.mean())
        except UserError:
            raise
        except Exception as error:  # the problem's own
            return [Failed(ids_of(queries), reason_of(error), self._paid(queries, began))]
        good = slopes.isfinite().numpy() & bool(np.isfinite(value))
        ids, cost = np.array(ids_of(queries), dtype=object), self._paid(queries, began)
        feedback: list[Feedback] = []
        if good.any():
            values = np.full(int(good.sum()), self._sign * value)
            feedback.append(Slopes(tuple(ids[good]), self._sign * slopes.numpy()[good], values, cost))
        if not good.all():
            reason = f"not finite: value {value}, or the slope"
            feedback.append(Failed(tuple(ids[~good]), reason, {"queries": 0} if feedback else cost))
        return feedback

    def _evaluations(self, context: Context, queries: Sequence[Query]) -> int:
        """Besides the one at the base."""
        parameters = self._parameters
        if parameters is None:
            make = getattr(self.problem, "parameters", None)
            if not callable(make):
                return len(queries)
            parameters = make()
        index, amounts = _coordinates(queries, parameters)
        parts = [index[amounts == distance] for distance in torch.unique(amounts).tolist() if distance]
        try:
            with evaluated_in("eval", self.problem.module):
                return sum(self._access.asked(self.problem, context, parameters, part).evaluations for part in parts)
        except UserError:
            raise
        except Exception:  # the problem's own; asking says which
            return len(queries)

    def _paid(self, queries: Sequence[Query], began: float) -> Cost:
        return self.cost(queries) | {"seconds": time.perf_counter() - began}


def _coordinates(queries: Sequence[Query], parameters: Parameters) -> tuple[Tensor, Tensor]:
    """Coordinates int64 [n], and by how much each is moved, float64 [n]."""
    found = moves(queries, parameters.dimension)
    if found is None:
        raise UserError(
            f"Node perturbation answers about single coordinates of the present point; query {queries[0].id} or one "
            "with it is about something else. Use the estimator `node-perturbation`, without anchors."
        )
    index, amounts = found
    return torch.from_numpy(index), torch.from_numpy(amounts)
