"""`blackbox certify`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blackbox.errors import UserError

if TYPE_CHECKING:
    from problems.smoothing.certified_set import CertifiedSet


def certify(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    radius: Annotated[
        list[float] | None, typer.Option(help="Radius to certify at; may be repeated. 0, .25, .5 and .75 if left out.")
    ] = None,
    examples: Annotated[int | None, typer.Option(help="Only the first so many.", min=1)] = None,
    selection: Annotated[int, typer.Option(help="Draws that choose an example's class.", min=1)] = 100,
    estimation: Annotated[int, typer.Option(help="Draws that estimate its probability.", min=1)] = 10_000,
    alpha: Annotated[float, typer.Option(help="Probability with which a certificate may be wrong.")] = 0.001,
    batch: Annotated[int, typer.Option(help="Inputs classified at once.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    all_draws: Annotated[
        bool, typer.Option("--all-draws", help="Never stop an example early: full radii, the same table.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; the run's if left out.")] = None,
) -> None:
    """Certify the smoothed classifier of a run, and draw its certified accuracy. Goes on where it was stopped."""
    from rich.console import Console
    from rich.progress import track

    from blackbox.config.loader import load
    from blackbox.report import load as load_run
    from problems.smoothing.certified_set import SmoothedClassifier, certify_set

    config, record, folder = load(run), load_run(run), out or run
    with config.importing():
        problem: Any = None if config.problem is None else config.problem.build()
        make = getattr(problem, "smoothed_classifier", None)
        if not callable(make):
            raise UserError(
                f"{run} has nothing to certify: its problem {type(problem).__name__} offers no `smoothed_classifier`."
                if problem is not None
                else f"{run} has nothing to certify: it has no problem."
            )
        parameters = problem.parameters()
        tensors = record.tensors()
        parameters.assign(tensors)
        smoothed = SmoothedClassifier(*make(parameters))
        count = len(smoothed.labels) if examples is None else min(examples, len(smoothed.labels))
        progress = iter(track(range(count), "Certifying", console=Console(stderr=True), transient=True))
        certified = certify_set(
            smoothed.classify,
            smoothed.inputs[:count],
            smoothed.labels[:count],
            smoothed.sigma,
            selection,
            estimation,
            alpha,
            batch,
            seed,
            radius or (0.0, 0.25, 0.5, 0.75),
            not all_draws,
            folder / "certificates.jsonl",
            identity=_identity(tensors),
            tell=lambda example, certificate: next(progress, None),
        )
    _show(certified, smoothed.sigma, alpha)
    typer.echo(f"Curve: {certified.plot(folder / 'certified.png')}")


def _show(certified: CertifiedSet, sigma: float, alpha: float) -> None:
    from rich.console import Console
    from rich.table import Table

    count = len(certified.labels)
    table = Table("radius", "certified accuracy", title=f"{count} examples, sigma {sigma:g}, alpha {alpha:g}")
    for radius, accuracy in certified.table():
        table.add_row(radius, f"{accuracy:.1%}")
    Console().print(table)
    typer.echo(f"Abstained: {certified.abstained:.1%}. Classified: {certified.evaluated:,} inputs.")


def _identity(tensors: dict[str, Any]) -> str:
    """Names the point that is certified, so that certificates of another are not taken for its own."""
    import torch

    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
