"""The server of the page where people rank: reads rounds from inboxes, writes answers into them, keeps nothing itself.

Candidates travel under the opaque ids of their artifacts: a query's id would tell its place in the round.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse

from blackbox.errors import UserError
from oracles.human.oracle import INBOX
from oracles.human.store import Inbox, StaleRound
from oracles.human.web import artifacts, looking_back, ranking
from oracles.human.web.guard import Guard, TooLong

LOCAL = ("127.0.0.1", "localhost", "::1")
_STATIC = Path(__file__).parent / "static"


def create_app(runs: Mapping[str, Path], token: str, hosts: Collection[str] = LOCAL) -> FastAPI:
    """The application.

    Args:
        runs: the runs' folders by the names that people see; each holds an inbox.
        token: the secret in the link; UserError if shorter than 16 characters.
        hosts: names and addresses under which the page may be reached.
    """
    if len(token) < 16:
        raise UserError("A token needs at least 16 characters; leave it out and a random one is made.")
    inboxes = {name: Inbox(folder / INBOX) for name, folder in runs.items()}
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
        return {"runs": list(inboxes), "csrf": guard.csrf}

    for part in (ranking, looking_back, artifacts):
        app.include_router(part.routes(inbox_of))

    def page(file: Path) -> Callable[[], FileResponse]:
        return lambda: FileResponse(file)

    # A route for each file that there is now, rather than a folder: there is no path to climb out of.
    for file in _STATIC.iterdir():
        app.get("/" if file.name == "index.html" else f"/{file.name}")(page(file))
    return app
