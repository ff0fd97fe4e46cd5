"""`blackbox validate`, `list`, `report` and `schema`: look without running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from blackbox.cli.run import ConfigArgument, Settings


def validate(
    config: ConfigArgument,
    set_: Settings = None,
    show: Annotated[bool, typer.Option("--show", help="Print the configuration with all defaults.")] = False,
) -> None:
    """Check a configuration; the problem's model and data are not loaded."""
    from blackbox.config.loader import check_build, load

    checked = load(config, set_ or ())
    check_build(checked)
    if show:
        typer.echo(checked.dump(), nl=False)
    typer.echo(f"{config} is valid; its run would lie in {checked.folder}.", err=show)


def list_components(
    kind: Annotated[str | None, typer.Argument(help="Only this kind: problem, oracle, noise, estimator ...")] = None,
) -> None:
    """List the components that a configuration can name."""
    from rich.console import Console
    from rich.table import Table

    from blackbox.config.registry import components

    table, last = Table.grid(padding=(0, 2)), ""
    for component in components(kind):
        if component.kind != last:
            table.add_row(f"[bold]{component.kind}[/bold]")
            last = component.kind
        paper = f" [dim]({component.paper})[/dim]" if component.paper else ""
        table.add_row(f"  {component.name}", component.summary + paper)
    Console().print(table if last else "None yet.")


def report(
    run: Annotated[str, typer.Argument(help="A run's folder.")],
) -> None:
    """Show a run's table and draw its curve into report.png."""
    from rich.console import Console

    from blackbox.report import load, plot, table

    record = load(run)
    Console().print(table(record))
    _print_consistency(record.folder)
    curve = plot(record)
    typer.echo(f"Curve: {curve}" if curve else "No curve: matplotlib is not installed, or no step was made.")


def _print_consistency(folder: Path) -> None:
    """How often each rater, asked again, said the same; nothing if nobody was."""
    from rich.console import Console
    from rich.table import Table

    from oracles.human.checks import Checks
    from oracles.human.oracle import INBOX
    from oracles.human.store import Inbox

    raters = Checks(Inbox(folder / INBOX)).consistency() if (folder / INBOX).is_file() else []
    if raters:
        checked = Table("rater", "said the same", "asked again", title="Self-consistency")
        for one in raters:
            checked.add_row(one.rater, str(one.agreed), str(one.asked))
        Console().print(checked)


def schema() -> None:
    """Print a JSON schema of configurations, for editors."""
    from blackbox.config.json_schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=1))
