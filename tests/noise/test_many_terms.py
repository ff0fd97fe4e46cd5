"""Sums of many terms on small tensors, against a float64 reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blackbox.layout import Layout
from blackbox.noise import Gaussian, Law, Rademacher, Sphere
from blackbox.noise import displace as displace_module
from blackbox.noise.displace import Displacer

LAYOUT = Layout.of({"a": (5, 7), "b": (130,)})
TERMS = [(seed, (-1.0) ** seed * 0.01 * (seed - 3)) for seed in range(100, 120)]
DTYPES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def reference(law: Law, base: Tensor, name: str, terms: list[tuple[int, float]], decay: float) -> Tensor:
    spec = LAYOUT.by_name[name]
    noise = torch.stack([law.sample((seed,), spec, 0, spec.numel)[0] for seed, _ in terms]).double()
    return decay * base.double() + torch.tensor([c for _, c in terms], dtype=torch.float64) @ noise


@pytest.mark.parametrize("kept", [displace_module.KEPT, 400])  # all at once; in blocks
@pytest.mark.parametrize("decay", [1.0, 0.7])
@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
@pytest.mark.parametrize("law", [Rademacher(), Gaussian(), Sphere()], ids=lambda law: law.tag)
def test_many_terms_add_up(
    law: Law, dtype: torch.dtype, decay: float, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(displace_module, "KEPT", kept)
    displacer = Displacer(law, LAYOUT)
    for spec in LAYOUT.specs:
        base = torch.linspace(-1, 2, spec.numel, dtype=dtype)
        terms = displacer.terms(TERMS)
        expected = reference(law, base, spec.name, terms, decay)
        out = torch.empty_like(base)
        displacer.displace(out, base, spec, terms, decay)
        assert torch.equal(base, torch.linspace(-1, 2, spec.numel, dtype=dtype))
        torch.testing.assert_close(out.double(), expected, rtol=DTYPES[dtype], atol=DTYPES[dtype])
        displacer.displace(base, base, spec, terms, decay)
        assert torch.equal(base, out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_noise_has_one_layout_whether_it_is_kept_or_not(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, cpu, seeds = LAYOUT.by_name["b"], torch.device("cpu"), [3, 9, 4, 7]
    kept = Displacer(Rademacher(), LAYOUT)
    first, again = (kept.noise(seeds, spec, 0, spec.numel, dtype, cpu) for _ in range(2))
    some, others = (kept.noise(part, spec, 0, spec.numel, dtype, cpu) for part in ([9, 4], [7, 3]))
    monkeypatch.setattr(displace_module, "KEPT", 0)
    fresh = Displacer(Rademacher(), LAYOUT).noise(seeds, spec, 0, spec.numel, dtype, cpu)
    assert all(noise.is_contiguous() for noise in (first, again, some, others, fresh))
    assert torch.equal(first, again)
    assert torch.equal(first, fresh)
    assert torch.equal(some, fresh[[1, 2]])
    assert torch.equal(others, fresh[[3, 0]])
