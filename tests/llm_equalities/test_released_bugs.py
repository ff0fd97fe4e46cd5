"""Equalities that faults seen in released implementations of zeroth-order methods would break; see docs/methods.md."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from blackbox import Parameters, Probe, Query, Session, Values
from blackbox.estimators import CentralDifference, Estimator, OneBit, SpreadNormalized
from blackbox.execution import Execution, InPlace, LowRankForward, WriteFree
from blackbox.layout import Layout
from blackbox.noise import Gaussian, Law, LowRank, Preconditioned, Rademacher, Sparse
from blackbox.optimizers import SGD, Optimizer, Schedule, SignSGD, TorchOptimizer
from blackbox.strategies import GradientStrategy
from blackbox.testing.executions import expected, values
from blackbox.testing.models import TinyObjective
from blackbox.variance import SVRG

LR, EPSILON = 0.05, 1e-2
CONSTANT = Schedule("constant")
EXECUTIONS = [WriteFree, InPlace, LowRankForward]


class Course:
    """A session on the tiny model, driven by hand."""

    def __init__(
        self, estimator: Estimator, optimizer: Optimizer | None = None, execution: type[Execution] = WriteFree
    ):
        self.objective, self.execution = TinyObjective(), execution()
        self.parameters = Parameters.from_module(self.objective.module)
        self.session = Session(GradientStrategy(estimator, optimizer or SGD(LR, CONSTANT)), self.parameters)

    def round(self) -> tuple[list[Query], Tensor]:
        """One step: what was asked, and the values [n]."""
        queries = list(self.session.ask())
        told = values(self.execution.evaluate(self.objective, queries, self.parameters)).mean(1)
        self.session.tell(Values(tuple(q.id for q in queries), told.numpy()))
        self.session.advance()
        return queries, told

    def z(self, query: Query) -> Tensor:
        """The displacement of a probe of one term, over its coefficient: float64 [d]."""
        assert isinstance(query.candidate, Probe)
        ((seed, _),), law = query.candidate.terms, query.candidate.law
        return torch.cat([law.sample((seed,), s, 0, s.numel)[0] for s in self.parameters.layout.specs]).double()


# -- LOZO: where V is renewed the probe draws V and U, the update U alone


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_each_step_is_along_what_was_probed_where_v_is_renewed_too(execution: type[Execution]) -> None:
    course = Course(CentralDifference(LowRank(2, Gaussian(), refresh=3), EPSILON), execution=execution)
    for step in range(8):
        before = course.parameters.flat()
        asked = course.session.ask()
        dense = [expected((course.objective, course.parameters), q).mean() for q in asked]
        queries, told = course.round()
        # Factors are float32, and multiplied out in float32 only where they are written to the weights.
        torch.testing.assert_close(told, torch.stack(dense), rtol=0, atol=1e-8)
        moved = course.parameters.flat() - before
        slope = float(told[0] - told[1]) / (2 * EPSILON)
        torch.testing.assert_close(moved, -LR * slope * course.z(queries[0]), rtol=0, atol=1e-7, msg=f"step {step}")


def test_v_is_renewed_at_every_refresh_th_step_and_not_between() -> None:
    course = Course(CentralDifference(LowRank(2, Gaussian(), refresh=3), EPSILON))
    spec = course.parameters.layout.by_name["hidden.weight"]
    found = [course.z(course.round()[0][0])[spec.offset : spec.offset + spec.numel].view(spec.shape) for _ in range(6)]

    def rank(*parts: Tensor) -> int:
        return int(torch.linalg.matrix_rank(torch.cat(parts), rtol=1e-5))

    assert rank(*found[:3]) == rank(*found[3:]) == 2  # one row space for a period
    assert rank(found[2], found[3]) == 4  # another for the next
    assert all(rank(torch.cat([a, b], 1)) == 4 for a, b in pairwise(found))  # U is new each time


# -- MeZO-SVRG: the anchor is an alias of the live parameters; its two estimates have different seeds


def test_an_anchor_is_a_copy_that_steps_do_not_move() -> None:
    course = Course(SVRG(CentralDifference(Gaussian(), EPSILON), every=4))
    start = course.parameters.flat()
    for _ in range(3):
        course.round()
    anchor, live = course.parameters.anchor("svrg"), course.parameters.tensors
    assert torch.equal(torch.cat([t.reshape(-1) for t in anchor.values()]), start)
    assert not torch.equal(course.parameters.flat(), start)
    assert not {t.untyped_storage().data_ptr() for t in anchor.values()} & {
        t.untyped_storage().data_ptr() for t in live.values()
    }


def test_both_terms_have_the_same_directions_and_do_not_cancel() -> None:
    """With an alias in the anchor's place every step between snapshots would be the snapshot's, over again."""
    course = Course(SVRG(CentralDifference(Gaussian(), EPSILON), every=4))
    moves = []
    for step in range(4):
        before = course.parameters.flat()
        queries, told = course.round()
        moves.append(course.parameters.flat() - before)
        if step:
            here, there = [q for q in queries if q.base == "current"], [q for q in queries if q.base == "svrg"]
            assert [q.candidate for q in here] == [q.candidate for q in there]
            slopes = [(told[i] - told[i + 1]) / (2 * EPSILON) for i in (0, 2)]
            correction = -LR * (slopes[0] - slopes[1]) * course.z(here[0])
            torch.testing.assert_close(moves[-1], moves[0] + correction, rtol=0, atol=1e-9)
            assert (moves[-1] - moves[0]).abs().max() > 1e-4


# -- ZO-SGD-Sign: the sign of the number, or of each element


def test_the_sign_of_the_difference_and_the_signs_of_the_elements_are_two_methods() -> None:
    scalar = Course(OneBit(Gaussian(), EPSILON, 1))
    elements = Course(CentralDifference(Gaussian(), EPSILON), SignSGD(LR, CONSTANT))
    moves = []
    for course in (scalar, elements):
        before = course.parameters.flat()
        queries, told = course.round()
        moves.append(course.parameters.flat() - before)
        z, sign = course.z(queries[0]), float(torch.sign(told[0] - told[1]))
        by_number, by_element = -LR * sign * z, -LR * sign * z.sign()
        torch.testing.assert_close(moves[-1], by_number if course is scalar else by_element, rtol=0, atol=1e-12)
    assert len(moves[1].abs().unique()) < 5  # every element by lr, up to rounding
    assert float(moves[0].abs().max() / moves[0].abs().median()) > 2


def test_of_one_probe_of_signs_the_two_are_one() -> None:
    ends = []
    for estimator, optimizer in (
        (OneBit(Rademacher(), EPSILON, 1), SGD(LR, CONSTANT)),
        (CentralDifference(Rademacher(), EPSILON), SignSGD(LR, CONSTANT)),
    ):
        course = Course(estimator, optimizer)
        for _ in range(4):
            course.round()
        ends.append(course.parameters.flat())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)


# -- tied embeddings: displaced twice, or at one of both places

LAWS = [Rademacher(), Gaussian(), LowRank(2), Sparse(Gaussian(), 0.5)]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_tied_embedding_is_displaced_once_and_alike_in_both_places(execution: type[Execution], law: Law) -> None:
    objective = TinyObjective()
    parameters = Parameters.from_module(objective.module)
    assert [n for n in parameters.layout.by_name if "embed" in n or "head" in n] == ["embed.weight"]
    spec = parameters.layout.by_name["embed.weight"]
    z = law.sample((5,), spec, 0, spec.numel)[0].double().view(spec.shape)
    rest = {s.name: law.sample((5,), s, 0, s.numel)[0].double().view(s.shape) for s in parameters.layout.specs}
    found = values(execution().evaluate(objective, [Query("0", Probe(law, ((5, 0.3),)))], parameters))[0]
    parameters.settle()

    def by_hand(at_lookup: float, at_output: float) -> Tensor:
        """The model's arithmetic, with the embedding displaced in each place by so many times 0.3 z."""
        theta = {n: t + 0.3 * rest[n] for n, t in parameters.tensors.items()}
        table = parameters.tensors["embed.weight"]
        x = (table + 0.3 * at_lookup * z)[objective.tokens]
        x = torch.tanh(x @ theta["hidden.weight"].t() + theta["hidden.bias"])
        x = torch.nn.functional.layer_norm(x, (6,), theta["norm.weight"], theta["norm.bias"]).mean(1)
        scores = x @ (table + 0.3 * at_output * z).t()
        return torch.nn.functional.cross_entropy(scores, objective.targets, reduction="none")

    with torch.no_grad():
        torch.testing.assert_close(found, by_hand(1, 1), rtol=0, atol=1e-6)
        for wrong in ((1, 0), (0, 1), (2, 2), (1, -1)):
            assert (found - by_hand(*wrong)).abs().max() > 1e-3


