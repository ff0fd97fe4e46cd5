"""Derivatives along probes, by forward-mode automatic differentiation (arXiv:2202.08587).

One query is one forward pass that carries a tangent (``torch.func.jvp``): about twice the time of a value, and no
activation is kept for a backward. This oracle has access to the model, and says so by what it answers: Slopes, not
Values. An estimator that works from values does not fit it, and ``ForwardGradient`` fits no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from blackbox.errors import UserError
from blackbox.execution import materialise
from blackbox.feedback import Cost, Failed, Feedback, Slopes, add_cost
from blackbox.objective import ModuleObjective, Objective, cost_of
from blackbox.parameters import Parameters
from blackbox.probe import CURRENT, Context, Probe, Queries, Query
from oracles.base import LocalOracle
from oracles.door import reason_of
from oracles.modes import evaluated_in


class DerivativeOracle(LocalOracle):
    """Asks a problem for derivatives.

    Args:
        problem: a function of vectors, or a module and its values, in torch operations from the parameters to the
            values. Tensors that are detached on the way, or pass through numpy, have no derivative: the first query
            that finds so raises UserError. If it has ``maximize = True``, the sign is turned here.
    """

    answers = frozenset({Slopes, Failed})

    def __init__(self, problem: Objective) -> None:
        self.problem = problem
        self._sign = -1.0 if getattr(problem, "maximize", False) else 1.0

    def answer(self, queries: Sequence[Query], parameters: Parameters) -> Sequence[Feedback]:
        """One answer a query; a mean over examples is taken first, in float64."""
        parameters.flush()
        with evaluated_in("eval", getattr(self.problem, "module", None)):
            return [self._answer(query, parameters) for query in queries]

    def cost(self, queries: Sequence[Query]) -> Cost:
        """Queries, and what the problem counts of a value: examples, tokens, episodes."""
        total: Cost = {"queries": len(queries)}
        for query in queries:
            add_cost(total, dict(cost_of(self.problem, query.context)))
        return total

    def settings(self) -> dict[str, Any]:
        """That these are derivatives."""
        return {"derivatives": "forward"}

    def _answer(self, query: Query, parameters: Parameters) -> Feedback:
        if not isinstance(query.candidate, Probe):
            raise UserError(f"Query {query.id} is no probe; a derivative is taken along one.")
        began = time.perf_counter()
        try:
            value, slope = self._slope(query, parameters)
        except UserError:
            raise
        except Exception as error:
            return self._failed(query, reason_of(error), began)
        if not (torch.isfinite(value) and torch.isfinite(slope)):
            return self._failed(query, f"not finite: value {float(value)}, slope {float(slope)}", began)
        numbers = [self._sign * one.detach().cpu().double().reshape(1).numpy() for one in (slope, value)]
        return Slopes((query.id,), numbers[0], numbers[1], self._paid(query, began))

    def _slope(self, query: Query, parameters: Parameters) -> tuple[Tensor, Tensor]:
        base = parameters.raw if query.base == CURRENT else parameters.anchor(query.base)
        point = {name: tensor.detach() for name, tensor in base.items()}
        tangent = along(query, parameters)
        if isinstance(self.problem, ModuleObjective):
            f = _at_weights(self.problem, parameters, query.context)
            found = _jvp(f, point, tangent)
        else:
            flat = [torch.cat([t[name].reshape(-1) for name in point]) for t in (point, tangent)]
            problem = self.problem
            found = _jvp(lambda x: problem(x[None], query.context)[0], *flat)
        if found is None:
            raise UserError(
                f"{type(self.problem).__name__} has no derivatives to give: its values do not depend on the parameters "
                "through torch operations alone (something is detached, or computed in numpy). Use the oracle "
                "`objective`, and an estimator that works from values."
            )
        return found

    def _failed(self, query: Query, reason: str, began: float) -> Feedback:
        return Failed((query.id,), reason, self._paid(query, began))

    def _paid(self, query: Query, began: float) -> Cost:
        return self.cost([query]) | {"seconds": time.perf_counter() - began}


def along(query: Query, parameters: Parameters) -> dict[str, Tensor]:
    """The displacement of a probe by itself, in the tensors' shapes and types."""
    zeros = Parameters({name: torch.zeros_like(t) for name, t in parameters.raw.items()}, fused=False)
    (flat,) = materialise(Queries((query.id,), [query.candidate]), zeros)
    return {
        spec.name: flat[spec.offset : spec.offset + spec.numel].view(spec.shape).to(zeros.raw[spec.name])
        for spec in zeros.layout.specs
    }


def _jvp(f: Callable[[Any], Tensor], point: Any, tangent: Any) -> tuple[Tensor, Tensor] | None:
    """f and its derivative along the tangent, means over examples; None if f has none to give."""

    def mean(x: Any) -> Tensor:
        values = f(x)
        return (values if values.device.type == "mps" else values.double()).mean()

    try:
        # Not strict, a value that was detached on the way would pass for one of slope 0.
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no forward derivative
            value, slope = torch.func.jvp(mean, (point,), (tangent,), strict=True)[:2]
    except RuntimeError as error:
        if any(words in str(error) for words in ("strict=True", "doesn't have storage")):
            return None
        raise
    return value, slope


def _at_weights(problem: ModuleObjective, parameters: Parameters, context: Context) -> Callable[[Any], Tensor]:
    """Weights by name -> the objective's values at them, the module itself untouched."""

    class Asked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = problem.module

        def forward(self) -> Tensor:
            return problem.values(context)

    asked = Asked()
    names = {t.data_ptr(): name for name, t in parameters.raw.items()}
    own = {name: names[p.data_ptr()] for name, p in asked.named_parameters() if p.data_ptr() in names}
    return lambda weights: torch.func.functional_call(asked, {o: weights[name] for o, name in own.items()}, ())
