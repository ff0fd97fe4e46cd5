"""A module's graph, with the value of every node on one batch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from blackbox.errors import UserError

_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_OUT_OF_PLACE: dict[Any, Any] = {operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul}


class Graph:
    """What ``torch.fx`` sees of a module; its parts of torch.nn are taken as wholes.

    Args:
        module: in eval mode; not written to.

    Attributes:
        nodes: in the order in which they run.
        place: each node's place in it.
        last_use: the place of the last node that reads each node.
        values: each node's value on the batch that ``run`` was given.
        module: as given.
        modules: its parts by name.
        folded: batch norms that scale the output of a convolution or linear layer which nobody else reads.

    Raises:
        UserError: the module can't be traced.
    """

    def __init__(self, module: nn.Module) -> None:
        self.modules: dict[str, nn.Module] = dict(module.named_modules())
        try:
            graph = fx.Tracer().trace(module)
        except Exception as error:
            raise UserError(f"The model can't be traced, so its layers can't be reached: {error}") from error
        self.nodes = list(graph.nodes)
        self.place = {node: i for i, node in enumerate(self.nodes)}
        self.last_use = {node: max((self.place[user] for user in node.users), default=-1) for node in self.nodes}
        self.values: dict[fx.Node, Any] = {}
        self.folded = {node for node in self.nodes if self._folds(node)}
        self.module = module
        self._kept: dict[Any, Any] = {}

    def part(self, node: fx.Node) -> nn.Module | None:
        """The part of the module that a node calls."""
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def _folds(self, node: fx.Node) -> bool:
        if not isinstance(self.part(node), _BATCH_NORM):
            return False
        (source,) = node.all_input_nodes
        return isinstance(self.part(source), nn.Conv2d | nn.Linear) and len(source.users) == 1

    @torch.no_grad()
    def run(self, inputs: Tensor) -> Any:
        """The output on a batch [n, ...]; every node's value is kept.

        Raises:
            UserError: a batch norm is in train mode, or has no running statistics.
        """
        for name, part in self.modules.items():
            if isinstance(part, _BATCH_NORM) and (part.training or part.running_var is None):
                what = "in train mode" if part.training else "without running statistics"
                raise UserError(
                    f"'{name}' is a batch norm {what}: there one image's value depends on the others, so no "
                    "layer can be restarted on its own. Put the model in eval mode, or freeze the batch norms."
                )
        self.values, self._kept = {}, {}
        for node in self.nodes:
            match node.op:
                case "placeholder":
                    self.values[node] = inputs
                case "get_attr":
                    self.values[node] = operator.attrgetter(str(node.target))(self.module)
                case "output":
                    self.values[node] = self.value(node.args[0])
                case _:
                    self.values[node] = self.call(node, {})
        return self.values[self.nodes[-1]]

    def value(self, argument: Any, instead: Mapping[fx.Node, Any] | None = None) -> Any:
        """An argument with every node in it replaced by its value, or by what stands in ``instead``."""
        there = instead or {}
        return fx.map_arg(argument, lambda node: there[node] if node in there else self.values[node])

    def call(self, node: fx.Node, instead: Mapping[fx.Node, Any]) -> Any:
        """What a node gives with other values of some nodes; nothing that it is given is written to."""
        args, kwargs = self.value(node.args, instead), self.value(node.kwargs, instead)
        if node.op == "call_method":
            name = str(node.target)
            if name.endswith("_") and not name.endswith("__"):
                args = (args[0].clone(), *args[1:])
            return getattr(args[0], name)(*args[1:], **kwargs)
        if node.op == "call_module":
            part = self.modules[str(node.target)]
            args = (args[0].clone(), *args[1:]) if getattr(part, "inplace", False) else args
            return part(*args, **kwargs)
        function: Callable[..., Any] = _OUT_OF_PLACE.get(node.target, node.target)
        if getattr(function, "__name__", "").endswith("_"):
            args = (args[0].clone(), *args[1:])
        return function(*args, **{**kwargs, **({"inplace": False} if "inplace" in kwargs else {})})

    def release(self) -> None:
        """Let go of the batch's values."""
        self.values, self._kept = {}, {}

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """``make()``, once for the present batch and weights."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]
