"""Products with thin matrices against matrix products in float64."""

import pytest
import torch

from blackbox.noise.kernels import compiler_works
from blackbox.noise.thin import add_product, project, spread

COLUMNS = (1, 2, 3, 8, 9)
ROWS = (3, 200)  # below and above what kernels take


def close(found: torch.Tensor, true: torch.Tensor, dtype: torch.dtype) -> bool:
    off = (found.double() - true).abs().max() / true.abs().max()
    return found.dtype == dtype and bool(off < {torch.float64: 1e-13, torch.float32: 2e-6}.get(dtype, 1.5e-2))


def drawn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("copies", "factors"), [(1, 1), (4, 1), (4, 4)])
def test_columns_there_and_back(dtype: torch.dtype, columns: int, rows: int, copies: int, factors: int) -> None:
    x, right = drawn(copies, rows, 50, dtype=dtype), drawn(factors, 50, columns, dtype=dtype)
    thin = project(x, right)
    assert thin.shape == (copies, rows, columns)
    assert close(thin, x.double() @ right.double(), dtype)
    left = drawn(factors, 70, columns, dtype=dtype)
    wide = spread(thin, left)
    assert wide.shape == (copies, rows, 70)
    assert wide.is_contiguous()  # products are added to a view of it
    assert close(wide, thin.double() @ left.double().mT, dtype)


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("decay", [1.0, 0.75])
def test_added_in_place_and_elsewhere(columns: int, decay: float) -> None:
    base, left, right = (drawn(*shape, dtype=torch.float32) for shape in ((200, 150), (200, columns), (150, columns)))
    true = decay * base.double() + left.double() @ right.double().t()
    out, before = torch.empty_like(base), base.clone()
    add_product(out, base, left, right, decay)
    assert torch.equal(base, before)
    assert close(out, true, torch.float32)
    add_product(base, base, left, right, decay)
    assert torch.equal(base, out)


def test_any_strides() -> None:
    x = drawn(300, 40, dtype=torch.float32)[:, ::2].expand(2, -1, -1)
    right = drawn(2, 20, dtype=torch.float32).t()[None]
    assert close(project(x, right), x.double() @ right.double(), torch.float32)
    assert close(spread(project(x, right), right), x.double() @ right.double() @ right.double().mT, torch.float32)


@pytest.mark.skipif(not compiler_works("cpu"), reason="needs a C++ compiler")
def test_under_autocast_as_without() -> None:
    x, right = drawn(1, 200, 50, dtype=torch.float32), drawn(1, 50, 2, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = project(x, right)
    assert torch.equal(inside, project(x, right))
