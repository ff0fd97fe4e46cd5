"""Denoised smoothing of a black box: gradients against autograd, exact counts, resumption, and the commands."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import rich.console  # noqa: F401 (draws a random number when it is first imported)
import torch
from torch import Tensor, nn

from blackbox.budget import Budget
from blackbox.cli.main import main
from blackbox.errors import JournalError, UserError
from blackbox.estimators import CentralDifference, ForwardDifference
from blackbox.estimators.coordinate import CoordinateWise
from blackbox.hooks import Hook
from blackbox.journal import Journal
from blackbox.noise import Gaussian, Sphere
from blackbox.report import load as load_run
from blackbox.result import Result, Status
from blackbox.training import Training
from problems.smoothing.box import CommandBox, HttpBox, Module, Network
from problems.smoothing.defence import Defence
from problems.smoothing.images import ArrayImages, Digits, FashionMnist, Images, Split
from problems.smoothing.networks import decoder, dncnn, encoder
from problems.training.networks import seeded

SHAPE = (1, 8, 8)
ROUTES = ("fo-ds", "fo-ae-ds", "zo-ds", "zo-ae-ds")
CGE = CoordinateWise(1e-3, "central")


class Blobs(Images):
    """Smooth images of three classes."""

    def read(self) -> tuple[Split, Split]:
        generator = torch.Generator().manual_seed(3)
        labels = torch.arange(60) % 3
        means = torch.rand(3, 1, 4, 4, generator=generator)
        images = nn.functional.interpolate(means, scale_factor=2, mode="bilinear")[labels]
        images = (images + 0.1 * torch.rand(images.shape, generator=generator)).clamp(0, 1)
        return Split(images[:40], labels[:40]), Split(images[40:], labels[40:])


class Counted(nn.Module):
    """A smooth network that counts the images it saw."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, outputs))
        self.outputs = outputs
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        scores: Tensor = self.layers(x)
        return scores.unflatten(1, SHAPE) if self.outputs == 64 else scores


def network(outputs: int = 3) -> Counted:
    module = seeded(lambda: Counted(outputs), 5)
    assert isinstance(module, Counted)
    return module.eval()


def defence(route: str = "zo-ae-ds", module: nn.Module | None = None, **changed: Any) -> Defence:
    settings: dict[str, Any] = {
        "estimator": CGE,
        "route": route,
        "depth": 3,
        "channels": 4,
        "latent": 6,
        "widths": (4, 6),
        "coder_steps": 3,
        "adam_steps": 4,
        "sgd_steps": 3,
        "batch_size": 5,
        "device": "cpu",
    }
    box = settings.get("box") or Module(module or network())
    return Defence(**{"data": Blobs(), "box": box, **settings, **changed})


def trained(problem: Defence, folder: Path, budget: Budget | None = None, hooks: Any = (), every: int = 100) -> Result:
    with closing(Journal(folder)) as journal:
        training = Training(problem, journal, 7, {})
        return training.run(budget or Budget(steps=100), hooks, checkpoint_every=every)


def tensors(problem: Defence) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in problem.parameters().tensors.items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(t, second[name]) for name, t in first.items())


# The gradient


def first_move(route: str, estimator: Any, **changed: Any) -> Tensor:
    """Minus the gradient of the first step, over all weights: what plain SGD at rate 100 adds."""
    changed = {"lr": 100.0, "coder_steps": 0, "adam_steps": 0, "sgd_steps": 1} | changed
    problem = defence(route, estimator=estimator, **changed)
    before = {name: p.detach().double() for name, p in problem.modules.named_parameters()}
    before = {name: p.clone() for name, p in before.items()}
    problem.train_step(0)
    return torch.cat([(p.detach().double() - before[n]).flatten() for n, p in problem.modules.named_parameters()])


