"""Coordinate-wise estimation against autograd, closed forms and many seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blackbox.direction import CoordinateTerms
from blackbox.errors import UserError
from blackbox.estimators import CoordinateWise, Estimator
from blackbox.estimators.selection import Blocks, Importance, Sample, Selection
from blackbox.feedback import Answers, Failed, Values
from blackbox.layout import Layout
from blackbox.noise import RandomMask
from blackbox.parameters import Parameters
from blackbox.probe import ALL_DATA
from blackbox.testing.estimators import GRADIENT, EstimatorSuite, ask, estimate, linear, make_round, point, vector

SELECTIONS = [Sample(3), Blocks(3), Blocks(2, shuffled=False), Importance(3)]
by_stencil = pytest.mark.parametrize("stencil", ["forward", "central"])


class TestForward(EstimatorSuite):
    rounds = 50

    @pytest.fixture
    def estimator(self) -> Estimator:
        return CoordinateWise()


class TestCentralSample(EstimatorSuite):
    rounds = 600

    @pytest.fixture
    def estimator(self) -> Estimator:
        return CoordinateWise(stencil="central", select=Sample(3))


class TestBlocks(EstimatorSuite):
    unbiased_on_linear = False

    @pytest.fixture
    def estimator(self) -> Estimator:
        return CoordinateWise(select=Blocks(3))


class TestImportance(EstimatorSuite):
    rounds = 600

    @pytest.fixture
    def estimator(self) -> Estimator:
        return CoordinateWise(select=Importance(4))


# All coordinates


class Net(nn.Module):
    """A convolution and a linear layer; 88 parameters in four tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.out = nn.Linear(3 * 2 * 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(torch.tanh(self.conv(x)).flatten(1))
        return out


def net_and_loss() -> tuple[Parameters, object, Tensor]:
    """The parameters, their loss as a function of candidates [n, d] -> [n], and its gradient by autograd."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng():  # what a module is made with is overwritten below
        net = Net().double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.4)
    images = torch.randn(6, 2, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 1, 0])

    def loss_of(weights: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(net, weights, (images,)), labels)

    parameters = Parameters({n: p.detach().clone() for n, p in net.named_parameters()})

    def f(rows: Tensor) -> Tensor:
        specs = parameters.layout.specs
        return torch.stack(
            [loss_of({s.name: r[s.offset : s.offset + s.numel].view(s.shape) for s in specs}) for r in rows]
        )

    grads = torch.autograd.grad(loss_of(dict(net.named_parameters())), list(net.parameters()))
    return parameters, f, torch.cat([g.reshape(-1) for g in grads])


@pytest.mark.parametrize(("stencil", "epsilon", "most"), [("forward", 1e-6, 1e-5), ("central", 1e-5, 1e-9)])
def test_all_coordinates_are_autograd_on_a_small_net(stencil: str, epsilon: float, most: float) -> None:
    parameters, f, gradient = net_and_loss()
    found = estimate(CoordinateWise(epsilon, stencil), f, make_round(0, parameters), parameters)  # type: ignore[arg-type]
    dense = vector(found.direction, parameters.layout)
    assert float(torch.nn.functional.cosine_similarity(dense, gradient, dim=0)) > 0.999
    assert float((dense - gradient).norm() / gradient.norm()) < most
    assert [t.tensor for t in found.direction.terms if isinstance(t, CoordinateTerms)] == list(
        parameters.layout.by_name
    )


@by_stencil
def test_error_on_a_quadratic_is_its_closed_form(stencil: str) -> None:
    """Forward is off by mu H_ii / 2 in coordinate i; central is exact."""
    parameters, mu = point(), 0.25
    curvature = torch.arange(1.0, 8.0, dtype=torch.float64)
    found = vector(
        estimate(
            CoordinateWise(mu, stencil),  # type: ignore[arg-type]
            lambda x: 0.5 * (curvature * x**2).sum(1),
            make_round(0, parameters),
            parameters,
        ).direction
    )
    off = mu * curvature / 2 if stencil == "forward" else 0.0
    torch.testing.assert_close(found, curvature * 0.125 + off, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("stencil", "count"), [("forward", 8), ("central", 14)])
def test_queries_of_a_round(stencil: str, count: int) -> None:
    plan = CoordinateWise(stencil=stencil).next(make_round(0, point()), 0, Answers())  # type: ignore[arg-type]
    assert len(plan.queries) == count


def test_examples_are_averaged_after_the_difference() -> None:
    """In float64 the values of the examples differ by 1e12, their differences by little."""
    parameters, estimator = point(), CoordinateWise(0.5)
    round = make_round(0, parameters)
    offsets = np.array([1e12, -1e12, 3.0])
    ids = round.ids(0, 8)
    rows = np.concatenate([[0.0], GRADIENT.numpy() * 0.5])[:, None] + offsets
    found = estimator.estimate(round, Answers([Values(ids, rows)]))
    expected = (rows[1:] - rows[:1]).mean(1) / 0.5
    np.testing.assert_array_equal(vector(found.direction).numpy(), expected)


# Populations


def test_population_of_named_tensors() -> None:
    parameters = point()
    found = estimate(CoordinateWise(tensors="b"), linear, make_round(0, parameters), parameters)
    dense = vector(found.direction)
    assert not dense[:4].any()
    torch.testing.assert_close(dense[4:], GRADIENT[4:], rtol=0, atol=1e-9)


def test_population_of_a_mask_is_where_the_mask_keeps() -> None:
    parameters, mask = point(), RandomMask(0.5, seed=3)
    kept = torch.cat([mask.select(s, torch.arange(s.numel)) for s in parameters.layout.specs])
    assert 0 < int(kept.sum()) < 7
    found = vector(estimate(CoordinateWise(mask=mask), linear, make_round(0, parameters), parameters).direction)
    torch.testing.assert_close(found, GRADIENT * kept, rtol=0, atol=1e-9)


def test_empty_populations_are_refused_in_words() -> None:
    round = make_round(0, point())
    with pytest.raises(UserError, match="no name matches"):
        CoordinateWise(tensors=["nothing"]).next(round, 0, Answers())
    with pytest.raises(UserError, match="keeps no coordinate"):
        CoordinateWise(mask=RandomMask(1e-9)).next(round, 0, Answers())


# Samples


def rounds_of(estimator: CoordinateWise, count: int, learn: bool = False) -> np.ndarray:
    parameters = point()
    found = []
    for step in range(count):
        if not learn:
            estimator.load_state_dict({})
        found.append(vector(estimate(estimator, linear, make_round(step, parameters), parameters).direction).numpy())
    return np.stack(found)


@pytest.mark.parametrize("n", [1, 3, 6])
def test_variance_of_a_sample_is_its_closed_form(n: int) -> None:
    """(d - n)/n |g|^2: each of d/n g_i with probability n/d, so E|v|^2 = d/n |g|^2."""
    g, trials = GRADIENT.numpy(), 2000
    squares = ((rounds_of(CoordinateWise(select=Sample(n)), trials) - g) ** 2).sum(1)
    assert abs(squares.mean() - (7 - n) / n * (g @ g)) < 4.5 * squares.std() / trials**0.5


def test_sample_without_rescaling_is_a_mask() -> None:
    for row in rounds_of(CoordinateWise(select=Sample(3, rescale=False)), 20):
        chosen = row != 0
        np.testing.assert_allclose(row[chosen], GRADIENT.numpy()[chosen], atol=1e-9)
        assert chosen.sum() <= 3


def test_importance_variance_is_its_closed_form_and_below_uniform() -> None:
    """n draws of g_i e_i/p_i: (sum g_i^2/p_i - |g|^2)/n, at the probabilities learnt from the gradient itself."""
    g, n, trials = GRADIENT.numpy(), 3, 2000
    select = Importance(n, floor=0.3)
    select.learn(np.arange(7), g, 7)
    state = select.state_dict()
    p = 0.3 / 7 + 0.7 * np.abs(g) / np.abs(g).sum()
    np.testing.assert_allclose(select.probabilities(7), p, rtol=1e-12)
    parameters, estimator, squares = point(), CoordinateWise(select=select), []
    for step in range(trials):
        estimator.load_state_dict(state)
        v = vector(estimate(estimator, linear, make_round(step, parameters), parameters).direction).numpy()
        squares.append(((v - g) ** 2).sum())
    expected = ((g**2 / p).sum() - g @ g) / n
    assert abs(np.mean(squares) - expected) < 4.5 * np.std(squares) / trials**0.5
    assert expected < (7 - 1) / n * (g @ g)  # what uniform draws have


def test_importance_stays_unbiased_while_it_learns() -> None:
    found = rounds_of(CoordinateWise(select=Importance(2, floor=0.2)), 3000, learn=True)
    error = np.abs(found.mean(0) - GRADIENT.numpy())
    assert (error <= 4.5 * found.std(0) / 3000**0.5 + 1e-9).all()


@pytest.mark.parametrize("shuffled", [True, False])
def test_blocks_cover_every_coordinate_once_an_epoch(shuffled: bool) -> None:
    found = rounds_of(CoordinateWise(select=Blocks(3, shuffled)), 6)
    for epoch in (found[:3], found[3:]):
        np.testing.assert_allclose(epoch.sum(0), GRADIENT.numpy(), atol=1e-9)
    if not shuffled:
        assert found[0][:3].any() and not found[0][3:].any()


def test_order_of_blocks_is_redrawn_each_epoch() -> None:
    layout = Layout.of({"x": (40,)})
    select, rounds = Blocks(10), [make_round(s, Parameters.from_vector(np.zeros(40))) for s in range(8)]
    epochs = [[select.choose(r, layout.dimension).places.tolist() for r in rounds[i : i + 4]] for i in (0, 4)]
    assert epochs[0] != epochs[1]
    assert all(sorted(place for block in epoch for place in block) == list(range(40)) for epoch in epochs)


# Failures


@by_stencil
def test_failed_coordinate_is_left_out(stencil: str) -> None:
    parameters, estimator = point(), CoordinateWise(stencil=stencil)  # type: ignore[arg-type]
    round = make_round(0, parameters)
    told = ask(estimator, linear, round, parameters)
    at = 2 if stencil == "forward" else 3  # belongs to coordinate 1
    answers = Answers(f if i != at else Failed((q.id,), "test") for i, (q, f) in enumerate(told))
    expected = GRADIENT.clone()
    expected[1] = 0.0
    torch.testing.assert_close(vector(estimator.estimate(round, answers).direction), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("select", [Sample(4), Importance(6)], ids=["sample", "importance"])
def test_weights_of_a_sample_grow_where_one_failed(select: Selection) -> None:
    """The draws that are left stand for all: their weights are n over those answered times what they were."""
    parameters, estimator = point(), CoordinateWise(stencil="forward", select=select)
    round = make_round(0, parameters)
    choice = select.choose(round, 7)
    assert choice.draws is not None
    told = ask(estimator, linear, round, parameters)
    answers = Answers(f if i != 1 else Failed((q.id,), "test") for i, (q, f) in enumerate(told))
    factor = choice.draws.sum() / choice.draws[1:].sum()
    expected = torch.zeros(7, dtype=torch.float64)
    expected[choice.places[1:]] = torch.from_numpy(choice.weights[1:] * factor) * GRADIENT[choice.places[1:]]
    torch.testing.assert_close(vector(estimator.estimate(round, answers).direction), expected, rtol=0, atol=1e-8)


def test_a_hundred_thousand_coordinates_are_one_term_a_tensor() -> None:
    d = 100_000
    parameters = Parameters({"a": torch.zeros(d // 2), "b": torch.zeros(2, d // 4)})
    round, estimator = make_round(0, parameters), CoordinateWise(0.5)
    plan = estimator.next(round, 0, Answers())
    assert len(plan.queries) == d + 1
    slopes = np.random.Generator(np.random.Philox(1)).standard_normal(d)
    found = estimator.estimate(round, Answers([Values(round.ids(0, d + 1), np.concatenate([[0.0], slopes * 0.5]))]))
    assert [len(t.weights) for t in found.direction.terms if isinstance(t, CoordinateTerms)] == [d // 2, d // 2]
    np.testing.assert_allclose(vector(found.direction, parameters.layout).numpy(), slopes, rtol=1e-12)
    assert round.context == ALL_DATA


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CoordinateWise(0.0), "epsilon is a distance"),
        (lambda: CoordinateWise(stencil="backward"), "'forward' or 'central'"),  # type: ignore[arg-type]
        (lambda: Sample(0), "count is a number of coordinates"),
        (lambda: Blocks(0), "count is a number of coordinates"),
        (lambda: Importance(0), "count is a number of coordinates"),
        (lambda: Importance(3, floor=0.0), "floor is a share"),
        (lambda: Importance(3, memory=1.0), "memory must lie in"),
    ],
)
def test_bad_arguments_are_refused_in_words(make: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()  # type: ignore[operator]
