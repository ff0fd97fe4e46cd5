"""Steps over SmolLM2-135M on one batch of random tokens, and the bare forwards that they are measured against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from blackbox.estimators import CentralDifference
from blackbox.execution import Execution
from blackbox.feedback import Failed
from blackbox.noise import Law
from blackbox.optimizers import SGD
from blackbox.parameters import Parameters
from blackbox.probe import Context
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from oracles.objective import ObjectiveOracle
from problems.llm.model import load_model
from problems.llm.scoring import OptionScorer

EPSILON = 1e-3
LR = 1e-7  # small, so that hundreds of steps leave the loss where it is


class FixedBatch:
    """The loss of the two answer words on one batch of random tokens."""

    def __init__(self, batch: int, length: int, autocast: bool = False, dtype: str = "float32") -> None:
        model, tokenizer, _ = load_model("smollm2-135m", dtype, "cpu")
        options = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in (" terrible", " great")]
        self.module: nn.Module = OptionScorer(model, options).eval()
        self.autocast = autocast
        self.resize(batch, length)

    def resize(self, batch: int, length: int) -> None:
        """Another batch."""
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(100, 40_000, (batch, length), generator=generator)
        self.last = torch.full((batch,), length - 1)
        self.labels = torch.randint(0, 2, (batch,), generator=generator)

    @torch.no_grad()
    def values(self, context: Context) -> Tensor:
        """Cross-entropy of every example."""
        return self.stacked_values(context, 1)[0]

    @torch.no_grad()
    def stacked_values(self, context: Context, copies: int) -> Tensor:
        """The same for copies of the batch in one forward."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast, cache_enabled=False):
            scores = self.module(self.tokens.repeat(copies, 1), self.last.repeat(copies), copies)
        labels = self.labels.repeat(copies)
        return nn.functional.cross_entropy(scores.float(), labels, reduction="none").view(copies, -1)


def floor(problem: FixedBatch) -> Callable[[], None]:
    """Two forwards and one synchronisation."""

    def step() -> None:
        torch.stack([problem.values(Context()).mean() for _ in range(2)]).tolist()

    return step


def ours(problem: FixedBatch, execution: Execution, law: Law, probes: int = 1) -> Callable[[], None]:
    """A step of the engine; so many pairs of queries."""
    parameters = Parameters.from_module(problem.module)
    strategy = GradientStrategy(CentralDifference(law, EPSILON, probes), SGD(LR))
    session = Session(strategy, parameters)
    oracle = ObjectiveOracle(problem, execution)

    def step() -> None:
        oracle.submit(session.ask(), parameters)
        for feedback in oracle.poll():
            if isinstance(feedback, Failed):
                raise RuntimeError(feedback.reason)
            session.tell(feedback)
        session.advance()

    return step
