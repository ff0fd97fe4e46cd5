"""`blackbox replay`: make something anew from what it says about itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blackbox.errors import UserError

if TYPE_CHECKING:
    from blackbox.steplog import StepLog

DIFFERENT = 1


def replay(
    path: Annotated[Path, typer.Argument(help="A log of `blackbox export --log`, or a diffusion problem's picture.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where what is made anew goes: a folder of weights, or a picture.")
    ] = None,
) -> None:
    """Make anew what a file describes, and say whether it is the same bit for bit.

    A log of seeds and scalars gives the weights of its run, on the same base. A picture is rendered from the latent in
    it. The exit code is 0 if it is the same, and 1 if it isn't. The model that the file names is loaded: replay only
    files that you trust.
    """
    if path.is_dir():
        raise UserError(
            f"{path} is a folder. What can be replayed is a log of `blackbox export --log`, or a picture that a "
            "diffusion problem saved."
        )
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    if not (_log(path, out) if path.suffix == ".jsonl" else _picture(path, out)):
        raise typer.Exit(DIFFERENT)


def _log(path: Path, out: Path | None) -> bool:
    """Whether a log's steps lead to the weights that its run ended at; True, too, where nobody knows those."""
    from blackbox import steplog
    from blackbox.cli.export import write
    from blackbox.experiment import settings_of

    log = steplog.StepLog.load(path)
    source, strategy = _parts(log, path)
    parameters, began = source.parameters(), time.perf_counter()
    steplog.rebuild(log, strategy, parameters)
    typer.echo(f"{len(log.steps)} steps made again in {time.perf_counter() - began:.1f} s")
    if out is not None:
        typer.echo(f"{out}: {write(source, out)}")
    if log.head["ends"] is None:
        typer.echo("Where the run ended is not in the log: nothing to compare with.")
        return True
    if steplog.checksum(parameters) == log.head["ends"]:
        typer.echo("The same bit for bit.")
        return True
    here = settings_of(None, parameters)
    changed = [key for key, value in here.items() if log.head["settings"].get(key, value) != value]
    why = f"{', '.join(changed)} differ" if changed else "no setting that is known of differs"
    exact = "" if log.head["exact"] else " It displaced tensors in place or held steps in factors: both round."
    typer.echo(f"Not the same: {why}.{exact}")
    return False


def _parts(log: StepLog, path: Path) -> tuple[Any, Any]:
    """What the log's run tuned, at its starting point, and its strategy."""
    from blackbox.cli.export import start
    from blackbox.config.block import parse_block
    from blackbox.config.registry import importable
    from blackbox.config.source import parse, to_text

    root = parse(to_text(log.head["config"]), str(path), path.parent).root
    with importable([path.parent, Path.cwd()]):
        parts = {key: parse_block(root.child(key), key) for key in root.value if key != "variance_reduction"}
        built = {key: parts[key].build() for key in ("estimator", "optimizer") if key in parts}
        for number in range(len(root.value.get("variance_reduction", ()))):
            wrapper = parse_block(root.child("variance_reduction").child(number), "variance-reduction")
            built["estimator"] = wrapper.build(estimator=built["estimator"])
        return start(parts.get("problem")), parts["strategy"].build(**{"estimator": None, "optimizer": None, **built})


def _picture(path: Path, out: Path | None) -> bool:
    """Whether the picture of a file is what its latent gives."""
    try:
        import numpy as np
        from PIL import Image

        from problems.diffusion.pictures import render_again
    except ModuleNotFoundError as error:
        raise UserError(f"Pictures need the extra images: pip install 'blackbox-zo[images]' ({error}).") from error
    again = render_again(path)
    with Image.open(path) as picture:
        saved = np.asarray(picture)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(again).save(out, "PNG")
        typer.echo(f"The new picture: {out}")
    if saved.shape != again.shape:
        typer.echo(f"Not the same: the file has the shape {list(saved.shape)}, the new picture {list(again.shape)}.")
        return False
    different = saved != again
    if not different.any():
        typer.echo(f"The same bit for bit: {again.shape[1]} x {again.shape[0]} pixels.")
        return True
    most = int(np.abs(saved.astype(int) - again.astype(int)).max())
    typer.echo(
        f"Not the same: {int(different.sum())} of {different.size} values differ, by at most {most} of 255. Other "
        "versions, devices or numbers of threads round otherwise."
    )
    return False
