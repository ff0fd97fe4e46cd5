"""Seconds of steps with low-rank noise over as many bare forwards of the same sequences.

Sides, all on the same inputs and the same path through the model (hidden states, then the two answer words' rows):

    floor           bare forwards, nothing displaced
    write-free      dense Rademacher noise, MeZO's step
    low-rank        rank 1 and 4, V new in each step and kept for 50, the pair one by one and in one forward; held:
                    steps stay in factors while V is kept
    population      16 members (8 pairs) of rank 1 in one forward, over one bare forward of as many sequences

The model is a random Llama of 16M parameters, or with --smollm2 SmolLM2-135M.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.harness import alternate, arguments, finish, machine, median
from benchmarks.step_cost import EPSILON, LR, FixedBatch, floor
from blackbox.estimators import CentralDifference
from blackbox.execution import Execution, LowRankForward, WriteFree
from blackbox.memory import keep_freed_memory
from blackbox.noise import Law, LowRank, Rademacher
from blackbox.optimizers import SGD
from blackbox.parameters import Parameters
from blackbox.probe import Context
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from oracles.objective import ObjectiveOracle
from problems.llm.scoring import OptionScorer

VOCABULARY = 8192


class RandomBatch(FixedBatch):
    """As its base, of a random model that needs no weights."""

    def __init__(self, batch: int, length: int) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=7,
            num_attention_heads=6,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.module = OptionScorer(LlamaForCausalLM(config), [[5], [6]]).eval()
        self.autocast = False
        self.resize(batch, length)
        self.tokens %= VOCABULARY


def step_of(problem: FixedBatch, execution: Execution, law: Law, probes: int = 1) -> Callable[[], None]:
    """A step of the engine."""
    parameters = Parameters.from_module(problem.module)
    session = Session(GradientStrategy(CentralDifference(law, EPSILON, probes), SGD(LR)), parameters)
    oracle = ObjectiveOracle(problem, execution)

    def step() -> None:
        oracle.submit(session.ask(), parameters)
        for feedback in oracle.poll():
            session.tell(feedback)
        session.advance()

    return step


SIDES: dict[str, tuple[Law, Callable[[], Execution]]] = {
    "write-free": (Rademacher(), WriteFree),
    "rank 1": (LowRank(), LowRankForward),
    "rank 1, stacked": (LowRank(), lambda: LowRankForward(copies=2)),
    "rank 1, V kept, stacked": (LowRank(refresh=50), lambda: LowRankForward(copies=2)),
    "rank 1, V kept, held, stacked": (LowRank(refresh=50), lambda: LowRankForward(copies=2, hold=True)),
    "rank 4, stacked": (LowRank(4), lambda: LowRankForward(copies=2)),
}
MEMBERS, EXAMPLES = 16, 8


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--smollm2", action="store_true", help="SmolLM2-135M rather than a random model")
    options = parser.parse_args()
    keep_freed_memory()
    rounds = 5 if options.quick else 11
    print(f"low_rank on {machine()}")
    make = (lambda *size: FixedBatch(*size, False)) if options.smollm2 else RandomBatch
    problem = make(16, 40)
    sides = {"floor": floor(problem)} | {
        name: step_of(problem, execution(), law) for name, (law, execution) in SIDES.items()
    }
    ratios = _ratios(sides, rounds)

    population = make(EXAMPLES, 40)
    bare = torch.no_grad()(lambda: population.stacked_values(Context(), MEMBERS).tolist())
    members = step_of(population, LowRankForward(copies=MEMBERS), LowRank(), MEMBERS // 2)
    ratios["population"] = _ratios({"floor": bare, "members": members}, rounds)["members"]
    finish({name.replace(", ", " ").replace(" ", "_").lower(): ratio for name, ratio in ratios.items()})


def _ratios(sides: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median over rounds of each side's time over the floor's in the same round."""
    for _ in range(2):  # what is compiled and tried out once
        for side in sides.values():
            side()
    seconds = alternate(sides, rounds, warmup=0)
    print(f"    floor {median(seconds['floor']):.3f} s")
    ratios = {}
    for name in [name for name in sides if name != "floor"]:
        each = [s / f for s, f in zip(seconds[name], seconds["floor"], strict=True)]
        ratios[name] = median(each)
        print(f"    {name:26} x{ratios[name]:.3f} ({min(each):.3f} to {max(each):.3f})", flush=True)
    return ratios


if __name__ == "__main__":
    main()