@pytest.mark.parametrize("route", ["ds", "ae-ds"])
@pytest.mark.parametrize("stencil", ["central", "forward"])
def test_coordinates_give_the_gradient_that_backpropagation_through_the_box_gives(route, stencil):
    exact = first_move(f"fo-{route}", None)
    found = first_move(f"zo-{route}", CoordinateWise(1e-3, stencil))
    assert exact.norm() > 1e-3
    assert torch.cosine_similarity(exact, found, 0) > 0.999
    assert float(found.norm()) == pytest.approx(float(exact.norm()), rel=1e-2)


def test_a_reconstruction_and_its_extra_term_have_the_right_gradient_too():
    options = {"task": "reconstruction", "reconstruction": 0.5}
    exact = first_move("fo-ae-ds", None, module=network(64), **options)
    found = first_move("zo-ae-ds", CGE, module=network(64), **options)
    assert torch.cosine_similarity(exact, found, 0) > 0.999
    assert (
        torch.cosine_similarity(exact, first_move("zo-ae-ds", CGE, module=network(64), task="reconstruction"), 0)
        < 0.999
    )


@pytest.mark.parametrize("law", [Sphere(), Gaussian()], ids=["sphere", "gaussian"])
def test_many_random_directions_come_near_the_gradient(law):
    """Expected cosine: sqrt(q/(q + d - 1)) a sample, with errors that average out over the batch of 5."""
    exact = first_move("fo-ae-ds", None)
    found = first_move("zo-ae-ds", CentralDifference(law, 1e-2, probes=60))
    assert torch.cosine_similarity(exact, found, 0) > 0.95


# What is asked


@pytest.mark.parametrize(
    ("estimator", "each"),
    [
        (CGE, {"zo-ds": 129, "zo-ae-ds": 13}),
        (CoordinateWise(1e-2, "forward"), {"zo-ds": 65, "zo-ae-ds": 7}),
        (CentralDifference(Gaussian(), 1e-2, probes=4), {"zo-ds": 9, "zo-ae-ds": 9}),
        (ForwardDifference(Sphere(), 1e-2, probes=4), {"zo-ds": 5, "zo-ae-ds": 5}),
    ],
    ids=["central coordinates", "forward coordinates", "central", "forward"],
)
@pytest.mark.parametrize("route", ["zo-ds", "zo-ae-ds"])
def test_queries_are_the_images_that_the_box_saw(estimator, each, route, tmp_path):
    module = network()
    problem = defence(route, module, estimator=estimator)
    clean: set[int] = set()
    for step in range(problem.steps):
        before, cost = module.seen, problem.step_cost(step)
        batch = set(problem._batch(step).tolist())
        problem.train_step(step)
        expected = 0
        if step >= problem.stages.counts["auto-encoder"]:
            expected = 5 * each[route] + len(batch - clean)  # its class of a clean image is asked for once
            clean |= batch
        assert cost["queries"] == module.seen - before == expected
    assert problem.queries == module.seen > 0


def test_a_budget_is_never_exceeded(tmp_path):
    module = network()
    problem = defence("zo-ae-ds", module, adam_steps=50)
    result = trained(problem, tmp_path, Budget(queries=300))
    assert result.status is Status.QUERIES
    assert 300 - 5 * 14 < module.seen <= 300 and result.cost["queries"] == module.seen


