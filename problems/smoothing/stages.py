"""The stages of a defence's training: what each tunes, by which optimizer, and what a resumed one must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from blackbox.errors import UserError

DENOISER, CODER, ADAM, SGD = "denoiser", "auto-encoder", "adam", "sgd"
ALONE = (DENOISER, CODER)
"""Stages that ask nothing: squared errors on images alone."""


class Prepared(NamedTuple):
    """A step that is ready to be made: its loss, the gradients of what it tunes, running statistics after it."""

    step: int
    loss: float
    gradients: Sequence[Tensor]
    buffers: Sequence[Tensor]


class Stages:
    """Denoiser and auto-encoder apart from each other by Adam, then denoiser and encoder by Adam, then by SGD.

    Args:
        modules: "denoiser", and "encoder" and "decoder" if there is an auto-encoder.
        denoiser, coder: steps of the stages that ask nothing; without an auto-encoder the second has none.
        adam, sgd: steps of the stages that ask.
        first_lr: learning rate of the stages that ask nothing.
        lr: of the others; in the last stage it falls tenfold at each third.
    """

    def __init__(
        self, modules: nn.ModuleDict, denoiser: int, coder: int, adam: int, sgd: int, first_lr: float, lr: float
    ) -> None:
        self.modules, self.first_lr, self.lr = modules, first_lr, lr
        self.counts = {DENOISER: denoiser, CODER: coder if "encoder" in modules else 0, ADAM: adam, SGD: sgd}
        self._optimizer: tuple[str, torch.optim.Optimizer] | None = None

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(self.counts.values())

    def at(self, step: int) -> tuple[str, int]:
        """The stage of a step, and the step's number within it."""
        for stage, count in self.counts.items():
            if step < count:
                return stage, step
            step -= count
        raise UserError(f"The training has {self.steps} steps.")

    def tuned(self, stage: str) -> list[nn.Parameter]:
        """The weights that a stage moves; what doesn't want a gradient stays as it is."""
        names = {DENOISER: ("denoiser",), CODER: ("encoder", "decoder")}.get(stage, ("denoiser", "encoder"))
        parts = [self.modules[name] for name in names if name in self.modules]
        return [weight for part in parts for weight in part.parameters() if weight.requires_grad]

    @torch.no_grad()
    def move(self, prepared: Prepared) -> None:
        """Make a step that was prepared."""
        stage, within = self.at(prepared.step)
        if self._optimizer is None or self._optimizer[0] != stage:
            self._optimizer = stage, self._new_optimizer(stage)
        optimizer = self._optimizer[1]
        if stage == SGD:
            optimizer.param_groups[0]["lr"] = self.lr * 0.1 ** (3 * within // self.counts[SGD])
        for weight, gradient in zip(self.tuned(stage), prepared.gradients, strict=True):
            weight.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for buffer, after in zip(self.modules.buffers(), prepared.buffers, strict=True):
            buffer.copy_(after)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's, with the stage that it is of."""
        if self._optimizer is None:
            return {}
        stage, optimizer = self._optimizer
        return {"stage": stage, "optimizer": optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self._optimizer = None
        if state:
            optimizer, saved = self._new_optimizer(state["stage"]), state["optimizer"]
            by_number = {int(key): value for key, value in saved["state"].items()}
            optimizer.load_state_dict({"state": by_number, "param_groups": saved["param_groups"]})
            self._optimizer = state["stage"], optimizer

    def _new_optimizer(self, stage: str) -> torch.optim.Optimizer:
        tuned = self.tuned(stage)
        if stage == SGD:
            return torch.optim.SGD(tuned, self.lr, momentum=0.9)
        return torch.optim.Adam(tuned, self.first_lr if stage in ALONE else self.lr)


@contextmanager
def training(modules: nn.Module, seed: int) -> Iterator[list[Tensor]]:
    """Train mode, with a generator of its own for what a module may draw.

    Buffers (running statistics) are put back afterwards; the list then holds what they had become.
    """
    before, after = [buffer.clone() for buffer in modules.buffers()], list[Tensor]()
    modules.train()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield after
    finally:
        after += [buffer.clone() for buffer in modules.buffers()]
        with torch.no_grad():
            for buffer, value in zip(modules.buffers(), before, strict=True):
                buffer.copy_(value)
        modules.eval()
