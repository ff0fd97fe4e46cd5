"""`blackbox replay`: make something anew from what it says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blackbox.errors import UserError

DIFFERENT = 1


def replay(
    path: Annotated[Path, typer.Argument(help="A picture that a diffusion problem saved.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where the new picture goes.")] = None,
) -> None:
    """Render a picture anew from the latent in it, and say whether it is the same bit for bit.

    The exit code is 0 if it is, and 1 if it isn't. The pipeline that the file names is loaded: replay only files that
    you trust.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder. What can be replayed is a picture that a diffusion problem saved.")
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    if not _picture(path, out):
        raise typer.Exit(DIFFERENT)


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
