"""A module's graph, with the value of every node on one batch."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from blackbox.errors import UserError
from blackbox.parameters import Parameters

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_SIZES = {"size", "dim", "numel", "shape", "ndim", "dtype", "device"}
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
        sizes: nodes that give sizes or types and the like, which no change of values changes.
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
        self.sizes: set[fx.Node] = set()
        self.sizes.update(node for node in self.nodes if self._of_sizes(node))  # in turn: each may read those before
        self.folded = {node for node in self.nodes if self._folds(node)}
        self.module = module
        self._kept: dict[Any, Any] = {}

    def part(self, node: fx.Node) -> nn.Module | None:
        """The part of the module that a node calls."""
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def smooth(self) -> set[fx.Node]:
        """Nodes whose differences can be carried on: they and all that depends on them are tensors of real numbers."""
        found: set[fx.Node] = set()
        for node in reversed(self.nodes):
            value = self.values[node]
            real = isinstance(value, Tensor) and value.is_floating_point()
            if real and all(user in found or user in self.sizes for user in node.users):
                found.add(node)
        return found

    def norm_after(self, node: fx.Node) -> fx.Node | None:
        """The batch norm that scales a layer's channels, if it alone reads them.

        After a linear layer on sequences it scales positions.
        """
        (user,) = node.users if len(node.users) == 1 else (None,)
        return user if user in self.folded and self.values[node].ndim in (2, 4) else None

    def _of_sizes(self, node: fx.Node) -> bool:
        if node.op == "call_method" or node.target is getattr:
            return (node.target if node.op == "call_method" else node.args[1]) in _SIZES
        sources = node.all_input_nodes
        return node.op == "call_function" and bool(sources) and self.sizes.issuperset(sources)

    def _folds(self, node: fx.Node) -> bool:
        if not isinstance(self.part(node), BATCH_NORMS):
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
            if isinstance(part, BATCH_NORMS) and (part.training or part.running_var is None):
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


def owners(graph: Graph, parameters: Parameters) -> dict[str, tuple[fx.Node, str] | None]:
    """The node that reads each tensor and what its layer calls it; None for one that isn't read there alone, once."""
    names = {tensor.data_ptr(): name for name, tensor in parameters.raw.items()}
    there = [
        (names[tensor.data_ptr()], path, attribute)
        for path, part in graph.modules.items()
        for attribute, tensor in part._parameters.items()
        if tensor is not None and tensor.data_ptr() in names
    ]
    times = Counter(name for name, _, _ in there)
    read = [graph.values[node] for node in graph.nodes if node.op == "get_attr"]  # outside its layer
    times.update(names[one.data_ptr()] for one in read if isinstance(one, Tensor) and one.data_ptr() in names)
    found: dict[str, tuple[fx.Node, str] | None] = dict.fromkeys(parameters.raw)
    for name, path, attribute in there:
        nodes = [node for node in graph.nodes if node.op == "call_module" and node.target == path]
        if len(nodes) == 1 and times[name] == 1:
            found[name] = nodes[0], attribute
    return found
