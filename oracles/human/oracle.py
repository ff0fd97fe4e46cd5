"""People, asked through an inbox beside the journal: the process may end and come back days later."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blackbox.errors import UserError
from blackbox.feedback import Failed, Feedback, Ranking
from blackbox.parameters import Parameters
from blackbox.probe import Query
from oracles.asking import candidates_of, parts
from oracles.base import BaseOracle
from oracles.door import reason_of
from oracles.human.exchange import Exchange
from oracles.human.showing import shown
from oracles.human.store import Answer, Inbox, Item


class People(BaseOracle):
    """Asks people to put candidates in order.

    A round's candidates are rendered by the problem and wait in the inbox (``inbox.sqlite`` in the run's folder) until
    enough people have answered: through ``blackbox serve``, ``blackbox rank``, or any program that uses
    ``oracles.human.Inbox``. Waiting is never a failure. When a round has its quorum it is closed; who is later is told
    so.

    Args:
        problem: what renders a candidate (``render``).
        quorum: answers a round waits for.
        deadline_minutes: a round that has been open so long goes on with fewer answers, but at least one.
        undo_seconds: how long an answer can be taken back.
        weights: what each rater's word counts, by name; 1 for those who aren't named.
        folder: where the inbox lies; the run's folder if left out.
        exchange: whether rounds also go out as files, and answers come in as files, in the folder ``exchange`` there.
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
    ) -> None:
        if quorum < 1:
            raise UserError(f"quorum is a number of raters: at least 1, not {quorum}.")
        if deadline_minutes is not None and not deadline_minutes > 0:
            raise UserError(f"deadline_minutes must be positive, not {deadline_minutes}.")
        if not 0 <= undo_seconds < math.inf:
            raise UserError(f"undo_seconds must be 0 or more, not {undo_seconds}.")
        if any(not 0 < weight < math.inf for weight in (weights or {}).values()):
            raise UserError(f"weights must be positive, not {weights}.")
        self.problem, self.quorum, self.deadline_minutes = problem, quorum, deadline_minutes
        self.undo_seconds, self.weights = undo_seconds, dict(weights or {})
        self.exchange = exchange
        self._inbox: Inbox | None = None
        self._files: Exchange | None = None
        self._open: dict[str, list[str]] = {}
        self._broken: list[Feedback] = []
        if folder is not None:
            self.attach(Path(folder).expanduser())

    def attach(self, folder: Path) -> None:
        """As the base says; the inbox goes there unless ``folder`` was given."""
        if self._inbox is None:
            folder.mkdir(parents=True, exist_ok=True)
            self._inbox = Inbox(folder / INBOX, self.undo_seconds)
            self._files = Exchange(self._inbox, folder / "exchange") if self.exchange else None

    @property
    def inbox(self) -> Inbox:
        """The inbox; UserError if nobody said where it lies."""
        if self._inbox is None:
            raise UserError("Where is the inbox? Give People a folder.")
        return self._inbox

    def submit(self, queries: Sequence[Query], parameters: Parameters) -> None:
        """Render what isn't in the inbox yet, and put the round out. The rounds before it are closed."""
        by_round: dict[str, list[Query]] = {}
        for query in queries:
            by_round.setdefault(query.id.rpartition(".")[0], []).append(query)
        for round_id, asked in by_round.items():
            known = set(self.inbox.known(round_id))
            items = [i for i in self._items([q for q in asked if q.id not in known], parameters) if i is not None]
            shown_ids = known | {item.query for item in items}
            if shown_ids:
                self.inbox.open_round(round_id, items)
                self._open[round_id] = [query.id for query in asked if query.id in shown_ids]
                if self._files is not None:
                    self._files.publish(round_id)

    def _items(self, queries: Sequence[Query], parameters: Parameters) -> list[Item | None]:
        items: list[Item | None] = []
        for part, _ in parts(queries, False) if queries else ():
            for query, candidate in zip(part, candidates_of(part, parameters, "numpy"), strict=True):
                try:
                    media_type, data = shown(self.problem.render(candidate))
                    items.append(Item(query.id, media_type, data))
                except Exception as error:  # the problem is often the user's own
                    self._broken.append(Failed((query.id,), reason_of(error), self.cost([query])))
        return items

    def poll(self, timeout: float = 0) -> Sequence[Feedback]:
        """The rankings of rounds that have their quorum, all of a round at once; failures to render."""
        until = time.monotonic() + timeout
        while True:
            feedback, self._broken = list(self._broken), []
            if self._files is not None:
                self._files.collect()
            for round_id in list(self._open):
                answers = self.inbox.final(round_id)
                if len(answers) >= self.quorum or (answers and self._late(round_id)):
                    self.inbox.close_round(round_id)
                    feedback += self._rankings(self.inbox.final(round_id), self._open.pop(round_id))
            left = until - time.monotonic()
            if feedback or left <= 0:
                return feedback
            time.sleep(min(left, 0.1))

    def _late(self, round_id: str) -> bool:
        opened = self.inbox.opened(round_id)
        minutes = self.deadline_minutes
        return minutes is not None and opened is not None and time.time() - opened > 60 * minutes

    def _rankings(self, answers: Sequence[Answer], asked: Sequence[str]) -> list[Feedback]:
        rankings: list[Feedback] = []
        for number, answer in enumerate(answers):
            groups = tuple(g for group in answer.groups if (g := tuple(i for i in group if i in asked)))
            skipped = tuple(i for i in answer.skipped if i in asked)
            cost = {"queries": 0.0 if number else float(len(asked)), "rankings": 1.0}
            weight = self.weights.get(answer.rater, 1.0)
            rankings.append(Ranking(groups, skipped, answer.rater, weight, cost))
        return rankings


INBOX = "inbox.sqlite"
