"""Training image classifiers from scratch: the objective, its layers, and the first-order baseline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from blackbox.budget import Budget
from blackbox.errors import UserError
from blackbox.estimators import CoordinateWise
from blackbox.estimators.base import Round
from blackbox.estimators.layer_shares import LayerShares
from blackbox.execution import LayerAccess, WriteFree, choose
from blackbox.noise import Coordinate
from blackbox.objective import LayeredObjective
from blackbox.optimizers import TorchOptimizer
from blackbox.probe import ALL_DATA, Context, Probes, Queries
from blackbox.run import run
from blackbox.seeds import derive_seed
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from oracles import ObjectiveOracle
from problems.training import ImageClassification, first_order
from problems.training.baselines import descent

pytest.importorskip("sklearn")


def small(**settings: object) -> ImageClassification:
    given = {"widths": (3, 4), "batch_size": 16, "dtype": "float64", **settings}
    return ImageClassification(**given)  # type: ignore[arg-type]


def test_values_are_the_cross_entropy_of_the_images_of_a_context() -> None:
    problem = small()
    context = Context(indices=(5, 0, 7))
    x, y = problem.inputs(context), problem.targets(context)  # type: ignore[misc]
    scores = problem.module(x).detach()
    expected = scores.logsumexp(1) - scores[torch.arange(3), y]
    torch.testing.assert_close(problem.values(context).detach(), expected, rtol=0, atol=1e-12)
    assert problem.cost(context) == {"examples": 3}
    assert problem.cost(Context(4)) == {"examples": 16}
    assert problem.cost(ALL_DATA) == {"examples": problem.examples}


def test_it_offers_its_layers_and_they_give_the_same_losses() -> None:
    problem = small()
    assert isinstance(problem, LayeredObjective)
    assert isinstance(choose(problem), LayerAccess)
    parameters = problem.parameters()
    d = parameters.dimension
    probes = Probes(Coordinate(), (0, *range(d)), (0.0, *(1e-2 / d**0.5,) * d))
    queries = Queries(tuple(f"0.0.{i}" for i in range(d + 1)), probes, context=Context(7))
    fast = LayerAccess().evaluate_together(problem, queries, parameters)
    slow = torch.stack(WriteFree().evaluate(problem, queries, parameters))  # type: ignore[arg-type]
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-13)
    forms = LayerAccess().forms(problem, parameters, Context(7))
    assert forms["8.weight"] == "closed form"


def test_a_batch_seed_names_a_batch() -> None:
    problem, again = small(augment="crop-flip"), small(augment="crop-flip")
    one, other = problem.inputs(Context(1)), problem.inputs(Context(2))
    assert not torch.equal(one, other)
    assert torch.equal(one, again.inputs(Context(1)))
    assert torch.equal(problem.inputs(Context(1)), one)  # asked for another batch in between
    assert len(one) == 16
    assert torch.equal(problem.inputs(ALL_DATA), small().inputs(ALL_DATA))  # no augmentation without a batch seed


def test_accuracy_has_steps_instead_of_slopes() -> None:
    problem = small(objective="accuracy")
    plain = small()
    values = problem.values(ALL_DATA)
    assert set(values.tolist()) <= {0.0, 1.0}
    assert 1 - float(values.double().mean()) == pytest.approx(plain.metrics("train")["accuracy"])
    assert problem.targets is None
    with pytest.raises(UserError, match="derivative"):
        first_order(problem)
    # Without targets the last layer has no closed form, which is for cross-entropy alone.
    assert LayerAccess().forms(problem, problem.parameters(), ALL_DATA)["8.weight"] == "rank one"


def test_coordinates_go_where_backpropagation_goes_on_the_same_batches() -> None:
    problem, exact = small(seed=3), small(seed=3)
    start = problem.parameters().flat()
    strategy = GradientStrategy(CoordinateWise(1e-6), TorchOptimizer("SGD", 0.1, "cosine", options={"momentum": 0.9}))
    run(Session(strategy, problem.parameters(), 11), ObjectiveOracle(problem), Budget(steps=6))
    found = first_order(exact, 6, "SGD", 0.1, "cosine", {"momentum": 0.9}, seed=11)
    there = exact.parameters().flat()
    torch.testing.assert_close(problem.parameters().flat(), there, rtol=0, atol=1e-5)
    assert float((there - start).abs().max()) > 0.05
    assert found["examples_seen"] == 6 * 16
    assert found["accuracy"] == exact.metrics("test")["accuracy"]


def test_masked_coordinates_go_where_masked_backpropagation_goes() -> None:
    problem, exact = small(seed=3), small(seed=3)
    start, layout = problem.parameters().flat(), problem.parameters().layout
    select = LayerShares(0.3, redraw=2)
    strategy = GradientStrategy(CoordinateWise(1e-6, select=select), TorchOptimizer("SGD", 0.1, "cosine"))
    session = Session(strategy, problem.parameters(), 11)
    run(session, ObjectiveOracle(problem), Budget(steps=6))

    def mask(step: int) -> torch.Tensor:
        chosen = select.choose(Round(step, step, 11, ALL_DATA, layout), layout.dimension).places
        return torch.zeros(layout.dimension, dtype=torch.float64).index_fill_(0, torch.from_numpy(chosen), 1.0)

    assert len(list(descent(exact, 6, "SGD", 0.1, seed=11, mask=mask))) == 6
    torch.testing.assert_close(problem.parameters().flat(), exact.parameters().flat(), rtol=0, atol=1e-5)
    moved = (exact.parameters().flat() != start).double().mean()
    assert 0.3 < moved < 0.95  # three masks


def test_a_descent_that_begins_later_sees_the_later_batches() -> None:
    problem, seed = small(seed=3), 11
    context = Context(derive_seed(seed, "batch", 4), None, derive_seed(seed, "reset", 4))
    expected = float(problem.values(context).mean().detach())
    losses = list(descent(problem, 6, "SGD", 0.1, seed=seed, first=4))
    assert losses[0] == pytest.approx(expected, abs=1e-12) and len(losses) == 2


def test_splits_and_weights_are_those_of_the_seed() -> None:
    one, same, other = small(), small(), small(seed=1)
    assert torch.equal(one.parameters().flat(), same.parameters().flat())
    assert not torch.equal(one.parameters().flat(), other.parameters().flat())
    assert one.examples == 1438 - 144  # 1,797 less a fifth, less a tenth of the rest
    assert not torch.equal(one.inputs(ALL_DATA), other.inputs(ALL_DATA))
    for split in ("train", "validation", "test"):
        facts = one.metrics(split)
        assert set(facts) == {"accuracy", "cross_entropy"}
        assert 0 <= facts["accuracy"] <= 1


def test_residual_network_has_frozen_norms_that_fit_its_first_weights(tmp_path: Path) -> None:
    pixels = np.random.Generator(np.random.Philox(0)).integers(0, 256, (40, 32, 32, 3), np.uint8)
    labels = np.arange(40, dtype=np.uint8) % 10
    file = tmp_path / "images.npz"
    np.savez(file, train_images=pixels, train_labels=labels, test_images=pixels[:10], test_labels=labels[:10])
    problem = ImageClassification(str(file), "resnet20", batch_size=8)
    assert problem.parameters().dimension == 269_722
    outputs: list[torch.Tensor] = []
    norms = [part for part in problem.module.modules() if isinstance(part, nn.BatchNorm2d)]
    assert not any(part.training for part in problem.module.modules())
    handle = norms[0].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        problem.module(problem.inputs(ALL_DATA))
    handle.remove()
    assert outputs[0].mean((0, 2, 3)).abs().max() < 1e-4
    assert (outputs[0].var((0, 2, 3)) - 1).abs().max() < 1e-3
    group = ImageClassification(str(file), "resnet20", norm="group", batch_size=8)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in group.module.modules())
    with pytest.raises(UserError, match="3 channels"):
        small(network="resnet20")


def test_another_process_can_build_it_from_its_recipe() -> None:
    problem = small(augment="crop", seed=4)
    arguments = {key: value for key, value in problem.recipe.items() if key != "type"}
    twin = ImageClassification(**arguments)
    assert problem.recipe["type"] == "problems.training.problem:ImageClassification"
    assert torch.equal(problem.parameters().flat(), twin.parameters().flat())
    assert torch.equal(problem.inputs(Context(9)), twin.inputs(Context(9)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"network": "transformer"}, "network"),
        ({"widths": ()}, "widths"),
        ({"widths": (3, 0)}, "widths"),
        ({"examples": 1}, "examples"),
        ({"validation": 1.0}, "validation"),
        ({"validation": 1e-9}, "leaves a split empty"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 5000}, "batch_size"),
        ({"augment": "rotate"}, "augment"),
        ({"objective": "hinge"}, "objective"),
        ({"norm": "layer"}, "norm"),
        ({"data": "nowhere"}, "no folder"),
    ],
)
def test_what_is_wrong_is_said(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        small(**settings)


def test_wrong_baselines_and_splits_are_said() -> None:
    with pytest.raises(UserError, match="steps"):
        first_order(small(), 0)
    with pytest.raises(UserError, match="no optimizer 'Sgd'"):
        first_order(small(), 1, "Sgd")
    with pytest.raises(UserError, match="train, validation, test"):
        small().metrics("dev")
