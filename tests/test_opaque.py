"""OpaqueLayer against autograd through the same function, seen."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from blackbox import BudgetSpent, OpaqueLayer, UserError
from blackbox.estimators import CentralDifference, ForwardDifference, RankEstimator
from blackbox.estimators.coordinate import CoordinateWise
from blackbox.estimators.selection import Importance, Sample
from blackbox.noise import Gaussian, Rademacher, Sphere


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient(f, x, loss=lambda y: y.sin().sum()):
    return torch.autograd.grad(loss(f(x)), x)[0]


class Watched:
    """A quadratic map R^d -> R^3 that notes the samples of every call and may write to its input."""

    def __init__(self, d=4, spoil=False):
        self.matrix, self.spoil, self.calls = normal(d, 3, seed=9), spoil, []

    def __call__(self, x):
        y = (x.reshape(len(x), -1) @ self.matrix.to(x)) ** 2
        if not torch.is_grad_enabled():
            self.calls.append(len(x))
            if self.spoil:
                x.fill_(7.0)
        return y


CGE = CoordinateWise(0.5, "central")


@pytest.mark.parametrize("shape", [(5, 4), (5, 2, 3, 2), (1, 6), (7,)], ids=str)
def test_central_coordinates_of_a_quadratic_are_the_gradient_to_rounding(shape):
    f, x = Watched(math.prod(shape[1:])), normal(*shape).requires_grad_()
    torch.testing.assert_close(gradient(OpaqueLayer(f, CGE), x), gradient(f, x), rtol=1e-12, atol=1e-12)


def test_forward_coordinates_are_off_by_half_epsilon_times_the_curvature():
    f, x, epsilon = Watched(), normal(5, 4).requires_grad_(), 0.01
    found = gradient(OpaqueLayer(f, CoordinateWise(epsilon, "forward")), x, torch.sum)
    curvature = 2 * f.matrix.square().sum(1)
    torch.testing.assert_close(found, gradient(f, x, torch.sum) + epsilon / 2 * curvature, rtol=1e-10, atol=1e-10)


def test_an_input_that_is_not_contiguous_and_a_function_that_writes_to_it():
    f, x = Watched(12, spoil=True), normal(5, 3, 4).requires_grad_()
    found = gradient(lambda t: OpaqueLayer(f, CGE)(t.transpose(1, 2)), x)
    torch.testing.assert_close(found, gradient(lambda t: Watched(12)(t.transpose(1, 2)), x), rtol=1e-12, atol=1e-12)


def test_float32():
    f, x = Watched(), normal(5, 4, dtype=torch.float32).requires_grad_()
    layer = OpaqueLayer(f, CoordinateWise(1e-2, "central"))
    found = gradient(layer, x)
    assert layer(x).dtype == found.dtype == torch.float32
    torch.testing.assert_close(found, gradient(f, x), rtol=1e-3, atol=1e-3)


def test_used_twice_in_one_graph_each_use_has_its_own_directions():
    f, x = (lambda h: torch.tanh(h) * 2), normal(3, 4).requires_grad_()
    layer = OpaqueLayer(f, CoordinateWise(1e-4, "central"))
    torch.testing.assert_close(
        gradient(lambda t: layer(layer(t)), x), gradient(lambda t: f(f(t)), x), rtol=1e-6, atol=0
    )
    assert layer.calls == 2
    random = OpaqueLayer(f, CentralDifference(Rademacher(), 1e-4))
    first, second = (gradient(random, x) for _ in range(2))
    assert not torch.equal(first.sign(), second.sign())


def linear_cosines(law, d, q, samples=4000):
    """cos^2 between estimate and gradient of a linear function, a sample each."""
    g, x = normal(d, seed=3), torch.zeros(samples, d, dtype=torch.float64, requires_grad=True)
    found = gradient(OpaqueLayer(lambda t: t @ g, CentralDifference(law, 0.1, q)), x, torch.sum)
    return torch.nn.functional.cosine_similarity(found, g[None]).square()


@pytest.mark.parametrize("q", [1, 5, 20])
def test_the_cosine_follows_the_law_of_the_square_root(q):
    """E cos^2 = q/(q + d - 1) for Gaussian directions."""
    d = 12
    cosines = linear_cosines(Gaussian(), d, q)
    error = cosines.std() / math.sqrt(len(cosines))
    assert abs(cosines.mean() - q / (q + d - 1)) < 4 * error


@pytest.mark.parametrize("law", [Rademacher(), Sphere()], ids=str)
def test_one_direction_of_a_fixed_length_has_mean_squared_cosine_one_over_d(law):
    cosines = linear_cosines(law, 12, 1, 1500)
    assert abs(cosines.mean() - 1 / 12) < 4 * cosines.std() / math.sqrt(len(cosines))


@pytest.mark.parametrize(
    "estimator",
    [
        CentralDifference(Gaussian(), 1e-3, 2),
        ForwardDifference(Rademacher(), 1e-6, 2),
        CoordinateWise(1e-3, "central", Sample(2)),
    ],
    ids=["central", "forward", "coordinates"],
)
def test_the_mean_of_many_estimates_is_the_gradient(estimator):
    """On a curved function; the error is known from the spread."""
    f, point = Watched(), normal(1, 4, seed=5)
    layer, found = OpaqueLayer(f, estimator), []
    for _ in range(300):  # the coordinates of a call are the same for all its samples
        x = point.expand(8, -1).clone().requires_grad_()
        found.append(gradient(layer, x).mean(0))
    estimates = torch.stack(found)
    error = estimates.std(0) / math.sqrt(len(estimates))
    exact = gradient(f, point.clone().requires_grad_())[0]
    assert ((estimates.mean(0) - exact).abs() < 4.5 * error + 1e-5).all()
    assert (error < 0.2 * exact.norm()).all()


def test_directions_of_their_own_average_out_over_a_batch_and_shared_ones_do_not():
    """Squared error of the batch's mean gradient of a linear function: (d - 1)/(q batch) apart, (d - 1)/q shared."""
    d, batch, g = 9, 16, normal(9, seed=3)

    def mean_square(shared):
        layer, errors = OpaqueLayer(lambda t: t @ g, CentralDifference(Rademacher(), 0.1), shared=shared), []
        for _ in range(400):
            x = torch.zeros(batch, d, dtype=torch.float64, requires_grad=True)
            errors.append((gradient(layer, x, torch.sum).mean(0) - g).square().sum() / g.square().sum())
        return torch.stack(errors).mean()

    assert mean_square(shared=False) == pytest.approx((d - 1) / batch, rel=0.15)
    assert mean_square(shared=True) == pytest.approx(d - 1, rel=0.15)


