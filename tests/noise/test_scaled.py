import pytest
import torch

from blackbox.errors import UserError
from blackbox.layout import Layout
from blackbox.noise import Gaussian, Law, Rademacher, Scaled, Sphere
from blackbox.noise.displace import Displacer
from blackbox.testing.noise import NoiseSuite

LAYOUT = Layout.of({"model.embed.weight": (40, 16), "model.layer.weight": (16, 16), "model.layer.bias": (16,)})


class TestScaledConforms(NoiseSuite):
    @pytest.fixture
    def law(self) -> Law:
        return Scaled(Gaussian(), {"absent": 0.5})


@pytest.mark.parametrize("spec", LAYOUT.specs, ids=lambda spec: spec.name)
def test_noise_is_the_inner_law_times_the_tensors_own_factor(spec) -> None:
    scaled = Scaled(Rademacher(), {"embed": 0.25, r"\.bias$": 3.0})
    factor = {"model.embed.weight": 0.25, "model.layer.weight": 1.0, "model.layer.bias": 3.0}[spec.name]
    inner = Rademacher().sample([4, 5], spec, 0, spec.numel)
    assert torch.equal(scaled.sample([4, 5], spec, 0, spec.numel), factor * inner)
    if len(spec.shape) == 2:
        rows = torch.tensor([3, 0, 3])
        assert torch.equal(scaled.rows(4, spec, rows), factor * Rademacher().rows(4, spec, rows))


def test_every_way_of_displacing_applies_the_factor() -> None:
    scaled = Scaled(Rademacher(), {"embed": 0.25})
    displacer = Displacer(scaled, LAYOUT, fused=False)
    for spec in LAYOUT.specs:
        noise = scaled.sample([4, 5], spec, 0, spec.numel)
        once, twice, base, out = (torch.zeros(spec.numel) for _ in range(4))
        displacer.displace(once, once, spec, [(4, 2.0)])
        displacer.displace_twice(twice, spec, (4, 2.0), (5, 1.0))
        displacer.update_and_displace(out, base, spec, (4, 2.0), (5, 1.0))
        assert torch.equal(once, 2 * noise[0])
        assert torch.equal(base, 2 * noise[0])
        assert torch.equal(twice, 2 * noise[0] + noise[1])
        assert torch.equal(out, 2 * noise[0] + noise[1])
    small = displacer.small_noise(4, LAYOUT.specs, torch.device("cpu"))
    for spec in LAYOUT.specs:
        assert torch.equal(small[spec.name], scaled.sample([4], spec, 0, spec.numel)[0])


def test_a_law_normalised_over_all_tensors_is_refused() -> None:
    with pytest.raises(UserError, match="Sphere"):
        Scaled(Sphere(), {"embed": 0.5})


def test_a_factor_that_is_not_positive_is_refused() -> None:
    with pytest.raises(UserError, match="embed"):
        Scaled(Gaussian(), {"embed": 0.0})