class Trap:
    """Labels that complain when they are touched."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the labels' {name} was read")

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("a label was read")

    def __len__(self) -> int:
        raise AssertionError("the labels were counted")


class Unlabelled(Blobs):
    @property
    def splits(self) -> dict[str, Split]:  # type: ignore[override]
        train, test = self.read()
        images = {"train": train.images, "validation": train.images[:4], "test": test.images}
        return {name: Split(some, Trap()) for name, some in images.items()}  # type: ignore[arg-type]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("task", ["classification", "reconstruction"])
def test_no_training_reads_a_label(route, task, tmp_path):
    problem = defence(route, network(64 if task == "reconstruction" else 3), data=Unlabelled(), task=task)
    assert trained(problem, tmp_path).status is Status.STEPS
    if task == "classification":
        with pytest.raises(AssertionError, match="was read"):
            problem.metrics("test")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_the_box_keeps_its_mode_its_weights_and_has_no_gradients(route, mode, tmp_path):
    module = network().train(mode)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    problem = defence(route, module)
    trained(problem, tmp_path)
    problem.metrics()
    assert all(part.training == mode for part in module.modules())
    assert same(before, dict(module.state_dict()))
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert not any(name.startswith("box") for name in tensors(problem))


# The training


def test_it_learns_and_the_decoder_is_frozen_after_its_stage(tmp_path):
    problem = defence("zo-ae-ds", coder_steps=60, adam_steps=150, sgd_steps=0, batch_size=16, lr=3e-3, channels=8)
    coder = trained(problem, tmp_path / "a", Budget(steps=60))
    after_coder = tensors(problem)
    assert coder.steps == 60 and torch.all(problem.modules["denoiser"].layers[-1].weight == 0)
    values = [problem.train_step(step)["value"] for step in range(60, 210)]
    assert sum(values[-20:]) < 0.8 * sum(values[:20])
    found = tensors(problem)
    moved = {name.split(".")[0] for name, t in found.items() if not torch.equal(t, after_coder[name])}
    assert moved == {"denoiser", "encoder"}


@pytest.mark.parametrize("route", ["fo-ds", "zo-ae-ds"])
def test_a_denoiser_can_first_learn_from_the_images_alone(route, tmp_path):
    module = network()
    settings = {"denoiser_steps": 60, "batch_size": 16, "lr": 1e-9, "first_lr": 1e-2, "augment": "crop-flip"}
    problem, cut, again = (defence(route, module, **settings) for _ in range(3))
    start = tensors(problem)
    facts = [problem.train_step(step) for step in range(60)]
    assert module.seen == problem.queries == 0
    assert all(facts_of.keys() == {"squared_error"} for facts_of in facts)
    assert sum(one["squared_error"] for one in facts[-10:]) < 0.5 * sum(one["squared_error"] for one in facts[:10])
    after = tensors(problem)
    moved = {name.split(".")[0] for name, t in after.items() if not torch.equal(t, start[name])}
    assert moved == {"denoiser"}
    assert problem.step_cost(59)["queries"] == 0
    first = 63 if "ae" in route else 60  # behind the auto-encoder's stage
    for step in range(60, first):
        problem.train_step(step)
    problem.train_step(first)
    assert module.seen == problem.queries > 0
    weights = dict(problem.modules["denoiser"].named_parameters())
    assert all(float((w.detach() - after[f"denoiser.{name}"]).abs().max()) < 1e-6 for name, w in weights.items())
    whole = defence(route, module, **settings)
    trained(whole, tmp_path / "whole", Budget(steps=40))
    trained(cut, tmp_path / "cut", Budget(steps=31))
    trained(again, tmp_path / "cut", Budget(steps=40))
    assert same(tensors(again), tensors(whole)) and not same(tensors(again), tensors(cut))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stop", [1, 3, 4, 5, 6])
def test_a_training_that_is_resumed_has_the_bits_of_one_that_never_stopped(route, stop, tmp_path):
    whole, first, second = (defence(route, estimator=ForwardDifference(Gaussian(), 1e-2, 3)) for _ in range(3))
    trained(whole, tmp_path / "whole")
    trained(first, tmp_path / "cut", Budget(steps=stop))
    assert first.queries == 0 or not same(tensors(first), tensors(whole))
    result = trained(second, tmp_path / "cut")
    assert same(tensors(second), tensors(whole))
    assert result.cost["queries"] == first.queries + second.queries == whole.queries


class Dies(Hook):
    """Ends the process, as far as the run can tell, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, record: dict[str, Any]) -> None:
        if record["step"] == self.step:
            raise SystemExit


def test_a_killed_training_makes_the_steps_after_its_checkpoint_again_and_their_queries_count(tmp_path):
    whole, first, second = defence(), defence(), defence()
    trained(whole, tmp_path / "whole")
    with pytest.raises(SystemExit):
        trained(first, tmp_path / "cut", hooks=[Dies(8)], every=3)
    assert not (tmp_path / "cut/checkpoints/step-00000008.safetensors").exists()
    result = trained(second, tmp_path / "cut", every=3)
    assert same(tensors(second), tensors(whole)) and result.steps == 10
    assert result.cost["queries"] == first.queries + second.queries > whole.queries


