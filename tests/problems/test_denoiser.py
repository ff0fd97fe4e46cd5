"""The weights of a denoiser by answers alone: the gradient against autograd, exact counts, resumption, the commands."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import rich.console  # noqa: F401 (draws a random number when it is first imported)
import torch
from torch import Tensor, nn
from torch.nn import functional

from blackbox.budget import Budget
from blackbox.cli.main import main
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference, CoordinateWise
from blackbox.estimators.layer_shares import LayerShares
from blackbox.execution import LayerAccess, WriteFree, choose
from blackbox.execution.workers import Workers
from blackbox.journal import Journal
from blackbox.noise import Coordinate
from blackbox.optimizers import SGD, TorchOptimizer
from blackbox.probe import ALL_DATA, Context, Probes, Queries
from blackbox.report import load as load_run
from blackbox.result import Result, Status
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from oracles import ObjectiveOracle
from problems.smoothing.box import Module
from problems.smoothing.denoiser import DenoiserWeights
from problems.smoothing.images import Images, Split
from problems.training.networks import seeded

SHAPE = (1, 8, 8)


class Blobs(Images):
    """Smooth images of three classes; the first 36 train."""

    def read(self) -> tuple[Split, Split]:
        generator = torch.Generator().manual_seed(3)
        labels = torch.arange(60) % 3
        means = torch.rand(3, 1, 4, 4, generator=generator)
        images = nn.functional.interpolate(means, scale_factor=2, mode="bilinear")[labels]
        images = (images + 0.1 * torch.rand(images.shape, generator=generator)).clamp(0, 1)
        return Split(images[:40], labels[:40]), Split(images[40:], labels[40:])


class Counted(nn.Module):
    """A smooth network that counts the images it saw, and may break."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, outputs))
        self.outputs, self.seen, self.broken = outputs, 0, False

    def forward(self, x: Tensor) -> Tensor:
        if self.broken:
            raise ValueError("no answer today")
        self.seen += len(x)
        scores: Tensor = self.layers(x)
        return scores.unflatten(1, SHAPE) if self.outputs == 64 else scores


def network(outputs: int = 3) -> Counted:
    module = seeded(lambda: Counted(outputs), 5)
    assert isinstance(module, Counted)
    with torch.no_grad():
        module.layers[1].weight *= 4  # so that noise matters
    return module.eval()


def denoiser(module: nn.Module | None = None, away: bool = True, **changed: Any) -> DenoiserWeights:
    """A small problem; ``away``: not at the identity, where most weights have no slope."""
    settings: dict[str, Any] = {"depth": 3, "channels": 3, "batch_size": 5, "chunk": 7, "device": "cpu"}
    problem = DenoiserWeights(**{"data": Blobs(), "box": Module(module or network()), **settings, **changed})
    if away:
        with torch.no_grad():
            last = problem.module.layers[-1].weight  # type: ignore[union-attr, index]
            last.copy_(0.1 * torch.randn(last.shape, generator=torch.Generator().manual_seed(1)))
    return problem


def tuned(problem: DenoiserWeights, budget: Budget, folder: Path | None = None, seed: int = 7) -> Result:
    estimator = CoordinateWise(1e-2, select=LayerShares(0.3, redraw=2))
    strategy = GradientStrategy(estimator, TorchOptimizer("Adam", 0.02, "constant"))
    if folder is None:
        return run(Session(strategy, problem.parameters(), seed), ObjectiveOracle(problem), budget)
    with closing(Journal(folder)) as journal:
        session = Session(strategy, problem.parameters(), seed, journal)
        return run(session, ObjectiveOracle(problem), budget, metrics=problem.metrics, checkpoint_every=2)


# The objective and its gradient


@pytest.mark.parametrize("task", ["classification", "reconstruction"])
def test_values_are_the_losses_of_the_box_at_denoised_images_against_its_clean_answers(task):
    module = network(64 if task == "reconstruction" else 3)
    problem, context = denoiser(module, task=task), Context(batch_seed=4)
    noisy, chosen = problem.inputs(context), problem._batch(context).chosen
    clean = problem.train_images[chosen]
    assert 0.15 < float((noisy - clean).std()) < 0.35
    with torch.no_grad():
        outputs, answers = module(problem.module(noisy)), module(clean)
    if task == "classification":
        expected = functional.cross_entropy(outputs, answers.argmax(1), reduction="none")
    else:
        expected = (outputs - answers).square().mean((1, 2, 3))
    torch.testing.assert_close(problem.values(context), expected)
    assert problem.cost(context) == {"examples": 5} and problem.cost(ALL_DATA) == {"examples": 36}
    assert torch.equal(problem.inputs(context), denoiser(seed=3).inputs(context))
    assert not torch.equal(problem.inputs(Context(batch_seed=5)), noisy)
    assert len(problem.values(ALL_DATA)) == 36 and len(problem.values(Context(indices=(3, 30)))) == 2


