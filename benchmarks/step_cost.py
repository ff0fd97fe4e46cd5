"""Seconds of a MeZO step over two bare forwards, on SmolLM2-135M with all parameters tuned.

Sides, all on the same inputs and the same path through the model (hidden states, then the two answer words' rows):

    floor       two forwards, nothing displaced
    textbook    MeZO as published: four eager passes (+eps, -2 eps, +eps, update) with torch.randn
    write-free, in-place    ours, Rademacher and Gaussian, through strategy, session and oracle
    stacked     write-free with both probes in one forward

Then those of ``benchmarks.low_rank`` on the same model, and what ``benchmarks.streaming`` holds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import torch

from benchmarks import low_rank, streaming
from benchmarks.harness import alternate, arguments, finish, machine, median
from benchmarks.model_steps import EPSILON, LR, FixedBatch, floor, ours
from blackbox.execution import Execution, InPlace, WriteFree
from blackbox.memory import PeakMemory, keep_freed_memory
from blackbox.noise import Gaussian, Law, Rademacher
from blackbox.probe import Context


def textbook(problem: FixedBatch) -> Callable[[], None]:
    """MeZO's own loop, arXiv:2305.17333, as in its released trainer."""
    parameters = list(problem.module.parameters())

    def perturb(seed: int, scale: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        for p in parameters:
            p.data = p.data + scale * torch.randn(p.shape, generator=generator)

    count = [0]

    def step() -> None:
        count[0] += 1
        perturb(count[0], EPSILON)
        up = problem.values(Context()).mean().item()
        perturb(count[0], -2 * EPSILON)
        down = problem.values(Context()).mean().item()
        perturb(count[0], EPSILON)
        perturb(count[0], -LR * (up - down) / (2 * EPSILON))

    return step


EXECUTIONS: dict[str, Callable[[], Execution]] = {
    "write-free": WriteFree,
    "stacked": lambda: WriteFree(stacked=True),
    "in-place": InPlace,
}
LAWS: dict[str, Law] = {"rademacher": Rademacher(), "gaussian": Gaussian()}
ALL = [f"{execution} {law}" for law in LAWS for execution in EXECUTIONS]
QUICK = ["write-free rademacher", "in-place rademacher", "stacked gaussian"]
STEPS_A_BLOCK = 3


def time_case(problem: FixedBatch, names: list[str], rounds: int, steps: int) -> dict[str, float]:
    """Median over rounds of each side's time over the floor's in the same round."""
    sides = {"floor": floor(problem)}
    for name in names:
        execution, law = name.split()
        sides[name] = ours(problem, EXECUTIONS[execution](), LAWS[law])
    blocks = {name: _block(step, steps) for name, step in sides.items()}
    for name in names:
        for _ in range(max(1, 3 - steps)):  # the first two steps compile; the floor only warms the allocator up
            blocks[name]()
    sides["floor"]()
    seconds = alternate(blocks, rounds, warmup=0)
    ratios = {n: median([s / f for s, f in zip(seconds[n], seconds["floor"], strict=True)]) for n in names}
    # Reassigning .data, as its loop does, would part the other sides from their tensors: it goes last.
    quick = rounds == 1
    last = {"textbook": textbook(problem)} if quick else {"floor": floor(problem), "textbook": textbook(problem)}
    more = alternate(last, max(1, rounds // 2), warmup=0 if quick else 1)
    ratios["textbook"] = median(more["textbook"]) / median(more.get("floor", [s / steps for s in seconds["floor"]]))
    told = "  ".join(f"{name} x{ratio:.3f}" for name, ratio in ratios.items())
    print(f"    floor {median(seconds['floor']) / steps:.3f} s  {told}", flush=True)
    return ratios


def _block(step: Callable[[], None], steps: int) -> Callable[[], None]:
    # Sides that defer work to their next step (merged updates) must run several in a row to pay for it.
    def run() -> None:
        for _ in range(steps):
            step()

    return run


def peak_memory(sides: tuple[str, ...]) -> dict[str, float]:
    """Peak resident memory in MiB of a fresh process in warmed-up steps of each side."""
    command = [sys.executable, "-m", "benchmarks.step_cost", "--memory-of"]
    # Together: memory, unlike time, does not depend on who else is running.
    patient = os.environ | {"OMP_WAIT_POLICY": "passive"}  # threads that wait for each other let others run
    running = {
        side: subprocess.Popen([*command, side], stdout=subprocess.PIPE, text=True, env=patient) for side in sides
    }
    return {
        side: float(json.loads(process.communicate()[0].splitlines()[-1])["mib"]) for side, process in running.items()
    }


def _memory_of(side: str) -> None:
    problem = FixedBatch(16, 40, False)
    if side == "floor":
        # One compiled kernel, so that the compiler's own memory is on both sides.
        torch.compile(lambda x: x * 2 + 1, dynamic=True)(torch.ones(1 << 15))
        step = floor(problem)
    else:
        step = ours(problem, WriteFree() if side == "write-free" else InPlace(), Rademacher())
    for _ in range(2):
        step()  # compiles
    memory = PeakMemory(torch.device("cpu"))  # from here on: loading and compiling peak higher than any step
    step()
    finish({"mib": memory.read() / 2**20})


def low_rank_figures(quick: bool) -> dict[str, float]:
    """Low-rank steps, V new in each, over two forwards; and a population's sequences a second over bare inference's.

    ``quick`` leaves all but rank 1 in float32 out: updates of bfloat16 weights by 16 members take minutes.
    """
    figures: dict[str, float] = {}
    rounds, ranks = (1, (1,)) if quick else (9, (1, 2, 3, 4))
    cases = {"low_rank_over_floor": False} | ({} if quick else {"low_rank_autocast_over_floor": True})
    for key, autocast in cases.items():
        print(f"  low-rank noise, {'bfloat16 autocast' if autocast else 'float32'}, 16 x 40")
        ratios = low_rank.pairs(FixedBatch(16, 40, autocast), [f"rank {rank}, stacked" for rank in ranks], rounds)
        figures[key] = max(ratios.values())
        figures |= {f"{key}_rank_{rank}": ratio for rank, ratio in zip(ranks, ratios.values(), strict=True)}
    for dtype in () if quick else ("float32", "bfloat16"):
        print(f"  population, {dtype} weights, {low_rank.MEMBERS} members x {low_rank.EXAMPLES} sequences of 40")
        over = low_rank.population(FixedBatch(low_rank.EXAMPLES, 40, dtype=dtype), 7)
        suffix = "" if dtype == "float32" else "_bfloat16"
        figures[f"population_throughput_over_inference{suffix}"] = 1 / min(over.values())
    return figures


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--memory-of", choices=["floor", "write-free", "in-place"], help="internal")
    parser.add_argument("--turns", type=int, help="turns of every side in the headline case")
    options = parser.parse_args()
    keep_freed_memory()  # of all sides alike, as `blackbox run` does
    if options.memory_of:
        _memory_of(options.memory_of)
        return
    print(f"step_cost on {machine()}")
    problem = FixedBatch(16, 40, False)
    print("  float32, 16 x 40")
    if options.quick:
        headline = time_case(problem, QUICK, options.turns or 1, 1)
    else:
        headline = time_case(problem, ALL, options.turns or 7, STEPS_A_BLOCK)
    cases = [(True, 40)] if options.quick else [(False, 128), (True, 40), (True, 128)]
    for autocast, length in cases:
        problem = FixedBatch(16, length, autocast)
        print(f"  {'bfloat16 autocast' if autocast else 'float32'}, 16 x {length}")
        ratios = time_case(
            problem, QUICK if options.quick else ALL, 1 if options.quick else 5, 1 if options.quick else 3
        )
        if (autocast, length) == (True, 40):
            autocast_best = min(r for side, r in ratios.items() if side.endswith("rademacher"))
    del problem
    figures = low_rank_figures(options.quick)
    streamed = streaming.peak("streaming", *streaming.SIZES[options.quick])
    figures["streaming_peak_over_largest_block"] = streamed["more"] / streamed["largest"]
    memory = peak_memory(("floor", "write-free"))
    print("  peak memory, MiB: " + ", ".join(f"{side} {mib:.0f}" for side, mib in memory.items()))
    finish(
        {
            "textbook_over_floor": headline["textbook"],
            "rademacher_over_floor": min(r for side, r in headline.items() if side.endswith("rademacher")),
            "gaussian_over_floor": min(r for side, r in headline.items() if side.endswith("gaussian")),
            "write_free_over_floor": headline["write-free rademacher"],
            "peak_memory_over_forward": memory["write-free"] / memory["floor"],
            "rademacher_autocast_over_floor": autocast_best,
            **figures,
        }
    )


if __name__ == "__main__":
    main()