@pytest.mark.parametrize(
    ("estimator", "backward"),
    [
        (CentralDifference(probes=3), 6),
        (ForwardDifference(probes=3), 3),  # f(x) is known
        (CoordinateWise(stencil="central"), 8),
        (CoordinateWise(stencil="forward"), 4),
        (CoordinateWise(stencil="forward", select=Sample(2)), 2),
    ],
    ids=["central", "forward", "all central", "all forward", "two forward"],
)
@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_queries_are_the_samples_that_the_function_saw(estimator, backward, chunk):
    f = Watched()
    layer = OpaqueLayer(f, estimator, chunk=chunk)
    y = layer(normal(5, 4).requires_grad_())
    assert layer.queries == sum(f.calls) == 5
    y.sum().backward()
    assert layer.queries == sum(f.calls) == 5 * (1 + backward)
    assert max(f.calls) <= chunk


def test_no_gradient_no_estimate():
    f = Watched()
    layer = OpaqueLayer(f, CGE)
    with torch.no_grad():
        layer(normal(5, 4).requires_grad_())
    assert not layer.train()(normal(5, 4)).requires_grad
    assert (layer.calls, layer.queries, f.calls) == (0, 10, [5, 5])


def test_chunks_change_no_bits():
    x = normal(6, 4).requires_grad_()
    found = [
        gradient(OpaqueLayer(torch.tanh, CentralDifference(probes=5), chunk=chunk), x) for chunk in (1, 4, 13, 1000)
    ]
    assert all(torch.equal(found[0], one) for one in found)


