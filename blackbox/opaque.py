"""A layer that can only be called: its backward is estimated at its input, for every sample of the batch.

Around an opaque f (a solver, a service, a frozen network whose gradients nobody gives away) lie layers that
backpropagate. What they need of f is, for sample b with incoming gradient g_b = dL/df(x_b),

    J(x_b)^T g_b  =  gradient at x_b of the scalar x -> <g_b, f(x)>

and a stencil estimates that from values <g_b, f(x_b + sum_i c_ji z_i)>, j = 1 .. m, of f alone (arXiv:2203.14195,
section 4.2, with random directions and coordinate-wise; arXiv:2310.02025, section 5, with a solver). Only the d numbers
of one input are estimated, however many weights lie before the layer: those get exact backpropagation of the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from blackbox.errors import BudgetSpent, UserError
from blackbox.estimators.base import Round
from blackbox.estimators.coordinate import CoordinateWise
from blackbox.estimators.selection import Selection
from blackbox.estimators.two_point import CentralDifference, ForwardDifference
from blackbox.layout import Layout
from blackbox.noise import Coordinate, Law
from blackbox.probe import ALL_DATA
from blackbox.seeds import derive_seeds

FloatArray = npt.NDArray[np.float64]


@runtime_checkable
class Stencil(Protocol):
    """The arithmetic of an estimate that is linear in the values; ``CentralDifference`` and its like have it.

    Attributes:
        noise: the law of the q directions z_i.
    """

    noise: Law

    def coefficients(self) -> FloatArray:
        """[m, q]: query j asks at x + sum_i coefficients[j, i] z_i."""
        ...

    def weights(self, values: FloatArray) -> FloatArray:
        """Values [m, batch] -> weights [q, batch]: the estimate is sum_i weights[i] z_i."""
        ...


@dataclass(frozen=True)
class _Plan:
    """One call's queries: at which points, along which directions, and what becomes of the values.

    Attributes:
        matrix: [m, q] coefficients.
        seeds: [copies * q]; copies is the batch, or 1 where all samples share their directions.
        weights: values [m, batch] -> [q, batch].
    """

    noise: Law
    matrix: FloatArray
    seeds: tuple[int, ...]
    weights: Callable[[FloatArray], FloatArray]


class OpaqueLayer(nn.Module):
    """f as a module that backpropagation can pass.

    Where no gradient is wanted (``torch.no_grad()``, or an input that requires none) f is called once and nothing is
    estimated; train and eval mode make no difference. f must treat the samples of a batch apart from each other.

    Args:
        f: Tensor [batch, *in] -> Tensor [batch, *out], only ever called, without gradients. It is given a contiguous
            copy and may write to it.
        estimator: a ``Stencil`` such as ``CentralDifference(Gaussian(), 1e-3, probes=20)``, or ``CoordinateWise``,
            whose coordinates (all of the input's d, or those it selects) are the same for all samples of a batch.
        seed: of the directions; call c of the layer, in this life or a resumed one, always has the same ones.
        shared: one set of directions for all samples of a batch. By default each has its own: their errors are then
            independent, and the gradient of the weights before the layer, a sum over samples, averages them out.
            Shared directions cost a batch-th of the noise's time and memory.
        chunk: samples that one call of f gets at most.
        budget: samples that f may be asked about in all, with those of the forward passes and of inference; None for
            no limit.

    Attributes:
        calls: forward passes that wanted a gradient, int64, in the state_dict.
        queries: samples f was asked about, int64, in the state_dict.

    Raises:
        BudgetSpent: f would be asked more than ``budget`` times. A forward pass whose backward would not fit is
            refused before anything is asked.
        UserError: an input that isn't float32 or float64, or has no batch; f failed, gave another shape, or numbers
            that aren't finite; a gradient that isn't finite reaches the layer; a second derivative is asked for.
    """

    calls: Tensor
    queries: Tensor

    def __init__(
        self,
        f: Callable[[Tensor], Tensor],
        estimator: Stencil | CoordinateWise,
        seed: int = 0,
        shared: bool = False,
        chunk: int = 1024,
        budget: int | None = None,
    ) -> None:
        super().__init__()
        if not callable(f):
            raise UserError(f"f is called with a tensor [batch, ...]; {type(f).__name__} cannot be called.")
        if not isinstance(estimator, CoordinateWise | Stencil):
            raise UserError(
                f"{type(estimator).__name__} cannot estimate inside backpropagation: that takes `noise`, "
                "`coefficients()` and `weights(values)`, as CentralDifference and ForwardDifference have them, or "
                "CoordinateWise."
            )
        if isinstance(estimator, CoordinateWise) and type(estimator.select).learn is not Selection.learn:
            raise UserError(
                f"{type(estimator.select).__name__} chooses coordinates by slopes of the past, which differ from "
                "sample to sample here. Select all, a sample or blocks."
            )
        if chunk < 1:
            raise UserError(f"chunk must be at least 1, not {chunk}.")
        if budget is not None and budget < 1:
            raise UserError(f"budget must be at least 1 query, not {budget}; leave it out for no limit.")
        self.f = f
        self.estimator = estimator
        self.seed = seed
        self.shared = shared
        self.chunk = chunk
        self.budget = budget
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("queries", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, *in] -> f(x) [batch, *out]."""
        if x.ndim == 0:
            raise UserError("OpaqueLayer needs a batch: an input [batch, ...], not a single number.")
        if x.dtype not in (torch.float32, torch.float64):
            raise UserError(
                f"OpaqueLayer got an input of {x.dtype}; differences need float32 or float64 (x.float() makes it so)."
            )
        if torch.is_grad_enabled() and x.requires_grad:
            output: Tensor = _Estimated.apply(x, self)  # type: ignore[no-untyped-call]
            return output
        self._afford(len(x), "this forward pass")
        return self._ask(x, "inference")

    def queries_of(self, x: Tensor) -> int:
        """What one sample of x [batch, *in] costs: in a forward pass that wants a gradient, and its backward."""
        return 1 + int(self._plan(x[:1], int(self.calls)).matrix.any(1).sum())

    def extra_repr(self) -> str:
        """What stands in the module's print."""
        name = getattr(self.f, "__name__", type(self.f).__name__)
        return f"f={name}, estimator={type(self.estimator).__name__}, seed={self.seed}, budget={self.budget}"

    def _begin(self, x: Tensor) -> tuple[Tensor, int]:
        """f(x), and the number of this call."""
        call = int(self.calls)
        asked = 1 + int(self._plan(x, call).matrix.any(1).sum())
        self._afford(len(x) * asked, f"a forward pass and its backward ({len(x)} samples x {asked})")
        output = self._ask(x, f"the forward pass of call {call}")
        if not output.is_floating_point():
            raise UserError(f"f gave {output.dtype}, which has no gradient; it must give floating-point numbers.")
        self.calls += 1
        return output, call

    def _estimate(self, x: Tensor, output: Tensor, gradient: Tensor, call: int) -> Tensor:
        """[batch, *in]: sum_i weights[i] z_i for every sample."""
        batch = len(x)
        if x.numel() == 0:
            return torch.zeros_like(x)
        gradient = _double(gradient).reshape(batch, -1)
        if not gradient.isfinite().all():
            bad = int((~gradient.isfinite().all(1)).nonzero()[0])
            raise UserError(f"The gradient that reaches OpaqueLayer in call {call} is not finite in sample {bad}.")
        plan = self._plan(x, call)
        z = _directions(plan, x)
        values = np.empty((len(plan.matrix), batch))
        displaced = plan.matrix.any(1)
        # The base is known from the forward pass.
        values[~displaced] = (_double(output).reshape(batch, -1) * gradient).sum(1).cpu().numpy()
        rows = np.flatnonzero(displaced)
        self._afford(len(rows) * batch, f"the backward of call {call} ({batch} samples x {len(rows)})")
        together = max(1, self.chunk // batch)
        for start in range(0, len(rows), together):
            part = rows[start : start + together]
            used = np.flatnonzero(plan.matrix[part].any(0))
            coefficients = torch.from_numpy(plan.matrix[np.ix_(part, used)]).to(z)
            moves = torch.einsum("kq,bqd->kbd", coefficients, z[:, torch.from_numpy(used).to(z.device)])
            points = (x.reshape(1, batch, -1) + moves).reshape(-1, *x.shape[1:])
            where = f"the backward of call {call}, queries {part[0]} to {part[-1]} of {len(plan.matrix)}"
            found = _double(self._ask(points, where, output.shape[1:])).reshape(len(part), batch, -1)
            values[part] = (found * gradient).sum(-1).cpu().numpy()
        weights = torch.from_numpy(plan.weights(values)).to(z)
        return torch.einsum("qb,bqd->bd", weights, z.expand(batch, -1, -1)).reshape(x.shape)

    def _plan(self, x: Tensor, call: int) -> _Plan:
        if isinstance(self.estimator, CoordinateWise):
            layout = _layout(x)
            return _along_coordinates(self.estimator, Round(call, call, self.seed, ALL_DATA, layout))
        matrix = self.estimator.coefficients()
        copies = 1 if self.shared else len(x)
        seeds = derive_seeds(self.seed, "opaque", call, copies * matrix.shape[1])
        return _Plan(self.estimator.noise, matrix, seeds, self.estimator.weights)

    @torch.no_grad()
    def _ask(self, x: Tensor, where: str, shape: torch.Size | None = None) -> Tensor:
        """f at n samples, in calls of ``chunk`` at most; ``where`` and ``shape`` [*out] are for the complaints."""
        outputs: list[Tensor] = []
        for start in range(0, max(len(x), 1), self.chunk):
            part = x[start : start + self.chunk].detach().clone(memory_format=torch.contiguous_format)
            self.queries += len(part)
            try:
                output: Any = self.f(part)
            except Exception as error:
                raise UserError(f"f failed in {where}: {type(error).__name__}: {error}") from error
            outputs.append(_checked(output, len(x[start : start + self.chunk]), shape, where))
            shape = outputs[0].shape[1:]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _afford(self, more: int, what: str) -> None:
        if self.budget is not None and int(self.queries) + more > self.budget:
            raise BudgetSpent(
                f"The layer's budget is {self.budget} queries; {int(self.queries)} are spent, and {what} would take "
                f"{more} more. Nothing was asked. Raise `budget`, or ask less in a step (fewer probes or samples)."
            )


def _along_coordinates(estimator: CoordinateWise, round: Round) -> _Plan:
    """The coordinates of one round as a stencil: seed i of the law is coordinate i."""
    population, d = estimator.population(round.layout), round.layout.dimension
    choice = estimator.select.choose(round, len(population))
    n = len(choice.places)
    kind = CentralDifference if estimator.stencil == "central" else ForwardDifference
    # The law's z is sqrt(d) long; and a stencil takes the mean of its slopes, where coordinates add up.
    stencil = kind(Coordinate(), estimator.epsilon / math.sqrt(d), probes=n)
    factors = choice.weights[:, None] * n / d
    seeds = tuple(population[choice.places].tolist())
    return _Plan(stencil.noise, stencil.coefficients(), seeds, lambda values: stencil.weights(values) * factors)


def _layout(x: Tensor) -> Layout:
    """One sample of x as the only tensor."""
    return Layout.of({"x": tuple(x.shape[1:])})


def _directions(plan: _Plan, x: Tensor) -> Tensor:
    """z [batch, q, d], or [1, q, d] where all samples have the same ones, in x's precision."""
    layout, law = _layout(x), plan.noise
    (spec,) = layout.specs
    z = law.sample(plan.seeds, spec, 0, spec.numel, x.device).to(x.dtype)
    if type(law).scale is not Law.scale:
        z = z * torch.tensor([[law.scale(seed, layout)] for seed in plan.seeds], dtype=x.dtype, device=x.device)
    return z.reshape(-1, plan.matrix.shape[1], spec.numel)


def _checked(output: Any, samples: int, shape: torch.Size | None, where: str) -> Tensor:
    """The output, if it is a tensor of that many finite samples; raises UserError otherwise."""
    if not isinstance(output, Tensor):
        raise UserError(f"f gave a {type(output).__name__} in {where}; it must give a tensor [batch, ...].")
    if output.ndim == 0 or len(output) != samples or (shape is not None and output.shape[1:] != shape):
        rest = "..." if shape is None else ", ".join(map(str, shape))
        raise UserError(
            f"f gave shape {list(output.shape)} for {samples} samples in {where}; it must be [{samples}, {rest}]."
        )
    if output.is_floating_point() and not output.isfinite().all():
        bad = int((~output.reshape(samples, -1).isfinite().all(1)).nonzero()[0])
        raise UserError(f"f gave a number that is not finite in {where}, sample {bad} of {samples}.")
    return output.detach()


def _double(values: Tensor) -> Tensor:
    """In float64, on the device if that has float64."""
    values = values.detach()
    return values.cpu().double() if values.device.type == "mps" else values.double()


class _Estimated(torch.autograd.Function):
    """f forward, the estimate backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: OpaqueLayer) -> Tensor:
        output, ctx.call = layer._begin(x)
        ctx.layer = layer
        ctx.save_for_backward(x, output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, output = ctx.saved_tensors
        with torch.no_grad():
            estimate = ctx.layer._estimate(x.detach(), output.detach(), gradient, ctx.call)
        # With create_graph the estimate is tied to what it depends on by a node that refuses to be passed.
        if torch.is_grad_enabled():
            estimate = _NotTwice.apply(estimate, x, gradient)  # type: ignore[no-untyped-call]
        return estimate, None


class _NotTwice(torch.autograd.Function):
    """The estimate itself; its own derivative is refused."""

    @staticmethod
    def forward(ctx: Any, estimate: Tensor, *depends: Tensor) -> Tensor:
        return estimate.view_as(estimate)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise UserError(
            "OpaqueLayer has no second derivative: its gradient is estimated from values and cannot be differentiated "
            "again. Drop the gradient penalty (or whatever uses create_graph=True), or let it not pass this layer."
        )
