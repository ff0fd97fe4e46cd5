"""Random masks at a share of its own for each layer, redrawn every so often (DeepZero, arXiv:2310.02025, section 4).

A mask says along which coordinates a gradient is asked for; the weights themselves stay dense, and over many masks
all of them move. Vectors (biases, norms) are always in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from blackbox.errors import UserError
from blackbox.estimators.base import Round
from blackbox.estimators.selection import Choice, IntArray, Selection
from blackbox.layout import Layout, TensorSpec
from blackbox.seeds import derive_seed


class LayerShares(Selection):
    """A uniform sample without replacement in each matrix and each kernel; weight 1.

    Args:
        keep: share of a tensor's coordinates that is kept, in (0, 1].
        redraw: steps for which a mask is kept.
        shares: tensor's name -> its own share in [0, 1]; for those that aren't named, ``keep`` holds.

    Attributes:
        shares: as given, or as a strategy that prunes has found them.
    """

    def __init__(self, keep: float = 0.1, redraw: int = 100, shares: Mapping[str, float] | None = None) -> None:
        if not 0 < keep <= 1:
            raise UserError(f"keep is a share and must lie in (0, 1], not {keep}.")
        if redraw < 1:
            raise UserError(f"redraw is a number of steps and must be at least 1, not {redraw}.")
        for name, share in (shares or {}).items():
            if not 0 <= share <= 1:
                raise UserError(f"shares: that of '{name}' must lie in [0, 1], not {share}.")
        self.keep = keep
        self.redraw = redraw
        self.shares: dict[str, float] = dict(shares or {})
        self._drawn: tuple[tuple[int, int], dict[str, float], Layout, IntArray] | None = None

    def choose(self, round: Round, m: int) -> Choice:
        """The mask of the round's epoch, ascending."""
        layout = round.layout
        if m != layout.dimension:
            raise UserError("select: layer-shares chooses among all tensors; leave `tensors` and `mask` out.")
        unknown = sorted(self.shares.keys() - {spec.name for spec in layout.specs})
        if unknown:
            some = ", ".join(spec.name for spec in layout.specs[:5])
            raise UserError(f"shares: there is no tensor '{unknown[0]}'; the names begin with: {some}.")
        key = (round.run_seed, round.step // self.redraw)
        if self._drawn is None or self._drawn[:3] != (key, self.shares, layout):
            parts = [self._places(spec, number, *key) for number, spec in enumerate(layout.specs)]
            self._drawn = key, dict(self.shares), layout, np.concatenate(parts)
        places = self._drawn[3]
        return Choice(places, np.ones(len(places)))

    def state_dict(self) -> dict[str, Any]:
        """The shares."""
        return {"shares": dict(self.shares)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        self.shares = {str(name): float(share) for name, share in state["shares"].items()}

    def _places(self, spec: TensorSpec, number: int, run_seed: int, epoch: int) -> IntArray:
        if not prunable(spec):
            return np.arange(spec.offset, spec.offset + spec.numel)
        count = round(self.shares.get(spec.name, self.keep) * spec.numel)
        generator = np.random.Generator(np.random.Philox(derive_seed(run_seed, "layer mask", epoch, number)))
        return spec.offset + np.sort(generator.choice(spec.numel, count, replace=False, shuffle=False))


def prunable(spec: TensorSpec) -> bool:
    """Whether masks leave coordinates of a tensor out: matrices and kernels, no vectors."""
    return len(spec.shape) > 1
