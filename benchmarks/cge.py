"""Coordinate-wise gradients of whole networks: layer access against per-coordinate forwards with block reuse.

The other side is what DeepZero's released code does (arXiv:2310.02025, section 4): a coordinate is moved, and the
forward restarts at the basic block that holds it, from that block's cached input. It is timed on a random sample of
coordinates of each tensor and scaled up. Layer access is timed on all coordinates of a few output channels of each
tensor, which is the unit it works in, and scaled up too (``--channels 0``: all of them, an hour). Both sides use the
same images, in one process, in turns; processor time counts, medians of three turns.

Node perturbation is another estimate from fewer questions: the weights of the last convolution by its displaced
outputs, against all its coordinates by layer access.

    python -m benchmarks.cge [--quick] [--weights resnet20_cifar10.safetensors --images cifar10_subset.npz]

Without files, the network has seeded weights and the images are noise.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import arguments, finish, machine, median
from blackbox.execution import LayerAccess, WriteFree
from blackbox.execution.layers.nodes import NodeAccess
from blackbox.memory import keep_freed_memory
from blackbox.noise import Coordinate
from blackbox.parameters import Parameters
from blackbox.probe import ALL_DATA, Context, Probes, Queries
from problems.training.networks import ResNet20, load, perceptron, seeded, small_cnn

EPSILON = 5e-3


class Images:
    """Cross-entropy of a network on fixed images; offers its layers."""

    def __init__(self, module: nn.Module, x: Tensor, y: Tensor) -> None:
        self.module, self.x, self.y = module.eval(), x, y

    def inputs(self, context: Context) -> Tensor:
        return self.x

    def targets(self, context: Context) -> Tensor:
        return self.y

    def losses(self, outputs: Tensor, context: Context) -> Tensor:
        return F.cross_entropy(outputs.movedim(2, 1), self.y.expand(outputs.shape[:2]), reduction="none")

    def values(self, context: Context) -> Tensor:
        return self.losses(self.module(self.x)[None], context)[0]


def data(path: Path | None, count: int) -> tuple[Tensor, Tensor]:
    """Images [count, 3, 32, 32], normalised, and labels."""
    if path is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, 3, 32, 32, generator=generator), torch.arange(count) % 10
    with np.load(path) as file:
        images, labels = file["test_images"][:count], file["test_labels"][:count]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (torch.from_numpy(images).float() / 255 - mean) / deviation
    return x.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels).long()


def queries_of(parameters: Parameters, coordinates: np.ndarray[Any, Any], epsilon: float = EPSILON) -> Queries:
    """x + epsilon e_i for these coordinates, after x itself."""
    scaled = epsilon / parameters.dimension**0.5
    probes = Probes(Coordinate(), (0, *coordinates.tolist()), (0.0, *(scaled,) * len(coordinates)))
    return Queries(tuple(f"0.0.{i}" for i in range(len(coordinates) + 1)), probes)


def gradient(execution: Any, objective: Images, parameters: Parameters, coordinates: np.ndarray[Any, Any]) -> Tensor:
    """Forward differences along coordinates, float64 [n]."""
    found = execution.evaluate_together(objective, queries_of(parameters, coordinates), parameters)
    values = (found if isinstance(found, Tensor) else torch.stack(found)).double().mean(1)
    return (values[1:] - values[0]) / EPSILON


def autograd(objective: Images) -> Tensor:
    """The gradient of the mean loss, float64 [d]."""
    objective.module.zero_grad()
    with torch.enable_grad():
        objective.values(ALL_DATA).mean().backward()
    grads = [p.grad.detach().reshape(-1).double() for p in objective.module.parameters() if p.grad is not None]
    return torch.cat(grads)


def agreement() -> dict[str, float]:
    """Small nets in float64: cosine with autograd, and the largest difference from plain forwards."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(16, 1, 8, 8, generator=generator).double(), torch.arange(16) % 10
    cosines, off = [], 0.0
    for make in (lambda: small_cnn((4, 8), (1, 8, 8)), lambda: perceptron((16, 12), (1, 8, 8))):
        objective = Images(seeded(make, 0).double(), x, y)
        parameters = Parameters.from_module(objective.module)
        every = np.arange(parameters.dimension)
        fast = gradient(LayerAccess(), objective, parameters, every)
        slow = gradient(WriteFree(), objective, parameters, every)
        cosines.append(float(torch.cosine_similarity(fast, autograd(objective), dim=0)))
        off = max(off, float((fast - slow).abs().max()))
    return {"cosine": min(cosines), "off": off}


