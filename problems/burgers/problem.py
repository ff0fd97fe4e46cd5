"""The corrector's weights as a problem: its loss can only be asked, as the solver gives no gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from blackbox.config.rehearsal import loading_begins
from blackbox.errors import UserError
from blackbox.probe import Context
from blackbox.seeds import derive_seed
from problems.base import ModuleProblem, cost_of_examples, examples_of
from problems.burgers.coarse import CoarseSolver
from problems.burgers.corrector import Corrector, roll_out, rolled_error
from problems.burgers.data import Trajectories, windows


class Burgers(ModuleProblem):
    """A coarse solver of Burgers' equation with a correction after every step, against a fine solver.

    Args:
        channels: of the corrector's hidden layers.
        examples: training trajectories; a quarter as many are held out for validation and for the test each.
        batch_size: trajectories that a batch seed draws.
        unrolled: solver steps of a query, from a frame of the trajectory that the context's seed draws.
        steps: solver steps of the trajectories; the metrics are taken over all of them.
        cells: of the coarse grid.
        viscosity: nu.
        seed: of the waves and of the initial weights.

    Raises:
        UserError: sizes that don't fit each other.
    """

    def __init__(
        self,
        channels: int = 8,
        examples: int = 64,
        batch_size: int = 8,
        unrolled: int = 8,
        steps: int = 40,
        cells: int = 32,
        viscosity: float = 0.05,
        seed: int = 0,
    ) -> None:
        if min(channels, unrolled) < 1 or examples < 4:
            raise UserError("Burgers needs at least one channel, one unrolled step and 4 examples.")
        if not 1 <= batch_size <= examples:
            raise UserError(f"batch_size: 1 to {examples} (the training trajectories), not {batch_size}.")
        if unrolled > steps:
            raise UserError(f"unrolled: at most the {steps} steps of a trajectory, not {unrolled}.")
        self.solver = CoarseSolver(viscosity)
        self.solver.check(cells)
        self.batch_size = batch_size
        self.examples = examples
        self.unrolled = unrolled
        self.steps = steps
        loading_begins()
        counts = {"train": examples, "validation": examples // 4, "test": examples // 4}
        self._sets = {
            split: Trajectories(count, derive_seed(seed, split), self.solver, steps, cells)
            for split, count in counts.items()
        }
        self.module: Corrector = Corrector(channels, derive_seed(seed, "weights"))
        self.module.eval()

    def values(self, context: Context) -> Tensor:
        """Mean squared error of each training trajectory of the context over the unrolled steps, float64 [batch]."""
        chosen = examples_of(context, self.examples, self.batch_size)
        seed = derive_seed(context.batch_seed or 0, "starts")
        starts = torch.randint(
            self.steps - self.unrolled + 1, (len(chosen),), generator=torch.Generator().manual_seed(seed)
        )
        frames = windows(self._sets["train"].frames[chosen], starts, self.unrolled)
        found = roll_out(self.solver, self.module, frames[:, 0], self.unrolled)
        return (found - frames[:, 1:]).square().mean((1, 2))

    def cost(self, context: Context) -> dict[str, float]:
        """Examples: trajectories."""
        return cost_of_examples(context, self.examples, self.batch_size)

    @torch.no_grad()
    def metrics(self, split: str = "test") -> dict[str, float]:
        """``mae``: mean absolute error over whole trajectories; ``uncorrected``: the solver's own."""
        if split not in self._sets:
            raise UserError(f"split: there is no '{split}'; the data has {', '.join(self._sets)}.")
        self.parameters().flush()
        return {"mae": self._error(split, self.module), "uncorrected": self._uncorrected[split]}

    @cached_property
    def _uncorrected(self) -> dict[str, float]:
        return {split: self._error(split, lambda u: u) for split in self._sets}

    def _error(self, split: str, correct: Callable[[Tensor], Tensor]) -> float:
        return rolled_error(self.solver, correct, self._sets[split].frames)
