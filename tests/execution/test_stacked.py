"""A pair of probes in one forward: the same values and the same steps as separate forwards."""

import pytest
import torch
from torch import Tensor, nn

from blackbox import Parameters, Probe, Query, Session, Values
from blackbox.estimators import CentralDifference
from blackbox.execution import WriteFree
from blackbox.noise import Gaussian, Law, Rademacher
from blackbox.optimizers import SGD, Schedule
from blackbox.probe import Context
from blackbox.strategies import GradientStrategy
from blackbox.testing.generators import seeded


class Net(nn.Module):
    """Token and (perhaps) position embeddings, a norm, layers with and without bias, one above the fused size."""

    def __init__(self, positions: bool) -> None:
        super().__init__()
        self.tokens, self.norm = nn.Embedding(60, 32), nn.LayerNorm(32)
        self.positions = nn.Embedding(6, 32) if positions else None
        self.up, self.down = nn.Linear(32, 640), nn.Linear(640, 32, bias=False)
        self.head = nn.Linear(32, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions(torch.arange(ids.shape[1]))  # no batch dimension: cannot be told apart
        return self.head(x + self.down(torch.tanh(self.up(self.norm(x))))).mean(1)


class Objective:
    def __init__(self, positions: bool = False, dtype: torch.dtype = torch.float32) -> None:
        with seeded(0):
            self.module: nn.Module = Net(positions).to(dtype).eval()
            self.ids = torch.randint(0, 60, (5, 6))
            self.labels = torch.randint(0, 4, (5,))
        self.forwards = 0

    def values(self, context: Context) -> Tensor:
        return self.stacked_values(context, 1)[0]

    def stacked_values(self, context: Context, copies: int) -> Tensor:
        self.forwards += 1
        scores = self.module(self.ids.repeat(copies, 1)).float()
        return nn.functional.cross_entropy(scores, self.labels.repeat(copies), reduction="none").view(copies, -1)


def pair(law: Law, c: float = 0.02) -> list[Query]:
    return [Query(f"0.0.{i}", Probe(law, ((7, sign * c),))) for i, sign in enumerate((1, -1))]


@pytest.mark.parametrize("law", [Rademacher(), Gaussian()], ids=["rademacher", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_stacked_pair_has_the_values_of_separate_forwards(law: Law, dtype: torch.dtype) -> None:
    found = []
    for stacked in (True, False):
        objective = Objective(dtype=dtype)
        execution = WriteFree(stacked=stacked)
        parameters = Parameters.from_module(objective.module, fused=False)
        execution.evaluate(objective, pair(law), parameters)
        objective.forwards = 0
        found.append(torch.stack(execution.evaluate(objective, pair(law), parameters)))
        assert objective.forwards == (1 if stacked else 2)
    apart = (found[1][0] - found[1][1]).abs().mean()
    assert apart > 0.01
    assert (found[0] - found[1]).abs().max() < (1e-4 if dtype == torch.float32 else 0.2) * apart


def test_a_model_that_cannot_be_stacked_is_evaluated_separately() -> None:
    found = []
    for stacked in (True, False):
        objective = Objective(positions=True)
        execution = WriteFree(stacked=stacked)
        parameters = Parameters.from_module(objective.module, fused=False)
        execution.evaluate(objective, pair(Gaussian()), parameters)
        objective.forwards = 0
        found.append(torch.stack(execution.evaluate(objective, pair(Gaussian()), parameters)))
        assert objective.forwards == 2
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_merged_steps_equal_steps_of_separate_forwards(weight_decay: float) -> None:
    ends = []
    for stacked in (True, False):
        objective = Objective()
        parameters = Parameters.from_module(objective.module, fused=False)
        optimizer = SGD(1e-3, Schedule("constant"), weight_decay=weight_decay)
        session = Session(GradientStrategy(CentralDifference(Gaussian(), 1e-3), optimizer), parameters)
        execution = WriteFree(stacked=stacked)
        for _ in range(10):
            queries = session.ask()
            values = torch.stack(execution.evaluate(objective, queries, parameters)).double().mean(1).numpy()
            session.tell(Values(tuple(q.id for q in queries), values))
            session.advance()
        ends.append(parameters.flat())
    start = Parameters.from_module(Objective().module, fused=False).flat()
    assert (ends[1] - start).norm() > 1e-3
    assert (ends[0] - ends[1]).norm() < 1e-2 * (ends[1] - start).norm()


def test_parts_get_their_own_forward_back_whatever_happens() -> None:
    objective = Objective()
    parameters = Parameters.from_module(objective.module, fused=False)
    before = parameters.flat()
    objective.labels = torch.full((5,), 99)  # out of range: the loss raises
    outcomes = WriteFree().evaluate(objective, pair(Gaussian()), parameters)
    assert all(isinstance(outcome, Exception) for outcome in outcomes)
    assert all("forward" not in part.__dict__ for part in objective.module.modules())
    assert torch.equal(parameters.flat(), before)
