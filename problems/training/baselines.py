"""What a run is compared with: training by backpropagation, on the batches that a run of the same seed sees."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.optimizers.schedules import Schedule, Shape
from blackbox.probe import Context
from blackbox.seeds import derive_seed
from problems.training.problem import ImageClassification


def first_order(
    problem: ImageClassification,
    steps: int = 300,
    name: str = "SGD",
    lr: float = 0.1,
    schedule: Schedule | Shape = "cosine",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    split: str = "test",
) -> dict[str, float]:
    """Trains the problem's weights by an optimizer of ``torch.optim`` on exact gradients of the cross-entropy.

    The weights change in place: build another problem for anything else. The network stays in eval mode and step t
    sees the batch that step t of a run with this seed sees, so that only the gradient's source differs.

    Args:
        problem: what is trained.
        steps: minibatches.
        name: class name in ``torch.optim``, such as SGD or AdamW.
        lr: base learning rate.
        schedule: its course over the steps.
        options: further keyword arguments of the class, for example {"momentum": 0.9}.
        seed: the run's.
        split: where the metrics are taken.

    Returns:
        Metrics of the split, `examples_seen` and `seconds` of training.
    """
    started = time.perf_counter()
    for _ in descent(problem, steps, name, lr, schedule, options, seed):
        pass
    seconds = time.perf_counter() - started
    examples = steps * problem.cost(Context(0))["examples"]
    return {**problem.metrics(split), "examples_seen": examples, "seconds": seconds}


def descent(
    problem: ImageClassification,
    steps: int,
    name: str = "SGD",
    lr: float = 0.1,
    schedule: Schedule | Shape = "cosine",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    first: int = 0,
    mask: Callable[[int], Tensor] | None = None,
) -> Iterator[float]:
    """The training of ``first_order`` step by step: each step's loss at the weights before it, once it is made.

    Args:
        problem: as there, and so are the others that aren't named here.
        steps: of the whole course, which the schedule is a share of.
        name: of the optimizer.
        lr: base learning rate.
        schedule: its course.
        options: of the optimizer.
        seed: the run's.
        first: the number of the first step that is made; those before it count in the schedule alone.
        mask: a step's number -> what the gradient is multiplied by, [d] in the order of the layout; None is nothing.
    """
    if steps < 1:
        raise UserError(f"steps must be at least 1, not {steps}.")
    if problem.targets is None:
        raise UserError("first-order needs a derivative: objective `accuracy` has none, `cross_entropy` does.")
    factory = getattr(torch.optim, name, None)
    if not (isinstance(factory, type) and issubclass(factory, torch.optim.Optimizer)):
        raise UserError(f"name: torch.optim has no optimizer '{name}'; for example SGD or AdamW.")
    course = schedule if isinstance(schedule, Schedule) else Schedule(schedule)
    parameters = problem.parameters()
    parameters.flush()
    tuned = {key: tensor for key, tensor in problem.module.named_parameters() if tensor.requires_grad}
    optimizer = factory(tuned.values(), lr=lr, **dict(options or {}))  # type: ignore[call-arg]
    for step in range(first, steps):
        context = Context(derive_seed(seed, "batch", step), None, derive_seed(seed, "reset", step))
        for group in optimizer.param_groups:
            group["lr"] = lr * course.factor(step / steps)
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            value = problem.values(context).mean()
            torch.autograd.backward(value)
        if mask is not None:
            factors = mask(step)
            for spec in parameters.layout.specs:
                gradient = tuned[spec.name].grad
                if gradient is not None:
                    gradient.mul_(factors[spec.offset : spec.offset + spec.numel].view(spec.shape))
        optimizer.step()
        yield float(value.detach())
    optimizer.zero_grad(set_to_none=True)