class BlockReuse:
    """The other side: blocks that follow each other, and the cached input of each."""

    def __init__(self, objective: Images) -> None:
        net: Any = objective.module
        self.objective = objective
        self.blocks: list[tuple[str, Any]] = [("conv1 bn1", lambda x: F.relu(net.bn1(net.conv1(x))))]
        for stage in ("layer1", "layer2", "layer3"):
            self.blocks += [(f"{stage}.{i}", block) for i, block in enumerate(getattr(net, stage))]
        self.blocks.append(("linear", lambda x: net.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))))
        self.inputs = [objective.x]
        for _, block in self.blocks:
            self.inputs.append(block(self.inputs[-1]))
        self.base = objective.losses(self.inputs[-1][None], ALL_DATA).mean().item()

    def block_of(self, name: str) -> int:
        return next(i for i, (names, _) in enumerate(self.blocks) if any(name.startswith(n) for n in names.split()))

    def slope(self, name: str, tensor: Tensor, index: int) -> float:
        start, flat = self.block_of(name), tensor.view(-1)
        before = flat[index].clone()
        flat[index] += EPSILON
        x = self.inputs[start]
        for _, block in self.blocks[start:]:
            x = block(x)
        loss = self.objective.losses(x[None], ALL_DATA).mean().item()
        flat[index] = before
        return (loss - self.base) / EPSILON


def stage_of(name: str) -> str:
    return name.split(".")[0] if name.startswith(("layer", "linear")) else "stem"


@torch.no_grad()
def race(objective: Images, sample: int, most: int, turns: int) -> dict[str, Any]:
    """Processor seconds of every tensor on each side, by stage: medians of turns, scaled to all coordinates."""
    parameters = Parameters.from_module(objective.module)
    reuse = BlockReuse(objective)
    sides = {"exact": LayerAccess(), "bfloat16": LayerAccess("bfloat16")}
    exact = autograd(objective)
    estimates = {side: torch.full_like(exact, torch.nan) for side in sides}
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    shared: dict[str, list[float]] = defaultdict(list)
    generator = np.random.default_rng(0)
    for spec in parameters.layout.specs:
        tensor = parameters.raw[spec.name]
        chosen = generator.choice(spec.numel, min(sample, spec.numel), replace=False).tolist()
        channels = min(most, spec.shape[0]) if most else spec.shape[0]
        per_channel = spec.numel // spec.shape[0]
        rows = generator.choice(spec.shape[0], channels, replace=False)
        coordinates = np.sort((rows[:, None] * per_channel + np.arange(per_channel)).reshape(-1)) + spec.offset
        reuse.slope(spec.name, tensor, chosen[0])
        for execution in sides.values():
            gradient(execution, objective, parameters, coordinates[:3])  # kernels are compiled once
        found: dict[str, list[float]] = defaultdict(list)
        for _ in range(turns):
            began = time.process_time()
            for index in chosen:
                reuse.slope(spec.name, tensor, index)
            found["block reuse"].append((time.process_time() - began) * spec.numel / len(chosen))
            for side, execution in sides.items():
                began = time.process_time()
                gradient(execution, objective, parameters, coordinates[:0])  # the forward that all tensors share
                alone = time.process_time() - began
                shared[side].append(alone)
                slopes = gradient(execution, objective, parameters, coordinates)
                both = time.process_time() - began - alone
                found[side].append(max(both - alone, 0.0) * spec.shape[0] / channels)
                estimates[side][torch.from_numpy(coordinates)] = slopes
        for side, times in found.items():
            seconds[stage_of(spec.name)][side] += median(times)
    seconds["forward"] = {"block reuse": 0.0, **{side: median(times) for side, times in shared.items()}}
    known = ~estimates["exact"].isnan()
    cosine = {side: float(torch.cosine_similarity(one[known], exact[known], dim=0)) for side, one in estimates.items()}
    return {"seconds": {stage: dict(times) for stage, times in seconds.items()}, "cosine": cosine}


def by_nodes(objective: Images, name: str, turns: int) -> dict[str, float]:
    """One layer's weights by node perturbation and by coordinates: questions, processor seconds, cosines."""
    parameters, exact = Parameters.from_module(objective.module), autograd(objective)
    spec = parameters.layout.by_name[name]
    index = torch.arange(spec.offset, spec.offset + spec.numel)
    nodes, mixed = NodeAccess(mixed=False), NodeAccess()
    seconds: dict[str, list[float]] = defaultdict(list)
    for turn in range(turns + 1):  # the first warms up
        began = time.process_time()
        found, _ = nodes.derivatives(objective, ALL_DATA, parameters, index, EPSILON)
        between = time.process_time()
        coordinates = gradient(LayerAccess(), objective, parameters, index.numpy())
        if turn:
            seconds["nodes"].append(between - began)
            seconds["coordinates"].append(time.process_time() - between)
    every = torch.arange(parameters.dimension)
    return {
        "queries": 1 + nodes.asked(objective, ALL_DATA, parameters, index).evaluations,
        "coordinates": 1 + len(index),
        "seconds": median(seconds["nodes"]),
        "seconds_coordinates": median(seconds["coordinates"]),
        "cosine": float(torch.cosine_similarity(found, exact[index], dim=0)),
        "cosine_with_coordinates": float(torch.cosine_similarity(found, coordinates, dim=0)),
        "queries_of_all_weights": 1 + mixed.asked(objective, ALL_DATA, parameters, every).evaluations,
    }


