"""Attacks on a black box by its scores alone, and on an opened one: what a defence is judged by.

``descend`` is projected descent of a loss that is low where the victim errs. What it descends along is up to what it is
given: with a network it is PGD (arXiv:1706.06083); with an ``OpaqueLayer`` around a black box it is ZO-signSGD (Liu et
al. 2019, rule "sign"), ZO-AdaMM (arXiv:1910.06513, rule "adamm") or a zeroth-order PGD, by random directions or by
coordinates (ZOO, arXiv:1708.03999), as the layer's estimator says. ``square`` is the Square attack (arXiv:1912.00049,
Algorithms 1 and 2): random search over squares, in the maximum norm.

All images of a batch are attacked at once, each for itself, and every one is asked about equally often.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from blackbox.errors import UserError
from blackbox.seeds import derive_seed

Answer = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor], Tensor]
"""Outputs [n, ...] -> [n]: the lower, the worse for the victim."""


@dataclass(frozen=True)
class Ball:
    """Where the perturbed images may lie: around the images, and in [0, 1].

    Args:
        radius: in units of the pixels.
        norm: "l2", or "linf".
    """

    radius: float
    norm: Literal["l2", "linf"] = "l2"

    def __post_init__(self) -> None:
        if not self.radius >= 0 or self.norm not in ("l2", "linf"):
            raise UserError(f"A ball has a radius of 0 or more and norm l2 or linf, not {self.radius}, {self.norm!r}.")

    def project(self, x: Tensor, centre: Tensor) -> Tensor:
        """Points [n, ...] into the ball and [0, 1]; clipping after it brings them nearer to the centre, never away."""
        move = x - centre
        if self.norm == "linf":
            move = move.clamp(-self.radius, self.radius)
        else:
            lengths = move.flatten(1).norm(dim=1).clamp(min=1e-12)
            move = move * _each((self.radius / lengths).clamp(max=1.0), move)
        return (centre + move).clamp(0.0, 1.0)


def margin(labels: Tensor) -> Loss:
    """The loss of a classifier: its score of the label above the best of the others; negative where it errs."""

    def loss(scores: Tensor) -> Tensor:
        right = scores.gather(1, labels[:, None])[:, 0]
        hidden = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, labels[:, None], True)
        return right - scores.masked_fill(hidden, -math.inf).max(1).values

    return loss


def departure(images: Tensor) -> Loss:
    """The loss of a reconstruction: minus the mean squared error to the images [n, ...]."""
    return lambda outputs: -(outputs - images).square().flatten(1).mean(1)


def descend(
    answer: Answer,
    loss: Loss,
    images: Tensor,
    ball: Ball,
    steps: int,
    rate: float,
    rule: Literal["sign", "length", "adamm"] = "length",
    seed: int = 0,
) -> Tensor:
    """Perturbed images [n, ...]: of all points that were asked about, those of the lowest loss.

    Args:
        answer: images -> outputs that backpropagate, exactly or by an estimate.
        loss: of the outputs.
        images: [n, ...] in [0, 1].
        ball: where to stay.
        steps: made; with the first point, ``steps`` + 1 points are asked about.
        rate: of a step, in units of the pixels.
        rule: "sign": every pixel by the rate; "length": the image as a whole by the rate; "adamm": AMSGrad with
            betas .9 and .3.
        seed: of the first point: within a hundredth of the ball around the images, where a gradient may vanish.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "descend"))
    start = ball.radius / 100 * (2 * torch.rand(images.shape, generator=generator) - 1).to(images)
    x = ball.project(images + (start if ball.norm == "linf" else start / images[0].numel() ** 0.5), images)
    best, lowest = x.clone(), x.new_full((len(x),), math.inf)
    m, v, top = torch.zeros_like(x), torch.full_like(x, 1e-12), torch.full_like(x, 1e-12)
    for step in range(steps + 1):
        last = step == steps
        x = x.detach().requires_grad_(not last)
        values = loss(answer(x))
        found = values.detach().to(lowest)
        better = found < lowest
        best[better], lowest[better] = x.detach()[better], found[better]
        if last:
            break
        (gradient,) = torch.autograd.grad(values.sum(), x)
        if rule == "sign":
            move = gradient.sign()
        elif rule == "length":
            move = functional.normalize(gradient.flatten(1)).view_as(x)
        else:
            m, v = 0.9 * m + 0.1 * gradient, 0.3 * v + 0.7 * gradient.square()
            top = torch.maximum(top, v)
            move = m / top.sqrt()
        x = ball.project(x.detach() - rate * move, images)
    return best


@torch.no_grad()
def square(
    answer: Answer, loss: Loss, images: Tensor, ball: Ball, queries: int, share: float = 0.1, seed: int = 0
) -> Tensor:
    """The Square attack: perturbed images [n, c, h, w] after as many queries for each.

    Args:
        answer: images -> outputs.
        loss: of the outputs.
        images: [n, c, h, w] in [0, 1].
        ball: in the maximum norm.
        queries: for an image, the first one (stripes) included.
        share: of the pixels in the first squares; halved after shares of the queries, as in the paper.
        seed: of the stripes and squares.
    """
    if ball.norm != "linf":
        raise UserError("square searches in the maximum norm: give a ball of norm linf.")
    generator = torch.Generator().manual_seed(derive_seed(seed, "square"))
    n, c, h, w = images.shape

    def signs(*shape: int) -> Tensor:
        return (2.0 * torch.randint(2, shape, generator=generator) - 1).to(images)

    best = (images + ball.radius * signs(n, c, 1, w)).clamp(0, 1)
    lowest = loss(answer(best))
    for query in range(1, queries):
        side = max(1, round(math.sqrt(share * _shrunken(query / queries) * h * w)))
        side = min(side, h, w)
        tried = best.clone()
        rows = torch.randint(h - side + 1, (n,), generator=generator).tolist()
        columns = torch.randint(w - side + 1, (n,), generator=generator).tolist()
        values = ball.radius * signs(n, c, 1, 1)
        for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
            window = (slice(i, i + 1), slice(None), slice(row, row + side), slice(column, column + side))
            tried[window] = (images[window] + values[i]).clamp(0, 1)
        found = loss(answer(tried))
        better = found < lowest
        best[better], lowest[better] = tried[better], found[better]
    return best


def _shrunken(progress: float) -> float:
    """The paper's schedule, of 10,000 queries, in shares of them."""
    cuts = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
    return 0.5 ** sum(progress > cut for cut in cuts)


def _each(factors: Tensor, like: Tensor) -> Tensor:
    """Factors [n] as [n, 1, ...]."""
    return factors.reshape(-1, *[1] * (like.ndim - 1))
