"""The noise is what it says: moments, independence, distribution.

Seeds are fixed, so every test is deterministic; bounds are 4.5 standard errors (about 7e-6 two-sided) of the
exact law under the hypothesis.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from blackbox.layout import Layout
from blackbox.noise import Coordinate, Gaussian, Law, Rademacher, Sparse, Sphere

N = 1_000_000
LAYOUT = Layout.of({"layers.0.weight": (1000, 1000), "layers.1.weight": (1000, 1000)})
FIRST, SECOND = LAYOUT.specs
BOUND = 4.5
LAWS: list[Law] = [Gaussian(), Rademacher()]
names = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.tag.split("/")[0])


@lru_cache
def draw(law: Law, seed: int = 1, tensor: int = 0) -> Tensor:
    """float64 [N]; shared by the tests, which don't write to it."""
    return law.sample((seed,), LAYOUT.specs[tensor], 0, N)[0].double()


def z_score(products: Tensor, mean: float, variance: float) -> float:
    return abs(float(products.mean()) - mean) / math.sqrt(variance / len(products))


@names
def test_mean_is_zero(law: Law) -> None:
    assert z_score(draw(law), 0.0, 1.0) < BOUND


def test_gaussian_variance_is_one() -> None:
    assert z_score(draw(Gaussian()) ** 2, 1.0, 2.0) < BOUND


def test_gaussian_third_moment_is_zero() -> None:
    assert z_score(draw(Gaussian()) ** 3, 0.0, 15.0) < BOUND


def test_gaussian_fourth_moment_is_three() -> None:
    assert z_score(draw(Gaussian()) ** 4, 3.0, 96.0) < BOUND


def test_rademacher_is_plus_or_minus_one() -> None:
    assert torch.equal(draw(Rademacher()).abs(), torch.ones(N, dtype=torch.float64))


def test_gaussian_passes_kolmogorov_smirnov() -> None:
    assert stats.kstest(draw(Gaussian()).numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("half", [0, 1], ids=["cosines", "sines"])
def test_each_half_of_a_gaussian_group_passes_kolmogorov_smirnov(half: int) -> None:
    part = draw(Gaussian()).view(-1, 2, 16)[:, half].reshape(-1)
    assert stats.kstest(part.numpy(), "norm").pvalue > 1e-3


def test_gaussian_tails_have_their_share() -> None:
    """Counts beyond 3, 3.5, 4 and 4.5 are binomial."""
    size = draw(Gaussian()).abs()
    for bound in (3.0, 3.5, 4.0, 4.5):
        p = 2 * stats.norm.sf(bound)
        assert stats.binomtest(int((size > bound).sum()), N, p).pvalue > 1e-4


def test_rademacher_bytes_are_uniform() -> None:
    bits = (draw(Rademacher()).numpy() > 0).reshape(-1, 8)
    counts = np.bincount(np.packbits(bits, axis=1).reshape(-1), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_every_bit_of_a_rademacher_word_is_fair() -> None:
    """64 positions of one hash, each a mean of N / 64 signs."""
    means = draw(Rademacher()).view(-1, 64).mean(0)
    assert float(means.abs().max()) < BOUND / (N / 64) ** 0.5


@names
@pytest.mark.parametrize("lag", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000])
def test_neighbouring_elements_are_uncorrelated(law: Law, lag: int) -> None:
    z = draw(law)
    assert z_score(z[lag:] * z[:-lag], 0.0, 1.0) < BOUND


@pytest.mark.parametrize("lag", [1, 16, 32])
def test_squares_of_neighbouring_gaussians_are_uncorrelated(lag: int) -> None:
    """A pair of Box and Muller shares its radius; cos and sin must undo that (variance of a square is 2)."""
    square = draw(Gaussian()) ** 2 - 1
    assert z_score(square[lag:] * square[:-lag], 0.0, 4.0) < BOUND


@names
@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 3), (1, 2**32 + 1), (1, -1)])
def test_seeds_are_uncorrelated(law: Law, first: int, second: int) -> None:
    assert z_score(draw(law, first) * draw(law, second), 0.0, 1.0) < BOUND


@names
def test_tensors_of_other_names_are_uncorrelated(law: Law) -> None:
    assert z_score(draw(law, 1, 0) * draw(law, 1, 1), 0.0, 1.0) < BOUND


