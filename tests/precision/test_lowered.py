"""Rounded layers against torch's casts; probes of rounded networks against networks that are written and rounded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from blackbox import Parameters, Session, Values
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference
from blackbox.execution import WriteFree
from blackbox.noise import Gaussian, Law, Rademacher
from blackbox.optimizers import SGD, Schedule
from blackbox.precision import FloatFormat, LowPrecision, lowered
from blackbox.probe import ALL_DATA, Context, Probe, Query
from blackbox.strategies import GradientStrategy
from blackbox.testing.executions import central, values
from blackbox.testing.generators import seeded
from blackbox.testing.models import TinyObjective


def e4m3(values: Tensor) -> Tensor:
    return values.to(torch.float8_e4m3fn).float()


@pytest.fixture
def layer() -> nn.Linear:
    with seeded(1):
        return nn.Linear(40, 6)


@pytest.fixture
def inputs() -> Tensor:
    return torch.linspace(-3, 3, 2 * 5 * 40).view(2, 5, 40) ** 3


@pytest.mark.parametrize("scale", ["none", "tensor", "row", "block"])
def test_operands_are_torchs_casts_under_their_scales(scale: str, layer: nn.Linear, inputs: Tensor) -> None:
    def rounded(t: Tensor) -> Tensor:
        match scale:
            case "none":
                return e4m3(t)
            case "tensor":
                s = t.abs().max() / 448
                return e4m3(t / s) * s
            case "row":
                s = t.abs().amax(-1, keepdim=True) / 448
                return e4m3(t / s) * s
            case _:  # 40 elements a row: blocks of 32 and of 8
                parts = []
                for part in (t[..., :32], t[..., 32:]):
                    s = part.abs().amax(-1, keepdim=True) / 448
                    parts.append(e4m3(part / s) * s)
                return torch.cat(parts, -1)

    precision = LowPrecision("e4m3", "e4m3", scale)  # type: ignore[arg-type]
    expected = nn.functional.linear(rounded(inputs), rounded(layer.weight), layer.bias)
    with torch.no_grad(), lowered(layer, precision):
        found = layer(inputs)
    assert torch.equal(found, expected)
    assert not torch.equal(found, layer(inputs))
    with torch.no_grad(), lowered(layer, LowPrecision("e4m3", None, scale)):  # type: ignore[arg-type]
        assert torch.equal(layer(inputs), nn.functional.linear(inputs, rounded(layer.weight), layer.bias))
    with torch.no_grad(), lowered(layer, LowPrecision(None, "e4m3", scale)):  # type: ignore[arg-type]
        assert torch.equal(layer(inputs), nn.functional.linear(rounded(inputs), layer.weight, layer.bias))


def test_scales_that_are_powers_of_two_cut_nothing_off() -> None:
    """As microscaling formats have them: 32 elements of e2m1 under one power of two."""
    precision = LowPrecision("e2m1", None, "block", power_of_two=True)
    values = torch.tensor([[6.0, 3.0, 0.5], [12.0, 1.0, 0.0], [12.5, 1.0, 4.0], [0.0, 0.0, 0.0]])
    found = precision.rounded(values, "e2m1")
    assert found.tolist() == [[6.0, 3.0, 0.5], [12.0, 1.0, 0.0], [12.0, 0.0, 4.0], [0.0, 0.0, 0.0]]


def test_a_convolutions_rows_are_its_output_channels_and_its_examples(inputs: Tensor) -> None:
    with seeded(2):
        conv = nn.Conv2d(2, 3, 3, padding=1)
    x = inputs.reshape(4, 2, 5, 10)
    precision = LowPrecision("e5m2", "e5m2")

    def rounded(t: Tensor) -> Tensor:
        s = t.flatten(1).abs().amax(-1).view(-1, 1, 1, 1) / 57344
        return (t / s).to(torch.float8_e5m2).float() * s

    with torch.no_grad(), lowered(nn.Sequential(conv), precision):
        found = conv(x)
    assert torch.equal(found, nn.functional.conv2d(rounded(x), rounded(conv.weight), conv.bias, padding=1))


def test_the_module_is_as_it_was_afterwards_also_after_a_failure() -> None:
    model = TinyObjective().module
    names, types = list(model.state_dict()), [type(m) for m in model.modules()]
    with lowered(model, LowPrecision()):
        assert list(model.state_dict()) == names
        assert [type(m) for m in model.modules()] != types
    with pytest.raises(RuntimeError, match="mat1"), lowered(model, LowPrecision()):
        model.hidden(torch.zeros(2, 3, dtype=torch.float64))  # type: ignore[operator]
    assert [type(m) for m in model.modules()] == types
    assert not any("_precision" in m.__dict__ for m in model.modules())


PRECISIONS = [
    LowPrecision("e4m3", "e4m3"),
    LowPrecision(FloatFormat(3, 1), None, "tensor"),
    LowPrecision("e2m1", "e4m3", "block", block=4, skip=["head"]),
]


@torch.no_grad()
def written(objective: TinyObjective, query: Query, precision: LowPrecision) -> Tensor:
    """A query's values: displaced weights are written out, and the whole network is rounded."""
    other = copy.deepcopy(objective)
    parameters = Parameters.from_module(other.module)
    for spec in parameters.layout.specs:
        flat = parameters.raw[spec.name].view(-1)
        for seed, c in query.candidate.terms if isinstance(query.candidate, Probe) else ():
            flat += c * query.candidate.law.sample((seed,), spec, 0, spec.numel)[0].to(flat.dtype)
    with lowered(other.module, precision):
        return other.values(query.context).double()


