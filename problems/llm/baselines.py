"""What a run is compared with: the model untouched, and fine-tuning by backpropagation."""

from __future__ import annotations

import random
import time

import torch
from torch.nn import functional

from blackbox.memory import PeakMemory
from problems.llm.classification import Classification


def zero_shot(problem: Classification, split: str = "test") -> dict[str, float]:
    """Metrics at the present weights with `peak_memory` in bytes; on a fresh problem, zero-shot.

    `accuracy` is raw, `median_accuracy` has the threshold at the median score of the split.
    """
    memory = PeakMemory(problem.device)
    return {**problem.metrics(split), "peak_memory": float(memory.read())}


def adamw(
    problem: Classification,
    epochs: int = 2,
    examples: int | None = 512,
    lr: float = 2e-5,
    batch_size: int = 16,
    weight_decay: float = 0.0,
    seed: int = 0,
    split: str = "test",
) -> dict[str, float]:
    """Trains the problem's tuned tensors by AdamW (arXiv:1711.05101) and backpropagation.

    The weights change in place: build another problem for anything else. The learning rate falls
    linearly to zero; the model stays in eval mode, as for every other method.

    Returns:
        Metrics of the split, `examples_seen`, `seconds` of training, `peak_memory` in bytes.
    """
    memory, started = PeakMemory(problem.device), time.perf_counter()
    generator = random.Random(seed)
    count = min(examples or problem.examples, problem.examples)
    pool = generator.sample(range(problem.examples), count)
    tuned = [parameter for parameter in problem.module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(tuned, lr=lr, weight_decay=weight_decay)
    steps = epochs * -(-count // batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / steps, steps)
    for _ in range(epochs):
        generator.shuffle(pool)
        for start in range(0, count, batch_size):
            chosen = pool[start : start + batch_size]
            optimizer.zero_grad(set_to_none=True)
            for scores, labels in problem.training_batches(chosen):
                loss = functional.cross_entropy(scores, labels, reduction="sum") / len(chosen)
                torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    optimizer.zero_grad(set_to_none=True)
    seconds, peak = time.perf_counter() - started, memory.read()
    return {
        **problem.metrics(split),
        "examples_seen": float(epochs * count),
        "seconds": seconds,
        "peak_memory": float(peak),
    }
