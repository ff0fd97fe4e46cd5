from __future__ import annotations

import numpy as np
import pytest
import torch

from blackbox.errors import UserError
from blackbox.estimators import Estimator, ForwardDifference, SpreadNormalized
from blackbox.noise import LowRank
from blackbox.parameters import Parameters
from blackbox.testing.estimators import GRADIENT, EstimatorSuite, estimate, linear, make_round, point, vector


class TestSpreadNormalized(EstimatorSuite):
    unbiased_on_linear = False  # its length is that of no gradient

    @pytest.fixture
    def estimator(self) -> Estimator:
        return SpreadNormalized(epsilon=0.1, probes=4)


def found(estimator: Estimator, f=linear, step: int = 3) -> torch.Tensor:
    parameters = point()
    return vector(estimate(estimator, f, make_round(step, parameters), parameters).direction, parameters.layout)


def test_it_is_the_forward_difference_over_the_deviation_of_the_perturbed_values() -> None:
    asked: list[np.ndarray] = []

    def f(x: torch.Tensor) -> torch.Tensor:
        asked.append(linear(x).numpy())
        return linear(x)

    direction = found(SpreadNormalized(epsilon=0.1, probes=5), f)
    (values,) = asked
    assert len(values) == 6
    plain = found(ForwardDifference(epsilon=0.1, probes=5))
    torch.testing.assert_close(direction, plain * 0.1 / np.std(values[1:], ddof=1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", [1e-3, 50.0])
def test_neither_the_scale_nor_the_level_of_the_function_matters(scale: float) -> None:
    estimator = SpreadNormalized(epsilon=0.1, probes=6)
    scaled = found(estimator, lambda x: scale * linear(x) + 1.0)
    torch.testing.assert_close(scaled, found(estimator), rtol=1e-6, atol=0)


def test_with_many_probes_it_is_the_gradients_direction() -> None:
    direction = found(SpreadNormalized(epsilon=0.1, probes=4000))
    assert (direction - GRADIENT / GRADIENT.norm()).norm() < 4 * (6 / 4000) ** 0.5  # sqrt((d - 1)/q), four times


def test_where_all_values_agree_nothing_moves() -> None:
    assert not found(SpreadNormalized(), lambda x: torch.ones(len(x), dtype=torch.float64)).any()


def test_its_low_rank_probes_share_what_is_kept() -> None:
    law = LowRank(refresh=10)
    parameters = Parameters({"w": torch.zeros(4, 4, dtype=torch.float64)})
    one, two = (SpreadNormalized(law, probes=2).next(make_round(step, parameters), 0, None) for step in (3, 9))
    seeds = [q.candidate.terms[0][0] for plan in (one, two) for q in plan.queries[1:]]
    assert len(set(seeds)) == 4
    assert len({seed >> 32 for seed in seeds}) == 1


def test_one_probe_has_no_spread() -> None:
    with pytest.raises(UserError, match="at least 2"):
        SpreadNormalized(probes=1)
