"""Peak memory: of the device on CUDA, else of the whole process."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch


class PeakMemory:
    """Peak bytes from its making to `read`: of the device on CUDA, else of the whole process.

    Linux can start the process's peak anew; elsewhere it counts from the process's start.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    @staticmethod
    def of_process() -> int:
        """Peak resident bytes of this process so far."""
        try:
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        except (OSError, IndexError):
            import resource

            unit = 1 if sys.platform == "darwin" else 1024
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def read(self) -> int:
        """Peak bytes since this was made."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return self.of_process()
