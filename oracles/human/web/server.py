"""The server of the page where people rank: reads rounds from inboxes, writes answers into them, keeps nothing itself.

Candidates travel under the opaque ids of their artifacts: a query's id would tell its place in the round.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from blackbox.errors import UserError
from oracles.human.oracle import INBOX
from oracles.human.store import Inbox, StaleRound
from oracles.human.web.guard import Guard, TooLong, body_of

LOCAL = ("127.0.0.1", "localhost", "::1")
_STATIC = Path(__file__).parent / "static"
_SHOWN = ("image/", "audio/", "video/")
# An artifact opened on its own (an SVG, say) runs nothing and loads nothing.
_SANDBOX = {"Content-Security-Policy": "default-src 'none'; sandbox"}

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    run: str
    rater: Name


class _Order(_Message):
    """``groups`` and ``skipped`` name artifacts; ``token`` names this answer, so that sent twice it counts once."""

    round: Id
    groups: list[list[Id]]
    skipped: list[Id] = []
    token: Annotated[str, StringConstraints(min_length=16, max_length=100)]


class _Undo(_Message):
    answer: int


M = TypeVar("M", bound=_Message)


def create_app(
    runs: Mapping[str, Path], token: str, undo_seconds: float = 10.0, hosts: Collection[str] = LOCAL
) -> FastAPI:
    """The application.

    Args:
        runs: the runs' folders by the names that people see; each holds an inbox.
        token: the secret in the link; UserError if shorter than 16 characters.
        undo_seconds: how long an answer can be taken back; no longer than the oracle waits before it acts.
        hosts: names and addresses under which the page may be reached.
    """
    if len(token) < 16:
        raise UserError("A token needs at least 16 characters; leave it out and a random one is made.")
    inboxes = {name: Inbox(folder / INBOX, undo_seconds) for name, folder in runs.items()}
    guard = Guard(token, hosts)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(guard)

    def inbox_of(run: str) -> Inbox:
        if run not in inboxes:
            raise UserError(f"No run is called {run}. There is: {', '.join(inboxes)}.")
        return inboxes[run]

    @app.exception_handler(StaleRound)
    def stale(request: Request, error: StaleRound) -> JSONResponse:
        return JSONResponse({"message": str(error)}, status_code=409)

    @app.exception_handler(UserError)
    def refused(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"message": str(error)}, status_code=422)

    @app.exception_handler(TooLong)
    def too_long(request: Request, error: TooLong) -> JSONResponse:
        return JSONResponse({"message": str(error)}, status_code=413)

    @app.get("/api/runs")
    def list_runs() -> dict[str, Any]:
        return {"runs": list(inboxes), "undo_seconds": undo_seconds, "csrf": guard.csrf}

    @app.get("/api/round")
    def open_round(run: str, rater: Name) -> dict[str, Any]:
        found = inbox_of(run).next_round(rater)
        if found is None:
            return {"round": None}
        items = [{"id": item.artifact, "media_type": item.media_type} for item in found.items]
        return {"round": {"id": found.id, "items": items}}

    @app.post("/api/submit")
    def submit(order: Annotated[_Order, Depends(_read(_Order))]) -> dict[str, Any]:
        inbox = inbox_of(order.run)
        groups, skipped = _queries(order, inbox)
        return {"answer": inbox.submit(order.round, order.rater, groups, skipped, order.token)}

    @app.post("/api/undo")
    def undo(wanted: Annotated[_Undo, Depends(_read(_Undo))]) -> dict[str, Any]:
        inbox_of(wanted.run).undo(wanted.answer, wanted.rater)
        return {}

    @app.post("/api/seal")
    def seal(message: Annotated[_Message, Depends(_read(_Message))]) -> dict[str, Any]:
        inbox_of(message.run).seal(message.rater)
        return {}

    @app.get("/artifact/{run}/{artifact}")
    def artifact(run: str, artifact: str) -> Response:
        found = inbox_of(run).artifact(artifact)
        if found is None:
            return JSONResponse({"message": "There is no such artifact."}, status_code=404)
        media_type, data = found
        # Whatever isn't a picture, a sound or a film is text to the browser, never a document of its own.
        shown = media_type if media_type.startswith(_SHOWN) else "text/plain; charset=utf-8"
        return Response(data, media_type=shown, headers=_SANDBOX)

    def page(file: Path) -> Callable[[], FileResponse]:
        return lambda: FileResponse(file)

    # A route for each file that there is now, rather than a folder: there is no path to climb out of.
    for file in _STATIC.iterdir():
        app.get("/" if file.name == "index.html" else f"/{file.name}")(page(file))
    return app


def _queries(order: _Order, inbox: Inbox) -> tuple[list[list[str]], list[str]]:
    """Groups and skipped as query ids; empty for a round that isn't open, where only the inbox can say what to do.

    (It takes an answer that it has already, and refuses any other.)
    """
    everything = inbox.next_round("")  # the open round as nobody in particular sees it: "" never answers
    if everything is None or everything.id != order.round:
        return [], []
    queries = {item.artifact: item.query for item in everything.items}
    try:
        return [[queries[i] for i in group] for group in order.groups], [queries[i] for i in order.skipped]
    except KeyError as error:
        raise UserError(f"Round {order.round} has no candidate {error}.") from None


def _read(kind: type[M]) -> Callable[[Request], Awaitable[M]]:
    """What reads a request's body as a message of that kind."""

    async def read(request: Request) -> M:
        body = await body_of(request)
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            raise UserError(f"This message can't be read: {where}: {first['msg']}.") from None

    return read
