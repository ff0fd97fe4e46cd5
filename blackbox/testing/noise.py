"""What every law of noise must satisfy."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from torch import Tensor

from blackbox.layout import Layout
from blackbox.noise.base import GROUP, Law
from blackbox.noise.displace import Displacer
from blackbox.seeds import derive_seed
from blackbox.testing.devices import DEVICES
from blackbox.testing.generators import untouched

# Widths that are and are not multiples of a group, more and fewer elements than one.
LAYOUT = Layout.of({"head.weight": (37, 64), "body.weight": (50, 33), "bias": (7,)})
SMALL = Layout.of({"a": (2, 2), "b": (3,)})


class NoiseSuite:
    """Subclass it and define the fixture ``law``."""

    ulps: float = 4.0
    """How far values on another device may differ, in float32's last place just below 8; 0 is bit-equal."""

    @pytest.fixture
    def law(self) -> Law:
        """The law under test."""
        raise NotImplementedError("define a fixture `law` in the subclass")

    @pytest.fixture(params=DEVICES)
    def device(self, request: pytest.FixtureRequest) -> str:
        """The devices the noise is drawn on."""
        return str(request.param)

    def second_moment(self, law: Law, layout: Layout) -> Tensor:
        """E z z^T over the concatenation of the tensors, float64 [d, d]; the identity unless overridden."""
        return torch.eye(layout.dimension, dtype=torch.float64)

    def test_tag_names_law_and_version(self, law: Law) -> None:
        assert re.fullmatch(r"[a-z_]+/\d+", law.tag)

    def test_laws_compare_and_hash_by_value(self, law: Law) -> None:
        assert (copy.deepcopy(law), hash(copy.deepcopy(law))) == (law, hash(law))

    def test_sample_is_float32_of_seeds_by_elements(self, law: Law, device: str) -> None:
        noise = law.sample((1, 2, 3), LAYOUT.specs[0], 5, 105, device)
        assert (noise.shape, noise.dtype, noise.device.type) == ((3, 100), torch.float32, device)

    def test_noise_is_a_function_of_its_arguments(self, law: Law, device: str) -> None:
        spec = LAYOUT.specs[0]
        first = law.sample((7,), spec, 0, spec.numel, device)
        assert torch.equal(first, law.sample((7,), spec, 0, spec.numel, device))

    def test_slice_noise_equals_noise_of_slice(self, law: Law, device: str) -> None:
        random = np.random.default_rng(0)
        for spec in LAYOUT.specs:
            whole = law.sample((11,), spec, 0, spec.numel, device)
            for _ in range(10):
                start, stop = sorted(random.integers(0, spec.numel + 1, 2).tolist())
                assert torch.equal(law.sample((11,), spec, start, stop, device), whole[:, start:stop])

    def test_rows_equal_rows_of_whole_tensor(self, law: Law, device: str) -> None:
        for spec in LAYOUT.specs[:2]:
            whole = law.sample((13,), spec, 0, spec.numel, device).view(spec.shape)
            rows = torch.tensor([spec.shape[0] - 1, 0, 5, 5, 17], device=device)
            assert torch.equal(law.rows(13, spec, rows), whole[rows])

    def test_batch_over_seeds_equals_seed_by_seed(self, law: Law, device: str) -> None:
        spec = LAYOUT.specs[1]
        seeds = [3, 2**62, 3, 0]
        one_by_one = [law.sample((seed,), spec, 3, 800, device)[0] for seed in seeds]
        assert torch.equal(law.sample(seeds, spec, 3, 800, device), torch.stack(one_by_one))

    def test_devices_draw_the_same_noise(self, law: Law, device: str) -> None:
        spec = LAYOUT.specs[0]
        here = law.sample((5,), spec, 0, spec.numel, device).cpu()
        there = law.sample((5,), spec, 0, spec.numel)
        assert (here - there).abs().max() <= self.ulps * 2.0**-21

    def test_run_equals_groups_from_zero(self, law: Law, device: str) -> None:
        key = torch.tensor([123456789, -987654321], dtype=torch.int32, device=device)
        groups = law.groups(key, torch.arange(64, dtype=torch.int32, device=device))
        assert groups.numel() == 64 * GROUP
        assert torch.equal(torch.stack(law.run(key, 64), 1).view_as(groups), groups)

    def test_second_moment_over_seeds(self, law: Law) -> None:
        """Each entry of the mean of z z^T over many seeds within 5.5 of its standard errors."""
        seeds = [derive_seed(0, "second moment", i) for i in range(4000)]
        scale = torch.tensor([law.scale(seed, SMALL) for seed in seeds], dtype=torch.float64)
        parts = [law.sample(seeds, spec, 0, spec.numel).double() for spec in SMALL.specs]
        z = torch.cat(parts, 1) * scale[:, None]
        products = z[:, :, None] * z[:, None, :]
        error = (products.mean(0) - self.second_moment(law, SMALL)).abs()
        assert (error <= 5.5 * products.std(0) / len(seeds) ** 0.5 + 1e-6).all()

    def test_displacing_adds_coefficient_times_scaled_noise(self, law: Law, device: str) -> None:
        displacer = Displacer(law, LAYOUT, fused=False)
        for spec in LAYOUT.specs:
            base = torch.linspace(-1, 1, spec.numel, dtype=torch.float64, device=device)
            out = torch.empty_like(base)
            displacer.displace(out, base, spec, displacer.terms([(19, 0.25), (23, -2.0)]), decay=0.5)
            z = {s: law.sample((s,), spec, 0, spec.numel, device)[0].double() for s in (19, 23)}
            scaled = {s: z[s] * law.scale(s, LAYOUT) for s in z}
            torch.testing.assert_close(out, 0.5 * base + 0.25 * scaled[19] - 2.0 * scaled[23], rtol=0, atol=1e-12)

    def test_many_small_tensors_at_once_equal_one_by_one(self, law: Law, device: str) -> None:
        noise = Displacer(law, LAYOUT).small_noise(29, LAYOUT.specs, torch.device(device))
        for spec in LAYOUT.specs:
            alone = law.sample((29,), spec, 0, spec.numel, device)[0]
            assert torch.equal(noise[spec.name].reshape(-1)[: spec.numel], alone)

    def test_global_generators_are_left_alone(self, law: Law) -> None:
        with untouched():
            law.sample((1, 2), LAYOUT.specs[0], 0, 1000)
            law.rows(1, LAYOUT.specs[0], torch.tensor([1, 2]))
            law.scale(1, LAYOUT)
