"""`blackbox run`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from blackbox.config.loader import Config

INTERRUPTED = 130

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="BLOCK.KEY=VALUE", help="Override one key; may be repeated."),
]
ConfigArgument = Annotated[str, typer.Argument(help="A YAML file, a run's folder, or example:NAME.")]


def run(
    config: ConfigArgument,
    set_: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in its folder.")] = False,
    inexact: Annotated[
        bool, typer.Option("--inexact", help="Resume although settings changed that may change the outcome.")
    ] = False,
) -> None:
    """Run a configuration in a folder of its own."""
    from blackbox.cli.progress import ProgressHook, loading
    from blackbox.config.loader import load

    checked = load(config, set_ or ())
    try:
        with loading("Loading"):
            from blackbox.experiment import Experiment
            from blackbox.result import Status

            experiment = Experiment(checked, resume, inexact)
        with ProgressHook() as progress:
            result = experiment.run([progress])
    except KeyboardInterrupt:
        _say_how_to_go_on(checked)
        raise typer.Exit(INTERRUPTED) from None
    if result.status is Status.INTERRUPTED:
        _say_how_to_go_on(checked)
        raise typer.Exit(INTERRUPTED)
    _summary(checked)
    if not result.status.finished:
        typer.echo(f"Resume with: {_resume_command(checked)}", err=True)
    if result.status is Status.FAILURES:
        raise typer.Exit(1)


def _summary(config: Config) -> None:
    from rich.console import Console

    from blackbox.report import load, plot, table

    record = load(config.folder)
    Console().print(table(record))
    curve = plot(record)
    typer.echo(f"Curve: {curve}" if curve else "No curve: matplotlib is not installed, or no step was made.")


def _say_how_to_go_on(config: Config) -> None:
    from blackbox.experiment import holds_run

    started = holds_run(config.folder)
    words = f"saved; resume with: {_resume_command(config)}" if started else "nothing was started."
    typer.echo(f"\nInterrupted: {words}", err=True)


def _resume_command(config: Config) -> str:
    return f"blackbox run {shlex.quote(str(config.folder))} --resume"
