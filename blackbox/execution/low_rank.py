"""Low-rank: forwards with low-rank noise at the cost of bare ones; the weights are neither written nor copied.

See ``factored`` for how a layer computes with W + c L R^T from W, L and R. A step's update is added to the weights as
a product of thin factors, one pass, before the next forward. Probes of other laws are evaluated write-free.

With ``copies`` above 1, an objective that can evaluate several copies of a batch at once (``stacked_values``) has as
many probes evaluated in one forward, each with weights of its own: EGGROLL (arXiv:2511.16652). The product with the
weights is then one, over all copies. Whether a model can be stacked
is tried out on its first probes.

With ``hold``, steps by noise that keeps a factor (``refresh``) aren't added to the weights until that factor is
renewed, or somebody reads the weights: see ``held``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.execution.base import Outcome, single_probe
from blackbox.execution.displaced import Displaced, NotStackable, Owner
from blackbox.execution.factored import Factored
from blackbox.execution.held import Held
from blackbox.execution.write_free import TRIAL_FACTOR, WriteFree, trial
from blackbox.noise.base import Law
from blackbox.noise.low_rank import low_rank_of
from blackbox.objective import ModuleObjective, Objective, StackedObjective
from blackbox.parameters import Parameters
from blackbox.probe import CURRENT, Context, Probe, Query
from blackbox.update import Update


class LowRankForward(WriteFree):
    """Low-rank noise as columns beside the product with the weights.

    Args:
        copies: probes evaluated in one forward where the objective and the model allow it; a forward then holds the
            activations of as many batches.
        hold: leave steps in factors while one is kept, so that they write no weight.
    """

    def __init__(self, copies: int = 1, hold: bool = False) -> None:
        super().__init__()
        if copies < 1:
            raise UserError(f"copies are probes in one forward, at least 1, not {copies}.")
        self._copies = copies
        self._hold = hold
        self._held = Held()

    def evaluate(self, objective: Objective, queries: Sequence[Query], parameters: Parameters) -> list[Outcome]:
        """As the base says."""
        parameters.held = self._hold and self._fallback is None
        self._fold(queries, parameters)
        return super().evaluate(objective, queries, parameters)

    def replay(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """As the base says; steps are held from the first on."""
        parameters.held = self._hold and self._fallback is None and not parameters.in_place
        self._fold(queries, parameters)
        super().replay(queries, parameters)

    def settings(self) -> dict[str, object]:
        """How many probes share a forward."""
        return {"execution": type(self).__name__, "copies": self._copies} | ({"hold": True} if self._hold else {})

    def _forwards(self, owners: Sequence[Owner], parameters: Parameters) -> Displaced:
        pending = parameters.pending
        if not parameters.held or pending is None or pending.kept is None:
            return Factored(owners, parameters, self._scratch)
        self._held.follow(pending, parameters)
        return Factored(owners, parameters, self._scratch, self._held)

    def _fold(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Carry out what is held if these queries can't be evaluated with it."""
        if parameters.held and parameters.pending is not None and not self._goes_on(queries, parameters.pending):
            parameters.settle()

    def _goes_on(self, queries: Sequence[Query], pending: Update) -> bool:
        """Whether what is pending can be held while these queries are evaluated."""
        if pending.kept is None:
            return False
        law, kept = pending.kept
        for query in queries:
            probe = single_probe(query)
            if query.base != CURRENT:
                return False
            if probe is not None and (probe.law != law or any(seed >> 32 != kept for seed, _ in probe.terms)):
                return False
        return True

    def _next(
        self, objective: ModuleObjective, queries: Sequence[Query], parameters: Parameters, displaced: Displaced
    ) -> list[Outcome]:
        """Outcomes of the next query, or of the next few that can share a forward."""
        assert isinstance(displaced, Factored)
        first = queries[0]
        law, probes = self._group(objective, queries)
        unchecked = id(objective.module) not in self._checked
        if law is None:
            return [self._one(objective, first, parameters, displaced, watch=unchecked)]
        assert isinstance(objective, StackedObjective)
        if unchecked:
            value = self._one(objective, replace(first, context=trial(first.context)), parameters, displaced, True)
            if self._fallback is not None:
                return [value]
        if self._can_share(objective, trial(first.context), law, probes, parameters, displaced):
            try:
                return list(self._together(objective, first.context, law, probes, parameters, displaced))
            except Exception as error:
                return [error] * len(probes)
        return [self._one(objective, first, parameters, displaced)]

    def _group(
        self, objective: ModuleObjective, queries: Sequence[Query]
    ) -> tuple[Law | None, list[tuple[tuple[int, float], ...]]]:
        """The law and the terms of the leading queries that can share a forward; no law if there are fewer than 2."""
        law, group, context = None, list[tuple[tuple[int, float], ...]](), queries[0].context
        for query in queries[: self._copies] if isinstance(objective, StackedObjective) else ():
            probe = single_probe(query)
            of = law if probe is None else probe.law
            if query.base != CURRENT or query.context != context or (law is not None and of != law):
                break
            law = of
            group.append(() if probe is None else probe.terms)
        shared = len(group) > 1 and law is not None and low_rank_of(law) is not None
        return (law if shared else None), group

    def _together(
        self,
        objective: StackedObjective,
        context: Context,
        law: Law,
        probes: Sequence[Sequence[tuple[int, float]]],
        parameters: Parameters,
        displaced: Factored,
    ) -> Tensor:
        """[len(probes), batch]: a copy's values at each of the probes."""
        displaced.displacer, displaced.terms = parameters.displacer(law), []
        displaced.copies = [displaced.displacer.terms(terms) for terms in probes]
        try:
            return objective.stacked_values(context, len(probes))
        finally:
            displaced.copies = None

    def _can_share(
        self,
        objective: StackedObjective,
        context: Context,
        law: Law,
        probes: Sequence[tuple[tuple[int, float], ...]],
        parameters: Parameters,
        displaced: Factored,
    ) -> bool:
        """Whether sharing gives what separate forwards give; tried once, at an exaggerated displacement."""
        known = self._stackable.get(id(objective.module))
        if known is None:
            far = [tuple((seed, TRIAL_FACTOR * c) for seed, c in terms) for terms in probes]
            try:
                shared = self._together(objective, context, law, far, parameters, displaced)
                alone = []
                for terms in far:
                    one = self._one(
                        objective, Query("trial", Probe(law, terms), context=context), parameters, displaced
                    )
                    if isinstance(one, Exception):
                        return False  # the objective's own failure: the separate forwards will say so
                    alone.append(one)
                values = torch.stack(alone)
                apart, off = (values - values.mean(0)).abs().mean(), (shared - values).abs().mean()
                known = bool(off <= 0.1 * apart)
            except NotStackable:
                known = False
            except Exception:
                return False
            self._stackable[id(objective.module)] = known
        return known
