"""Products with thin matrices, as low-rank noise needs them: x R, u L^T, and W + L R^T.

On a CPU the libraries for matrix products are slow at a handful of columns. Compiled kernels, with the columns
unrolled, take those: each reads and writes what is large once. All else are matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from blackbox.noise.kernels import compiled_copy, compiler_works, without_autocast

_FEW = 8
"""Columns up to which the kernels are quicker in float32."""
_FEW_HALVED = 2
"""The same in bfloat16, of x R; of u L^T they never are."""
_ROWS = 64
"""Rows from which they are."""


def project(x: Tensor, right: Tensor) -> Tensor:
    """x R: [copies, rows, n] and [copies or 1, n, r] -> [copies, rows, r]; one dtype."""
    shape = x.shape[:2]
    if len(right) == 1:
        x = x.reshape(1, -1, x.shape[-1])
    if not _takes(x[0], right.shape[-1]):
        return torch.bmm(x, right).view(*shape, -1)
    columns = right.mT.contiguous()
    thin = x.new_empty(len(columns), columns.shape[1], x.shape[1])
    for each in zip(x.contiguous(), columns, thin, strict=True):
        _call("project", columns.shape[1], *each)
    return thin.mT.reshape(*shape, -1)


def spread(u: Tensor, left: Tensor) -> Tensor:
    """u L^T: [copies, rows, r] and [copies or 1, m, r] -> [copies, rows, m], contiguous; one dtype."""
    columns = left.shape[-1]
    if columns == 1:
        return u * left.mT
    if len(left) > 1:
        return torch.bmm(u, left.mT)
    flat, rows = u.reshape(-1, columns), left[0].t().contiguous()
    if flat.dtype == torch.float32 and _takes(flat, columns):
        wide = flat.new_empty(len(flat), rows.shape[1])
        _call("spread", columns, flat.t().contiguous(), rows, wide)
    else:
        wide = flat @ rows
    return wide.view(*u.shape[:2], -1)


def add_product(out: Tensor, base: Tensor, left: Tensor, right: Tensor, decay: float) -> None:
    """out <- decay * base + L R^T; [m, n], [m, k] and [n, k], float32; ``out`` may be ``base``."""
    columns = left.shape[1]
    if not _takes(base, columns):
        torch.addmm(base, left, right.t(), beta=decay, out=out)
        return
    factors = left.t().contiguous(), right.t().contiguous(), torch.tensor(decay)
    if out is base:
        _call("add_in_place", columns, base, *factors)
    else:
        _call("add", columns, out, base, *factors)


def _takes(large: Tensor, columns: int) -> bool:
    few = {torch.float32: _FEW, torch.bfloat16: _FEW_HALVED}.get(large.dtype, 0)
    return large.device.type == "cpu" and len(large) >= _ROWS and columns <= few and compiler_works("cpu")


def _call(name: str, columns: int, *tensors: Tensor) -> None:
    without_autocast(_kernel(name, columns, tensors[0].dtype), *tensors)


@cache
def _kernel(name: str, columns: int, dtype: torch.dtype) -> Callable[..., None]:
    def project(x: Tensor, right: Tensor, out: Tensor) -> None:
        for k in range(columns):
            out[k].copy_((x.float() * right[k].float()).sum(-1))

    def spread(u: Tensor, left: Tensor, out: Tensor) -> None:
        total = u[0, :, None] * left[0]
        for k in range(1, columns):
            total = total + u[k, :, None] * left[k]
        out.copy_(total)

    def add(out: Tensor, base: Tensor, left: Tensor, right: Tensor, decay: Tensor) -> None:
        total = base * decay
        for k in range(columns):
            total = total + left[k, :, None] * right[k]
        out.copy_(total)

    def add_in_place(base: Tensor, left: Tensor, right: Tensor, decay: Tensor) -> None:
        add(base, base, left, right, decay)

    # The compiler decides on threads by the sizes that it sees first.
    rows, width, one = 1024, 512, torch.tensor(1.0)
    large, long, short = torch.zeros(rows, width), torch.zeros(columns, rows), torch.zeros(columns, width)
    forms: dict[str, tuple[Callable[..., None], tuple[Tensor, ...]]] = {
        "project": (project, (large, short, long)),
        "spread": (spread, (long, short, large)),
        "add": (add, (large.clone(), large, long, short, one)),
        "add_in_place": (add_in_place, (large, long, short, one)),
    }
    form, typical = forms[name]
    kernel = compiled_copy(form, f"thin_{name}_{columns}_{str(dtype)[6:]}")
    without_autocast(kernel, *[tensor if tensor is one else tensor.to(dtype) for tensor in typical])
    return kernel
