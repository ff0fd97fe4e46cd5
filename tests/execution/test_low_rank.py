"""Low-rank noise in factors: the same values and steps as with the same noise written out, without touching weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from blackbox import Parameters, Probe, Query, Session, Values
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference, ForwardDifference
from blackbox.execution import Execution, InPlace, LowRankForward, WriteFree
from blackbox.execution.base import Outcome
from blackbox.noise import Gaussian, Law, LowRank, Rademacher, Scaled
from blackbox.optimizers import SGD, Schedule
from blackbox.probe import Context
from blackbox.strategies import GradientStrategy
from blackbox.testing.executions import central, expected, values
from blackbox.testing.generators import seeded
from blackbox.testing.models import TinyObjective

EXACT = [LowRank(), LowRank(4), LowRank(refresh=3), Scaled(LowRank(), {"hidden": 0.5})]
"""Laws whose elements have no rounding in float32; those of the others are off by 2^-24 of the change they make."""
ROUNDED = [LowRank(2, Gaussian()), LowRank(3, refresh=3, core="full"), LowRank(2, refresh=3, core="diagonal")]


class Net(nn.Module):
    """A tied embedding, norms, layers with and without bias, one matrix of its own used outside a linear layer."""

    def __init__(self, positions: bool) -> None:
        super().__init__()
        self.tokens, self.norm = nn.Embedding(60, 32), nn.LayerNorm(32)
        self.positions = nn.Embedding(6, 32) if positions else None
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32, bias=False)
        self.mix = Mix(32)
        self.head = nn.Linear(32, 60, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions(torch.arange(ids.shape[1]))  # no batch dimension: cannot be told apart
        return self.head(self.mix(x + self.down(torch.tanh(self.up(self.norm(x)))))).mean(1)


class Mix(nn.Module):
    """Owns a matrix, and a linear layer besides."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.matrix, self.inner = nn.Parameter(torch.eye(width) + 0.1), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x @ self.matrix)


class Objective:
    def __init__(self, positions: bool = False, dtype: torch.dtype = torch.float64) -> None:
        with seeded(0):
            self.module: nn.Module = Net(positions).to(dtype).eval()
            self.ids = torch.randint(0, 60, (5, 6))
            self.labels = torch.randint(0, 60, (5,))
        self.forwards = 0

    def values(self, context: Context) -> Tensor:
        return self.stacked_values(context, 1)[0]

    def stacked_values(self, context: Context, copies: int) -> Tensor:
        self.forwards += 1
        scores = self.module(self.ids.repeat(copies, 1))
        scores = scores if scores.dtype == torch.float64 else scores.float()
        return nn.functional.cross_entropy(scores, self.labels.repeat(copies), reduction="none").view(copies, -1)


def asked(law: Law, c: float = 0.02) -> list[Query]:
    """The base, two pairs, and a sum of three seeds."""
    terms = [(), ((7, c),), ((7, -c),), ((2**40 + 1, c),), ((2**40 + 1, -c),), ((1, c), (2, -2 * c), (3, c))]
    return [Query(f"0.0.{i}", Probe(law, t) if t else None) for i, t in enumerate(terms)]


@pytest.mark.parametrize("law", [*EXACT, *ROUNDED], ids=lambda law: type(law).__name__)
def test_values_equal_dense_arithmetic(law: Law) -> None:
    objective = TinyObjective()
    setting = objective, Parameters.from_module(objective.module)
    queries = central(law)
    truth = torch.stack([expected(setting, q) for q in queries])
    found = values(LowRankForward().evaluate(objective, queries, setting[1]))
    change = float((truth - truth[0]).abs().max())
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-12 if law in EXACT else 2**-22 * change)
    assert (truth[1] - truth[2]).abs().max() > 1e-3