@pytest.mark.parametrize("task", ["classification", "reconstruction"])
@pytest.mark.parametrize("stencil", ["forward", "central"])
def test_coordinates_give_the_gradient_that_backpropagation_through_the_box_gives(task, stencil):
    module = network(64 if task == "reconstruction" else 3)
    problem, exact = denoiser(module, task=task), denoiser(module, task=task)
    before = problem.parameters().flat().double()
    strategy = GradientStrategy(CoordinateWise(1e-3, stencil), SGD(100.0))
    session = Session(strategy, problem.parameters(), 7)
    context = session.preview()[0].context
    run(session, ObjectiveOracle(problem), Budget(steps=1))
    found = (before - problem.parameters().flat().double()) / 100.0
    batch = exact._batch(context)
    targets = exact.stability.targets(batch.chosen, exact.device)
    loss = exact.stability.losses(module(exact.module(batch.noisy)), targets).mean()
    gradients = torch.autograd.grad(loss, list(exact.module.parameters()))
    gradient = torch.cat([g.flatten() for g in gradients]).double()
    names = [name for name, _ in exact.module.named_parameters()]
    assert names == [spec.name for spec in exact.parameters().layout.specs]
    assert float(gradient.norm()) > 1e-3
    assert torch.cosine_similarity(gradient, found, 0) > 0.999
    assert float(found.norm()) == pytest.approx(float(gradient.norm()), rel=1e-2)


def test_it_offers_its_layers_and_they_give_the_same_losses():
    problem, context = denoiser(), Context(batch_seed=7)
    assert isinstance(choose(problem), LayerAccess)
    parameters = problem.parameters()
    d = parameters.dimension
    probes = Probes(Coordinate(), (0, *range(d)), (0.0, *(1e-2 / d**0.5,) * d))
    queries = Queries(tuple(f"0.0.{i}" for i in range(d + 1)), probes, context=context)
    fast = LayerAccess().evaluate_together(problem, queries, parameters)
    slow = torch.stack(WriteFree().evaluate(problem, queries, parameters))  # type: ignore[arg-type]
    assert isinstance(fast, Tensor)
    torch.testing.assert_close(fast, slow.double(), rtol=0, atol=2e-6)
    forms = set(LayerAccess().forms(problem, parameters, context).values())
    assert forms == {"rank one", "one channel"}


def test_it_starts_as_the_identity_with_the_statistics_of_noisy_images():
    problem = denoiser(away=False)
    x = problem.inputs(ALL_DATA)
    assert torch.equal(problem.module(x), x)
    norms = [part for part in problem.module.modules() if isinstance(part, nn.BatchNorm2d)]
    outputs: list[Tensor] = []
    with norms[0].register_forward_hook(lambda *parts: outputs.append(parts[2])):
        problem.module(x)
    assert outputs[0].mean((0, 2, 3)).abs().max() < 0.1 and (outputs[0].std((0, 2, 3)) - 1).abs().max() < 0.1


def test_it_learns():
    problem = denoiser(batch_size=16, channels=4)
    before = float(problem.values(ALL_DATA).mean())
    noisy = problem.metrics()["noisy_accuracy"]
    assert tuned(problem, Budget(steps=60)).status is Status.STEPS
    assert float(problem.values(ALL_DATA).mean()) < 0.8 * before
    assert problem.metrics()["noisy_accuracy"] >= noisy


# What is asked


@pytest.mark.parametrize("estimator", ["coordinates", "directions"])
def test_what_was_spent_is_what_the_box_saw_without_the_metrics(estimator):
    module = network()
    problem = denoiser(module)
    chosen = CoordinateWise(1e-2) if estimator == "coordinates" else CentralDifference(epsilon=1e-2, probes=4)
    session = Session(GradientStrategy(chosen, SGD(0.1)), problem.parameters(), 7)
    seen = []

    def metrics() -> dict[str, float]:
        before = module.seen
        found = problem.metrics("validation")
        seen.append(module.seen - before)
        return found

    result = run(session, ObjectiveOracle(problem), Budget(steps=4), metrics=metrics, evaluate_every=2)
    assert sum(seen) == len(seen) * 2 * 4 and len(seen) >= 2  # four images, clean and noisy
    assert result.cost["images"] == module.seen - sum(seen) == problem.box.queries - sum(seen)
    each = problem.parameters().dimension + 1 if estimator == "coordinates" else 8
    assert result.cost["queries"] == 4 * each
    assert result.cost["examples"] == 4 * each * 5
    clean = {int(i) for step in range(4) for i in problem._batch(context_of(step)).chosen}
    assert result.cost["images"] == result.cost["examples"] + len(clean)