class Stacked(TinyObjective):
    """Offers several copies of a batch in one forward."""

    def stacked_values(self, context: Context, copies: int) -> Tensor:
        scores = self.module(self.tokens.repeat(copies, 1))
        return nn.functional.cross_entropy(scores, self.targets.repeat(copies), reduction="none").view(copies, -1)


@pytest.mark.parametrize("precision", PRECISIONS, ids=["8 bits", "5 bits", "blocks"])
@pytest.mark.parametrize("stacked", [False, True])
def test_a_probe_is_the_rounded_network_at_the_displaced_weights(precision: LowPrecision, stacked: bool) -> None:
    objective = Stacked(torch.float32)
    parameters = Parameters.from_module(objective.module)
    before = parameters.flat()
    queries = central(Rademacher(), (1, 2))
    found = values(WriteFree(stacked, precision).evaluate(objective, queries, parameters))
    for query, value in zip(queries, found, strict=True):
        torch.testing.assert_close(value, written(objective, query, precision), rtol=0, atol=1e-6)
    plain = values(WriteFree().evaluate(objective, queries, parameters))
    assert (plain - found).abs().max() > 1e-3
    assert torch.equal(parameters.flat(), before)  # the master copy is float32 and isn't rounded


@pytest.mark.parametrize("law", [Rademacher(), Gaussian()], ids=["signs", "gaussian"])
def test_descent_through_roundings_lowers_the_rounded_networks_loss(law: Law) -> None:
    objective, precision = TinyObjective(torch.float32), LowPrecision("e2m1", "e4m3")
    parameters, execution = Parameters.from_module(objective.module), WriteFree(precision=precision)
    session = Session(GradientStrategy(CentralDifference(law, 0.05, 4), SGD(0.02, Schedule("constant"))), parameters)

    def loss() -> float:
        with torch.no_grad(), lowered(objective.module, precision):
            return float(objective.values(ALL_DATA).mean())

    before = loss()
    for _ in range(60):
        queries = session.ask()
        told = values(execution.evaluate(objective, queries, parameters)).mean(1).numpy()
        session.tell(Values(tuple(q.id for q in queries), told))
        session.advance()
    assert loss() < 0.8 * before


def test_settings_name_the_precision_so_that_a_run_isnt_resumed_in_another() -> None:
    assert "precision" not in WriteFree().settings()
    assert WriteFree(precision=PRECISIONS[0]).settings() != WriteFree(precision=PRECISIONS[1]).settings()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": "fp8"}, "no format 'fp8'"),
        ({"weights": None}, "nothing is rounded"),
        ({"scale": "column"}, "none, tensor, row or block"),
        ({"block": 0}, "at least 1"),
    ],
)
def test_mistakes_are_told(arguments: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        LowPrecision(**arguments)


def test_layers_that_arent_there_are_told_with_those_that_are() -> None:
    model = TinyObjective().module
    with (
        pytest.raises(UserError, match=r"no layer is meant.*'hidden', 'head'"),
        lowered(model, LowPrecision(layers=["q"])),
    ):
        pass
    model.hidden.forward = lambda x: x  # type: ignore[method-assign, assignment]
    with pytest.raises(UserError, match="'hidden' has had its forward replaced"), lowered(model, LowPrecision()):
        pass
