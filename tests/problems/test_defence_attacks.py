"""Attacks against the closed form of a linear victim, and the promise of every attack: its ball and its queries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blackbox import OpaqueLayer
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference
from blackbox.estimators.coordinate import CoordinateWise
from blackbox.noise import Gaussian
from problems.smoothing.attacks import Ball, departure, descend, margin, square
from problems.smoothing.box import Module

SHAPE = (1, 6, 6)
N = 4


class Linear(nn.Module):
    """Two classes; the margin of class 1 is 2 (w.x - b)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.randn(36, generator=torch.Generator().manual_seed(1))

    def forward(self, x: Tensor) -> Tensor:
        score = (x - 0.5).flatten(1) @ self.w.to(x) + 0.4
        return torch.stack([-score, score], 1)


def victims() -> tuple[Module, Tensor, Tensor]:
    """The box, images in the middle of [0, 1] so that clipping plays no part, and labels."""
    box = Module(Linear())
    images = torch.full((N, *SHAPE), 0.5) + 0.02 * torch.rand((N, *SHAPE), generator=torch.Generator().manual_seed(2))
    return box, images, torch.tensor([1, 1, 0, 1])


def best_possible(box: Module, images: Tensor, labels: Tensor, ball: Ball) -> Tensor:
    """The lowest margin in the ball: less by twice the radius times the dual norm of w."""
    dual = box.module.w.norm() if ball.norm == "l2" else box.module.w.abs().sum()
    return margin(labels)(box.module(images)) - 2 * ball.radius * dual


L2, LINF = Ball(0.2), Ball(0.05, "linf")


@pytest.mark.parametrize(
    ("ball", "rule", "rate"), [(L2, "length", 0.1), (LINF, "sign", 0.02), (LINF, "adamm", 0.02)], ids=str
)
@pytest.mark.parametrize("estimator", [None, CoordinateWise(0.01, "central")], ids=["opened", "coordinates"])
def test_descent_finds_the_worst_point_of_a_linear_victim(ball, rule, rate, estimator):
    box, images, labels = victims()
    answer = box.opened if estimator is None else OpaqueLayer(box, estimator)
    found = descend(answer, margin(labels), images, ball, 12, rate, rule)
    torch.testing.assert_close(
        margin(labels)(box.module(found)), best_possible(box, images, labels, ball), rtol=1e-3, atol=1e-3
    )
    assert box.queries == N * (13 if estimator is None else 12 * (1 + 72) + 1)


@pytest.mark.parametrize(
    "attack",
    [
        lambda box, loss, x: descend(
            OpaqueLayer(box, CentralDifference(Gaussian(), 1e-2, 16)), loss, x, LINF, 15, 0.02, "sign"
        ),
        lambda box, loss, x: square(box, loss, x, LINF, 496, share=0.3),
    ],
    ids=["random directions", "square"],
)
def test_random_attacks_come_most_of_the_way_at_equal_queries(attack):
    box, images, labels = victims()
    loss = margin(labels)
    first, best = loss(box.module(images)), best_possible(box, images, labels, LINF)
    found = loss(box.module(attack(box, loss, images)))
    assert box.queries == N * 496
    assert ((first - found) > 0.75 * (first - best)).all()


def attacked(name: str, images: Tensor, labels: Tensor, box: Module) -> tuple[Tensor, Ball]:
    if name == "square":
        return square(box, margin(labels), images, Ball(0.3, "linf"), 40), Ball(0.3, "linf")
    ball = Ball(0.7) if name == "length" else Ball(0.3, "linf")
    rule: Any = name
    return descend(box.opened, margin(labels), images, ball, 10, 0.3, rule), ball


@pytest.mark.parametrize("name", ["length", "sign", "adamm", "square"])
def test_no_attack_leaves_the_ball_or_the_pixels_range_or_makes_things_better(name):
    box, _, labels = victims()
    images = torch.rand((N, *SHAPE), generator=torch.Generator().manual_seed(3))
    found, ball = attacked(name, images, labels, box)
    moves = (found - images).flatten(1)
    sizes = moves.norm(dim=1) if ball.norm == "l2" else moves.abs().amax(1)
    assert (sizes <= ball.radius + 1e-6).all() and 0 <= found.min() <= found.max() <= 1
    loss = margin(labels)
    assert (loss(box.module(found)) < loss(box.module(images))).all()
    again, _ = attacked(name, images, labels, box)
    assert torch.equal(found, again)


def test_a_margin_is_negative_where_the_victim_errs():
    scores = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 4.0]])
    assert margin(torch.tensor([1, 2]))(scores).tolist() == [1.0, -1.0]


def test_the_worst_departure_of_a_linear_reconstruction_is_along_its_first_singular_vector():
    matrix = torch.randn(36, 36, generator=torch.Generator().manual_seed(4), dtype=torch.float64) / 6
    images = torch.full((2, *SHAPE), 0.5, dtype=torch.float64)

    def answer(x: Tensor) -> Tensor:
        return images + ((x - images).flatten(1) @ matrix).view_as(images)

    found = descend(answer, departure(images), images, L2, 400, 0.05)
    worst = (L2.radius * torch.linalg.matrix_norm(matrix, 2)) ** 2 / 36
    torch.testing.assert_close(-departure(images)(answer(found)), worst.expand(2), rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ball(-1.0), "radius of 0 or more"),
        (lambda: Ball(1.0, "l1"), "norm l2 or linf"),  # type: ignore[arg-type]
        (lambda: square(lambda x: x, lambda y: y, torch.zeros(1, 1, 2, 2), L2, 3), "maximum norm"),
    ],
    ids=["radius", "norm", "square"],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(UserError, match=message):
        make()