def stage_by_nodes(objective: Images, stage: str) -> dict[str, float]:
    """All weights of a stage by nodes, or by coordinates where they are fewer: questions, processor seconds, cosine."""
    parameters, exact, nodes = Parameters.from_module(objective.module), autograd(objective), NodeAccess()
    specs = [spec for name, spec in parameters.layout.by_name.items() if name.startswith(stage)]
    index = torch.cat([torch.arange(spec.offset, spec.offset + spec.numel) for spec in specs])
    began = time.process_time()
    found, _ = nodes.derivatives(objective, ALL_DATA, parameters, index, EPSILON)
    return {
        "seconds": time.process_time() - began,
        "queries": 1 + nodes.asked(objective, ALL_DATA, parameters, index).evaluations,
        "cosine": float(torch.cosine_similarity(found, exact[index], dim=0)),
    }


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    assets = os.environ.get("BLACKBOX_ASSETS")
    default = Path(assets) / "vision" if assets else None
    parser.add_argument("--weights", type=Path, default=default and default / "resnet20_cifar10.safetensors")
    parser.add_argument("--images", type=Path, default=default and default / "cifar10_subset.npz")
    parser.add_argument("--sample", type=int, default=5, help="coordinates a tensor on the slow side")
    parser.add_argument("--channels", type=int, default=1, help="output channels a tensor on the fast side; 0 is all")
    given = parser.parse_args()
    keep_freed_memory()  # of both sides alike, as `blackbox run` does
    print(machine())
    small = agreement()
    print(f"small nets, float64: cosine with autograd {small['cosine']:.6f}, off plain forwards {small['off']:.1e}")
    network = seeded(ResNet20, 0)
    if given.weights is not None:
        load(network, given.weights)
    x, y = data(given.images, 32)
    objective = Images(network, x, y)
    sample, channels, turns = (2, 1, 1) if given.quick else (given.sample, given.channels, 3)
    found = race(objective, sample, channels, turns)
    total: dict[str, float] = defaultdict(float)
    print(f"{'stage':8} {'block reuse':>12} {'exact':>10} {'bfloat16':>10}   processor seconds of one whole gradient")
    for stage, sides in found["seconds"].items():
        for side, value in sides.items():
            total[side] += value
        print(f"{stage:8} {sides['block reuse']:12.1f} {sides['exact']:10.2f} {sides['bfloat16']:10.2f}")
    print(f"{'all':8} {total['block reuse']:12.1f} {total['exact']:10.2f} {total['bfloat16']:10.2f}")
    print("cosine with autograd: " + ", ".join(f"{side} {value:.5f}" for side, value in found["cosine"].items()))
    last = found["seconds"]["layer3"]
    nodes = by_nodes(objective, "layer3.2.conv2.weight", turns)
    print(
        f"the last convolution by nodes: {nodes['queries']:.0f} queries, {nodes['seconds']:.2f} s; by coordinates "
        f"{nodes['coordinates']:.0f} queries, {nodes['seconds_coordinates']:.2f} s; cosine with autograd "
        f"{nodes['cosine']:.5f}, with coordinates {nodes['cosine_with_coordinates']:.5f}; all weights by nodes or "
        f"coordinates, whichever are fewer: {nodes['queries_of_all_weights']:.0f} queries"
    )
    whole: dict[str, float] = {}
    if not given.quick:
        stage = stage_by_nodes(objective, "layer3")
        print(
            f"layer3 by nodes: {stage['queries']:.0f} queries, {stage['seconds']:.1f} s, cosine {stage['cosine']:.5f}"
        )
        whole = {"node_speedup_last_stage": last["block reuse"] / stage["seconds"]}
    finish(
        {
            "cosine_with_autograd": min(small["cosine"], found["cosine"]["exact"]),
            "speedup_over_block_reuse": total["block reuse"] / total["exact"],
            "speedup_last_stage": last["block reuse"] / last["exact"],
            "bfloat16_cosine": found["cosine"]["bfloat16"],
            "bfloat16_speedup": total["block reuse"] / total["bfloat16"],
            "bfloat16_speedup_last_stage": last["block reuse"] / last["bfloat16"],
            **whole,
            "node_queries": nodes["queries"],
            "node_cosine": nodes["cosine"],
            "node_cosine_with_coordinates": nodes["cosine_with_coordinates"],
            "node_queries_of_all_weights": nodes["queries_of_all_weights"],
            "seconds_exact": total["exact"],
            "seconds_bfloat16": total["bfloat16"],
        }
    )


if __name__ == "__main__":
    main()
