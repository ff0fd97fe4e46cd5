"""Layer access: every fast form is the displaced network's own loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blackbox.budget import Budget
from blackbox.errors import UserError
from blackbox.estimators import CoordinateWise
from blackbox.execution import LayerAccess, WriteFree, choose
from blackbox.execution.layers.fused import relu_difference
from blackbox.noise import Coordinate, Rademacher
from blackbox.optimizers import SGD, Schedule
from blackbox.parameters import Parameters
from blackbox.probe import ALL_DATA, Context, Probe, Probes, Queries
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from blackbox.testing.generators import seeded
from oracles import ObjectiveOracle


class Block(nn.Module):
    """A residual block whose shortcut takes every second pixel and pads channels with zeros."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.stride, self.pad = stride, (outside - inside) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(out))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad), "constant", 0)
        out += x
        return F.relu(out)


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        Block(4, 4, 1),
        Block(4, 8, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding="valid", dilation=2),
        nn.GELU(),
        nn.Conv2d(4, 6, 3, padding="same", groups=2),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 1),
        nn.Flatten(),
        nn.Linear(4, 5),
        nn.BatchNorm1d(5),
        nn.SiLU(),
        nn.Linear(5, 3),
    )


def sequences() -> nn.Module:
    """The batch norm scales positions, of which there are as many as the layer before has outputs."""
    return nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