def context_of(step: int) -> Context:
    """The context of a step of the run with seed 7."""
    from blackbox.seeds import derive_seed

    return Context(batch_seed=derive_seed(7, "batch", step), reset_seed=derive_seed(7, "reset", step))


class Trap:
    """Labels that complain when they are touched."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the labels' {name} was read")

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("a label was read")


class Unlabelled(Blobs):
    @property
    def splits(self) -> dict[str, Split]:  # type: ignore[override]
        train, test = self.read()
        return {"train": Split(train.images, Trap()), "test": Split(test.images, Trap())}  # type: ignore[arg-type]


def test_no_training_reads_a_label_and_the_box_keeps_its_mode_and_weights():
    module = network().train()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    problem = denoiser(module, data=Unlabelled())
    assert tuned(problem, Budget(steps=3)).status is Status.STEPS
    assert all(part.training for part in module.modules())
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())
    assert all(weight.grad is None for weight in module.parameters())
    with pytest.raises(AssertionError, match="was read"):
        problem.metrics()


# Runs


def test_a_run_that_is_resumed_has_the_bits_of_one_that_never_stopped(tmp_path):
    whole, first, second = denoiser(), denoiser(), denoiser()
    tuned(whole, Budget(steps=7), tmp_path / "whole")
    tuned(first, Budget(steps=3), tmp_path / "cut")
    result = tuned(second, Budget(steps=7), tmp_path / "cut")
    assert result.steps == 7 and not torch.equal(first.parameters().flat(), whole.parameters().flat())
    assert torch.equal(second.parameters().flat(), whole.parameters().flat())


def test_a_box_that_fails_moves_nothing_and_the_run_says_why():
    module = network()
    problem = denoiser(module)
    tuned(problem, Budget(steps=1))
    before, module.broken = problem.parameters().flat().clone(), True
    result = tuned(problem, Budget(steps=2))
    assert result.status is Status.FAILURES and "no answer today" in result.reasons[0]
    assert torch.equal(problem.parameters().flat(), before)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"batch_size": 100}, r"batch_size: 1 to 36"),
        ({"chunk": 0}, "evaluated and chunk must be at least 1"),
        ({"depth": 1}, "a depth of 2 or more"),
        ({"task": "detection"}, "task is 'classification' or"),
        ({"denoiser": "blackbox.errors:UserError"}, "gave UserError, not a torch module"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_are_told(changed, message):
    with pytest.raises(UserError, match=message):
        denoiser(**changed)


def test_other_mistakes_are_told():
    with pytest.raises(UserError, match="there is no 'tests'"):
        denoiser().metrics("tests")
    image = denoiser(network(64), task="reconstruction")
    with pytest.raises(UserError, match="Only a classification can be certified"):
        image.smoothed_classifier(image.parameters())
    problem = denoiser()
    queries = Queries(("0.0.0",), Probes(Coordinate(), (0,), (0.1,)), context=Context(batch_seed=1))
    with pytest.raises(UserError, match="counts its cost itself"):
        Workers(problem={"type": "denoiser"}).evaluate(problem, queries, problem.parameters())


def test_the_configuration_runs_is_resumed_and_certified(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    configs = Path(__file__).parents[2] / "configs"
    for name in ("denoiser.yaml", "my_network.py"):
        shutil.copy(configs / name, tmp_path)

    def command(*words: str) -> int:
        with pytest.raises(SystemExit) as left:
            main(list(words))
        return int(left.value.code or 0)

    assert command("run", "denoiser.yaml", "--set", "budget.steps=20", "--set", "problem.evaluated=30") == 0
    assert command("run", "runs/denoiser", "--resume", "--set", "budget.steps=60") == 0
    record = load_run("runs/denoiser")
    values = [step["value"] for step in record.steps]
    assert len(values) == 60 and all(0 < value < 10 for value in values)
    options = ["--examples", "2", "--estimation", "100", "--radius", "0"]
    assert command("certify", "runs/denoiser", *options) == 0
    assert "2 examples, sigma 0.3" in capsys.readouterr().out
