"""Certified accuracy of a whole set: a line of JSON an example as it is done, a table at radii, a curve.

The certified accuracy at r is the share of examples that are classified correctly and certified at r (Cohen et al.,
arXiv:1902.02918, Section 4). Radii are rounded down wherever they are shown.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.hooks import write_whole
from problems.smoothing.certify import Certificate, Classify, certify, check_settings, hits_needed


class SmoothedClassifier(NamedTuple):
    """What a problem hands out to be certified: its method ``smoothed_classifier(parameters)`` returns one.

    Attributes:
        classify: inputs [n, ...] -> scores [n, k] or classes [n], at those parameters.
        sigma: standard deviation of the noise that it is meant for.
        inputs: held-out inputs, float [examples, ...], on the device where they are classified.
        labels: their classes, int64 [examples].
    """

    classify: Classify
    sigma: float
    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class CertifiedSet:
    """Certificates of a set, in the examples' order.

    Attributes:
        certificates: one an example.
        labels: the true classes.
        radii: those asked about, rising.
    """

    certificates: Sequence[Certificate]
    labels: Sequence[int]
    radii: Sequence[float]

    def accuracy(self, radius: float) -> float:
        """Share of the examples that are correct and certified at a radius."""
        pairs = zip(self.certificates, self.labels, strict=True)
        return sum(c.label == label and c.certified(radius) for c, label in pairs) / len(self.labels)

    @property
    def abstained(self) -> float:
        """Share of the examples where it abstained."""
        return sum(c.label < 0 for c in self.certificates) / len(self.labels)

    @property
    def evaluated(self) -> int:
        """Inputs that were classified, all examples together."""
        return sum(c.evaluated for c in self.certificates)

    def table(self) -> list[tuple[str, float]]:
        """(radius, certified accuracy) at the radii asked about; radii as they may be shown."""
        return [(floored(radius), self.accuracy(radius)) for radius in self.radii]

    def plot(self, path: Path) -> Path:
        """Draws certified accuracy against the radius; raises UserError without matplotlib."""
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise UserError("A curve needs the package matplotlib: pip install 'blackbox-zo[plots]'.") from error
        pairs = zip(self.certificates, self.labels, strict=True)
        right = sorted(c.radius for c, label in pairs if c.label == label)
        shares = [(len(right) - i) / len(self.labels) for i in range(len(right))]
        figure = Figure(figsize=(5, 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.step([0.0, *right, right[-1] if right else 0.0], [shares[0] if shares else 0.0, *shares, 0.0], where="pre")
        axes.plot(self.radii, [self.accuracy(r) for r in self.radii], "o")
        axes.set(xlabel="radius (L2)", ylabel="certified accuracy", ylim=(0, 1), xlim=(0, None))
        axes.grid(alpha=0.3)
        figure.savefig(path, dpi=120)
        return path


def certify_set(
    classify: Classify,
    inputs: Tensor,
    labels: Sequence[int] | Tensor,
    sigma: float,
    selection: int = 100,
    estimation: int = 10_000,
    alpha: float = 0.001,
    batch: int = 256,
    seed: int = 0,
    radii: Sequence[float] = (0.0, 0.25, 0.5, 0.75),
    early_stop: bool = True,
    path: Path | None = None,
    identity: str = "",
    tell: Callable[[int, Certificate], object] | None = None,
) -> CertifiedSet:
    """Certify every example; what a former life wrote to ``path`` is not done again.

    Args:
        classify, sigma, selection, estimation, alpha, batch, seed: as for ``certify``.
        inputs: float [examples, ...].
        labels: classes [examples].
        radii: where certified accuracy is wanted.
        early_stop: stop an example once its verdicts at the radii are settled; its radius is then a lower bound of what
            all draws would have given. The table is the same.
        path: a file of JSON lines: the settings, then a line an example. A torn last line is cut.
        identity: names the classifier (a checkpoint, a hash), so that its file is not taken for another's.
        tell: called after each example that is new.

    Raises:
        UserError: nothing to certify, sizes that don't fit, or a file of other settings.
    """
    truth = [int(label) for label in labels]
    if not truth or len(truth) != len(inputs):
        raise UserError(f"{len(inputs)} inputs and {len(truth)} labels: there must be as many of both, at least one.")
    asked = sorted({float(radius) for radius in radii})
    settings = {
        "sigma": sigma,
        "selection": selection,
        "estimation": estimation,
        "alpha": alpha,
        "seed": seed,
        "radii": asked if early_stop else None,
        "identity": identity,
    }
    check_settings(sigma, alpha, batch, selection, estimation)  # before they are written down
    if asked:
        hits_needed(asked, estimation, alpha, sigma)
    done = _taken_up(path, settings, inputs, truth)[: len(truth)]
    for example in range(len(done), len(truth)):
        stops = asked if early_stop else None
        one = certify(classify, inputs[example], sigma, selection, estimation, alpha, batch, seed, example, stops)
        if path is not None:
            with path.open("a", encoding="utf-8") as file:
                facts = {"example": example, "input": _digest(inputs[example]), "truth": truth[example]}
                file.write(json.dumps(facts | asdict(one)) + "\n")
        done.append(one)
        if tell is not None:
            tell(example, one)
    return CertifiedSet(done, truth, asked)


def floored(radius: float, digits: int = 3) -> str:
    """A radius in decimals, never rounded up."""
    text = f"{math.floor(radius * 10**digits) / 10**digits:.{digits}f}"
    # radius * 10**digits may itself have been rounded up to a whole number.
    return text if float(text) <= radius else f"{(math.floor(radius * 10**digits) - 1) / 10**digits:.{digits}f}"


def _taken_up(path: Path | None, settings: dict[str, Any], inputs: Tensor, truth: Sequence[int]) -> list[Certificate]:
    """The certificates in a file, which begins with its settings; it is made where there is none."""
    if path is None:
        return []
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if not whole:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps({"settings": settings}) + "\n").encode())
        return []
    try:
        head, *lines = [json.loads(line) for line in whole.splitlines()]
        saved = dict(head["settings"])
        known = [(one["input"], one["truth"]) for one in lines][: len(truth)]
        found = [Certificate(*(one[key] for key in Certificate.__dataclass_fields__)) for one in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no certificates that can be read ({error}). Move it away.") from error
    other = [f"{key} was {saved.get(key)}, now {now}" for key, now in settings.items() if saved.get(key) != now]
    other += [f"example {i} was another" for i, one in enumerate(known) if one != (_digest(inputs[i]), truth[i])]
    if other:
        raise UserError(f"{path} is of other settings: {'; '.join(other[:3])}. Move it away, or give another folder.")
    if whole != data:
        write_whole(path, whole)
    return found


def _digest(x: Tensor) -> str:
    """Names an input."""
    values = x.detach().cpu().to(torch.float64).contiguous().numpy()
    return hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()
