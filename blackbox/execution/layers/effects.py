"""What moving coordinates of one layer's own tensors does to the layer's output."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from blackbox.execution.layers.differences import Difference
from blackbox.execution.layers.graph import BATCH_NORMS, Graph


def on_one_channel(graph: Graph, node: fx.Node, attribute: str) -> bool:
    """Whether a coordinate of this tensor changes one output channel only, by an amount that is known."""
    part, sources = graph.part(node), node.all_input_nodes
    if len(sources) != 1:
        return False
    (source,) = sources
    match part:
        case nn.Conv2d():
            return attribute == "bias" or bool(part.padding_mode == "zeros")
        case nn.Linear():
            return bool(graph.values[source].ndim == 2)
        case _:
            return isinstance(part, BATCH_NORMS) and part.running_var is not None


def channels(part: nn.Module, attribute: str, index: Tensor) -> Tensor:
    """The output channel of each flat index [k] of a tensor."""
    tensor: Tensor = getattr(part, attribute)
    return index // (tensor.numel() // len(tensor))


def one_channel(
    graph: Graph, node: fx.Node, attribute: str, channel: int, index: Tensor, amounts: Tensor
) -> Difference:
    """The output's difference where coordinate index[i] moves by amounts[i], all of them of one channel."""
    part: Any = graph.part(node)
    output: Tensor = graph.values[node]
    (source,) = node.all_input_nodes
    amounts = amounts.to(output.dtype)
    shape = (len(index), len(output), 1, *output.shape[2:])
    if attribute == "bias":
        moved = torch.ones(1, 1, dtype=output.dtype, device=output.device).expand(len(index), output[:, 0].numel())
    elif isinstance(part, nn.Conv2d):
        inner = part.weight[0].numel()
        row = index % inner + channel // (part.out_channels // part.groups) * inner
        moved = graph.kept(("windows", node), lambda: windows(part, graph.values[source])).index_select(0, row)
    elif isinstance(part, nn.Linear):
        columns = graph.kept(("columns", node), lambda: graph.values[source].t().contiguous())
        moved = columns.index_select(0, index % part.in_features)
    else:  # a batch norm's weight
        x = graph.values[source][:, channel]
        scale = torch.rsqrt(part.running_var[channel] + part.eps)
        moved = ((x - part.running_mean[channel]) * scale).reshape(1, -1).expand(len(index), -1)
    return Difference((moved * amounts[:, None]).view(shape), channel)


def windows(part: nn.Conv2d, x: Tensor) -> Tensor:
    """[channels x kernel, batch x pixels]: what each weight of one output channel is multiplied by."""
    padding: Any = part.padding
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(part.dilation, part.kernel_size, strict=True)]
        sides = [(r // 2, r - r // 2) for r in reach] if padding == "same" else [(0, 0)] * 2
        x, padding = F.pad(x, [*sides[1], *sides[0]]), 0
    windows = F.unfold(x, part.kernel_size, part.dilation, padding, part.stride)  # [batch, channels x kernel, pixels]
    return windows.transpose(0, 1).reshape(windows.shape[1], -1)


def restarted(graph: Graph, node: fx.Node, attribute: str, index: Tensor, amounts: Tensor) -> Difference:
    """As ``one_channel`` for any layer: it is run again for every coordinate, on its cached input."""
    part: Any = graph.part(node)
    weight: Tensor = getattr(part, attribute).detach()
    args, kwargs = graph.value(node.args), graph.value(node.kwargs)

    def one(at: Tensor, amount: Tensor) -> Tensor:
        moved = weight.reshape(-1).index_add(0, at[None], amount[None]).view(weight.shape)
        out: Tensor = torch.func.functional_call(part, {attribute: moved}, args, kwargs) - graph.values[node]
        return out

    return Difference(torch.stack([one(i, a) for i, a in zip(index, amounts.to(weight.dtype), strict=True)]))
