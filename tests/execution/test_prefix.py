"""What a round's probes share is computed once; values and steps are those of whole forwards bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blackbox import Parameters, Session, Values
from blackbox.estimators import CentralDifference
from blackbox.execution import Execution, LowRankForward, Streaming, WriteFree
from blackbox.execution import prefix as prefix_module
from blackbox.noise import Blockwise, Gaussian, Law, LowRank, Rademacher
from blackbox.optimizers import SGD, Schedule
from blackbox.probe import Context, Query
from blackbox.strategies import GradientStrategy
from blackbox.testing.executions import central, values
from blackbox.testing.generators import seeded


class Block(nn.Module):
    """A residual block that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(8), nn.Linear(8, 8)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + torch.tanh(self.inner(self.norm(x)))


class Net(nn.Module):
    """An embedding, four blocks, a head; ``back``: the head reads the first block's output besides."""

    def __init__(self, back: bool, in_place: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(30, 8)
        self.blocks = nn.ModuleList([Block() for _ in range(4)])
        self.head = nn.Linear(8, 30)
        self.back, self.in_place = back, in_place

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        outputs = []
        for block in self.blocks:
            x = block(x)
            if self.in_place:
                x += 0.25  # amid what may be kept
            outputs.append(x)
        return self.head(x + outputs[0] if self.back else x).mean(1)


class Objective:
    def __init__(self, back: bool = False, in_place: bool = False, parts: int = 1) -> None:
        with seeded(0):
            self.net = Net(back, in_place).double().eval()
            self.ids = torch.randint(0, 30, (40, 5))
            self.labels = torch.randint(0, 30, (40,))
        self.module: nn.Module = self.net
        self.parts = parts

    def values(self, context: Context) -> Tensor:
        index = torch.arange(40) if context.batch_seed is None else torch.arange(8) + context.batch_seed % 32
        found = []
        for part in index.chunk(self.parts):
            found.append(nn.functional.cross_entropy(self.module(self.ids[part]), self.labels[part], reduction="none"))
        return torch.cat(found)

    def calls(self) -> list[int]:
        return [block.calls for block in self.net.blocks]  # type: ignore[misc]


class Unshared(WriteFree):
    """Write-free, every forward whole."""

    def __init__(self) -> None:
        super().__init__()
        self._prefix = NoPrefix()


class NoPrefix(prefix_module.SharedPrefix):
    def _undisplaced(self, *args: Any) -> frozenset[Any]:
        return frozenset()


def steps(
    execution: Execution, law: Law, trained: str | Sequence[str], contexts: Sequence[Context] = (), **kind: Any
) -> tuple[Tensor, list[bytes], list[int]]:
    """Where six steps end, all answers on the way, and how often each block was called."""
    objective, told = Objective(**kind), []
    parameters = Parameters.from_module(objective.module, trained)
    optimizer = SGD(0.05, Schedule("constant"), weight_decay=0.1)
    session = Session(GradientStrategy(CentralDifference(law, 1e-2, probes=2), optimizer), parameters)
    for number in range(6):
        queries = session.ask()
        if contexts:
            queries = [Query(q.id, q.candidate, context=contexts[number % len(contexts)]) for q in queries]
        found = values(execution.evaluate(objective, queries, parameters)).mean(1).numpy()
        told.append(found.tobytes())
        session.tell(Values(tuple(q.id for q in queries), found))
        session.advance()
    return parameters.flat(), told, objective.calls()


DATA = [Context(batch_seed=1), Context(batch_seed=2)]
TURNS = Blockwise(Gaussian(), ["tokens", r"blocks\.0", r"blocks\.2", "head"], period=1)


@pytest.mark.parametrize(("in_place", "parts"), [(False, 1), (True, 3)])
@pytest.mark.parametrize(
    ("law", "trained"),
    [(Rademacher(), r"blocks\.2"), (Gaussian(), "head"), (TURNS, "all"), (LowRank(), [r"blocks\.1", r"blocks\.3"])],
    ids=["third block", "head", "by turns", "two blocks"],
)
@pytest.mark.parametrize("execution", [WriteFree, LowRankForward])
def test_values_and_steps_are_those_of_whole_forwards_bit_for_bit(
    execution: type[WriteFree], law: Law, trained: Any, in_place: bool, parts: int
) -> None:
    whole = execution()
    whole._prefix = NoPrefix()
    truth = steps(whole, law, trained, DATA, in_place=in_place, parts=parts)
    shared = steps(execution(), law, trained, DATA, in_place=in_place, parts=parts)
    assert torch.equal(shared[0], truth[0])
    assert shared[1] == truth[1]
    assert sum(shared[2]) < 0.9 * sum(truth[2])


def test_blocks_before_the_first_displaced_one_run_once_a_round() -> None:
    """Six rounds of four probes on two batches; one forward more is whole, to try sharing out."""
    *_, calls = steps(WriteFree(), Rademacher(), r"blocks\.2", [*DATA, *(Context(batch_seed=s) for s in range(3, 7))])
    assert calls == [6 + 1, 6 + 1, 24 + 1, 24 + 1]
    *_, calls = steps(WriteFree(), Rademacher(), "head", [DATA[0]])  # the same data in every round: once for all
    assert calls == [1 + 1] * 4


def test_blocks_in_turn_share_what_lies_before_the_block_whose_turn_it_is() -> None:
    *_, calls = steps(WriteFree(), TURNS, "all", DATA)
    # tokens, block 0, block 2, head, tokens, block 0: only the third and fourth rounds have something to share
    assert calls == [4 * 4 + 2 * 2, 4 * 4 + 2 * 2, 5 * 4 + 1 + 2, 5 * 4 + 1 + 2]


@pytest.mark.parametrize("trained", ["all", "tokens", r"blocks\.0"])
def test_nothing_is_shared_where_all_comes_after_what_is_displaced(trained: str) -> None:
    execution = WriteFree()
    *_, calls = steps(execution, Rademacher(), trained, DATA)
    assert calls == [24] * 4
    assert execution.take_notes() == []


def test_a_model_that_looks_back_past_its_blocks_is_found_out() -> None:
    execution = WriteFree()
    truth, found = (steps(one, Rademacher(), r"blocks\.3", DATA, back=True) for one in (Unshared(), execution))
    assert torch.equal(found[0], truth[0])
    assert found[1] == truth[1]
    assert execution.take_notes() == []


def test_the_log_says_what_is_shared() -> None:
    execution = WriteFree()
    steps(execution, Rademacher(), r"blocks\.2", DATA)
    assert execution.take_notes() == ["the 2 blocks before the first that a probe displaces are computed once a round"]
    assert execution.take_notes() == []


def test_no_more_than_a_share_of_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five forwards that make up a value, two fit: the others are computed whole."""
    monkeypatch.setattr(prefix_module, "KEPT", 2 * 8 * 5 * 8 * 8)
    *_, calls = steps(WriteFree(), Rademacher(), "head", [Context()], parts=5)
    # kept; tried out, shared and whole; 22 values more
    assert calls == [5 + 3 + 5 + 22 * 3] * 4
    truth, found = (steps(e, Rademacher(), "head", [Context()], parts=5) for e in (Unshared(), WriteFree()))
    assert torch.equal(found[0], truth[0])


def test_an_anchor_is_evaluated_whole() -> None:
    found = []
    for execution in (Unshared(), WriteFree()):
        objective = Objective()
        parameters = Parameters.from_module(objective.module, [r"blocks\.1", r"blocks\.2"])
        parameters.take_anchor("start")
        parameters.raw["blocks.1.inner.weight"].mul_(1.1)
        law = Blockwise(Rademacher(), [r"blocks\.1", r"blocks\.2"])
        queries = [*central(law, (1 << 32,)), *central(law, (1 << 32,), "start"), *central(law, (1 << 32 | 5,))]
        found.append(values(execution.evaluate(objective, queries, parameters)))
    assert torch.equal(found[0], found[1])


def test_a_failed_forward_keeps_nothing() -> None:
    objective = Objective()
    parameters, execution = Parameters.from_module(objective.module, "head"), WriteFree()
    queries = central(Rademacher())

    def fail(module: nn.Module, args: object) -> None:
        raise RuntimeError

    hook = objective.net.head.register_forward_pre_hook(fail)
    assert [type(o) for o in execution.evaluate(objective, queries, parameters)] == [RuntimeError] * 5
    hook.remove()
    truth = values(Unshared().evaluate(objective, queries, parameters))
    assert torch.equal(values(execution.evaluate(objective, queries, parameters)), truth)
    assert "forward" not in vars(objective.module)


def test_inputs_that_depend_on_earlier_outputs_are_computed() -> None:
    """A second forward on what the first one said, as in generating text, differs from probe to probe."""

    spoken = set()

    class Generating(Objective):
        def values(self, context: Context) -> Tensor:
            said = self.module(self.ids[:8]).argmax(1)
            spoken.add(tuple(said.tolist()))
            ids = torch.cat([self.ids[:8], said[:, None]], 1)
            return nn.functional.cross_entropy(self.module(ids), self.labels[:8], reduction="none")

    found = []
    for execution in (Unshared(), WriteFree()):
        objective = Generating()
        parameters = Parameters.from_module(objective.module, "head")
        queries = [Query(str(i), probe.candidate) for i, probe in enumerate(central(Gaussian(), range(20)))]
        parameters.raw["head.weight"].mul_(0.01)  # so that what is said does change
        found.append(values(execution.evaluate(objective, queries, parameters)))
    assert torch.equal(found[0], found[1])
    assert len(spoken) > 1


@pytest.mark.parametrize("tuning", ["last-layer", ["*.layers.1.*"]], ids=str)
def test_a_language_model_shares_its_first_layer(tuning: Any) -> None:
    pytest.importorskip("transformers")
    from problems.llm.classification import Classification

    found, execution = [], WriteFree()
    for one in (Unshared(), Streaming("cpu", together=1), execution):
        problem = Classification(model="tiny", data="tiny", device="cpu", batch_size=12, micro_batch=8, tuning=tuning)
        asked = [Query(q.id, q.candidate, context=Context(batch_seed=3)) for q in central(Rademacher(), (1, 2))]
        found.append(values(one.evaluate(problem, asked, problem.parameters())))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert execution.take_notes() == ["the 1 blocks before the first that a probe displaces are computed once a round"]
