"""Several rounds of estimators within one round: what the wrappers are built from.

A part is an estimator's round of its own: with other directions (another ``run_seed``), on other data (``context``),
at an anchor (``base``) or along mirrored directions. The parts' queries are asked side by side, phase by phase, under
the outer round's ids; each estimator is then given its own answers under the ids that it planned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Estimator, Plan, Round
from blackbox.feedback import Answers, Preferences, Ranking, Values
from blackbox.probe import ALL_DATA, CURRENT, Candidate, Context, Probe, Query
from blackbox.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Part:
    """One round of an estimator.

    Attributes:
        estimator: plans and estimates; it must keep no state, as it may do so for several parts.
        round: what it is given.
        base: where its queries about the present point are asked instead.
        mirrored: ask along -z wherever it plans z.
    """

    estimator: Estimator
    round: Round
    base: str = CURRENT
    mirrored: bool = False


class Parts:
    """Parts that are asked together.

    Args:
        round: the round in which they are asked.
        parts: at least one.
        paired: all parts plan the same queries, and a query that one of them misses is left out of all: what is
            subtracted must be of the same directions.
    """

    def __init__(self, round: Round, parts: Sequence[Part], paired: bool = False) -> None:
        self.step = round.step  # a part's own may be an earlier one, to ask along that one's directions again
        self.parts = tuple(parts)
        self.paired = paired

    def next(self, phase: int, answers: Answers, anchors: tuple[str, ...] = ()) -> Plan:
        """The queries of all parts in this phase. The base value that several of them want is asked once."""
        names: list[dict[str, str]] = [{} for _ in self.parts]
        plan = Plan()
        for number in range(phase + 1):
            plan = self._plan(number, answers, names)
        return Plan(plan.queries, anchors + plan.anchors) if plan.queries else Plan()

    def answers(self, answers: Answers) -> list[Answers]:
        """Each part's own answers, of all phases."""
        names: list[dict[str, str]] = [{} for _ in self.parts]
        phase = 0
        while self._plan(phase, answers, names).queries:
            phase += 1
        return self._own(answers, names)

    def estimates(self, answers: Answers) -> list[Estimate | None]:
        """Each part's estimate; None for a part that has no answer at all."""
        found: list[Estimate | None] = []
        for part, own in zip(self.parts, self.answers(answers), strict=True):
            estimate = part.estimator.estimate(part.round, own) if not own.empty else None
            if estimate is not None and part.mirrored:
                mirrored = tuple(_mirrored(proposal) for proposal in estimate.proposals)
                estimate = Estimate(-estimate.direction, estimate.info, mirrored)
            found.append(estimate)
        return found

    def _plan(self, phase: int, answers: Answers, names: list[dict[str, str]]) -> Plan:
        """One phase; adds each part's ids to ``names`` (its own id -> the outer one)."""
        own = self._own(answers, names) if phase else [Answers()] * len(self.parts)
        queries: list[Query] = []
        anchors: dict[str, None] = {}
        bases: dict[tuple[str, Context, float], str] = {}
        for part, known, ids in zip(self.parts, own, names, strict=True):
            plan = part.estimator.next(part.round, phase, known)
            anchors.update(dict.fromkeys(plan.anchors))
            for query in plan.queries:
                base = part.base if query.base == CURRENT else query.base
                shared = (base, query.context, query.fidelity) if _undisplaced(query.candidate) else None
                if shared is not None and shared in bases:
                    ids[query.id] = bases[shared]
                    continue
                candidate = _mirrored(query.candidate) if part.mirrored else query.candidate
                name = f"{self.step}.{phase}.{len(queries)}"
                ids[query.id] = name
                queries.append(Query(name, candidate, base, query.version, query.context, query.fidelity))
                if shared is not None:
                    bases[shared] = name
        return Plan(queries, tuple(anchors))

    def _own(self, answers: Answers, names: Sequence[Mapping[str, str]]) -> list[Answers]:
        asked = [(list(ids), answers.values(list(ids.values()))) for ids in names]
        known = [_answered(values) for _, values in asked]
        if self.paired and len({len(one) for one in known}) == 1:
            known = [np.logical_and.reduce(known)] * len(known)
        return [
            _restricted(answers, ids, own, values, there)
            for ids, (own, values), there in zip(names, asked, known, strict=True)
        ]


def over_all_data(round: Round, role: str) -> Round:
    """The round on all data, along directions of its own."""
    return replace(round, context=ALL_DATA, run_seed=derive_seed(round.run_seed, role))


def require_stateless(wrapper: str, *estimators: Estimator) -> None:
    """UserError if one keeps a state: it would be asked several times in a round, and the state would be mixed up."""
    for estimator in estimators:
        if estimator.state_dict():
            raise UserError(
                f"{wrapper} asks the estimator inside several times in a round, and {type(estimator).__name__} keeps a "
                "state from round to round. Put it outside, or use another estimator inside."
            )


def require_values(wrapper: str, *estimators: Estimator) -> None:
    """UserError if one doesn't take numbers: only estimates that are linear in values can be subtracted."""
    for estimator in estimators:
        if Values not in estimator.accepts or len(estimator.accepts) > 1:
            raise UserError(
                f"{wrapper} subtracts estimates, so the estimator inside must be one of values alone; "
                f"{type(estimator).__name__} goes by an order."
            )


def _undisplaced(candidate: Candidate) -> bool:
    return candidate is None or (isinstance(candidate, Probe) and not any(c for _, c in candidate.terms))


def _mirrored(candidate: Candidate) -> Probe | None:
    match candidate:
        case Probe(law, terms):
            return Probe(law, tuple((seed, -coefficient) for seed, coefficient in terms))
        case None:
            return None
        case _:
            raise UserError("Antithetic mirrors displacements; a candidate that is given whole has no mirror image.")


def _answered(values: np.ndarray) -> np.ndarray:
    there: np.ndarray = ~np.isnan(values if values.ndim == 1 else values.sum(1))
    return there


def _restricted(
    answers: Answers, ids: Mapping[str, str], own: list[str], values: np.ndarray, there: np.ndarray
) -> Answers:
    """What the answers say of one part, under its own ids."""
    found = Answers()
    if there.any():
        found.add(Values(tuple(i for i, known in zip(own, there, strict=True) if known), values[there]))
    if answers.rankings or answers.preferences:
        mine: dict[str, list[str]] = {}
        for inner, outer in ids.items():
            mine.setdefault(outer, []).append(inner)
        for ranking in answers.rankings:
            groups = [tuple(i for outer in group for i in mine.get(outer, ())) for group in ranking.groups]
            skipped = tuple(i for outer in ranking.skipped for i in mine.get(outer, ()))
            if any(groups) or skipped:
                found.add(Ranking(tuple(g for g in groups if g), skipped, ranking.rater, ranking.weight))
        for one in answers.preferences:
            pairs = tuple((a, b) for x, y in one.pairs for a in mine.get(x, ()) for b in mine.get(y, ()))
            if pairs:
                found.add(Preferences(pairs, one.rater, one.weight))
    found.failed.update({inner: answers.failed[o] for inner, o in ids.items() if o in answers.failed})
    return found
