"""ZO-SAGA: a table of the last estimate of every block of the data.

    v_k = m s_j (g_j(x_k; u_j) - table_j) + sum_i s_i table_i,    then table_j <- g_j(x_k)

with m blocks, s_j the share of the examples in block j, and j drawn uniformly. SAGA is arXiv:1407.0202, with
zeroth-order estimates arXiv:1902.06158 (ZO-ProxSAGA, without the proximal step).

The published method draws new directions for g_j(x_k), which adds the variance of two estimates along unrelated
directions. Here each row remembers its directions u_j and is compared along them. Never redrawn, they would make a
fixed error: block j would be seen along few directions for ever. So every ``redraw`` visits the row is renewed along
new directions at the same point, which costs a second estimate in that step.

The table is seeds and weights: blocks times probes of each. Its sum is kept as seeds, or dense, whichever is smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from blackbox.direction import Direction
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers
from blackbox.seeds import derive_seed
from blackbox.variance.base import Wrapper, mean_info
from blackbox.variance.blocks import block, check_blocks, on_block
from blackbox.variance.parts import Part, Parts, require_stateless, require_values
from blackbox.variance.terms import bounded, from_state, merged, to_state


@dataclass(frozen=True, slots=True)
class Row:
    """An estimate of one block, the step whose directions it has, and how often these were asked."""

    direction: Direction
    drawn: int
    visits: int = 1


class SAGA(Wrapper):
    """Stochastic average gradients.

    The first step asks about all blocks.

    Args:
        estimator: of one block's gradient; linear in values.
        examples: n, the examples that there are.
        blocks: m, rows of the table; one for every example if left out.
        redraw: visits of a block after which its directions are drawn anew.
    """

    def __init__(self, estimator: Estimator, examples: int, blocks: int | None = None, redraw: int = 1) -> None:
        super().__init__(estimator)
        self.blocks = examples if blocks is None else blocks
        check_blocks(examples, self.blocks)
        if redraw < 1:
            raise UserError(f"redraw is a number of visits, at least 1, not {redraw}.")
        require_values("SAGA", estimator)
        require_stateless("SAGA", estimator)
        self.examples = examples
        self.redraw = redraw
        self._rows: dict[int, Row] = {}
        self._sum = Direction()

    def next(self, round: Round, phase: int, answers: Answers) -> Plan:
        """All blocks at first; then one, along its own directions and, if they are due, along new ones."""
        return self._parts(round).next(phase, answers)

    def estimate(self, round: Round, answers: Answers) -> Estimate:
        """v_k. A block without an answer keeps its row."""
        found = self._parts(round).estimates(answers)
        there = [estimate for estimate in found if estimate is not None]
        if not there:
            return Estimate(Direction())
        if not self._rows:
            self._put(round, {j: Row(e.direction, round.step) for j, e in enumerate(found) if e is not None})
            return Estimate(self._mean(), mean_info(there))
        j = self._chosen(round)
        row, v = self._rows.get(j), self._mean()
        if row is None:  # its first visit failed: nothing to compare with
            self._put(round, {j: Row(there[0].direction, round.step)})
            return Estimate(self._mean(), mean_info(there))
        if found[0] is not None:
            change = found[0].direction + row.direction * -1.0
            v = merged(v + change * (self.blocks * self._share(j) / self._filled))
            self._put(round, {j: Row(found[0].direction, row.drawn, row.visits + 1)})
        if len(found) > 1 and found[1] is not None:
            self._put(round, {j: Row(found[1].direction, round.step)})
        return Estimate(v, mean_info(there))

    def _parts(self, round: Round) -> Parts:
        if not self._rows:
            return Parts(round, [self._part(round, j, round.step) for j in range(self.blocks)])
        j = self._chosen(round)
        row = self._rows.get(j)
        if row is None:
            return Parts(round, [self._part(round, j, round.step)])
        drawn = [row.drawn] if row.visits < self.redraw else [row.drawn, round.step]
        return Parts(round, [self._part(round, j, step) for step in drawn])

    def _part(self, round: Round, j: int, drawn: int) -> Part:
        """Block j along the directions that it was given at step ``drawn``."""
        context = on_block(round.context, block(j, self.examples, self.blocks))
        seed = derive_seed(round.run_seed, "saga", j)
        return Part(self.estimator, replace(round, step=drawn, run_seed=seed, context=context))

    def _chosen(self, round: Round) -> int:
        return round.seed("saga") % self.blocks

    def _share(self, j: int) -> float:
        return len(block(j, self.examples, self.blocks)) / self.examples

    @property
    def _filled(self) -> float:
        """The share of the examples that have a row: 1 unless answers failed."""
        return 1.0 if len(self._rows) == self.blocks else sum(self._share(j) for j in self._rows)

    def _mean(self) -> Direction:
        return self._sum if self._filled == 1.0 else self._sum * (1.0 / self._filled)

    def _put(self, round: Round, rows: Mapping[int, Row]) -> None:
        terms = self._sum.terms
        for j, row in rows.items():
            old, share = self._rows.get(j), self._share(j)
            terms += (row.direction * share).terms
            terms += (old.direction * -share).terms if old is not None else ()
            self._rows[j] = row
        self._sum = bounded(Direction(terms), round.layout, self.laws)

    def state_dict(self) -> dict[str, Any]:
        """The table and its sum."""
        rows = [[j, to_state(r.direction, self.laws), r.drawn, r.visits] for j, r in self._rows.items()]
        return {"rows": rows, "sum": to_state(self._sum, self.laws)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        rows = state["rows"]
        self._rows = {j: Row(from_state(d, self.laws), drawn, visits) for j, d, drawn, visits in rows}
        self._sum = from_state(state["sum"], self.laws)
