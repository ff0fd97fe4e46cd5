"""`blackbox serve`."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from blackbox.errors import UserError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs that ask people.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8787,
    token: Annotated[str | None, typer.Option(help="Secret of the link; random if left out.")] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="Another name or address under which people reach it; may be repeated.")
    ] = None,
) -> None:
    """Serve the page where people rank."""
    try:
        import uvicorn

        from oracles.human.oracle import INBOX
        from oracles.human.web.server import create_app
    except ModuleNotFoundError as error:
        raise UserError(f"The page needs the extra web: pip install 'blackbox-zo[web]' ({error}).") from error

    folders: dict[str, Path] = {}
    for folder in runs:
        if not (folder / INBOX).is_file():
            raise UserError(f"{folder} has no {INBOX}: nobody is asked there. Start the run (oracle: people) first.")
        if (called := folder.resolve().name) in folders:
            raise UserError(f"Two of the runs are called {called}. Serve one of them from another server.")
        folders[called] = folder
    secret = token or secrets.token_urlsafe(24)
    application = create_app(folders, secret, (*_LOOPBACK, host, *(name or ())))
    shown = (name or [host])[0]
    typer.echo(f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/?token={secret}")
    if host not in _LOOPBACK:
        typer.echo("Others on the network can reach this page, unencrypted. Give the link to raters only.", err=True)
    uvicorn.run(application, host=host, port=port, log_level="warning", access_log=False, server_header=False)
