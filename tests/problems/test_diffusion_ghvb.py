"""GHVB against Adams and Bashforth's coefficients, exact solutions and diffusers' DDIM."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from blackbox.errors import UserError

pytest.importorskip("diffusers")
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:diffusers.*"),
]

from problems.diffusion import Pipeline, Scheduler  # noqa: E402
from problems.diffusion.ghvb import GHVBScheduler, HeavyBall  # noqa: E402

BASHFORTH = {  # the newest first, from the tables of numerical analysis
    1: [1],
    2: [3 / 2, -1 / 2],
    3: [23 / 12, -16 / 12, 5 / 12],
    4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
}


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_without_momentum_it_is_adams_bashforth(order: int) -> None:
    slopes = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direction = HeavyBall(order, 1.0)
    for n, slope in enumerate(slopes):
        weights = BASHFORTH[min(order, n + 1)]
        truth = sum(w * slopes[n - k] for k, w in enumerate(weights))
        torch.testing.assert_close(direction(slope), truth)


def test_of_order_one_it_is_heavy_ball() -> None:
    slopes = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direction, velocity = HeavyBall(1, 0.3), slopes[0]
    for slope in slopes:
        velocity = 0.7 * velocity + 0.3 * slope
        torch.testing.assert_close(direction(slope), velocity)


def test_of_order_two_its_coefficients_are_those_of_the_paper() -> None:
    """(2 + beta) / (2 beta) and -(2 - beta) / (2 beta) of the newest two means."""
    beta, slopes = 0.6, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    direction, means = HeavyBall(2, beta), [slopes[0]]
    found = [direction(slope) for slope in slopes][-1]
    for slope in slopes[1:]:
        means.append((1 - beta) * means[-1] + beta * slope)
    torch.testing.assert_close(found, ((2 + beta) * means[-1] - (2 - beta) * means[-2]) / (2 * beta))


def error_at_one(order: int, beta: float, steps: int) -> float:
    """Of y' = -y + sin 3t, y(0) = 1, at t = 1, the past before 0 taken from the exact solution."""

    def exact(t: float) -> float:
        return 1.3 * math.exp(-t) + (math.sin(3 * t) - 3 * math.cos(3 * t)) / 10

    def slope(t: float, y: float) -> Tensor:
        return torch.tensor(-y + math.sin(3 * t), dtype=torch.float64)

    h, direction = 1 / steps, HeavyBall(order, beta)
    for n in range(-60, 0):
        direction(slope(n * h, exact(n * h)))
    y = exact(0)
    for n in range(steps):
        y += h * float(direction(slope(n * h, y)))
    return abs(y - exact(1))


@pytest.mark.parametrize("beta", [1.0, 0.7])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_error_falls_as_the_order_says(order: int, beta: float) -> None:
    coarse, fine = error_at_one(order, beta, 80), error_at_one(order, beta, 160)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def longest_stable_step(direction_of: Callable[[], HeavyBall]) -> float:
    """Of y' = -y, in steps of 1/100."""
    h = 0.01
    while True:
        direction, y = direction_of(), torch.tensor(1.0, dtype=torch.float64)
        for _ in range(400):
            y = y + h * direction(-y)
        if not abs(float(y)) < 1:
            return h
        h += 0.01


def test_momentum_of_order_one_and_two_bears_longer_steps() -> None:
    for order, limit in [(1, 2.0), (2, 1.0)]:  # those of Euler, and of Adams and Bashforth
        without = longest_stable_step(lambda order=order: HeavyBall(order, 1.0))  # type: ignore[misc]
        assert without == pytest.approx(limit, abs=0.03)
        assert longest_stable_step(lambda order=order: HeavyBall(order, 0.7)) > without + 0.1  # type: ignore[misc]


def test_of_order_one_without_momentum_it_is_ddim_bit_for_bit_and_it_repeats(stable: str) -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def images(scheduler: str | Scheduler) -> Tensor:
        return Pipeline(stable, scheduler, prompt="a cat", guidance_scale=3.0)(latents, 6)

    ddim = images("ddim")
    assert torch.equal(images(Scheduler("ghvb", order=1, beta=1.0)), ddim)
    second = Pipeline(stable, Scheduler("ghvb", order=2, beta=0.8), prompt="a cat", guidance_scale=3.0)
    found = second(latents, 6)
    assert torch.equal(found, second(latents, 6)) and torch.equal(found, images("ghvb"))
    assert (found - ddim).abs().max() > 1e-4


def test_what_the_model_predicts_makes_no_difference() -> None:
    import diffusers

    kit: Any = diffusers
    noise, x = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = []
    for prediction in ("epsilon", "sample", "v_prediction"):
        scheduler = GHVBScheduler(kit.DDIMScheduler(clip_sample=False), prediction)
        scheduler.set_timesteps(10)
        y = x
        for time in scheduler.timesteps[:4]:
            a = scheduler.alphas_cumprod[int(time)].double()
            clean = (y - (1 - a).sqrt() * noise) / a.sqrt()
            outputs = {"epsilon": noise, "sample": clean, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * clean}
            y = scheduler.step(outputs[prediction], time, y, return_dict=False)[0]
        found.append(y)
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_numbers_out_of_range_are_named() -> None:
    for keys, words in [
        ({"name": "ghvb", "order": 5}, "1 to 4"),
        ({"name": "ghvb", "beta": 0.0}, "above 0"),
        ({"name": "ddim", "beta": 0.5}, "belongs to ghvb"),
        ({"name": "ghvb", "eta": 0.5}, "belongs to ddim"),
        ({"name": "ddim", "eta": 1.5}, "from 0 to 1"),
    ]:
        with pytest.raises(UserError, match=words):
            Scheduler(**keys)