class Odd(nn.Module):
    """Parts that have no form of their own: a norm over features, a three-dimensional linear layer, a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.twice = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3, bias=False)
        self.tail = nn.Linear(6, 3, bias=False)
        self.tail.weight = self.head.weight
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.mix(x.flatten(2)))
        x = self.twice(torch.sigmoid(self.twice(x))) * x
        pooled = x.mean(1)
        return self.head(pooled) + self.tail(pooled.relu()) + self.shift


class Elsewhere(nn.Module):
    """A weight that its layer isn't alone in reading, a branch that leads nowhere, a layer of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.aside = nn.Linear(5, 2)
        self.both = nn.Bilinear(5, 5, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(self.first(x).relu(), self.first.weight)
        self.aside(x)
        return self.last(self.both(x, x.tanh()))


class Tuples(nn.Module):
    """Layers whose outputs are tuples, a mask of booleans, and sizes read from the data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 2)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.recurrent = nn.LSTM(6, 4, batch_first=True)
        self.last = nn.Linear(4 * 4, 8)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).transpose(1, 2)
        mixed, _ = self.attention(x, x, x, need_weights=False)
        found, (_, state) = self.recurrent(x + mixed)
        batch, steps = found.shape[:2]
        one, other = self.last(found.reshape(batch, steps * 4)).chunk(2, -1)
        return self.head(one * (other > 0) + state.squeeze(0))


class Sizes(nn.Module):
    """A network that flattens by a size it reads from the data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        return self.head(x.view(x.size(0), x.shape[1] * 4))


class Classes:
    """Cross-entropy of a network; offers its layers."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(3)
        self.module = module.to(dtype).eval()
        for part in self.module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                assert part.running_mean is not None and part.running_var is not None
                part.running_mean.copy_(torch.randn(part.running_mean.shape, generator=generator) * 0.1)
                part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) + 0.5)
        self.x = torch.randn(4, *shape, generator=generator, dtype=dtype)
        self.y = torch.tensor([0, 2, 1, 2])

    def inputs(self, context: Context) -> Tensor:
        return self.x if context.indices is None else self.x[list(context.indices)]

    def targets(self, context: Context) -> Tensor:
        return self.y if context.indices is None else self.y[list(context.indices)]

    def losses(self, outputs: Tensor, context: Context) -> Tensor:
        targets = self.targets(context).expand(outputs.shape[:2])
        return F.cross_entropy(outputs.movedim(2, 1), targets, reduction="none")

    def values(self, context: Context) -> Tensor:
        return self.losses(self.module(self.inputs(context))[None], context)[0]


MAKERS = {
    "residual": (residual, (2, 8, 8)),
    "convolutional": (convolutional, (2, 9, 9)),
    "odd": (Odd, (5, 2, 3)),
    "elsewhere": (Elsewhere, (5,)),
    "tuples": (Tuples, (3, 5)),
    "sizes": (Sizes, (2, 3, 3)),
    "sequences": (sequences, (4, 3)),
}


def objective_of(name: str, dtype: torch.dtype = torch.float64) -> Classes:
    make, shape = MAKERS[name]
    with seeded(1):
        return Classes(make(), shape, dtype)


def every_coordinate(parameters: Parameters, distance: float = 1e-2, context: Context = ALL_DATA) -> Queries:
    d = parameters.dimension
    probes = Probes(Coordinate(), (0, *range(d)), (0.0, *(distance / d**0.5,) * d))
    return Queries(tuple(f"0.0.{i}" for i in range(d + 1)), probes, context=context)


@pytest.mark.filterwarnings("ignore:.*are read outside", "ignore:There is a performance drop")
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("elements", [1, 300, 1 << 20])
def test_every_coordinate_is_evaluated_as_the_displaced_network_is(name: str, elements: int) -> None:
    objective = objective_of(name)
    parameters = Parameters.from_module(objective.module)
    queries = every_coordinate(parameters)
    before = parameters.flat()
    fast = LayerAccess(elements=elements).evaluate_together(objective, queries, parameters)
    slow = torch.stack(WriteFree().evaluate(objective, queries, parameters))  # type: ignore[arg-type]
    assert isinstance(fast, Tensor)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-13)
    assert (slow - slow[0]).abs().max() > 1e-4  # the changes themselves are far above that
    # A weight that is read outside its layer makes write-free fall back to in place, which restores to rounding.
    drift = 1e-12 if name in ("elsewhere", "tuples") else 0.0
    torch.testing.assert_close(parameters.flat(), before, rtol=0, atol=drift)


def test_each_tensor_is_told_its_form() -> None:
    objective = objective_of("residual")
    parameters = Parameters.from_module(objective.module)
    forms = LayerAccess().forms(objective, parameters, ALL_DATA)
    assert forms["0.weight"] == forms["4.conv2.weight"] == "rank one"
    assert forms["1.bias"] == forms["3.norm2.weight"] == "one channel"
    assert forms["7.weight"] == forms["7.bias"] == "closed form"
    odd = objective_of("odd")
    found = LayerAccess().forms(odd, Parameters.from_module(odd.module), ALL_DATA)
    assert (found["mix.weight"], found["norm.bias"]) == ("restart", "restart")
    assert found["twice.weight"] == found["head.weight"] == found["shift"] == "forward"
    other = objective_of("elsewhere")
    found = LayerAccess().forms(other, Parameters.from_module(other.module), ALL_DATA)
    assert (found["first.weight"], found["both.weight"], found["last.bias"]) == ("forward", "restart", "closed form")
    tuples = objective_of("tuples")
    found = LayerAccess().forms(tuples, Parameters.from_module(tuples.module), ALL_DATA)
    assert found.pop("head.weight") == found.pop("head.bias") == "closed form"
    assert set(found.values()) == {"forward"}
    sizes = objective_of("sizes")
    assert LayerAccess().forms(sizes, Parameters.from_module(sizes.module), ALL_DATA)["conv.weight"] == "rank one"


def test_without_targets_the_last_layer_has_no_closed_form_and_the_same_losses() -> None:
    class NoTargets(Classes):
        targets = None  # type: ignore[assignment]

        def losses(self, outputs: Tensor, context: Context) -> Tensor:
            return F.cross_entropy(outputs.movedim(2, 1), self.y.expand(outputs.shape[:2]), reduction="none")

    with seeded(1):
        plain = NoTargets(residual(), (2, 8, 8))
    objective = objective_of("residual")
    parameters, others = Parameters.from_module(objective.module), Parameters.from_module(plain.module)
    assert LayerAccess().forms(plain, others, ALL_DATA)["7.weight"] == "rank one"
    queries = every_coordinate(parameters)
    torch.testing.assert_close(
        LayerAccess().evaluate_together(objective, queries, parameters),
        LayerAccess().evaluate_together(plain, queries, others),
        rtol=0,
        atol=1e-13,
    )


def test_coordinate_wise_estimation_is_the_gradient_of_autograd() -> None:
    objective = objective_of("residual")
    objective.values(ALL_DATA).mean().backward()
    exact = torch.cat([p.grad.reshape(-1) for p in objective.module.parameters()])  # type: ignore[union-attr]
    parameters = Parameters.from_module(objective.module)
    oracle = ObjectiveOracle(objective)
    assert isinstance(oracle.execution, LayerAccess)
    d = parameters.dimension
    oracle.submit(every_coordinate(parameters, 1e-6), parameters)
    (answer,) = oracle.poll()
    values = torch.from_numpy(answer.values)  # type: ignore[union-attr]
    means = values if values.ndim == 1 else values.mean(1)
    torch.testing.assert_close((means[1:] - means[0]) / 1e-6, exact, rtol=1e-3, atol=1e-5)
    assert len(means) == d + 1


def test_in_bfloat16_only_the_differences_are_rounded() -> None:
    objective = objective_of("residual", torch.float32)
    parameters = Parameters.from_module(objective.module)
    queries = every_coordinate(parameters, 5e-3)
    low = LayerAccess("bfloat16").evaluate_together(objective, queries, parameters)
    high = LayerAccess().evaluate_together(objective, queries, parameters)
    assert isinstance(low, Tensor) and isinstance(high, Tensor)
    one, other = (low - low[0]).mean(1), (high - high[0]).mean(1)
    assert not torch.equal(one, other)
    assert torch.cosine_similarity(one, other, dim=0) > 0.9999


def test_other_queries_and_batches_are_evaluated_too() -> None:
    objective = objective_of("residual")
    parameters = Parameters.from_module(objective.module)
    probes = (Probe(Rademacher(), ((5, 1e-3),)), None, Probe(Coordinate(), ((7, 1e-3),)))
    some = Context(indices=(1, 3))
    queries = [
        *Queries(("a", "b", "c"), probes, context=some),
        *Queries(("d",), (probes[2],)),
        *Queries(("e", "f"), probes[1:], context=some),
    ]
    fast = LayerAccess().evaluate(objective, queries, parameters)
    slow = WriteFree().evaluate(objective, queries, parameters)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


def test_what_offers_only_losses_or_depends_on_the_batch_is_refused_in_words() -> None:
    with seeded(0):
        inner = residual()

    class Losses:
        module = inner

        def values(self, context: Context) -> Tensor:
            return torch.zeros(1)

    assert isinstance(choose(Losses()), WriteFree)
    parameters = Parameters.from_module(Losses.module)
    with pytest.raises(UserError, match="offers losses only"):
        LayerAccess().evaluate(Losses(), every_coordinate(parameters), parameters)
    objective = objective_of("residual")
    objective.module.train()
    with pytest.raises(UserError, match="batch norm in train mode"):
        LayerAccess().evaluate(objective, every_coordinate(parameters), Parameters.from_module(objective.module))
    objective = objective_of("residual")
    objective.module[1] = nn.BatchNorm2d(4, track_running_stats=False, dtype=torch.float64).eval()  # type: ignore[operator]
    with pytest.raises(UserError, match="batch norm without running statistics"):
        LayerAccess().evaluate(objective, every_coordinate(parameters), Parameters.from_module(objective.module))

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if x.sum() > 0 else self.inner(-x)

    with seeded(0):
        odd = Classes(Branching(), (4,))
    with pytest.raises(UserError, match="can't be traced"):
        LayerAccess().evaluate(
            odd, every_coordinate(Parameters.from_module(odd.module)), Parameters.from_module(odd.module)
        )
    with pytest.raises(UserError, match="precision"):
        LayerAccess("half")  # type: ignore[arg-type]


def test_descent_by_coordinates_goes_where_gradient_descent_goes() -> None:
    objective, exact = objective_of("convolutional"), objective_of("convolutional")
    parameters = Parameters.from_module(objective.module)
    strategy = GradientStrategy(CoordinateWise(1e-6), SGD(0.2, Schedule("constant")))
    run(Session(strategy, parameters), ObjectiveOracle(objective), Budget(steps=5))
    optimizer = torch.optim.SGD(exact.module.parameters(), 0.2)
    for _ in range(5):
        optimizer.zero_grad()
        exact.values(ALL_DATA).mean().backward()
        optimizer.step()
    there = torch.cat([p.detach().reshape(-1) for p in exact.module.parameters()])
    torch.testing.assert_close(parameters.flat(), there, rtol=0, atol=1e-5)
    start = Parameters.from_module(objective_of("convolutional").module).flat()
    assert (there - start).abs().max() > 0.02


@pytest.mark.compiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_fused_relu_is_the_difference_of_two(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)

    def images(*shape: int) -> Tensor:
        flat = torch.randn(*shape, generator=generator, dtype=torch.float64).flatten(0, -4).to(dtype)
        return flat.contiguous(memory_format=torch.channels_last).unflatten(0, shape[:-3])

    for copies, width in ((1, 32), (3, 32), (1, 16), (2, 48)):
        base = images(8, 16, width, 64)
        one, other = images(copies, 8, 16, width, 64), images(copies, 8, 16, width, 64)
        lower, cut = -base, (-base).clamp_min(0)
        for second in (None, other):
            total = one if second is None else one + second
            wide = base.double()
            expected = (wide + total.double()).relu() - wide.relu()
            found = relu_difference(one, second, lower, cut)
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=8 * 3 * torch.finfo(dtype).eps)