def test_a_backward_that_is_repeated_finds_the_same():
    x = normal(6, 4).requires_grad_()
    y = OpaqueLayer(torch.tanh, CentralDifference())(x).sum()
    first = torch.autograd.grad(y, x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(y, x)[0])


def test_the_budget_is_never_exceeded():
    f = Watched()
    layer = OpaqueLayer(f, CGE, budget=2 * 5 * 9 + 8)  # two steps of 5 samples and 1 + 8 queries, and a bit
    for _ in range(2):
        layer(normal(5, 4).requires_grad_()).sum().backward()
    with pytest.raises(BudgetSpent, match=r"98 queries; 90 are spent.*5 samples x 9.*45 more"):
        layer(normal(5, 4).requires_grad_())
    assert layer.queries == sum(f.calls) == 90
    layer(normal(8, 4))
    with pytest.raises(BudgetSpent, match="this forward pass would take 1 more"):
        layer(normal(1, 4))
    assert layer.queries == sum(f.calls) == 98


def test_the_budget_holds_where_forward_passes_come_before_their_backward():
    f, x = Watched(), normal(5, 4).requires_grad_()
    layer = OpaqueLayer(f, CGE, budget=60)
    first, second = layer(x).sum(), layer(x).sum()
    first.backward()
    with pytest.raises(BudgetSpent, match="the backward of call 1"):
        second.backward()
    assert layer.queries == sum(f.calls) == 50


def network(seed=1, estimator=None):
    net = nn.Sequential(
        nn.Linear(6, 4, dtype=torch.float64),
        OpaqueLayer(lambda h: torch.tanh(h), estimator or CentralDifference(Gaussian(), 1e-3, 2), seed=seed),
        nn.Linear(4, 2, dtype=torch.float64),
    )
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            weight.copy_(normal(*weight.shape, seed=number))
    return net, torch.optim.Adam(net.parameters(), 0.01)


def train(net, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        net(normal(8, 6, seed=step)).square().mean().backward()
        optimizer.step()


@pytest.mark.draws  # nn.Linear draws its first weights
def test_a_training_that_is_resumed_has_the_bits_of_one_that_never_stopped():
    whole, optimizer = network()
    train(whole, optimizer, range(10))
    first, optimizer = network()
    train(first, optimizer, range(5))
    saved = {"net": first.state_dict(), "optimizer": optimizer.state_dict()}
    second, optimizer = network()
    second.load_state_dict(saved["net"])
    optimizer.load_state_dict(saved["optimizer"])
    train(second, optimizer, range(5, 10))
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert second[1].calls == 10 and second[1].queries == 10 * 8 * 5
    other, optimizer = network(seed=2)
    train(other, optimizer, range(10))
    assert not torch.equal(whole[0].weight, other[0].weight)


@pytest.mark.draws
@pytest.mark.parametrize(
    ("estimator", "residual"),
    [(CGE, 1.0), (CentralDifference(Gaussian(), 1e-2, 2), 0.0)],
    ids=["coordinates", "random directions"],
)
def test_torch_optim_finds_the_least_squares_solution_through_it(estimator, residual):
    """min |f(x W) - y|^2 for an opaque linear f: the optimum is known in closed form.

    Random directions have no noise floor only where every sample's gradient vanishes at the optimum.
    """
    x, hidden = normal(64, 3, seed=1), normal(4, 2, seed=3)
    y = x @ normal(3, 2, seed=4) + residual * normal(64, 2, seed=2)
    net = nn.Sequential(nn.Linear(3, 4, bias=False, dtype=torch.float64), OpaqueLayer(lambda h: h @ hidden, estimator))
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.5)
    for _ in range(600):
        optimizer.zero_grad()
        (net(x) - y).square().sum(1).mean().backward()
        optimizer.step()
    with torch.no_grad():
        found = net[0].weight.T @ hidden
    torch.testing.assert_close(found, torch.linalg.lstsq(x, y).solution, rtol=0, atol=1e-8)


