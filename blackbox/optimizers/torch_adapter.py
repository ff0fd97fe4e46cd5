"""Any ``torch.optim`` optimizer over the estimate, made dense for the step.

Costs one gradient's memory and whatever state the optimizer keeps; the optimizer's own schedule of ``lr`` is ours.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Round
from blackbox.noise.rounding import round_stochastically
from blackbox.optimizers.base import NO_DECAY, Optimizer
from blackbox.optimizers.schedules import Schedule, Shape
from blackbox.parameters import Parameters


class TorchOptimizer(Optimizer):
    """A ``torch.optim`` class by name.

    Args:
        name: class name in ``torch.optim``, for example "Adam".
        lr: base learning rate.
        schedule: its course; linear decay by default.
        weight_decay: decoupled decay, applied here (not handed to the class).
        no_decay: regular expressions of names that are not decayed.
        options: further keyword arguments of the class, for example {"betas": [0.9, 0.99]}.

    Raises:
        UserError: no such class, or options that it does not take.
    """

    def __init__(
        self,
        name: str,
        lr: float,
        schedule: Schedule | Shape | None = "linear",
        weight_decay: float = 0.0,
        no_decay: Sequence[str] = NO_DECAY,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(lr, schedule, weight_decay, no_decay)
        factory = getattr(torch.optim, name, None)
        if not (isinstance(factory, type) and issubclass(factory, torch.optim.Optimizer)):
            known = [n for n in dir(torch.optim) if isinstance(getattr(torch.optim, n), type)]
            raise UserError(f"torch.optim has no optimizer '{name}'; it has: {', '.join(known)}.")
        self._factory: Any = factory
        self._options = dict(options or {})
        _check_options(factory, lr, self._options)
        self._optimizer: torch.optim.Optimizer | None = None
        self._leaves: dict[str, nn.Parameter] = {}
        self._saved: dict[str, Any] | None = None

    def check(self, parameters: Parameters) -> None:
        """As the base says: some classes take matrices only."""
        shapes = dict.fromkeys(spec.shape for spec in parameters.layout.specs)
        try:
            self._factory([nn.Parameter(torch.empty(s, device="meta")) for s in shapes], lr=self.lr, **self._options)
        except (TypeError, ValueError, RuntimeError) as error:
            words = ", ".join(str(list(shape)) for shape in list(shapes)[:4])
            raise UserError(
                f"optimizer: torch.optim.{self._factory.__name__} does not take tensors of the shapes {words}: "
                f"{str(error).rstrip('.')}. Choose another class."
            ) from error

    def step(self, estimate: Estimate, round: Round, parameters: Parameters) -> dict[str, float]:
        """Materialise the direction into .grad of leaves that share the parameters' storage, then step."""
        parameters.flush()
        optimizer = self._bind(parameters)
        lr = self.lr * self.schedule.factor(round.progress)
        for group in optimizer.param_groups:
            group["lr"] = lr
        gradient = dense_gradient(estimate, parameters)
        for name, leaf in self._leaves.items():
            tensor = parameters.raw[name]
            leaf.data = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            leaf.grad = gradient[name]
            if self.decays(name):
                leaf.data.mul_(1.0 - lr * self.weight_decay)
        optimizer.step()
        for spec in parameters.layout.specs:
            tensor = parameters.raw[spec.name]
            if tensor.dtype == torch.bfloat16:
                flat = self._leaves[spec.name].data.reshape(-1)
                tensor.copy_(round_stochastically(flat, round.seed("round"), spec).view(tensor.shape))
        optimizer.zero_grad(set_to_none=True)
        parameters.version += 1
        return {"lr": lr}

    def _bind(self, parameters: Parameters) -> torch.optim.Optimizer:
        if self._optimizer is None:
            # Half precision steps in float32 and is rounded stochastically, or small steps would be lost.
            wide = {n: t.float() if t.dtype == torch.bfloat16 else t for n, t in parameters.raw.items()}
            self._leaves = {name: nn.Parameter(t) for name, t in wide.items()}
            self._optimizer = self._factory(list(self._leaves.values()), lr=self.lr, **self._options)
        if self._saved is not None:
            self._restore(self._optimizer, self._saved)
            self._saved = None
        return self._optimizer

    def _restore(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        loaded = optimizer.state_dict()
        loaded["state"] = {int(index): dict(entry) for index, entry in state.items()}
        optimizer.load_state_dict(loaded)

    def state_dict(self) -> dict[str, Any]:
        """The per-tensor state of the torch optimizer."""
        if self._optimizer is None:
            return {"state": self._saved or {}}
        return {"state": {str(i): entry for i, entry in self._optimizer.state_dict()["state"].items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says; taken up when the parameters are known."""
        self._saved = state["state"] or None
        self._optimizer = None  # made anew, with that state or none


def _check_options(factory: type[torch.optim.Optimizer], lr: float, options: Mapping[str, Any]) -> None:
    """Refuse a class that cannot step on a gradient alone, and options that it does not take."""
    accepted = inspect.signature(factory).parameters
    closure = inspect.signature(factory.step).parameters.get("closure")
    needs_more = closure is not None and closure.default is inspect.Parameter.empty
    if needs_more or factory in (torch.optim.Optimizer, torch.optim.SparseAdam):
        raise UserError(f"torch.optim.{factory.__name__} cannot step on a dense gradient alone; choose another class.")
    own = [key for key in accepted if key not in ("params", "lr")]
    for key in options:
        if key == "lr":
            raise UserError("options: lr is a key of its own, beside `options`.")
        if key not in own:
            raise UserError(f"options: {factory.__name__} has no '{key}'; it has: {', '.join(own)}.")
    if options:  # without any there is nothing to refuse, and making one loads torch's compiler
        try:
            factory([nn.Parameter(torch.zeros(1, 1))], lr=lr, **options)  # type: ignore[call-arg]
        except Exception as error:
            raise UserError(f"options: {factory.__name__} refuses them: {error}.") from error


@torch.no_grad()
def dense_gradient(estimate: Estimate, parameters: Parameters) -> dict[str, Tensor]:
    """The estimate as tensors of the parameters' shapes and dtypes, bfloat16 as float32."""
    zeros = {
        name: torch.zeros(t.shape, dtype=torch.promote_types(t.dtype, torch.float32), device=t.device)
        for name, t in parameters.raw.items()
    }
    scratch = Parameters(zeros, fused=parameters.fused)
    scratch.apply(estimate.direction)
    return scratch.tensors
