"""`blackbox play`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blackbox.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def play(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    video: Annotated[Path, typer.Option("--video", help="Where the clip goes: .gif, or .mp4 with imageio-ffmpeg.")],
    rate: Annotated[int, typer.Option(help="Pictures a second.")] = 30,
) -> None:
    """Film what the tuned parameters of a run do."""
    from blackbox.config.loader import load
    from blackbox.report import load as load_run

    if video.suffix not in (".gif", ".mp4"):
        raise UserError(f"--video {video}: a clip is a .gif or an .mp4.")
    config = load(run)
    with config.importing():
        problem: Any = None if config.problem is None else config.problem.build()
        if not callable(getattr(problem, "render", None)):
            raise UserError(f"{run} has no problem that can be shown.")
        parameters = problem.parameters()
        record = load_run(run)
        parameters.assign(record.tensors())
        if (memory := record.memory()) is not None:
            problem.recall(memory)
        clip = problem.render(parameters.flat().double().cpu().numpy())
    _save(video, clip, rate)
    typer.echo(f"{len(clip)} pictures: {video}")


def _save(path: Path, clip: np.ndarray[Any, Any], rate: int) -> None:
    if getattr(clip, "ndim", 0) != 4:
        raise UserError("What the problem shows is no clip.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4":
        try:
            import imageio.v2 as imageio

            imageio.mimwrite(path, list(clip), fps=rate)
        except (ImportError, ValueError) as error:
            raise UserError(f"An .mp4 needs the packages imageio and imageio-ffmpeg: {error}") from error
        return
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("A .gif needs the package pillow.") from error
    first, *others = [Image.fromarray(frame) for frame in clip]
    first.save(path, save_all=True, append_images=others, duration=round(1000 / rate), loop=0)