@names
def test_products_of_three_seeds_have_mean_zero(law: Law) -> None:
    """A third-order dependence, z(3) = z(1) z(2), would pass every pairwise test."""
    assert z_score(draw(law, 1) * draw(law, 2) * draw(law, 3), 0.0, 1.0) < BOUND


@names
def test_first_elements_over_consecutive_seeds_are_independent(law: Law) -> None:
    """Runs use many seeds and few elements: the same tests across seeds."""
    z = law.sample(range(100_000), FIRST, 0, 2).double()
    assert z_score(z[:, 0], 0.0, 1.0) < BOUND
    assert z_score(z[1:, 0] * z[:-1, 0], 0.0, 1.0) < BOUND
    assert z_score(z[:, 0] * z[:, 1], 0.0, 1.0) < BOUND


def test_sphere_has_norm_sqrt_d_over_all_tensors() -> None:
    law = Sphere()
    layout = Layout.of({"a": (40, 33), "b": (7,), "c": (3, 3)})
    for seed in range(5):
        parts = [law.sample((seed,), spec, 0, spec.numel)[0].double() for spec in layout.specs]
        norm = law.scale(seed, layout) * float(torch.cat(parts).norm())
        assert norm == pytest.approx(layout.dimension**0.5, rel=1e-12)


def test_sphere_points_where_the_gaussian_does() -> None:
    assert torch.equal(Sphere().sample((3,), FIRST, 0, 1000), Gaussian().sample((3,), FIRST, 0, 1000))


def test_coordinate_seed_below_d_names_the_coordinate() -> None:
    layout = Layout.of({"a": (2, 3), "b": (4,)})
    law = Coordinate()
    noise = torch.cat([law.sample(range(10), spec, 0, spec.numel) for spec in layout.specs], 1)
    assert torch.equal(noise, torch.eye(10))


def test_coordinate_seed_counts_modulo_d() -> None:
    layout = Layout.of({"a": (2, 3), "b": (4,)})
    assert torch.equal(Coordinate().sample((10_000_007,), layout.specs[1], 0, 4), torch.tensor([[0.0, 1, 0, 0]]))


def test_coordinate_scale_is_sqrt_d() -> None:
    assert Coordinate().scale(5, Layout.of({"a": (2, 3), "b": (4,)})) == 10**0.5


@pytest.mark.parametrize("density", [0.01, 0.3, 1.0])
def test_sparse_keeps_its_share(density: float) -> None:
    kept = int((Sparse(Rademacher(), density).sample((1,), FIRST, 0, N) != 0).sum())
    assert abs(kept - density * N) <= BOUND * (N * density * (1 - density)) ** 0.5


def test_sparse_is_the_law_underneath_or_zero() -> None:
    noise = Sparse(Gaussian(), 0.3).sample((1,), FIRST, 0, 100_000)
    over = Gaussian().sample((1,), FIRST, 0, 100_000)
    assert torch.equal(noise, over * (noise != 0))


def test_sparse_zeros_are_the_same_for_every_seed() -> None:
    first, second = Sparse(Rademacher(), 0.3, seed=5).sample((1, 2), FIRST, 0, 100_000) != 0
    assert torch.equal(first, second)


def test_masks_of_two_seeds_are_independent() -> None:
    first, second = (Sparse(Rademacher(), 0.5, seed=s).sample((1,), FIRST, 0, N)[0] for s in (1, 2))
    both = int(((first != 0) & (second != 0)).sum())
    assert abs(both - N / 4) < BOUND * (N * 3 / 16) ** 0.5


def test_mask_is_independent_of_the_noise_it_masks() -> None:
    noise = Sparse(Rademacher(), 0.5, seed=1).sample((1,), FIRST, 0, N)[0].double()
    assert abs(float(noise.sum())) < BOUND * (N / 2) ** 0.5


def test_normalised_law_cannot_be_masked() -> None:
    with pytest.raises(Exception, match="cannot be masked"):
        Sparse(Sphere(), 0.5)


@pytest.mark.parametrize("density", [0.0, 1.5, -0.1])
def test_density_outside_its_interval_is_refused(density: float) -> None:
    with pytest.raises(Exception, match="density"):
        Sparse(Gaussian(), density)
