"""The devices a suite runs on: the CPU, and CUDA where there is one."""

from __future__ import annotations

import pytest
import torch

NO_CUDA = "needs a CUDA device"

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_CUDA)),
]
"""Parameters of a ``device`` fixture."""