def test_another_seed_is_another_run(tmp_path):
    first, second = defence(), defence()
    trained(first, tmp_path / "a")
    with closing(Journal(tmp_path / "b")) as journal:
        Training(second, journal, 8, {}).run(Budget(steps=100))
    assert not same(tensors(first), tensors(second))
    with closing(Journal(tmp_path / "a")) as journal, pytest.raises(JournalError, match="another seed"):
        Training(defence(), journal, 8, {})
    with closing(Journal(tmp_path / "a")) as journal, pytest.raises(JournalError, match="torch was None, now 3"):
        Training(defence(), journal, 7, {"torch": 3})


PROGRAM = """
import json, os, sys
left = int(sys.argv[1])
for line in sys.stdin:
    if left == 0 and os.path.exists("ill"):
        sys.exit("the model is gone")
    left -= 1
    answers = []
    for image in json.loads(line)["candidates"]:
        flat = [pixel for row in image[0] for pixel in row]
        answers.append([sum(flat[k::3]) for k in range(3)])
    print(json.dumps({"values": answers}), flush=True)
"""


def test_an_endpoint_that_dies_in_the_middle_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("program.py").write_text(PROGRAM)

    def asked(requests: int) -> Defence:
        box = CommandBox([sys.executable, "program.py", str(requests)], batch=16)
        return defence(box=box, coder_steps=1, adam_steps=4, sgd_steps=0)

    whole = asked(10**9)
    trained(whole, tmp_path / "whole")
    whole.close()
    Path("ill").touch()
    first = asked(14)  # a step is 1 + 5 requests, the first ones one more for the clean images
    result = trained(first, tmp_path / "cut")
    first.close()
    assert result.status is Status.FAILURES and 1 < result.steps < 5
    assert "the model is gone" in result.reasons[0] and f"step {result.steps}" in result.reasons[0]
    Path("ill").unlink()
    second = asked(10**9)
    again = trained(second, tmp_path / "cut")
    second.close()
    assert again.status is Status.STEPS and same(tensors(second), tensors(whole))
    assert whole.queries < again.cost["queries"] == first.queries + second.queries


def test_a_step_that_fails_leaves_everything_as_it_was():
    module = network()
    problem = defence(box=Module(module), coder_steps=0)
    problem.train_step(0)
    before, queries = tensors(problem), problem.queries

    def broken(*_: Any) -> None:
        raise ValueError("no")

    with module.layers[1].register_forward_pre_hook(broken), pytest.raises((UserError, ValueError), match="no"):
        problem.train_step(1)
    assert same(tensors(problem), before) and problem.queries >= queries
    assert not any(part.training for part in problem.modules.modules())


def test_a_program_can_only_be_asked():
    box = CommandBox([sys.executable, "-c", "pass"])
    with pytest.raises(UserError, match="CommandBox can only be asked: take a zo- route"):
        defence("fo-ds", box=box)
    with pytest.raises(UserError, match="CommandBox can only be asked: first-order"):
        box.opened(torch.zeros(1, 1, 8, 8))


