"""Candidates as rows: probes of several laws, dense candidates and bases in one round."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.execution import materialise
from blackbox.noise import Gaussian, Law, Rademacher, Sphere
from blackbox.parameters import Parameters
from blackbox.probe import CURRENT, Candidate, DenseCandidate, Payload, Probe, Query

FIRST, SECOND, SPHERE = Rademacher(), Gaussian(), Sphere()
DENSE = np.linspace(5.0, 6.0, 11)
MIXED: list[tuple[Candidate, str]] = [
    (Probe(FIRST, ((7, 0.5),)), CURRENT),
    (None, CURRENT),
    (DenseCandidate(DENSE), CURRENT),
    (Probe(SECOND, ((7, 0.5), (8, -2.0))), "there"),
    (Probe(FIRST, ((9, 1.0), (7, 0.25), (9, 1.0))), "there"),
    (None, "there"),
    (Probe(SPHERE, ((3, 0.1),)), CURRENT),
    (Probe(Rademacher(), ((7, -0.5),)), CURRENT),  # another object of an equal law
]
ONE_LAW: dict[str, list[tuple[Candidate, str]]] = {
    "pairs": [(Probe(FIRST, ((seed, c),)), CURRENT) for seed in (4, 5, 6) for c in (0.1, -0.2)],
    "not in pairs": [(Probe(FIRST, ((seed, 0.1),)), CURRENT) for seed in (4, 5, 5, 4, 6, 6)],
    "several terms": [(Probe(FIRST, ((seed, 0.1), (seed + 1, 0.3))), CURRENT) for seed in (4, 5)],
    "no term, and two": [(Probe(FIRST, ()), CURRENT), (Probe(FIRST, ((4, 0.1), (5, 0.2))), CURRENT)],
    "no term at all": [(Probe(FIRST, ()), CURRENT)],
    "two bases": [(Probe(FIRST, ((4, 0.1),)), CURRENT), (Probe(FIRST, ((4, 0.1),)), "there")],
}


def parameters(dtype: torch.dtype) -> Parameters:
    made = Parameters({"a": torch.linspace(-1, 1, 6, dtype=dtype).view(2, 3), "b": torch.ones(5, dtype=dtype)})
    made.take_anchor("there")
    made.assign({"a": torch.full((2, 3), 0.25, dtype=dtype)})
    return made


def expected(candidate: Candidate, base: str, of: Parameters) -> Tensor:
    tensors = of.tensors if base == CURRENT else of.anchor(base)
    row = torch.cat([t.reshape(-1) for t in tensors.values()]).double()
    if isinstance(candidate, DenseCandidate):
        return torch.from_numpy(candidate.values)
    for seed, c in candidate.terms if isinstance(candidate, Probe) else ():
        law: Law = candidate.law  # type: ignore[union-attr]
        noise = torch.cat([law.sample((seed,), spec, 0, spec.numel)[0] for spec in of.layout.specs])
        row = row + c * law.scale(seed, of.layout) * noise.double()
    return row


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("asked", [MIXED, *ONE_LAW.values()], ids=["mixed", *ONE_LAW])
def test_every_candidate_has_its_row(asked: list[tuple[Candidate, str]], dtype: torch.dtype) -> None:
    made = parameters(dtype)
    queries = [Query(f"0.0.{i}", candidate, base) for i, (candidate, base) in enumerate(asked)]
    rows = materialise(queries, made)
    assert rows.dtype == dtype
    wanted = torch.stack([expected(candidate, base, made) for candidate, base in asked])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(rows.double(), wanted, rtol=tolerance, atol=tolerance)


def test_part_of_a_round_has_the_rows_of_the_whole() -> None:
    queries = [Query(f"0.0.{i}", candidate, base) for i, (candidate, base) in enumerate(ONE_LAW["pairs"])]
    whole = materialise(queries, parameters(torch.float32))
    for part in ([0], [1, 2], [3, 0, 5]):
        assert torch.equal(materialise([queries[i] for i in part], parameters(torch.float32)), whole[part])


def test_a_payload_has_no_coordinates() -> None:
    with pytest.raises(UserError, match=r"Query 0\.0\.0 is a structured payload"):
        materialise([Query("0.0.0", Payload("tree"))], parameters(torch.float64))