@pytest.mark.parametrize("copies", [1, 2, 4, 8])
@pytest.mark.parametrize("law", [*EXACT, *ROUNDED], ids=lambda law: type(law).__name__)
def test_probes_of_one_forward_have_the_values_of_write_free_ones(law: Law, copies: int) -> None:
    found = []
    for execution in (LowRankForward(copies), WriteFree()):
        objective = Objective()
        parameters = Parameters.from_module(objective.module)
        execution.evaluate(objective, asked(law), parameters)  # the first round tries things out
        objective.forwards = 0
        found.append(values(execution.evaluate(objective, asked(law), parameters)))
        assert objective.forwards == (-(-6 // copies) if isinstance(execution, LowRankForward) else 6)
    change = float((found[1] - found[1][0]).abs().max())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12 if law in EXACT else 2**-22 * change)
    assert (found[1] - found[1][0]).abs().max(1).values[1:].min() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precision_is_near(dtype: torch.dtype) -> None:
    found = []
    for objective in (Objective(dtype=dtype), Objective()):
        parameters = Parameters.from_module(objective.module)
        found.append(values(LowRankForward(2).evaluate(objective, asked(LowRank(2)), parameters)))
    assert (found[0] - found[1]).abs().max() < (1e-5 if dtype == torch.float32 else 0.1)


def test_autocast_is_near() -> None:
    objective = Objective(dtype=torch.float32)
    parameters = Parameters.from_module(objective.module)
    truth = values(LowRankForward().evaluate(objective, asked(LowRank(2)), parameters))
    with torch.autocast("cpu", torch.bfloat16):
        found = values(LowRankForward(2).evaluate(objective, asked(LowRank(2)), parameters))
    assert (found - truth).abs().max() < 0.1


def test_no_weight_is_written_and_no_buffer_of_a_layers_size_is_made() -> None:
    objective = Objective()
    parameters = Parameters.from_module(objective.module)
    versions = {name: tensor._version for name, tensor in parameters.raw.items()}
    execution = LowRankForward(2)
    execution.evaluate(objective, asked(LowRank()), parameters)
    assert {name: tensor._version for name, tensor in parameters.raw.items()} == versions
    assert not any(len(pool) for pool in execution._scratch.values())


def steps(execution: Execution, law: Law, dtype: torch.dtype = torch.float64) -> Tensor:
    objective = Objective(dtype=dtype)
    parameters = Parameters.from_module(objective.module)
    optimizer = SGD(1e-3, Schedule("constant"), weight_decay=0.1)
    session = Session(GradientStrategy(CentralDifference(law, 1e-3, probes=2), optimizer), parameters)
    for _ in range(8):
        queries = session.ask()
        told = values(execution.evaluate(objective, queries, parameters)).mean(1).numpy()
        session.tell(Values(tuple(q.id for q in queries), told))
        session.advance()
    return parameters.flat()


@pytest.mark.parametrize(
    "law", [LowRank(refresh=3), Scaled(LowRank(4), {"up": 0.5})], ids=lambda law: type(law).__name__
)
def test_steps_equal_those_of_the_other_executions(law: Law) -> None:
    """A tied embedding is displaced and moved once; what is renewed in a step is so for probe and update."""
    start = Parameters.from_module(Objective().module).flat()
    ends = [steps(execution, law) for execution in (LowRankForward(4), LowRankForward(), WriteFree(), InPlace())]
    assert (ends[2] - start).norm() > 1e-2
    for end in ends:
        torch.testing.assert_close(end, ends[2], rtol=0, atol=1e-9)


def test_a_base_beside_one_sided_probes_shares_their_forward() -> None:
    objective = Objective()
    parameters = Parameters.from_module(objective.module)
    session = Session(GradientStrategy(ForwardDifference(LowRank(), 1e-2, probes=3), SGD(1e-3)), parameters)
    execution, queries = LowRankForward(4), session.ask()
    first = values(execution.evaluate(objective, queries, parameters))
    objective.forwards = 0
    assert torch.equal(values(execution.evaluate(objective, queries, parameters)), first)
    assert objective.forwards == 1
    torch.testing.assert_close(first[0], objective.values(Context()), rtol=0, atol=1e-12)


def test_a_model_that_cannot_hold_copies_is_evaluated_probe_by_probe() -> None:
    found = []
    for execution in (LowRankForward(4), WriteFree()):
        objective = Objective(positions=True)
        parameters = Parameters.from_module(objective.module)
        found.append(values(execution.evaluate(objective, asked(LowRank()), parameters)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


class Reordering(nn.Module):
    """Mixes the rows of its batch, so a copy cannot be told by its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(60, 8), nn.Linear(8, 60)

    def forward(self, ids: Tensor) -> Tensor:
        order = torch.arange(len(ids)).roll(len(ids) // 2 + 1)
        return self.head(self.tokens(ids)[order])[order.argsort()].mean(1)


def test_a_model_that_reorders_rows_is_found_out() -> None:
    found = []
    for execution in (LowRankForward(4), WriteFree()):
        objective = Objective()
        with seeded(1):
            objective.module = Reordering().double().eval()
        parameters = Parameters.from_module(objective.module)
        found.append(values(execution.evaluate(objective, asked(LowRank(), 0.1), parameters)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


class Borrowing(nn.Module):
    """Reads another module's weight behind its back."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(60, 8), nn.Linear(8, 8)
        self.other = nn.Linear(8, 60)

    def forward(self, ids: Tensor) -> Tensor:
        return (self.head(self.tokens(ids)) @ self.other.weight.T).mean(1)


def test_weights_read_elsewhere_make_the_run_go_on_in_place() -> None:
    objective = Objective()
    with seeded(1):
        objective.module = Borrowing().double().eval()
    parameters = Parameters.from_module(objective.module)
    twin = copy.deepcopy(objective)
    truth: Sequence[Outcome] = InPlace().evaluate(twin, asked(LowRank())[:5], Parameters.from_module(twin.module))
    with pytest.warns(UserWarning, match="other.weight"):
        found = LowRankForward(2).evaluate(objective, asked(LowRank())[:5], parameters)
    torch.testing.assert_close(values(found), values(truth), rtol=0, atol=1e-12)


def test_other_laws_are_evaluated_write_free() -> None:
    found = []
    for execution in (LowRankForward(2), WriteFree()):
        objective = Objective()
        parameters = Parameters.from_module(objective.module)
        found.append(values(execution.evaluate(objective, asked(Rademacher()), parameters)))
    assert torch.equal(found[0], found[1])


def test_no_copies_are_a_mistake() -> None:
    with pytest.raises(UserError, match="at least 1, not 0"):
        LowRankForward(0)