# -- ES code that seeds each tensor alike: noise is the same across layers


@pytest.mark.parametrize(
    "law",
    [*LAWS[:2], LowRank(8, Gaussian()), LowRank(8, Gaussian(), refresh=5), Preconditioned(Gaussian(), 0.1)],
    ids=["signs", "gaussian", "low rank", "low rank kept", "preconditioned"],
)
def test_tensors_of_one_shape_have_independent_noise(law: Law) -> None:
    layout = Layout.of(
        {f"layers.{i}.weight": (64, 64) for i in range(12)} | {f"layers.{i}.bias": (512,) for i in range(12)}
    )
    for kind, count in (("weight", 64), ("bias", 512)):
        specs = [s for s in layout.specs if kind in s.name]
        rows = torch.cat([law.sample((9,), s, 0, s.numel).double() for s in specs])
        between = torch.corrcoef(rows) - torch.eye(12, dtype=torch.float64)
        # Of low rank 8 the elements depend on each other: as good as 8 x 64 or so of them are free.
        assert float(between.abs().max()) < 5.5 / (count * 8 if kind == "weight" else count) ** 0.5


# -- low rank: noise in the forward against the same noise in the weights


@pytest.mark.parametrize("law", [LowRank(), LowRank(3, Gaussian(), refresh=2)], ids=["1", "3 kept"])
def test_low_rank_forwards_are_those_of_the_product_written_out(law: Law) -> None:
    ends = []
    for execution in EXECUTIONS:
        course = Course(CentralDifference(law, EPSILON, 2), execution=execution)
        for _ in range(5):
            course.round()
        ends.append(course.parameters.flat())
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-7)  # factors are float32, as above


