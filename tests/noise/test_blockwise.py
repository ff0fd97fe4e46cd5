from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from blackbox import Parameters, Session, Values
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference
from blackbox.execution import Execution, InPlace, LowRankForward, WriteFree
from blackbox.layout import Layout
from blackbox.noise import Blockwise, Gaussian, Law, LowRank, Rademacher, Sphere
from blackbox.optimizers import SGD, Schedule
from blackbox.strategies import GradientStrategy
from blackbox.testing.executions import values
from blackbox.testing.models import TinyObjective
from blackbox.testing.noise import NoiseSuite


class TestBlockwise(NoiseSuite):
    @pytest.fixture
    def law(self) -> Law:
        return Blockwise(Gaussian(), ["head|a", "body|b"])

    def second_moment(self, law: Law, layout: Layout) -> Tensor:
        """Over seeds that weren't made for a step, each block comes up half of the time."""
        return torch.eye(layout.dimension, dtype=torch.float64) / 2


BLOCKS = ["embed", "hidden"]


@pytest.mark.parametrize("execution", [WriteFree(), InPlace(), LowRankForward()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("over", [Rademacher(), LowRank()], ids=str)
def test_blocks_move_in_turn_and_no_other_tensor_ever(execution: Execution, over: Law) -> None:
    objective = TinyObjective()
    parameters = Parameters.from_module(objective.module)
    law = Blockwise(over, BLOCKS, period=2)
    session = Session(GradientStrategy(CentralDifference(law, 1e-2), SGD(0.1, Schedule("constant"))), parameters)
    moved = []
    for _ in range(8):
        before = {name: tensor.clone() for name, tensor in parameters.tensors.items()}
        queries = session.ask()
        told = values(execution.evaluate(objective, queries, parameters)).mean(1).numpy()
        session.tell(Values(tuple(q.id for q in queries), told))
        session.advance()
        after = parameters.tensors
        moved.append({name.split(".")[0] for name in before if (after[name] - before[name]).abs().max() > 1e-12})
    assert moved == [{"embed"}] * 2 + [{"hidden"}] * 2 + [{"embed"}] * 2 + [{"hidden"}] * 2


def test_directions_within_a_block_are_its_own_in_every_turn() -> None:
    law, spec = Blockwise(Rademacher(), ["a", "b"]), Layout.of({"a": (64,)}).specs[0]
    seeds = [law.of_round((5,), 1, step)[0] for step in (0, 2, 4)]
    noise = law.sample(seeds, spec, 0, 64)
    assert np.linalg.matrix_rank(noise.numpy()) == 3
    assert not law.sample(law.of_round((5,), 1, 1), spec, 0, 64).any()
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"blocks": []}, "list of regular expressions"),
        ({"blocks": "embed"}, "list of regular expressions"),
        ({"period": 0}, "period"),
        ({"over": Sphere()}, "normalised"),
        ({"over": LowRank(refresh=2)}, "keeps something"),
    ],
)
def test_mistakes_are_told(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Blockwise(**({"over": Rademacher(), "blocks": ["a"]} | arguments))


def test_a_block_without_tensors_is_found_when_the_run_begins() -> None:
    parameters = Parameters.from_module(TinyObjective().module)
    strategy = GradientStrategy(CentralDifference(Blockwise(Rademacher(), ["embed", "attention"])), SGD(0.1))
    with pytest.raises(UserError, match="no tensor is left for 'attention'"):
        Session(strategy, parameters)
