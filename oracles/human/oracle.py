"""People, asked through an inbox beside the journal: the process may end and come back days later."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from blackbox.config.rehearsal import loading_begins
from blackbox.errors import UserError
from blackbox.feedback import Failed, Feedback, Ranking
from blackbox.parameters import Parameters
from blackbox.probe import Query
from blackbox.steering import Steer
from oracles.asking import candidates_of, parts
from oracles.base import BaseOracle
from oracles.door import exited, reason_of
from oracles.human.aggregation import aggregate
from oracles.human.exchange import Exchange
from oracles.human.showing import file_of
from oracles.human.standing import RENDERING
from oracles.human.store import Answer, Inbox, Item, Rules
from oracles.human.wishes import MOST_NUMBERS, Wishes

INBOX = "inbox.sqlite"
Aggregation = Literal["pooled", "plackett-luce", "bradley-terry"]


class People(BaseOracle):
    """Asks people to put candidates in order.

    A round's candidates are rendered by the problem and wait in the inbox (``inbox.sqlite`` in the run's folder) until
    enough people have answered: through ``blackbox serve``, ``blackbox rank``, or any program that uses
    ``oracles.human.Inbox``. Waiting is never a failure. When a round has its quorum it is closed; who is later is told
    so. People may also steer the search: go on from an earlier candidate, look closer by or further afield.

    Args:
        problem: what renders a candidate (``render``).
        quorum: answers a round waits for.
        deadline_minutes: a round that has been open so long goes on with fewer answers, but at least one.
        undo_seconds: how long an answer can be taken back.
        weights: what each rater's word counts, by name; 1 for those who aren't named.
        folder: where the inbox lies; the run's folder if left out.
        exchange: whether rounds also go out as files, and answers come in as files, in the folder ``exchange`` there.
        lease_minutes: how long a rater who doesn't answer keeps another from a round; as many as the quorum are at it.
        check_every: after so many answered rounds a rater is asked about two earlier candidates again, to see whether
            they still agree with themself; 0 for never. It never reaches the run.
        aggregation: "pooled" hands every rater's order on; "plackett-luce" and "bradley-terry" make one of them
            (``oracles.human.aggregation``).
    """

    answers = frozenset({Ranking, Failed})

    def __init__(
        self,
        problem: Any,
        quorum: int = 1,
        deadline_minutes: float | None = None,
        undo_seconds: float = 10.0,
        weights: dict[str, float] | None = None,
        folder: str | None = None,
        exchange: bool = False,
        lease_minutes: float = 10.0,
        check_every: int = 0,
        aggregation: Aggregation = "pooled",
    ) -> None:
        if quorum < 1:
            raise UserError(f"quorum is a number of raters: at least 1, not {quorum}.")
        if deadline_minutes is not None and not deadline_minutes > 0:
            raise UserError(f"deadline_minutes must be positive, not {deadline_minutes}.")
        if not 0 <= undo_seconds < math.inf:
            raise UserError(f"undo_seconds must be 0 or more, not {undo_seconds}.")
        if any(not 0 < weight < math.inf for weight in (weights or {}).values()):
            raise UserError(f"weights must be positive, not {weights}.")
        if not 0 < lease_minutes < math.inf:
            raise UserError(f"lease_minutes must be positive, not {lease_minutes}.")
        if check_every < 0:
            raise UserError(f"check_every is a number of rounds: 0 or more, not {check_every}.")
        if aggregation not in ("pooled", "plackett-luce", "bradley-terry"):
            raise UserError(f"aggregation: '{aggregation}' is not one of pooled, plackett-luce, bradley-terry.")
        if aggregation != "pooled":  # a package that is missing is told of before anybody answers
            aggregate([Ranking((("a",), ("b",)))], aggregation)
        self.problem, self.quorum, self.deadline_minutes = problem, quorum, deadline_minutes
        self.rules = Rules(undo_seconds, quorum, lease_minutes, check_every, dict(weights or {}))
        self.exchange, self.aggregation = exchange, aggregation
        self._inbox: Inbox | None = None
        self._files: Exchange | None = None
        self._open: dict[str, list[str]] = {}
        self._broken: list[Feedback] = []
        self._handed_on: set[str] = set()
        if folder is not None:
            loading_begins()
            self.attach(Path(folder).expanduser())

    def attach(self, folder: Path) -> None:
        """As the base says; the inbox goes there unless ``folder`` was given."""
        if self._inbox is None:
            folder.mkdir(parents=True, exist_ok=True)
            self._inbox = Inbox(folder / INBOX)
            self._inbox.rules = self.rules
            self._inbox.database.note(RENDERING, None)  # of a former life
            self._files = Exchange(self._inbox, folder / "exchange") if self.exchange else None

    @property
    def inbox(self) -> Inbox:
        """The inbox; UserError if nobody said where it lies."""
        if self._inbox is None:
            raise UserError("Where is the inbox? Give People a folder.")
        return self._inbox

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Render what isn't in the inbox yet, and put the round out. The rounds before it are closed."""
        if self._handed_on:  # the run has gone on with these
            Wishes(self.inbox).take(self._handed_on)
            self._handed_on.clear()
        by_round: dict[str, list[Query]] = {}
        for query in queries:
            by_round.setdefault(query.id.rpartition(".")[0], []).append(query)
        for round_id, asked in by_round.items():
            known = set(self.inbox.known(round_id))
            self._refuse_another_run([query for query in asked if query.id in known], parameters)
            items = self._items([query for query in asked if query.id not in known], parameters)
            shown_ids = known | {item.query for item in items}
            if shown_ids:
                self.inbox.open_round(round_id, items)
                self._open[round_id] = [query.id for query in asked if query.id in shown_ids]
                if self._files is not None:
                    self._files.publish(round_id)
            if len(known) < len(asked):
                self.inbox.database.note(RENDERING, None)

    def _refuse_another_run(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """UserError if the inbox has other candidates under these ids: its answers would be taken for this run's."""
        for part, _ in parts(queries, False) if queries else ():
            for query, candidate in zip(part, candidates_of(part, parameters, "numpy"), strict=True):
                kept, here = self.inbox.point(query.id), _point(candidate, parameters)
                if kept and not (len(kept) == len(here) and np.allclose(np.frombuffer(kept), np.frombuffer(here))):
                    raise UserError(
                        f"{self.inbox.path} holds another candidate as query {query.id}: it is another run's inbox. "
                        "Give each run a folder of its own."
                    )

    def _items(self, queries: Sequence[Query], parameters: Parameters) -> list[Item]:
        items: list[Item] = []
        for part, _ in parts(queries, False) if queries else ():
            for query, candidate in zip(part, candidates_of(part, parameters, "numpy"), strict=True):
                self.inbox.database.note(RENDERING, (len(items) + 1, len(queries)))
                try:
                    media_type, data = file_of(self.problem, candidate)
                    items.append(Item(query.id, media_type, data, point=_point(candidate, parameters)))
                except Exception as error:  # the problem is often the user's own
                    self._broken.append(Failed((query.id,), reason_of(error), self.cost([query])))
                except SystemExit as error:
                    self._broken.append(Failed((query.id,), reason_of(exited(error)), self.cost([query])))
        return items

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """The rankings of rounds that have their quorum, all of a round at once; failures to render."""
        until = time.monotonic() + timeout
        while True:
            feedback, self._broken = list(self._broken), []
            if self._files is not None:
                self._files.collect()
            for round_id in list(self._open):
                if Wishes(self.inbox).closed_by(round_id) is not None:
                    del self._open[round_id]  # the search goes on from elsewhere
                    continue
                answers = self.inbox.final(round_id)
                if len(answers) >= self.quorum or (answers and self._late(round_id)):
                    self.inbox.close_round(round_id)
                    feedback += self._rankings(self.inbox.final(round_id), self._open.pop(round_id))
            left = until - time.monotonic()
            if feedback or left <= 0:
                return feedback
            time.sleep(min(left, 0.1))

    def steering(self) -> Sequence[Steer]:
        """What people asked of the search and the run hasn't gone on with yet."""
        wishes = Wishes(self.inbox)
        asked = wishes.all(untaken=True)
        self._handed_on.update(wish.id for wish in asked)
        return [Steer(wish.radius, wishes.point(wish), wish.rater, wish.id) for wish in asked]

    def _late(self, round_id: str) -> bool:
        opened = self.inbox.opened(round_id)
        minutes = self.deadline_minutes
        return minutes is not None and opened is not None and time.time() - opened > 60 * minutes

    def _rankings(self, answers: Sequence[Answer], asked: Sequence[str]) -> list[Ranking]:
        rankings: list[Ranking] = []
        for number, answer in enumerate(answers):
            groups = tuple(g for group in answer.groups if (g := tuple(i for i in group if i in asked)))
            skipped = tuple(i for i in answer.skipped if i in asked)
            cost = {"queries": 0.0 if number else float(len(asked)), "rankings": 1.0}
            weight = self.rules.weights.get(answer.rater, 1.0)
            rankings.append(Ranking(groups, skipped, answer.rater, weight, cost))
        return rankings if self.aggregation == "pooled" else [aggregate(rankings, self.aggregation)]


def _point(candidate: Any, parameters: Parameters) -> bytes:
    """A vector's bytes, where the search can go on from it (one over a module's weights can't); empty otherwise."""
    if not isinstance(candidate, np.ndarray) or candidate.size > MOST_NUMBERS or parameters.module is not None:
        return b""
    return candidate.astype("<f8").tobytes()
