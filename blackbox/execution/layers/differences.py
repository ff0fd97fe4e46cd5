"""Differences carried through a graph: what a change at one node does to the output, for many changes at once.

A node's value is b, its cached value on the batch, plus a difference d. A linear node maps d as it is; any other gives
f(b + d) - f(b). Nodes that the change doesn't reach aren't run. So the loss of a changed network comes without the
cancellation of subtracting two losses, and from the changed layer on (DeepZero's feature reuse, arXiv:2310.02025,
section 4).

One coordinate of a convolution's or a linear layer's weight changes one output channel only. The difference stays on
it through batch norms, activations, pooling and additions, and the next convolution or linear layer reads that channel
alone: a rank-one update instead of a full product.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from blackbox.execution.layers.fused import relu_difference
from blackbox.execution.layers.graph import BATCH_NORMS, Graph

_ELEMENTWISE = {
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardtanh),
    *(F.relu, torch.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, torch.tanh, torch.sigmoid, F.softplus),
    *("relu", "relu_", "tanh", "sigmoid"),
}
_RELU = {nn.ReLU, F.relu, torch.relu, "relu", "relu_"}
_POOLS = {nn.AvgPool2d, nn.AdaptiveAvgPool2d, F.avg_pool2d, F.adaptive_avg_pool2d}
_MAX_POOLS = {nn.MaxPool2d, F.max_pool2d}
_FLATTEN = {nn.Flatten, torch.flatten, "flatten"}
_RESHAPES = {"view", "reshape", torch.reshape}
_SAME = {nn.Identity, nn.Dropout, nn.Dropout2d, "contiguous"}
_ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}


@dataclass(slots=True, eq=False)
class Difference:
    """Of one node, for k changes at once.

    Attributes:
        values: [k, batch, channels, ...].
        start: the first of the channels in ``values``, all others being 0; None if all channels are there.
        scaled: whether the batch norm after this node has been applied already.
        plus: to be added to ``values``; only on the way from a sum to the ReLU that reads it.
    """

    values: Tensor
    start: int | None = None
    scaled: bool = False
    plus: Tensor | None = None

    @property
    def count(self) -> int:
        """k."""
        return len(self.values)

    def part(self, low: int, high: int) -> Difference:
        """Changes low .. high-1."""
        plus = None if self.plus is None else self.plus[low:high]
        return Difference(self.values[low:high], self.start, self.scaled, plus)

    def whole(self, base: Tensor) -> Tensor:
        """[k, *base.shape]."""
        if self.start is None:
            return self.values
        out = self.values.new_zeros(self.count, *base.shape)
        out[:, :, self.start : self.start + self.values.shape[2]] = self.values
        return out


class Carrier:
    """Carries differences through one graph.

    Args:
        graph: with the values of a batch.
        low: the type that products of dense differences are computed in; None for that of the values.
        elements: at most so many numbers of one node are held at once; changes are carried in portions.
    """

    def __init__(self, graph: Graph, low: torch.dtype | None = None, elements: int = 1 << 21) -> None:
        self.graph, self.low, self.elements = graph, low, elements

    @torch.no_grad()
    def carry(self, node: fx.Node, difference: Difference, finish: Callable[[Difference], Tensor]) -> Tensor:
        """``finish`` of the output's difference, [k, batch], where a node's differs."""
        return self._walk(self.graph.place[node] + 1, {node: difference}, finish)

    def _walk(self, place: int, reached: dict[fx.Node, Difference], finish: Callable[[Difference], Tensor]) -> Tensor:
        graph = self.graph
        count = next(iter(reached.values())).count
        for i in range(place, len(graph.nodes)):
            node = graph.nodes[i]
            sources = [source for source in node.all_input_nodes if source in reached]
            if not sources or node in graph.sizes:
                continue
            if node.op == "output":
                return finish(reached[sources[0]])
            portion = max(1, self.elements // max(1, _size(graph.values[node])))
            if count > portion and self._spreads(node, reached):
                pieces = []
                for low in range(0, count, portion):
                    some = {n: d.part(low, low + portion) for n, d in reached.items()}
                    pieces.append(self._walk(i, some, finish))
                return torch.cat(pieces)
            reached[node] = self._step(node, reached)
            for source in node.all_input_nodes:
                if graph.last_use[source] <= i:
                    reached.pop(source, None)
        base = graph.values[graph.nodes[-1]]  # nothing that the output depends on was reached
        return finish(Difference(base.new_zeros(count, *base.shape)))

    def _spreads(self, node: fx.Node, reached: dict[fx.Node, Difference]) -> bool:
        """Whether a node makes a difference on one channel one on all of them."""
        thin = all(reached[source].start is not None for source in node.all_input_nodes if source in reached)
        return not (thin and self._kind(node) in _ELEMENTWISE | _POOLS | _MAX_POOLS | _SAME | _FLATTEN | _ADD | {_Norm})

    def _kind(self, node: fx.Node) -> Any:
        part = self.graph.part(node)
        if part is None:
            return node.target
        return _Norm if isinstance(part, BATCH_NORMS) else type(part)

    # -- one node ----------------------------------------------------------------------------------------------

    def _step(self, node: fx.Node, reached: dict[fx.Node, Difference]) -> Difference:
        graph, kind, part = self.graph, self._kind(node), self.graph.part(node)
        sources = [source for source in node.all_input_nodes if source in reached]
        first, base = reached[sources[0]], graph.values[sources[0]]
        if kind in _ADD and len(node.args) == 2 and not node.kwargs:
            return self._sum(node, sources, reached)
        if len(sources) > 1 or node.args[0] is not sources[0]:
            return self._any(node, sources, reached)
        if kind is _Norm:
            return first if first.scaled else self._norm(node, first)
        if isinstance(part, nn.Conv2d) and part.padding_mode == "zeros":
            return self._convolution(node, part, first, base)
        if isinstance(part, nn.Linear):
            return self._linear(node, part, first, base)
        if kind in _SAME and not getattr(part, "training", False):
            return first
        if kind in _ELEMENTWISE:
            return self._elementwise(node, sources[0], first, kind in _RELU)
        if kind in _POOLS | _MAX_POOLS:
            return self._pool(node, sources[0], first, kind in _POOLS)
        flat = graph.values[node]
        if kind in _FLATTEN | _RESHAPES and isinstance(flat, Tensor) and flat.ndim == 2 and len(flat) == len(base):
            width = base[0, 0].numel() if base.ndim > 1 else 1
            start = None if first.start is None else first.start * width
            return Difference(first.values.reshape(first.count, len(base), -1), start)
        short = self._shortcut(node, first)
        return short if short is not None else self._any(node, sources, reached)

    def _sum(self, node: fx.Node, sources: list[fx.Node], reached: dict[fx.Node, Difference]) -> Difference:
        base = self.graph.values[node]
        if any(self.graph.values[source].shape != base.shape for source in sources):
            return self._any(node, sources, reached)
        if len(sources) == 1 and node.args[0] is not node.args[1]:
            return reached[sources[0]]
        one, other = (reached[argument] for argument in node.args)  # type: ignore[index]
        if one.start is not None and one.start == other.start and one.values.shape == other.values.shape:
            return Difference(one.values + other.values, one.start)
        if one.start is not None and other.start is not None:
            return Difference(one.whole(base).add_(other.whole(base)))
        if one.start is not None:
            one, other = other, one
        if other.start is None:
            return self._dense_sum(node, one.values, other.values)
        total = one.values.clone()  # it may be read by others
        total[:, :, other.start : other.start + other.values.shape[2]] += other.values
        return Difference(total)

    def _dense_sum(self, node: fx.Node, one: Tensor, other: Tensor) -> Difference:
        (user,) = node.users if len(node.users) == 1 else (None,)
        if user is not None and self._kind(user) in _RELU and one.dtype == other.dtype:
            return Difference(one, plus=other)  # the ReLU adds it in the same pass
        return Difference(one + other)

    def _norm(self, node: fx.Node, difference: Difference) -> Difference:
        scale = self.scale(node)
        if difference.start is not None:
            scale = scale[difference.start : difference.start + difference.values.shape[2]]
        shaped = scale.view(-1, *[1] * (difference.values.ndim - 3)).to(difference.values.dtype)
        return Difference(difference.values * shaped, difference.start)

    def scale(self, node: fx.Node) -> Tensor:
        """What a batch norm in eval mode multiplies each channel by."""

        def make() -> Tensor:
            norm: Any = self.graph.part(node)
            scale = torch.rsqrt(norm.running_var + norm.eps)
            return scale if norm.weight is None else scale * norm.weight

        scale: Tensor = self.graph.kept(("scale", node), make)
        return scale

    def _weight(self, node: fx.Node) -> tuple[Tensor, bool]:
        """A layer's weight, times the batch norm after it if that is folded."""
        norm = self.graph.norm_after(node)
        part: Any = self.graph.part(node)

        def make() -> Tensor:
            weight: Tensor = part.weight.detach()
            if norm is not None:
                weight = weight * self.scale(norm).view(-1, *[1] * (weight.ndim - 1))
            weight = weight.to(self.low or weight.dtype)
            return weight.to(memory_format=torch.channels_last) if weight.ndim == 4 else weight

        return self.graph.kept(("weight", node), make), norm is not None

    def _convolution(self, node: fx.Node, part: nn.Conv2d, difference: Difference, base: Tensor) -> Difference:
        weight, folded = self._weight(node)
        values = difference.values
        if difference.start is not None and part.groups > 1:
            values = difference.whole(base)
        elif difference.start is not None:
            weight = weight[:, difference.start : difference.start + values.shape[2]]
        flat = values.reshape(-1, *values.shape[2:]).to(weight.dtype)
        if flat.shape[1] > 1:
            flat = flat.contiguous(memory_format=torch.channels_last)
        padding: Any = part.padding
        out = F.conv2d(flat, weight, None, part.stride, padding, part.dilation, part.groups)
        return Difference(out.view(difference.count, -1, *out.shape[1:]), None, folded)

    def _linear(self, node: fx.Node, part: nn.Linear, difference: Difference, base: Tensor) -> Difference:
        weight, folded = self._weight(node)
        values = difference.values
        if difference.start is not None and base.ndim > 2:
            values = difference.whole(base)
        elif difference.start is not None:
            weight = weight[:, difference.start : difference.start + values.shape[2]]
        return Difference(values.to(weight.dtype) @ weight.t(), None, folded)

    def _elementwise(self, node: fx.Node, source: fx.Node, difference: Difference, relu: bool) -> Difference:
        values, start = difference.values, difference.start
        part = slice(None) if start is None else slice(start, start + values.shape[2])
        if relu:
            lower, cut = self._negative(source, values.dtype)
            return Difference(relu_difference(values, difference.plus, lower[:, part], cut[:, part]), start)
        base = self.graph.values[source][:, part]
        there = self.graph.call(node, {source: base + values})
        return Difference((there - self.graph.values[node][:, part]).to(values.dtype), start)

    def _negative(self, source: fx.Node, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        def make() -> tuple[Tensor, Tensor]:
            lower = self.graph.values[source].to(dtype).neg()
            # Dense differences come out of convolutions in this order; it has to be the same for both.
            lower = lower.contiguous(memory_format=torch.channels_last) if lower.ndim == 4 else lower
            return lower, lower.clamp_min(0)

        made: tuple[Tensor, Tensor] = self.graph.kept(("negative", source, dtype), make)
        return made

    def _pool(self, node: fx.Node, source: fx.Node, difference: Difference, linear: bool) -> Difference:
        values, start = difference.values, difference.start
        part = slice(None) if start is None else slice(start, start + values.shape[2])
        if not linear:
            values = self.graph.values[source][:, part] + values
        out = self.graph.call(node, {source: values.reshape(-1, *values.shape[2:])})
        out = out.view(difference.count, -1, *out.shape[1:])
        if not linear:
            out = (out - self.graph.values[node][:, part]).to(difference.values.dtype)
        return Difference(out, start)

    def _shortcut(self, node: fx.Node, difference: Difference) -> Difference | None:
        """Steps over pixels and zeros around, as of a shortcut without weights: linear, and thin stays thin."""
        values, start = difference.values, difference.start
        if values.ndim != 5:
            return None
        if node.target is operator.getitem and isinstance(node.args[1], tuple):
            at = node.args[1]
            if all(isinstance(one, slice) for one in at) and at[:2] == (slice(None),) * 2:
                return Difference(values[(slice(None), *at)], start)
        if node.target is F.pad and len(node.args[1]) == 6:  # type: ignore[arg-type]
            pads: Any = node.args[1]
            mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
            value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
            if all(isinstance(one, int) for one in pads) and mode == "constant" and not value:
                if start is not None:
                    return Difference(F.pad(values, list(pads[:4])), start + pads[4])
                out = F.pad(values, list(pads)).flatten(0, 1)
                return Difference(out.contiguous(memory_format=torch.channels_last).unflatten(0, values.shape[:2]))
        return None

    def _any(self, node: fx.Node, sources: list[fx.Node], reached: dict[fx.Node, Difference]) -> Difference:
        """f(b + d) - f(b) of whatever f is, each change a batch of its own."""
        bases = [self.graph.values[source] for source in sources]
        wholes = [reached[s].whole(b).to(b.dtype) for s, b in zip(sources, bases, strict=True)]

        def one(*differences: Tensor) -> Tensor:
            there = {s: b + d for s, b, d in zip(sources, bases, differences, strict=True)}
            there_out: Tensor = self.graph.call(node, there) - self.graph.values[node]
            return there_out

        out: Tensor = torch.func.vmap(one, randomness="error")(*wholes)
        return Difference(out if self.low is None else out.to(self.low))


class _Norm:
    """Stands for every kind of batch norm."""


def _size(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else 1
