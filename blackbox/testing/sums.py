"""A finite sum of quadratics, whose gradients are known, and rounds of estimators on it."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from blackbox.estimators import Estimate, Estimator, Round
from blackbox.execution.batched import materialise
from blackbox.feedback import Answers, Failed, Values
from blackbox.layout import Layout
from blackbox.parameters import Parameters
from blackbox.probe import Context, Query, by_context
from blackbox.variance.terms import vector

D = 6
LAYOUT = Layout.of({"x": (D,)})


class Quadratics:
    """f_i(x) = (x - a_i)^T H_i (x - a_i) / 2, so grad f_i = H_i (x - a_i)."""

    def __init__(self, examples: int = 20, identical: bool = False, linear: bool = False) -> None:
        draw = torch.Generator().manual_seed(3)
        self.centres = torch.randn(examples, D, generator=draw, dtype=torch.float64)
        factor = torch.randn(examples, D, D, generator=draw, dtype=torch.float64) / D**0.5
        self.hessians = factor @ factor.transpose(1, 2)
        self.linear = linear
        if identical:
            self.centres[:], self.hessians[:] = self.centres[:1].clone(), self.hessians[:1].clone()
        self.examples = examples

    def rows(self, context: Context) -> list[int]:
        if context.indices is not None:
            return list(context.indices)
        if context.batch_seed is None:
            return list(range(self.examples))
        generator = np.random.Generator(np.random.Philox(key=context.batch_seed))
        chosen: list[int] = generator.choice(self.examples, 4).tolist()
        return chosen

    def values(self, x: Tensor, context: Context) -> Tensor:
        """Points [n, d] -> values [n], the mean over the context's examples."""
        rows = self.rows(context)
        if self.linear:
            return x @ self.centres[rows].mean(0)
        gap = x[:, None] - self.centres[rows]
        return 0.5 * torch.einsum("kni,nij,knj->kn", gap, self.hessians[rows], gap).mean(1)

    def gradient(self, x: Tensor, context: Context = Context()) -> Tensor:  # noqa: B008 (frozen)
        rows = self.rows(context)
        if self.linear:
            return self.centres[rows].mean(0)
        return torch.einsum("nij,nj->ni", self.hessians[rows], x - self.centres[rows]).mean(0)


class Driver:
    """Runs an estimator at points of one's own choosing, and keeps its queries."""

    def __init__(self, estimator: Estimator, function: Quadratics, seed: int = 0) -> None:
        self.estimator, self.function, self.seed = estimator, function, seed
        self.parameters = Parameters.from_vector(torch.zeros(D, dtype=torch.float64))
        self.step = 0
        self.asked: list[Query] = []
        self.fails: set[int] = set()

    def round(self) -> Round:
        return make_round(self.step, self.seed)

    def at(self, x: Tensor) -> Estimate:
        """One round at x."""
        self.parameters.assign({"x": x})
        round, answers, self.asked = self.round(), Answers(), []
        for phase in range(10):
            plan = self.estimator.next(round, phase, answers)
            if not plan.queries:
                break
            for name in plan.anchors:
                self.parameters.take_anchor(name)
            for context, queries in by_context(plan.queries):
                values = self.function.values(materialise(queries, self.parameters), context).numpy()
                for query, value in zip(queries, values, strict=True):
                    failed = len(self.asked) in self.fails
                    answers.add(Failed((query.id,), "test") if failed else Values((query.id,), value[None]))
                    self.asked.append(query)
        self.step += 1
        return self.estimator.estimate(round, answers)

    def vector(self, x: Tensor) -> Tensor:
        return vector(self.at(x).direction, LAYOUT)


def make_round(step: int, seed: int = 0) -> Round:
    """The inputs of a step with a minibatch."""
    round = Round(step, step, seed, Context(), LAYOUT)
    return dataclasses.replace(round, context=Context(batch_seed=round.seed("batch"), reset_seed=round.seed("reset")))


def path(steps: int, length: float = 0.1) -> list[Tensor]:
    """A walk of points."""
    draw = torch.Generator().manual_seed(8)
    return list(torch.cumsum(length * torch.randn(steps, D, generator=draw, dtype=torch.float64), 0))
