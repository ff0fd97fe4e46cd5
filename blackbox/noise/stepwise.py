"""Noise that depends on the step, which the upper half of a seed names; a tensor can't be asked about an earlier one.

What such noise is made from (the weights as a step finds them, what was learnt before) is overwritten as the run goes
on. An update is carried out tensor by tensor, perhaps only when the next step's first probe comes by; so each tensor
goes from step to step on its own, when its noise is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable

from blackbox.errors import UserError
from blackbox.layout import TensorSpec


class Steps:
    """The step that each tensor's noise was last asked about.

    Attributes:
        latest: by tensor; none if it wasn't asked about.
    """

    def __init__(self) -> None:
        self.latest: dict[str, int] = {}

    def enter(self, seeds: Iterable[int], spec: TensorSpec) -> int | None:
        """Take a tensor to the step of these seeds.

        Returns:
            The step, if it is another than before.

        Raises:
            UserError: the seeds are of a step that is over.
        """
        before = self.latest.get(spec.name)
        step = before
        for named in sorted({seed >> 32 for seed in seeds}):
            if step is not None and named < step:
                raise UserError(
                    f"Noise of step {named} was asked for in step {step} ('{spec.name}'), and what it was made from is "
                    "gone. What carries directions from step to step, as svrg and its like do, can't go with noise "
                    "that depends on the step (a mask with recompute: true, hizoo)."
                )
            step = named
        if step == before:
            return None
        assert step is not None
        self.latest[spec.name] = step
        return step
