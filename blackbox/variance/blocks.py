"""The gradient over all data, estimated block by block, each along directions of its own.

    g = sum_j |B_j|/n g_{B_j}(x; u_j)

A query over all n examples costs as much as a query over each of the blocks. Asked so, the same number of evaluations
sees ``blocks`` times as many directions, at little more noise: this is the estimate of ZO-SVRG's snapshots
(arXiv:1805.10367, eq. 3 with a direction for every component).
"""

from __future__ import annotations

from dataclasses import replace

from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers
from blackbox.probe import Context
from blackbox.seeds import derive_seed
from blackbox.variance.base import Wrapper, mean_of
from blackbox.variance.parts import Part, Parts, require_stateless


class Blocks(Wrapper):
    """The weighted mean over blocks of the data; the step's own minibatch isn't heeded.

    Args:
        estimator: asked on every block, along new directions.
        examples: n, the examples that there are; the block j has examples j, j + blocks, j + 2 blocks ...
        blocks: how many; n of them is a direction for every example.
    """

    def __init__(self, estimator: Estimator, examples: int, blocks: int) -> None:
        super().__init__(estimator)
        check_blocks(examples, blocks)
        require_stateless("Blocks", estimator)
        self.examples = examples
        self.blocks = blocks

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """All blocks side by side."""
        return self._parts(round).next(phase, answers)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """The mean over the blocks that have an answer, by their sizes."""
        found = self._parts(round).estimates(answers)
        there = [(e, len(block(j, self.examples, self.blocks))) for j, e in enumerate(found) if e is not None]
        return mean_of([estimate for estimate, _ in there], [size for _, size in there])

    def _parts(self, round: Round) -> Parts:
        contexts = [on_block(round.context, block(j, self.examples, self.blocks)) for j in range(self.blocks)]
        seeds = [derive_seed(round.run_seed, "block", j) for j in range(self.blocks)]
        rounds = [replace(round, run_seed=s, context=c) for s, c in zip(seeds, contexts, strict=True)]
        return Parts(round, [Part(self.estimator, one) for one in rounds])


def check_blocks(examples: int, blocks: int) -> None:
    """UserError unless the examples can be cut into so many blocks."""
    if not 1 <= blocks <= examples:
        raise UserError(f"blocks: 1 to {examples} (the examples), not {blocks}.")


def block(number: int, examples: int, blocks: int) -> tuple[int, ...]:
    """The examples of one block."""
    return tuple(range(number, examples, blocks))


def on_block(context: Context, indices: tuple[int, ...]) -> Context:
    """The context on these examples; what else is random in it stays."""
    return replace(context, batch_seed=None, indices=indices)