# -- FZOO: the spread of other values, half of the directions, noise not tied to the update's


def test_fzoos_sigma_is_that_of_the_perturbed_values_and_every_direction_counts() -> None:
    course = Course(SpreadNormalized(Gaussian(), EPSILON, 5))
    before = course.parameters.flat()
    queries, told = course.round()
    assert queries[0].candidate is None
    assert len(queries) == 6
    sigma = np.std(told[1:].numpy(), ddof=1)
    move = sum(float(told[i] - told[0]) * course.z(queries[i]) for i in range(1, 6)) / (5 * sigma)
    torch.testing.assert_close(course.parameters.flat() - before, -LR * torch.as_tensor(move), rtol=0, atol=1e-9)
    others = [
        np.std(told.numpy(), ddof=1),
        np.std(told[1:].numpy()),
        np.std(told[1:].numpy() - told[:1].numpy(), ddof=0),
    ]
    assert min(abs(other / sigma - 1) for other in others) > 0.01


# -- ZO-Bench: the optimizer steps once for each tensor, so that its state moves as often


def test_adam_steps_once_a_step_over_all_tensors() -> None:
    course = Course(CentralDifference(Gaussian(), EPSILON), TorchOptimizer("Adam", 0.01, CONSTANT))
    leaves = [torch.nn.Parameter(t.clone()) for t in course.parameters.tensors.values()]
    peer = torch.optim.Adam(leaves, lr=0.01)
    for _ in range(4):
        queries, told = course.round()
        z, slope = course.z(queries[0]), float(told[0] - told[1]) / (2 * EPSILON)
        for leaf, spec in zip(leaves, course.parameters.layout.specs, strict=True):
            leaf.grad = (slope * z[spec.offset : spec.offset + spec.numel]).view(spec.shape)
        peer.step()
        for leaf, tensor in zip(leaves, course.parameters.tensors.values(), strict=True):
            torch.testing.assert_close(tensor, leaf.detach(), rtol=0, atol=1e-9)
