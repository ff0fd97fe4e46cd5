"""`blackbox export`: what a run found, for other tools; or the run as seeds and scalars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blackbox.errors import UserError

if TYPE_CHECKING:
    from blackbox.config.block import Block
    from blackbox.config.loader import Config

WEIGHTS = "export"
LOG = "steps.jsonl"


def export(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[Path | None, typer.Argument(help="Where it goes; inside the run's folder if left out.")] = None,
    log: Annotated[bool, typer.Option("--log", help="Seeds and scalars of every step instead of the weights.")] = False,
) -> None:
    """Write the weights that a run found in a format that other tools read, or the log to rebuild them from.

    The weights are those of the newest checkpoint: a language model as a folder for transformers, an adapter as a
    folder for peft, anything else as one safetensors file. The log is a few hundred bytes a step; `blackbox replay`
    rebuilds the weights from it.
    """
    from blackbox.config.loader import load

    config = load(run)
    if config.trains_itself and log:
        raise UserError(f"{run} makes steps of its own: they are no seeds and scalars. Export its weights.")
    with config.importing():
        if log:
            _log(config, out or run / LOG)
        else:
            _weights(run, config, out or run / WEIGHTS)


def start(problem: Block | None) -> Any:
    """What a problem tunes, at its starting point; without its data where it can do without.

    Raises:
        UserError: there is no problem that holds tensors.
    """
    if problem is None:
        raise UserError("This run has no problem that holds weights; the point that it found is in its result.json.")
    light = getattr(problem.target, "without_data", None)
    found = problem.build() if light is None else light(**problem.arguments)
    if not callable(getattr(found, "parameters", None)):
        raise UserError(f"{problem.name} holds no weights that could be written.")
    return found


def write(source: Any, folder: Path) -> str:
    """Write what ``source``, a problem, tunes; what was written, in words."""
    if callable(getattr(source, "export", None)):
        return str(source.export(folder))
    from safetensors.torch import save_file

    path = folder / "parameters.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = source.parameters().tensors
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, str(path))
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror or error}).") from error
    return path.name


def size(path: Path) -> str:
    """Of a file, or of all files of a folder, in words."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    count = float(sum(one.stat().st_size for one in files))
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _weights(run: Path, config: Config, folder: Path) -> None:
    from blackbox.report import load as load_run

    tensors = load_run(run).tensors()
    source = start(config.problem)
    source.parameters().assign(tensors)
    what = write(source, folder)
    newest = max(path.stem for path in (run / "checkpoints").glob("step-*.safetensors"))
    typer.echo(f"{folder}: {what}, {size(folder)}, of step {int(newest.removeprefix('step-'))}")


def _log(config: Config, path: Path) -> None:
    from blackbox import steplog
    from blackbox.config.loader import build_strategy

    parameters = start(config.problem).parameters()
    found = steplog.of_run(config.folder, _lightened(config), build_strategy(config), parameters)
    found.save(path)
    typer.echo(f"{path}: {len(found.steps)} steps as seeds and scalars, {size(path)}")
    if not found.head["exact"]:
        typer.echo("The tensors were displaced in place or steps held in factors: what is rebuilt differs by rounding.")
    if found.head["ends"] is None:
        typer.echo("There is no checkpoint of the last step: what is rebuilt can't be compared with it.")


def _lightened(config: Config) -> dict[str, Any]:
    """The resolved configuration; of a problem that can do without its data, only what says where the run starts."""
    resolved, keys = config.resolved(), getattr(config.problem and config.problem.target, "start_keys", None)
    if keys is not None:
        resolved["problem"] = {key: value for key, value in resolved["problem"].items() if key in ("type", *keys)}
    return resolved
