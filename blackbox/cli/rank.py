"""`blackbox rank`: put a run's candidates in order in a terminal."""

from __future__ import annotations

import getpass
import json
import secrets
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blackbox.errors import UserError

if TYPE_CHECKING:
    from oracles.human.checks import Check
    from oracles.human.store import Inbox, Round

HELP = "Best first, e.g. `2 1=3`: 2 is best, 1 and 3 tie. What you leave out isn't judged. s: skip the round, q: leave."


def rank(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    rater: Annotated[str | None, typer.Option(help="Who you are; your user name if left out.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay, and wait for the next round.")] = False,
) -> None:
    """Put what a run asks about in order. Pictures and clips are written to files to be looked at."""
    from oracles.human.checks import Checks
    from oracles.human.oracle import INBOX
    from oracles.human.standing import standing
    from oracles.human.store import Inbox

    if not (run / INBOX).exists():
        raise UserError(f"{run} asks nobody: there is no {INBOX}. Start a run with `oracle: people` first.")
    inbox, name = Inbox(run / INBOX), rater or getpass.getuser()
    with tempfile.TemporaryDirectory(prefix="blackbox-") as folder:
        while True:
            check = Checks(inbox).due(name)
            found = inbox.next_round(name) if check is None else None
            if check is not None:
                if not _check(inbox, check, name, Path(folder)):
                    return
            elif found is not None:
                if not _judge(inbox, found, name, Path(folder)):
                    return
            elif not wait:
                held = standing(inbox, name).held
                typer.echo("Others are ranking this round." if held else "Nothing is waiting for you.")
                return
            else:
                time.sleep(1)


def _judge(inbox: Inbox, found: Round, rater: str, folder: Path) -> bool:
    """One round; False if the rater leaves."""
    from oracles.human.store import StaleRound

    typer.echo(f"\nRound {found.id}: {len(found.items)} candidates. {HELP}")
    for number, item in enumerate(found.items, 1):
        typer.echo(f"  {number}: {_shown(item.media_type, item.data, item.artifact, folder)}")
    while True:
        order = _asked(len(found.items))
        if order is None:
            return False
        groups = [[found.items[i].query for i in group] for group in order]
        try:
            answer = inbox.submit(found.id, rater, groups, [], secrets.token_urlsafe(12))
            if _said("Enter goes on, u takes it back") == "u":
                inbox.undo(answer, rater)
                continue
            inbox.seal(rater)
        except StaleRound as error:
            typer.echo(str(error))
        return True


def _check(inbox: Inbox, check: Check, rater: str, folder: Path) -> bool:
    """Two that this rater has put in order before, for their consistency's sake; False if the rater leaves."""
    from oracles.human.checks import Checks

    typer.echo("\nA short check between rounds: which is better? It doesn't steer the search.")
    for number, card in enumerate(check.cards, 1):
        found = inbox.artifact(card.artifact)
        assert found is not None
        typer.echo(f"  {number}: {_shown(*found, card.artifact, folder)}")
    order = _asked(len(check.cards))
    if order is None:
        return False
    Checks(inbox).answer(check.id, rater, [[check.cards[i].artifact for i in group] for group in order])
    return True


def _asked(count: int) -> list[list[int]] | None:
    """What is typed as an order; empty to skip, None to leave."""
    while True:
        said = _said("Order")
        if said in (None, "q"):
            return None
        try:
            return [] if said == "s" else parse_order(said or "", count)
        except ValueError as error:
            typer.echo(f"{error} {HELP}")


def _said(prompt: str) -> str | None:
    """What is typed; None at the end of the input, when all that was piped in has been read, and at Ctrl-C."""
    try:
        return str(typer.prompt(prompt, default="", show_default=False)).strip()
    except typer.Abort:
        typer.echo()
        return None


def parse_order(text: str, count: int) -> list[list[int]]:
    """The order that "2 1=3" names: [[1], [0, 2]]. ValueError in words for anything else."""
    groups: list[list[int]] = []
    for word in text.replace(",", " ").split():
        try:
            group = [int(part) - 1 for part in word.split("=")]
        except ValueError:
            raise ValueError(f"'{word}' is no number.") from None
        groups.append(group)
    named = [i for group in groups for i in group]
    if not named:
        raise ValueError("Nothing was named.")
    if len(set(named)) < len(named):
        raise ValueError("A candidate was named twice.")
    if not set(named) <= set(range(count)):
        raise ValueError(f"Candidates have the numbers 1 to {count}.")
    return groups


def _shown(media_type: str, data: bytes, artifact: str, folder: Path) -> str:
    """The text of a candidate, or the path of a file to look at."""
    from oracles.human.showing import suffix_of

    if media_type.startswith("text/"):
        return "".join(c for c in data.decode() if c.isprintable() or c == "\n")
    if media_type == "application/json":
        return json.dumps(json.loads(data))
    path = folder / f"{artifact}.{suffix_of(media_type)}"
    path.write_bytes(data)
    return str(path)