def nan_at_two(x):
    return x.index_fill(0, torch.tensor([2]), math.nan)


class FailsAt:
    def __init__(self, call):
        self.left = call

    def __call__(self, x):
        self.left -= 1
        if self.left < 0:
            raise ValueError("the solver diverged")
        return x.clone()


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (nan_at_two, "not finite in the forward pass of call 0, sample 2 of 5"),
        (FailsAt(0), "f failed in the forward pass of call 0: ValueError: the solver diverged"),
        (FailsAt(2), r"f failed in the backward of call 0, queries 1 to 1 of 8: ValueError: the solver diverged"),
        (lambda x: x[:-1], r"shape \[4, 4\] for 5 samples.*must be \[5, ...\]"),
        (lambda x: x.numpy(), "gave a ndarray"),
        (lambda x: x.argmax(1), "int64, which has no gradient"),
    ],
    ids=["nan", "fails", "fails later", "shape", "array", "integers"],
)
def test_what_goes_wrong_in_the_function_is_said_with_the_call(f, message):
    layer = OpaqueLayer(f, CGE, chunk=5)
    with pytest.raises(UserError, match=message):
        layer(normal(5, 4).requires_grad_()).sum().backward()


def test_a_shape_that_changes_between_calls_is_refused():
    shapes = iter([3, 2])
    layer = OpaqueLayer(lambda x: x[:, : next(shapes)], CGE, chunk=5)
    with pytest.raises(UserError, match=r"shape \[5, 2\].*backward of call 0.*must be \[5, 3\]"):
        layer(normal(5, 4).requires_grad_()).sum().backward()


def test_a_gradient_that_is_not_finite_is_not_estimated_with():
    y = OpaqueLayer(torch.tanh, CGE)(normal(5, 4).requires_grad_())
    with pytest.raises(UserError, match="gradient that reaches OpaqueLayer in call 0 is not finite in sample 3"):
        y.backward(torch.ones(5, 4, dtype=torch.float64).index_fill(0, torch.tensor([3]), math.inf))


def test_a_second_derivative_is_refused_and_the_first_is_not():
    x = normal(5, 4).requires_grad_()
    (first,) = torch.autograd.grad(OpaqueLayer(torch.sin, CGE)(x).sum(), x, create_graph=True)
    assert torch.isfinite(first).all()
    with pytest.raises(UserError, match="no second derivative"):
        first.square().sum().backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": RankEstimator()}, "RankEstimator cannot estimate inside backpropagation"),
        ({"estimator": CoordinateWise(select=Importance(2))}, "Importance chooses coordinates by slopes of the past"),
        ({"f": 3}, "int cannot be called"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"budget": 0}, "budget must be at least 1"),
    ],
    ids=["estimator", "importance", "f", "chunk", "budget"],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(UserError, match=message):
        OpaqueLayer(**{"f": torch.tanh, "estimator": CGE, **arguments})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.tensor(1.0), "needs a batch"),
        (torch.zeros(2, 2, dtype=torch.bfloat16), "float32 or float64"),
        (torch.zeros(2, 2, dtype=torch.int64), "float32 or float64"),
    ],
    ids=["single", "half", "integers"],
)
def test_inputs_that_do_not_fit(x, message):
    with pytest.raises(UserError, match=message):
        OpaqueLayer(torch.tanh, CGE)(x)


def test_an_empty_batch():
    x = torch.zeros(0, 4, dtype=torch.float64, requires_grad=True)
    assert gradient(OpaqueLayer(torch.tanh, CGE), x).shape == (0, 4)


def test_other_devices(device):
    x = normal(5, 4).to(device).requires_grad_()
    layer = OpaqueLayer(torch.tanh, CentralDifference(Gaussian(), 1e-3, 3)).to(device)
    here = gradient(OpaqueLayer(torch.tanh, CentralDifference(Gaussian(), 1e-3, 3)), normal(5, 4).requires_grad_())
    np.testing.assert_allclose(gradient(layer, x).cpu().numpy(), here.numpy(), rtol=1e-5)