class Noisy(nn.Module):
    """A denoiser of one's own that draws random numbers in train mode."""

    def __init__(self, images: int, seed: int) -> None:
        super().__init__()
        self.layers = seeded(
            lambda: nn.Sequential(nn.Conv2d(images, 4, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(4, images, 1)), seed
        )

    def forward(self, x: Tensor) -> Tensor:
        return x - self.layers(x)


def test_a_denoiser_of_ones_own_that_draws_is_resumed_to_the_bit(tmp_path):
    path = f"{__name__}:Noisy"
    whole, first, second = (defence(denoiser=path) for _ in range(3))
    trained(whole, tmp_path / "whole")
    trained(first, tmp_path / "cut", Budget(steps=6))
    trained(second, tmp_path / "cut")
    assert isinstance(whole.modules["denoiser"], Noisy) and same(tensors(second), tensors(whole))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"route": "zo"}, "route is fo-ds"),
        ({"estimator": None}, "zo-ae-ds estimates gradients: give an estimator"),
        ({"widths": (4, 4, 4, 4)}, "must be halved 4 times"),
        ({"batch_size": 100}, r"batch_size: 1 to 36"),
        ({"sigma": 0.0}, "sigma and lr must be positive"),
        ({"first_lr": 0.0}, "sigma and lr must be positive"),
        ({"augment": "flip"}, "augment is none, crop or crop-flip"),
        ({"denoiser_steps": -1}, "Steps must not be negative"),
        ({"depth": 1}, "a depth of 2 or more"),
        ({"task": "detection"}, "task is 'classification' or"),
        ({"denoiser": "blackbox.errors:UserError"}, "gave UserError, not a torch module"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_are_told(changed, message):
    with pytest.raises(UserError, match=message):
        defence(**changed)


# Boxes


class Service(BaseHTTPRequestHandler):
    """Gives each image the sums of its rows, and is out of order for the first request."""

    asked = 0

    def do_POST(self) -> None:
        type(self).asked += 1
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps({"values": [[sum(row) for row in image[0]] for image in body["candidates"]]}).encode()
        self.send_response(500 if self.asked == 1 else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_service_is_a_box_and_every_attempt_counts():
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        box = HttpBox(f"http://127.0.0.1:{server.server_port}", batch=10, concurrency=1, backoff=0.0)
        x = torch.rand(14, *SHAPE, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(box(x), x.sum(3)[:, 0])
        box.close()
        server.shutdown()
    assert box.queries == 24  # the first ten twice


def test_classes_alone_are_refused_in_words():
    problem = defence(box=Module(nn.Sequential(network(), nn.Flatten(0))), coder_steps=0)
    with pytest.raises(UserError, match="must give scores"):
        problem.train_step(0)


ASSETS = Path(os.environ.get("BLACKBOX_ASSETS", "nowhere")) / "vision"


@pytest.mark.skipif(not (ASSETS / "cifar10_subset.npz").exists(), reason="BLACKBOX_ASSETS has no vision/")
def test_a_pretrained_network_on_cifar_is_as_good_as_it_is_said_to_be_and_can_be_defended():
    data = ArrayImages(str(ASSETS / "cifar10_subset.npz"))
    box = Network(str(ASSETS / "resnet20_cifar10.safetensors"), "resnet20")
    test = data.splits["test"]
    assert len(test.labels) == 1000 and float((box(test.images).argmax(1) == test.labels).float().mean()) > 0.9
    problem = Defence(data, box, CoordinateWise(5e-3), depth=3, channels=4, latent=8, coder_steps=1, batch_size=2)
    assert all(np.isfinite(list(problem.train_step(step).values())).all() for step in range(2))


# Networks and images


def test_a_denoiser_starts_as_the_identity_and_networks_by_their_seeds():
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    first = dncnn(3, 4, 5, seed=1)
    assert torch.equal(first.eval()(x), x) and len([m for m in first.modules() if isinstance(m, nn.Conv2d)]) == 4
    for make in (encoder, decoder):
        one, two, other = (make((3, 8, 8), (4, 6), 7, seed) for seed in (1, 1, 2))
        assert same(dict(one.state_dict()), dict(two.state_dict()))
        assert not same(dict(one.state_dict()), dict(other.state_dict()))
    z = encoder((3, 8, 8), (4, 6), 7, 1)(x)
    y = decoder((3, 8, 8), (4, 6), 7, 1)(z)
    assert z.shape == (2, 7) and y.shape == x.shape and 0 <= y.min() <= y.max() <= 1


def test_digits_are_split_without_overlap():
    splits = Digits(examples=100).splits
    assert [len(splits[name].labels) for name in ("train", "validation", "test")] == [100, 144, 360]
    assert splits["test"].images.shape[1:] == SHAPE and splits["test"].images.max() == 1


def idx(path: Path, array: np.ndarray) -> None:
    head = np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.tobytes()))


def test_files_of_fashion_mnist_are_read_and_bad_ones_refused(tmp_path):
    pixels = np.arange(20 * 28 * 28).reshape(20, 28, 28).astype(np.uint8)
    for part in ("train", "t10k"):
        idx(tmp_path / f"{part}-images-idx3-ubyte.gz", pixels)
        idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(20).astype(np.uint8) % 10)
    splits = FashionMnist(str(tmp_path)).splits
    assert splits["train"].images.shape == (18, 1, 28, 28) and splits["validation"].labels.tolist() == [8, 9]
    assert torch.equal((splits["test"].images[7, 0] * 255).round().byte(), torch.from_numpy(pixels[7]))
    idx(tmp_path / "train-images-idx3-ubyte.gz", pixels[0])
    with pytest.raises(UserError, match="can't be read: it does not begin as an idx file"):
        _ = FashionMnist(str(tmp_path)).splits
    with pytest.raises(UserError, match="dataset-fashion-mnist"):
        _ = FashionMnist(str(tmp_path / "elsewhere")).splits


