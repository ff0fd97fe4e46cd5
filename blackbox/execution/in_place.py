"""In place: the weights are displaced, evaluated and led back, in as few passes over memory as there are.

MeZO (arXiv:2305.17333) moves the weights four times a step: +eps, -2 eps, +eps, update. Here the way back is
merged with the update, and both with the next step's first displacement: two passes a step,

    theta_t - eps z_t  ->  + (eps - lr g) z_t + eps z_{t+1}      (one pass, two noises)
                       ->  - 2 eps z_{t+1}

float32 only: rounding lets the weights drift by about one unit in the last place a step. The sequence of
passes is a function of the plan, and ``replay`` repeats it bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from blackbox.errors import UserError
from blackbox.execution.base import Execution, Outcome, module_objective, single_probe
from blackbox.interrupt import held_back
from blackbox.noise.base import Law
from blackbox.objective import ModuleObjective, Objective
from blackbox.parameters import Parameters, Update
from blackbox.probe import CURRENT, Query


class InPlace(Execution):
    """Merged passes over the weights themselves (opt-in)."""

    def evaluate(self, objective: Objective, queries: Sequence[Query], parameters: Parameters) -> list[Outcome]:
        """As the base says; afterwards the way back is pending, for the step to merge with."""
        return self._walk(queries, parameters, module_objective(objective, self))

    def replay(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """The same passes, nothing asked."""
        self._walk(queries, parameters, None)

    @torch.no_grad()
    def _walk(
        self, queries: Sequence[Query], parameters: Parameters, objective: ModuleObjective | None
    ) -> list[Outcome]:
        _check(parameters)
        outcomes: list[Outcome] = []
        for query in queries:
            if query.base == CURRENT:
                self._move_to(query, parameters)
                outcomes += _ask(objective, query)
            else:
                with parameters.at_anchor(query.base):
                    try:
                        self._move_to(query, parameters)
                        outcomes += _ask(objective, query)
                    finally:
                        parameters.take_pending()  # leaving the anchor overwrites the displacement
        return outcomes

    def _move_to(self, query: Query, parameters: Parameters) -> None:
        """From wherever the tensors stand to the query's displacement, in one pass where it can be one."""
        probe = single_probe(query)
        terms = probe.terms if probe is not None else ()
        if len(terms) > 1:
            raise UserError(
                f"Query {query.id} sums {len(terms)} noises; the in-place execution takes one a query. "
                "Use the write-free execution."
            )
        if probe is None or not terms:
            parameters.settle()
            return
        with held_back():  # half a pass could not be undone
            pending = parameters.pending
            if pending is not None and pending.single is not None and pending.single[0] == probe.law:
                self._merge(parameters.take_pending(), probe.law, terms[0], parameters)
            else:
                parameters.settle()
                self._displace(probe.law, terms, parameters)
            parameters.leave_displaced(probe.law, *terms[0])

    def _displace(self, law: Law, terms: Sequence[tuple[int, float]], parameters: Parameters) -> None:
        displacer = parameters.displacer(law)
        for spec in parameters.layout.specs:
            flat = parameters.flat_of(spec.name)
            law.see(terms[0][0], spec, flat)
            displacer.displace(flat, flat, spec, displacer.terms(terms))

    def _merge(self, pending: Update | None, law: Law, term: tuple[int, float], parameters: Parameters) -> None:
        assert pending is not None
        assert pending.single is not None
        displacer = parameters.displacer(law)
        (old,), (new,) = displacer.terms([pending.single[1]]), displacer.terms([term])
        for spec in parameters.layout.specs:
            flat = parameters.flat_of(spec.name)
            decay = pending.decay.get(spec.name, 1.0)
            if old[0] == new[0]:
                displacer.displace(flat, flat, spec, [(new[0], old[1] + new[1])], decay)
            elif law.stepwise:  # the new noise depends on the weights in between
                displacer.displace(flat, flat, spec, [old], decay)
                law.see(new[0], spec, flat)
                displacer.displace(flat, flat, spec, [new])
            else:
                displacer.displace_twice(flat, spec, old, new, decay)


def _ask(objective: ModuleObjective | None, query: Query) -> list[Outcome]:
    if objective is None:
        return []
    try:
        return [objective.values(query.context)]
    except Exception as error:
        return [error]


def _check(parameters: Parameters) -> None:
    for name, tensor in parameters.raw.items():
        if tensor.dtype == torch.bfloat16:
            raise UserError(
                f"The in-place execution needs float32 weights, but '{name}' is bfloat16, where displacing "
                "and coming back does not restore the weights. "
                "Use the write-free execution, or dtype: float32."
            )
        if not tensor.is_contiguous():
            raise UserError(f"The in-place execution needs contiguous weights; '{name}' is not.")
