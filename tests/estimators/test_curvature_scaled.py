"""1.5-SPSA against its formula, with slopes and curvatures from automatic differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.estimators import CentralDifference, CurvatureScaled, Estimator
from blackbox.noise import Gaussian
from blackbox.testing.estimators import EstimatorSuite, estimate, linear, make_round, point, vector


class TestCurvatureScaled(EstimatorSuite):
    @pytest.fixture
    def estimator(self) -> Estimator:
        return CurvatureScaled(epsilon=0.1, probes=3)


SCALES = torch.tensor([900.0, 0.3, 70.0, 2.0, 11.0, 0.0, 5.0], dtype=torch.float64)


def bent(x: Tensor) -> Tensor:
    """Quadratic: differences are exact; curvatures above and below 1."""
    return 0.5 * x.square() @ SCALES + linear(x)


@pytest.mark.parametrize("power", [0.1, 1.0, 0.0])
@pytest.mark.parametrize("factor", [1.0, 1e-4], ids=["bends", "nearly linear"])
def test_it_is_each_slope_over_a_power_of_its_curvature(power: float, factor: float) -> None:
    def f(x: Tensor) -> Tensor:
        return factor * bent(x)

    estimator, parameters = CurvatureScaled(Gaussian(), epsilon=1e-2, probes=4, power=power), point()
    round = make_round(5, parameters)
    found = vector(estimate(estimator, f, round, parameters).direction)
    x = parameters.flat().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x[None]).sum(), x)
    hessian = torch.autograd.functional.hessian(lambda x: f(x[None]).sum(), x)
    expected = torch.zeros_like(found)
    for seed in round.probes(Gaussian(), 4):
        z = torch.cat([Gaussian().sample((seed,), s, 0, s.numel)[0] for s in parameters.layout.specs]).double()
        curvature = float(z @ hessian @ z)
        assert (abs(curvature) > 1) == (factor == 1.0)
        expected += gradient @ z * z / max(1.0, abs(curvature) ** power) / 4
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_without_the_power_it_is_the_central_difference() -> None:
    plain, scaled = CentralDifference(epsilon=0.1, probes=3), CurvatureScaled(epsilon=0.1, probes=3, power=0.0)
    found = [vector(estimate(e, bent, make_round(2, point()), point()).direction) for e in (plain, scaled)]
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


def test_the_log_has_the_mean_curvature() -> None:
    info = estimate(CurvatureScaled(epsilon=0.1, probes=2), bent, make_round(0, point()), point()).info
    np.testing.assert_allclose(info["curvature"], float(SCALES.sum()), rtol=1e-9)  # along signs it is the trace


@pytest.mark.parametrize("arguments", [{"power": -0.1}, {"power": 1.5}, {"epsilon": 0.0}, {"probes": 0}], ids=str)
def test_mistakes_are_told(arguments: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        CurvatureScaled(**arguments)  # type: ignore[arg-type]