def test_an_archive_of_images_is_read_and_a_bad_one_refused(tmp_path):
    pixels = np.arange(10 * 4 * 4 * 3).reshape(10, 4, 4, 3).astype(np.uint8)
    arrays = {
        "train_images": pixels,
        "train_labels": np.arange(10),
        "test_images": pixels,
        "test_labels": np.arange(10),
    }
    np.savez(tmp_path / "some.npz", **arrays)
    test = ArrayImages(str(tmp_path / "some.npz")).splits["test"]
    assert torch.equal((test.images[3, 1] * 255).round().byte(), torch.from_numpy(pixels[3, :, :, 1]))
    np.savez(tmp_path / "few.npz", train_images=pixels)
    with pytest.raises(UserError, match="can't be read as an archive of images"):
        _ = ArrayImages(str(tmp_path / "few.npz")).splits


# The commands

YAML = """
problem:
  type: defence
  data: {type: digits, examples: 200}
  box: {type: "my_classifier:DigitsClassifier"}
  estimator: {type: coordinate, epsilon: 0.01, stencil: forward}
  depth: 3
  channels: 4
  latent: 4
  coder_steps: 20
  adam_steps: 10
  sgd_steps: 4
  evaluated: 20
  device: cpu
budget: {queries: 10_000}
run: {evaluate_every: 20, checkpoint_every: 10}
"""


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0)


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).parents[2] / "configs/my_classifier.py", tmp_path)
    Path("tiny.yaml").write_text(YAML)
    return tmp_path / "tiny.yaml"


def test_a_defence_is_run_resumed_reported_and_certified(configuration, capsys):
    assert command("run", "tiny.yaml", "--set", "budget.steps=25") == 0
    assert command("run", "tiny.yaml") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert command("run", "runs/tiny", "--resume", "--set", "budget.steps=100") == 0
    assert command("run", "tiny.yaml", "--set", "run.name=whole") == 0
    assert same(load_run("runs/tiny").tensors(), load_run("runs/whole").tensors())
    tested = json.loads(Path("runs/tiny/test.json").read_text())
    assert tested["before"]["step"] == 0 and tested["after"]["step"] == 34
    capsys.readouterr()
    assert command("report", "runs/tiny") == 0
    assert "34 steps" in capsys.readouterr().out
    options = ["--examples", "3", "--estimation", "200", "--radius", "0"]
    assert command("certify", "runs/tiny", *options) == 0
    assert "3 examples, sigma 0.25" in capsys.readouterr().out
    assert Path("runs/tiny/certified.png").exists()


def test_a_problem_that_trains_itself_takes_no_block_that_says_how(configuration, capsys):
    assert command("run", "tiny.yaml", "--set", "optimizer={type: sgd, lr: 1}") == 2
    assert "trains itself; leave the block out" in capsys.readouterr().err
