"""Derivatives by displaced nodes: autograd's, from as many evaluations as said; or coordinates."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blackbox.errors import UserError
from blackbox.execution.layers.nodes import NodeAccess
from blackbox.parameters import Parameters
from blackbox.probe import ALL_DATA, Context
from blackbox.testing.generators import seeded


class Classes:
    """Cross-entropy of a network; offers its layers, and counts how many losses it was asked for."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(3)
        self.module, self.asked = module.to(dtype).eval(), 0
        for part in self.module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                assert part.running_mean is not None and part.running_var is not None
                part.running_mean.copy_(torch.randn(part.running_mean.shape, generator=generator) * 0.1)
                part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) + 0.5)
        self.x = torch.randn(4, *shape, generator=generator, dtype=dtype)
        self.y = torch.tensor([0, 2, 1, 2])

    def inputs(self, context: Context) -> Tensor:
        return self.x

    def losses(self, outputs: Tensor, context: Context) -> Tensor:
        self.asked += len(outputs)
        return F.cross_entropy(outputs.movedim(2, 1), self.y.expand(outputs.shape[:2]), reduction="none")

    def values(self, context: Context) -> Tensor:
        return self.losses(self.module(self.inputs(context))[None], context)[0]


def exact(objective: Classes) -> Tensor:
    objective.module.zero_grad()
    with torch.enable_grad():
        objective.values(ALL_DATA).mean().backward()
    return torch.cat([p.grad.reshape(-1) for p in objective.module.parameters() if p.grad is not None])


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, padding="same", groups=2, dilation=2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
        nn.BatchNorm1d(5),
        nn.GELU(),
        nn.Linear(5, 3),
    )


def sequences() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(4, 4), nn.Flatten(), nn.Linear(20, 3))


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))


MAKERS = {
    "convolutions": (convolutions, (2, 8, 8), 16 * 6 + 16 * 8 + 5 + 3),
    "sequences": (sequences, (5, 3), 20 + 4 * 5 + 20 + 3),
    "linear": (linear, (6,), 5 + 3),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("elements", [1, 1 << 20])
def test_the_derivatives_of_all_weights_are_autograds_from_one_question_a_node(name: str, elements: int) -> None:
    make, shape, nodes = MAKERS[name]
    with seeded(1):
        objective = Classes(make(), shape)
    parameters, gradient = Parameters.from_module(objective.module), exact(objective)
    before, every = parameters.flat(), torch.arange(parameters.dimension)
    access = NodeAccess(mixed=False, elements=elements)
    objective.asked = 0
    found, losses = access.derivatives(objective, ALL_DATA, parameters, every, 1e-6)
    assert access.asked(objective, ALL_DATA, parameters, every).evaluations == nodes < parameters.dimension
    assert objective.asked == nodes + 1
    assert torch.cosine_similarity(found, gradient, dim=0) > 0.999999
    torch.testing.assert_close(found, gradient, rtol=0, atol=1e-6)
    torch.testing.assert_close(losses, objective.values(ALL_DATA), rtol=0, atol=1e-14)
    assert torch.equal(parameters.flat(), before)


def test_the_mean_over_both_sides_errs_by_the_square_of_the_distance() -> None:
    with seeded(1):
        objective = Classes(sequences(), (5, 3))
    parameters, gradient = Parameters.from_module(objective.module), exact(objective)
    every = torch.arange(parameters.dimension)

    def errors(distance: float) -> tuple[float, float]:
        access = NodeAccess()
        ahead, back = (access.derivatives(objective, ALL_DATA, parameters, every, d)[0] for d in (distance, -distance))
        return float((ahead - gradient).norm()), float(((ahead + back) / 2 - gradient).norm())

    (one, both), (one_far, both_far) = errors(1e-3), errors(1e-2)
    assert one_far / one == pytest.approx(10, rel=0.05)
    assert both_far / both == pytest.approx(100, rel=0.05)


def test_where_the_loss_is_linear_in_the_outputs_no_distance_is_too_far() -> None:
    class Distance(Classes):
        def losses(self, outputs: Tensor, context: Context) -> Tensor:
            return outputs @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    with seeded(1):
        objective = Distance(linear(), (6,))
    parameters = Parameters.from_module(objective.module)
    every = torch.arange(parameters.dimension)
    found, _ = NodeAccess().derivatives(objective, ALL_DATA, parameters, every, 100.0)
    torch.testing.assert_close(found, exact(objective), rtol=0, atol=1e-12)


def test_only_what_is_asked_is_displaced() -> None:
    with seeded(1):
        objective = Classes(convolutions(), (2, 8, 8))
    parameters, gradient = Parameters.from_module(objective.module), exact(objective)
    spec = parameters.layout.by_name["3.weight"]
    some = torch.arange(2 * 27, 4 * 27) + spec.offset  # all weights of channels 2 and 3
    access = NodeAccess()
    objective.asked = 0
    found, _ = access.derivatives(objective, ALL_DATA, parameters, some, 1e-6)
    assert objective.asked == 2 * 16 + 1 == access.asked(objective, ALL_DATA, parameters, some).evaluations + 1
    torch.testing.assert_close(found, gradient[some], rtol=0, atol=1e-6)
    few = some[:3]  # fewer than there are positions: asked one by one
    assert access.asked(objective, ALL_DATA, parameters, few).evaluations == 3
    found, _ = access.derivatives(objective, ALL_DATA, parameters, few, 1e-6)
    torch.testing.assert_close(found, gradient[few], rtol=0, atol=1e-6)


class Rows(nn.Module):
    """A layer that sees the rows of all examples as a batch of its own, a norm over features, and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(3, 4)
        self.turned = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.twice = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[:2]
        x = self.rows(x.flatten(0, 1)).view(n, t, 4)
        x = self.turned(x.transpose(0, 1)).tanh().transpose(0, 1)
        return self.head(self.twice(self.twice(self.norm(x))).mean(1))


@pytest.mark.parametrize("length", [4, 5])  # 4 is the number of examples, too
def test_layers_whose_rows_are_no_examples_are_asked_by_coordinates(length: int) -> None:
    with seeded(1):
        objective = Classes(Rows(), (length, 3))
    parameters, gradient = Parameters.from_module(objective.module), exact(objective)
    every = torch.arange(parameters.dimension)
    access = NodeAccess()
    asked = access.asked(objective, ALL_DATA, parameters, every)
    assert [owner.name for unit, _, _ in asked.units for owner in unit.owners] == ["head.weight", "head.bias"]
    found, _ = access.derivatives(objective, ALL_DATA, parameters, every, 1e-6)
    torch.testing.assert_close(found, gradient, rtol=0, atol=1e-6)
    with pytest.raises(UserError, match=r"'rows.weight' has no nodes"):
        NodeAccess(mixed=False).derivatives(objective, ALL_DATA, parameters, every, 1e-6)


def test_a_batch_norm_that_depends_on_the_batch_is_refused() -> None:
    with seeded(1):
        objective = Classes(convolutions(), (2, 8, 8))
    parameters = Parameters.from_module(objective.module)
    every = torch.arange(parameters.dimension)
    access = NodeAccess()
    access.derivatives(objective, ALL_DATA, parameters, every[:9], 1e-3)
    objective.module.train()
    for one in (access, NodeAccess()):
        with pytest.raises(UserError, match="batch norm in train mode"):
            one.derivatives(objective, ALL_DATA, parameters, every, 1e-3)
