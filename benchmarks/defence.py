"""Certified accuracy of a black box behind a denoiser that was trained by asking it, against opening it.

    python -m benchmarks.defence [--quick] [--data FOLDER] [--box FILE] [--folder FOLDER] [--arms NAMES]

The black box is a classifier that never saw noise. Arms:

    none             the box itself, smoothed
    rs               the box trained on noisy images with labels: what its owner could do (arXiv:1902.02918)
    fo_ds            a denoiser, by backpropagation through the box (arXiv:2003.01908)
    fo_ae_ds         a denoiser and an auto-encoder, by backpropagation through the box
    zo_ds            a denoiser; random directions in the pixels
    zo_ae_ds_rge     a denoiser and an auto-encoder; random directions in the latent (arXiv:2203.14195)
    zo_ae_ds_cge     the same; every coordinate of the latent

The zo_ arms ask the box equally often: one forward pass and d_z forward differences for each image of a step. All arms
make as many steps of Adam on the same batches. Labels are read by rs alone, and to count what is right. Certified with
100 + 1,000 draws at alpha .001. Results lie in the folder as they are reached, and a run that is started again goes on.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.harness import arguments, finish, machine
from blackbox import checkpoint
from blackbox.budget import Budget
from blackbox.errors import UserError
from blackbox.estimators import ForwardDifference
from blackbox.estimators.coordinate import CoordinateWise
from blackbox.journal import Journal
from blackbox.memory import keep_freed_memory
from blackbox.noise import Gaussian
from blackbox.seeds import derive_seed
from blackbox.training import Training
from problems.smoothing.box import BlackBox, Module, Network
from problems.smoothing.certified_set import certify_set
from problems.smoothing.certify import Classify
from problems.smoothing.defence import Defence
from problems.smoothing.images import DEBIAN, Digits, FashionMnist, Images
from problems.training.networks import perceptron, seeded

IMAGES = Path(__file__).parents[1] / "docs" / "images"
RADII = (0.0, 0.25, 0.5)
TRAINED = ("fo_ds", "fo_ae_ds", "zo_ds", "zo_ae_ds_rge", "zo_ae_ds_cge")
ARMS = ("none", "rs", *TRAINED)
EPSILON = 5e-3
SEED = 0


@dataclass(frozen=True)
class Scale:
    """Sizes of a comparison."""

    depth: int
    channels: int
    latent: int
    widths: tuple[int, ...]
    coder_steps: int
    steps: int
    batch: int
    lr: float
    sigma: float
    tested: int
    draws: int


FULL = Scale(5, 24, 48, (16, 32), 5000, 500, 32, 1e-3, 0.25, 200, 1000)
QUICK = Scale(4, 12, 16, (16, 32), 1500, 300, 32, 2e-3, 0.5, 60, 200)


@dataclass(frozen=True)
class Comparison:
    """What all arms share."""

    data: Images
    make_box: Callable[[], BlackBox]
    scale: Scale
    folder: Path
    curves: bool

    def defence(self, arm: str, coder_steps: int = 0, steps: int | None = None) -> Defence:
        """The arm's defence at its starting point."""
        scale, estimator = self.scale, None
        if arm.startswith("zo"):
            probes = ForwardDifference(Gaussian(), EPSILON / self.dimension(arm) ** 0.5, probes=scale.latent)
            estimator = CoordinateWise(EPSILON, "forward") if arm.endswith("cge") else probes
        return Defence(
            self.data,
            self.make_box(),
            estimator,
            route=arm.removesuffix("_rge").removesuffix("_cge").replace("_", "-"),  # type: ignore[arg-type]
            sigma=scale.sigma,
            depth=scale.depth,
            channels=scale.channels,
            latent=scale.latent,
            widths=scale.widths,
            coder_steps=coder_steps,
            adam_steps=scale.steps if steps is None else steps,
            batch_size=scale.batch,
            lr=scale.lr,
            device="cpu",
        )

    def dimension(self, arm: str) -> int:
        """Of what an estimate is made at; Gaussian directions are about sqrt(d) long."""
        return self.scale.latent if "ae" in arm else self.data.splits["train"].images[0].numel()

    def certified(self, classify: Classify, path: Path, radii: Sequence[float], tested: int) -> list[float]:
        """Certified accuracy at the radii on the first test images; a file that holds some already is gone on with."""
        test, scale = self.data.splits["test"], self.scale
        images, labels = test.images[:tested], test.labels[:tested]
        found = certify_set(classify, images, labels, scale.sigma, 100, scale.draws, batch=200, radii=radii, path=path)
        return [found.accuracy(radius) for radius in radii]

    def coder(self) -> dict[str, Tensor]:
        """Weights of the auto-encoder that the ae arms begin with; trained once."""
        path = self.folder / "coder.safetensors"
        if not path.exists():
            problem = self.defence("fo_ae_ds", self.scale.coder_steps, 0)
            for step in range(problem.steps):
                problem.train_step(step)
            tensors = problem.parameters().tensors
            checkpoint.save(path, {name: t for name, t in tensors.items() if not name.startswith("denoiser")})
        return checkpoint.load(path)

    def trained(self, arm: str) -> dict[str, Any]:
        """Train an arm, or what is left of it; certify it in the end and at earlier checkpoints."""
        problem, folder = self.defence(arm), self.folder / arm
        if "ae" in arm:
            problem.parameters().assign(self.coder())
        with closing(Journal(folder)) as journal:
            training = Training(problem, journal, SEED, {})
            result = training.run(Budget(steps=self.scale.steps), checkpoint_every=self.scale.steps // 4)
        if result.reasons:
            raise UserError(result.reasons[0])
        name = f"certificates-{self.scale.steps}.jsonl"
        shares = self.certified(problem.defended, folder / name, RADII, self.scale.tested)
        queries = queries_by_step(folder / "journal.jsonl")
        curve = []
        for step in (self.scale.steps // 4, self.scale.steps // 2) if self.curves and arm.startswith("zo") else ():
            saved = folder / "checkpoints" / f"step-{step:08d}.safetensors"
            if saved.exists():
                problem.parameters().assign(checkpoint.load(saved)["tensors"])
                path = folder / f"certificates-{step}.jsonl"
                share = self.certified(problem.defended, path, (0.25,), self.scale.tested // 4)
                curve.append((queries[step - 1], *share))
        last, seconds = queries[self.scale.steps - 1], result.cost["wall_seconds"]
        return {"certified": shares, "queries": last, "curve": [*curve, (last, shares[1])], "seconds": seconds}

    def smoothed(self, arm: str) -> dict[str, Any]:
        """The box itself, or trained on noise."""
        box = self.make_box()
        assert isinstance(box, Module)
        if arm == "rs":
            train_on_noise(box.module, self.data, self.scale.steps, self.scale.sigma)
        shares = self.certified(box, self.folder / f"{arm}.jsonl", RADII, self.scale.tested)
        return {"certified": shares, "queries": 0, "curve": [], "seconds": 0}

    def result(self, arm: str) -> dict[str, Any]:
        """What there is to say of an arm."""
        return self.trained(arm) if arm in TRAINED else self.smoothed(arm)


def queries_by_step(path: Path) -> list[float]:
    """Queries up to and with each step; steps that were made again after a restart count once."""
    each, before = dict[int, float](), 0.0
    for record in map(json.loads, path.read_text().splitlines()):
        if record["kind"] == "trained":
            each[record["step"]] = record["spent"]["queries"] - before
        before = record.get("spent", {}).get("queries", before)
    return list(accumulate(each[step] for step in sorted(each)))


def train_on_noise(module: nn.Module, data: Images, steps: int, sigma: float, lr: float = 1e-3) -> None:
    """Cross-entropy to the labels, on noisy images."""
    train = data.splits["train"]
    module.train().requires_grad_(True)
    optimizer = torch.optim.Adam(module.parameters(), lr)
    generator = torch.Generator().manual_seed(derive_seed(SEED, "rs"))
    for _ in range(steps):
        chosen = torch.randint(len(train.labels), (64,), generator=generator)
        x = train.images[chosen]
        x = x + sigma * torch.randn(x.shape, generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(module(x), train.labels[chosen]).backward()
        optimizer.step()
    module.eval().requires_grad_(False)


def digits_box() -> BlackBox:
    """A perceptron that learned the digits without noise."""
    module = seeded(lambda: perceptron((64,), (1, 8, 8)), SEED)
    train_on_noise(module, Digits(), 400, 0.0)
    return Module(module)


def plot(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Certified accuracy against radius and against queries."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.4), sharey=True)
    for arm, one in found.items():
        (line,) = left.plot(RADII, one["certified"], "o-", label=arm.replace("_", " "))
        if arm.startswith("zo"):
            right.plot(*zip(*one["curve"], strict=True), "o-", color=line.get_color(), label=arm.replace("_", " "))
    right.axhline(found["fo_ae_ds"]["certified"][1], linestyle="--", color="0.5", label="fo ae ds (opened)")
    left.set(xlabel="radius (L2)", ylabel="certified accuracy", ylim=(0, 1))
    right.set(xlabel="queries", title="at radius 0.25")
    for axes in (left, right):
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", default=DEBIAN, help="folder of Fashion-MNIST's files")
    parser.add_argument("--box", default="fashion_mnist_cnn.safetensors", help="weights of the small classifier")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-defence"), help="where results are kept")
    parser.add_argument("--arms", default=",".join(ARMS), help="only these, separated by commas")
    parser.add_argument("--steps", type=int, default=FULL.steps, help="steps of every arm")
    parser.add_argument("--tested", type=int, default=FULL.tested, help="test images that are certified")
    parser.add_argument("--curves", action="store_true", help="certify at earlier checkpoints, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    data, box = FashionMnist(options.data), Path(options.box).expanduser()
    real = not options.quick and Path(options.data, "train-images-idx3-ubyte.gz").exists() and box.exists()
    if real:
        scale = replace(FULL, steps=options.steps, tested=options.tested)
        comparison = Comparison(data, lambda: Network(str(box)), scale, options.folder, options.curves)
    else:
        if not options.quick:
            print(f"no Fashion-MNIST in {options.data}, or no classifier {box}: the digits of scikit-learn instead")
        comparison = Comparison(Digits(), digits_box, QUICK, Path(tempfile.mkdtemp()), False)
    comparison.folder.mkdir(parents=True, exist_ok=True)
    print(f"defence on {machine()}; {'Fashion-MNIST' if real else 'digits'}: {comparison.scale}")
    print(f"  {'certified accuracy at r =':26s}{''.join(f'{r:8g}' for r in RADII)}   queries in training")
    found = {}
    for arm in options.arms.split(","):
        one = found[arm] = comparison.result(arm)
        shares = "".join(f"{100 * share:7.1f}%" for share in one["certified"])
        print(f"  {arm:26s}{shares}   {one['queries']:>12,.0f}  ({one['seconds']:.0f} s)", flush=True)
    if set(ARMS) <= set(found) and real:
        plot(found, IMAGES / "defence-certified.png")
    finish({arm: one["certified"][1] for arm, one in found.items()})


if __name__ == "__main__":
    main()
