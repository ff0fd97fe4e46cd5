"""A folder as the third way in: rounds go out as files, answers come in as files, by any labelling tool.

    exchange/queries/ROUND.json      {"round", "items": [{"id", "media_type", "file"}]}
    exchange/queries/ROUND/ID.png    what each item is, named by its opaque id
    exchange/answers/NAME.json       {"round", "rater", "groups": [[ID, ...], ...], "skipped": [ID, ...]}

Files appear whole (written under another name, then renamed); write answers in the same way. An answer that was taken
moves to ``taken/``; one that can't be is moved to ``refused/``, with the reason beside it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from blackbox.errors import UserError
from oracles.human.showing import suffix_of
from oracles.human.store import Inbox, Round


class Exchange:
    """One inbox through one folder.

    Args:
        inbox: where rounds come from and answers go.
        folder: made if absent.
    """

    def __init__(self, inbox: Inbox, folder: str | Path) -> None:
        self.inbox, self.folder = inbox, Path(folder)
        for name in ("queries", "answers", "taken", "refused"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def publish(self, round_id: str) -> None:
        """Write a round's files, if they aren't there."""
        target = self.folder / "queries" / f"{round_id}.json"
        found = None if target.exists() else self.inbox.round(round_id)
        if found is None:
            return
        (self.folder / "queries" / round_id).mkdir(exist_ok=True)
        items = []
        for item in found.items:
            name = f"{round_id}/{item.artifact}.{suffix_of(item.media_type)}"
            _write(self.folder / "queries" / name, item.data)
            items.append({"id": item.artifact, "media_type": item.media_type, "file": name})
        _write(target, json.dumps({"round": round_id, "items": items}, indent=1).encode())

    def collect(self) -> None:
        """Take the answers that have come; they are final at once."""
        for path in sorted((self.folder / "answers").glob("*.json")):
            try:
                self._take(json.loads(path.read_text(encoding="utf-8")), path.name)
            except (UserError, ValueError) as error:  # not JSON, or not such an answer, or too late
                path.replace(self.folder / "refused" / path.name)
                _write(self.folder / "refused" / f"{path.name}.reason.txt", str(error).encode())
            else:
                path.replace(self.folder / "taken" / path.name)

    def _take(self, answer: Any, name: str) -> None:
        round_id, rater, groups, skipped = _parts(answer)
        found = self.inbox.round(round_id) or Round(round_id, ())
        query_of = {item.artifact: item.query for item in found.items}
        named = [one for group in groups for one in group] + skipped
        unknown = [one for one in named if one not in query_of]
        if unknown and found.items:
            raise UserError(f"Round {round_id} has no item '{unknown[0]}'.")
        asked = [[query_of.get(one, one) for one in group] for group in groups]
        aside = [query_of.get(one, one) for one in skipped]
        self.inbox.submit(round_id, rater, asked, aside, f"{round_id}: {name} of {rater}")
        self.inbox.seal(rater)


def _parts(answer: Any) -> tuple[str, str, list[list[str]], list[str]]:
    """(round, rater, groups, skipped); UserError for anything that isn't an answer."""
    match answer:
        case {"round": str(round_id), "rater": str(rater), "groups": list(groups)}:
            skipped = answer.get("skipped", [])
            lists = [*groups, skipped]
            if all(isinstance(some, list) and all(isinstance(one, str) for one in some) for some in lists):
                return round_id, rater, groups, skipped
    raise UserError(
        'An answer is {"round": "...", "rater": "...", "groups": [["id", ...], ...]}, perhaps with "skipped".'
    )


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(data)
    draft.replace(path)
