"""Certified accuracy of a black box behind a denoiser that was trained by asking it, against opening it.

    python -m benchmarks.defence [--quick] [--data FOLDER] [--box FILE] [--folder FOLDER] [--arms NAMES]
    python -m benchmarks.defence --data cifar10.npz --box resnet20.safetensors

The black box is a classifier that never saw noise. Arms:

    none             the box itself, smoothed
    rs               the box trained on noisy images with labels: what its owner could do (arXiv:1902.02918)
    fo_ds            a denoiser, by backpropagation through the box (arXiv:2003.01908)
    fo_ae_ds         a denoiser and an auto-encoder, by backpropagation through the box
    zo_ds            a denoiser; random directions in the pixels
    zo_ae_ds_rge     a denoiser and an auto-encoder; random directions in the latent (arXiv:2203.14195)
    zo_ae_ds_cge     the same; coordinates of the latent
    start_ds         what the ds arms begin with, where denoisers are first trained by the squared error: nothing asked
    start_ae_ds      the same with the auto-encoder
    fo_ds_small      as fo_ds, with a denoiser of 3 x 8
    zo_ds_small      as zo_ds, with a denoiser of 3 x 8
    zo_weights       the weights of a denoiser of 3 x 8, a tenth of their coordinates at a time (arXiv:2310.02025), with
                     as many images asked about as by zo_ds, in as many steps

The zo_ arms ask the box equally often: one forward pass and q forward differences for each image of a step. All arms
make as many steps of Adam on the same batches. Labels are read by rs alone, and to count what is right. Certified with
100 + 1,000 draws at alpha .001; beside it the accuracy of one answer under noise. Results lie in the folder as they are
reached, and a run that is started again goes on.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
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
from blackbox.estimators.layer_shares import LayerShares
from blackbox.estimators.selection import All, Sample
from blackbox.journal import Journal
from blackbox.memory import keep_freed_memory
from blackbox.noise import Gaussian
from blackbox.optimizers import Schedule, TorchOptimizer
from blackbox.run import run
from blackbox.seeds import derive_seed
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from blackbox.training import Training
from oracles import ObjectiveOracle
from problems.smoothing.box import BlackBox, Module, Network
from problems.smoothing.certified_set import certify_set
from problems.smoothing.certify import Classify
from problems.smoothing.defence import Defence
from problems.smoothing.denoiser import DenoiserWeights
from problems.smoothing.images import DEBIAN, ArrayImages, Digits, FashionMnist, Images, noise
from problems.training.augment import Augment
from problems.training.networks import perceptron, seeded

IMAGES = Path(__file__).parents[1] / "docs" / "images"
RADII = (0.0, 0.25, 0.5)
TRAINED = ("fo_ds", "fo_ae_ds", "zo_ds", "zo_ae_ds_rge", "zo_ae_ds_cge")
ARMS = ("none", "rs", *TRAINED)
STARTS = ("start_ds", "start_ae_ds")
SMALL = ("fo_ds_small", "zo_ds_small", "zo_weights")
DEPTH, CHANNELS, KEEP, REDRAW, RATE = 3, 8, 0.1, 10, 3e-2
EPSILON = 5e-3
SEED = 0


@dataclass(frozen=True)
class Scale:
    """Sizes of a comparison."""

    depth: int
    channels: int
    latent: int
    widths: tuple[int, ...]
    denoiser_steps: int
    coder_steps: int
    owner_steps: int
    steps: int
    batch: int
    lr: float
    sigma: float
    tested: int
    draws: int
    probes: int
    first_lr: float | None = None
    augment: Augment = "none"
    autocast: bool = False


FULL = Scale(5, 24, 48, (16, 32), 0, 5000, 500, 500, 32, 1e-3, 0.25, 200, 1000, 48)
QUICK = Scale(4, 12, 16, (16, 32), 0, 1500, 300, 300, 32, 2e-3, 0.5, 60, 200, 16)
# A query costs a ResNet-20's forward pass. Differences need float32; what is certified is the box under autocast.
CIFAR = Scale(5, 24, 192, (32,), 3000, 8000, 300, 160, 16, 1e-4, 0.25, 100, 1000, 48, 1e-3, "crop-flip", autocast=True)


@dataclass(frozen=True)
class Comparison:
    """What all arms share."""

    data: Images
    make_box: Callable[[], BlackBox]
    scale: Scale
    folder: Path
    curves: bool
    seed: int = SEED

    def defence(self, arm: str, alone: bool = False) -> Defence:
        """The arm's defence before its training; ``alone``: with the stages that ask nothing, and no others."""
        scale, estimator = self.scale, None
        if arm.startswith("zo"):
            probes = ForwardDifference(Gaussian(), EPSILON / self.dimension(arm) ** 0.5, probes=scale.probes)
            coordinates = All() if scale.probes == scale.latent else Sample(scale.probes)
            estimator = CoordinateWise(EPSILON, "forward", coordinates) if arm.endswith("cge") else probes
        return Defence(
            self.data,
            self.make_box(),
            estimator,
            route="-".join(part for part in arm.split("_") if part not in ("rge", "cge", "small")),  # type: ignore[arg-type]
            sigma=scale.sigma,
            depth=DEPTH if arm in SMALL else scale.depth,
            channels=CHANNELS if arm in SMALL else scale.channels,
            latent=scale.latent,
            widths=scale.widths,
            denoiser_steps=scale.denoiser_steps if alone else 0,
            coder_steps=scale.coder_steps if alone else 0,
            adam_steps=0 if alone else scale.steps,
            augment=scale.augment,
            batch_size=scale.batch,
            lr=scale.lr,
            first_lr=scale.first_lr,
            seed=self.seed,
            device="cpu",
        )

    def dimension(self, arm: str) -> int:
        """Of what an estimate is made at; Gaussian directions are about sqrt(d) long."""
        return self.scale.latent if "ae" in arm else self.data.splits["train"].images[0].numel()

    def certified(self, classify: Classify, path: Path, radii: Sequence[float], tested: int) -> list[float]:
        """Certified accuracy at the radii on the first test images; a file that holds some already is gone on with."""
        test, scale = self.data.splits["test"], self.scale
        images, labels = test.images[:tested], test.labels[:tested]
        found = certify_set(
            self.cast(classify), images, labels, scale.sigma, 100, scale.draws, batch=200, radii=radii, path=path
        )
        return [found.accuracy(radius) for radius in radii]

    def cast(self, classify: Classify) -> Classify:
        """As the sizes say: in float32, or under autocast."""

        def call(images: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, self.scale.autocast):
                return classify(images).float()

        return call

    def once(self, classify: Classify) -> float:
        """Accuracy on 1,000 test images with one draw of noise each, the same for all arms."""
        test = self.data.splits["test"]
        images, labels = test.images[:1000], test.labels[:1000]
        noisy = images + self.scale.sigma * noise(images, SEED, "once")
        scores = torch.cat([self.cast(classify)(some) for some in noisy.split(200)])
        return float((scores.argmax(1) == labels).double().mean())

    def begun(self, arm: str) -> Defence:
        """The arm's defence with the weights that the stages without questions gave; these are run once for all."""
        problem, path = self.defence(arm), self.folder / "start.safetensors"
        if arm in SMALL:  # from the identity
            return problem
        if not path.exists():
            first = self.defence("fo_ae_ds", alone=True)
            for step in range(first.steps):
                first.train_step(step)
            checkpoint.save(path, dict(first.parameters().tensors))
        saved = checkpoint.load(path)
        problem.parameters().assign({name: saved[name] for name in problem.parameters().tensors})
        return problem

    def trained(self, arm: str) -> dict[str, Any]:
        """Train an arm, or what is left of it; certify it in the end and at earlier checkpoints."""
        problem, folder = self.begun(arm), self.folder / arm
        with closing(Journal(folder)) as journal:
            training = Training(problem, journal, self.seed, {})
            result = training.run(Budget(steps=self.scale.steps), checkpoint_every=self.scale.steps // 4)
        if result.reasons:
            raise UserError(result.reasons[0])
        name = f"certificates-{self.scale.steps}.jsonl"
        shares = self.certified(problem.defended, folder / name, RADII, self.scale.tested)
        once = self.once(problem.defended)
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
        curve.append((last, shares[1]))
        return {"certified": shares, "once": once, "queries": last, "curve": curve, "seconds": seconds}

    def weights(self) -> dict[str, Any]:
        """Train a denoiser weight by weight, or what is left of it, and certify it."""
        scale, folder = self.scale, self.folder / "zo_weights"
        problem = DenoiserWeights(
            self.data,
            self.make_box(),
            sigma=scale.sigma,
            depth=DEPTH,
            channels=CHANNELS,
            batch_size=scale.batch // 2,
            seed=self.seed,
            device="cpu",
        )
        images = scale.steps * scale.batch * (scale.probes + 1)  # what the other zo arms ask about
        estimator = CoordinateWise(EPSILON, select=LayerShares(KEEP, REDRAW))
        strategy = GradientStrategy(estimator, TorchOptimizer("Adam", RATE, Schedule("cosine")))
        with closing(Journal(folder)) as journal:
            session = Session(strategy, problem.parameters(), self.seed, journal)
            result = run(session, ObjectiveOracle(problem), Budget(examples=images), checkpoint_every=50)
        if result.reasons:
            raise UserError(result.reasons[0])
        shares = self.certified(problem.defended, folder / "certificates.jsonl", RADII, scale.tested)
        print(f"  zo_weights: {problem.parameters().dimension} weights, {session.steps} steps, {session.spent}")
        asked, seconds = session.spent["images"], result.cost["wall_seconds"]
        once = self.once(problem.defended)
        return {"certified": shares, "once": once, "queries": asked, "curve": [], "seconds": seconds}

    def smoothed(self, arm: str) -> dict[str, Any]:
        """The box itself, or trained on noise, or behind what the other arms begin with."""
        box = self.make_box()
        assert isinstance(box, Module)
        path = self.folder / f"{arm}.jsonl"
        if arm == "rs":
            train_on_noise(box.module, self.data, self.scale.owner_steps, self.scale.sigma, seed=self.seed)
        classify = self.begun(arm.replace("start", "fo")).defended if arm in STARTS else box
        shares = self.certified(classify, path, RADII, self.scale.tested)
        return {"certified": shares, "once": self.once(classify), "queries": 0, "curve": [], "seconds": 0}

    def result(self, arm: str) -> dict[str, Any]:
        """What there is to say of an arm."""
        if arm == "zo_weights":
            return self.weights()
        return self.trained(arm) if arm in (*TRAINED, *SMALL) else self.smoothed(arm)


def queries_by_step(path: Path) -> list[float]:
    """Queries up to and with each step; steps that were made again after a restart count once."""
    each, before = dict[int, float](), 0.0
    for record in map(json.loads, path.read_text().splitlines()):
        if record["kind"] == "trained":
            each[record["step"]] = record["spent"]["queries"] - before
        before = record.get("spent", {}).get("queries", before)
    return list(accumulate(each[step] for step in sorted(each)))


def train_on_noise(
    module: nn.Module, data: Images, steps: int, sigma: float, lr: float = 1e-3, seed: int = SEED
) -> None:
    """Cross-entropy to the labels, on noisy images."""
    train = data.splits["train"]
    module.train().requires_grad_(True)
    optimizer = torch.optim.Adam(module.parameters(), lr)
    generator = torch.Generator().manual_seed(derive_seed(seed, "rs"))
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
    parser.add_argument("--data", default=DEBIAN, help="folder of Fashion-MNIST's files, or CIFAR-10 as an npz file")
    parser.add_argument(
        "--box", default="fashion_mnist_cnn.safetensors", help="weights: small classifier, or ResNet-20"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-defence"), help="where results are kept")
    parser.add_argument("--arms", default=",".join(ARMS), help="only these, separated by commas")
    parser.add_argument("--steps", type=int, help="steps of every arm")
    parser.add_argument("--tested", type=int, help="test images that are certified")
    parser.add_argument("--seed", type=int, default=SEED, help="of the training; another needs another folder")
    parser.add_argument("--curves", action="store_true", help="certify at earlier checkpoints, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    box, coloured = Path(options.box).expanduser(), options.data.endswith(".npz")
    file = Path(options.data).expanduser() / ("" if coloured else "train-images-idx3-ubyte.gz")
    real = not options.quick and file.exists() and box.exists()
    if real:
        scale = CIFAR if coloured else FULL
        changed = {name: getattr(options, name) for name in ("steps", "tested") if getattr(options, name)}
        data = ArrayImages(options.data) if coloured else FashionMnist(options.data)
        scale = replace(scale, **changed)
        make = partial(Network, str(box), "resnet20" if coloured else "small-classifier")
        comparison = Comparison(data, make, scale, options.folder, options.curves, options.seed)
    else:
        if not options.quick:
            print(f"no images in {options.data}, or no classifier {box}: the digits of scikit-learn instead")
        comparison = Comparison(Digits(), digits_box, QUICK, Path(tempfile.mkdtemp()), False)
    comparison.folder.mkdir(parents=True, exist_ok=True)
    print(f"defence on {machine()}; {options.data if real else 'digits'}: {comparison.scale}")
    print(f"  {'certified accuracy at r =':26s}{''.join(f'{r:8g}' for r in RADII)}  one draw  queries in training")
    found = {}
    for arm in options.arms.split(","):
        one = found[arm] = comparison.result(arm)
        shares = "".join(f"{100 * share:7.1f}%" for share in one["certified"])
        print(
            f"  {arm:26s}{shares}  {100 * one['once']:7.1f}%  {one['queries']:>12,.0f}  ({one['seconds']:.0f} s)",
            flush=True,
        )
    if set(ARMS) <= set(found) and real and not coloured:
        plot(found, IMAGES / "defence-certified.png")
    finish({arm: one["certified"][1] for arm, one in found.items()})


if __name__ == "__main__":
    main()
