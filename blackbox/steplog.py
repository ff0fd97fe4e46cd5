"""A run as seeds and scalars: written from its journal, and rebuilt on the same starting point.

theta_T = theta_0 + sum_t sum_i w_ti z(s_ti), so whoever has the base needs the seeds and the weights only. The log is a
file of JSON lines. The first holds the blocks of the configuration that say where the run starts and how it steps, the
tensors' names and shapes, and a checksum of their values at the start and (if a checkpoint has them) at the end. After
it comes a line a step: the estimate as seeds (or coordinates) and weights, and the share of the budget spent, which a
schedule reads. An optimizer with a state of its own makes its steps again from the estimates.

Rebuilding gives the run's bits wherever noise does (``blackbox.noise``), unless tensors were displaced in place: those
passes are not in the log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blackbox.direction import Direction
from blackbox.errors import UserError
from blackbox.estimators.base import Estimate, Round
from blackbox.hooks import write_whole
from blackbox.journal import Journal, Record
from blackbox.noise import Preconditioned
from blackbox.optimizers.base import Optimizer
from blackbox.parameters import Parameters, Update
from blackbox.probe import Context
from blackbox.resume import replay
from blackbox.session import Session
from blackbox.strategies.base import Strategy
from blackbox.strategies.gradient import GradientStrategy
from blackbox.variance.terms import from_state, to_state

SCHEMA = 1
KEPT = ("problem", "estimator", "variance_reduction", "strategy", "optimizer")
"""Blocks of a configuration that a log holds: where the run starts and how it steps. Who judged is of no matter."""

HEAD = frozenset({"steps", "config", "seed", "tensors", "settings", "exact", "begins", "ends"})
"""What the first line of a log says, besides its kind and schema."""


@dataclass(frozen=True)
class StepLog:
    """What a file says.

    Attributes:
        head: "config", "seed", "tensors", "settings", "exact" (False if tensors were displaced in place, or steps were
            held in factors), and the checksums "begins" and "ends" (None if unknown).
        steps: one record a step: "progress", and "estimate" or "moved".
    """

    head: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]]

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        lines = [{"kind": "steplog", "schema": SCHEMA, **self.head, "steps": len(self.steps)}, *self.steps]
        encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(f"{encode(line)}\n" for line in lines).encode())

    @classmethod
    def load(cls, path: Path) -> StepLog:
        """Read a file; raises UserError if it is no such log, or is cut off."""
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise UserError(f"{path} can't be read as a log of steps ({error}).") from error
        head = lines[0] if lines and isinstance(lines[0], dict) else {}
        if head.get("kind") != "steplog":
            raise UserError(f"{path} is no log of steps; `blackbox export RUN --log` writes one.")
        if head.get("schema") != SCHEMA:
            raise UserError(f"{path} has schema {head.get('schema')}; this version of blackbox reads {SCHEMA}.")
        missing = sorted(HEAD - set(head))
        if missing:
            raise UserError(f"{path} is damaged: its first line has no {', '.join(missing)}.")
        if len(lines) != head["steps"] + 1:
            raise UserError(f"{path} is cut off: it has {len(lines) - 1} of {head['steps']} steps.")
        return cls(head, lines[1:])


def of_run(folder: Path, config: Mapping[str, Any], strategy: Strategy, parameters: Parameters) -> StepLog:
    """The log of the run in a folder, from its journal. Nothing is asked, and no tensor is moved.

    Args:
        folder: with the journal.
        config: the resolved configuration.
        strategy: newly built.
        parameters: at the run's starting point.

    Raises:
        UserError: steps that are no seeds and scalars, or people moved the search to another point.
    """
    journal = Journal(folder)
    try:
        return _recorded(journal, config, strategy, parameters)
    finally:
        journal.close()


def rebuild(log: StepLog, strategy: Strategy, parameters: Parameters) -> None:
    """Make the log's steps.

    Args:
        log: of the run.
        strategy: newly built from the log's configuration.
        parameters: at the run's starting point.

    Raises:
        UserError: other tensors, or another starting point.
    """
    tensors = {spec.name: list(spec.shape) for spec in parameters.layout.specs}
    if tensors != log.head["tensors"]:
        theirs = log.head["tensors"]
        one = next(name for name in {**tensors, **theirs} if tensors.get(name) != theirs.get(name))
        raise UserError(f"The log is of other tensors than those here; look at '{one}'.")
    if checksum(parameters) != log.head["begins"]:
        raise UserError("The log begins at other values than those here: the base is another one.")
    for law in strategy.laws:
        law.begin(parameters.tensors)
    strategy.begin(parameters)
    for step, record in enumerate(log.steps):
        direction = from_state(record["estimate" if "estimate" in record else "moved"], strategy.laws)
        round = Round(
            step, parameters.version, log.head["seed"], Context(), parameters.layout, record.get("progress", 0.0)
        )
        if "estimate" in record:
            assert isinstance(strategy, GradientStrategy) and strategy.optimizer is not None
            strategy.optimizer.step(Estimate(direction), round, parameters)
        else:
            parameters.apply(Update(direction, seed=record["seed"]))
        parameters.settle()  # before another step of the same seed could be merged with it


def checksum(parameters: Parameters) -> str:
    """``checksum_of`` the tensors at the present point."""
    return checksum_of(parameters.tensors)


def checksum_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _recorded(journal: Journal, config: Mapping[str, Any], strategy: Strategy, parameters: Parameters) -> StepLog:
    records = journal.records
    if not records:
        raise UserError(f"There is no run in {journal.folder}: its journal is empty.")
    if any(record["kind"] == "steered" and "values" in record for record in records):
        raise UserError("People moved the search to another point: such a run is no sum of seeds.")
    if any(isinstance(law, Preconditioned) for law in strategy.laws):
        raise UserError("The run's noise was shaped by what it learnt, which seeds don't say. Export its weights.")
    still = _Still(parameters)
    if isinstance(strategy, GradientStrategy) and strategy.optimizer is not None:
        strategy.optimizer = _Recorder(strategy.optimizer, still.moves)
    session = Session(strategy, still, records[0]["seed"])
    replay(session, journal)
    steps = [dict(record) for record in _steps(still.moves, strategy)]
    if len(steps) != session.steps:
        raise UserError(f"The steps of {type(strategy).__name__} are no seeds and scalars: it has no such log.")
    head = {
        "config": {key: config[key] for key in KEPT if key in config},
        "seed": records[0]["seed"],
        "tensors": records[0]["tensors"],
        "settings": records[0]["settings"],
        "exact": not (records[0]["settings"].get("hold") or any(record["kind"] == "in-place" for record in records)),
        "begins": checksum(parameters),
        "ends": _end(journal, session.steps),
    }
    return StepLog(head, steps)


def _steps(moves: Sequence[_Move], strategy: Strategy) -> Iterator[Record]:
    laws = list(strategy.laws)
    for move in moves:
        try:
            state = to_state(move.direction, laws)
            json.dumps(state)
        except (ValueError, TypeError):
            raise UserError(
                f"A step of {type(strategy).__name__} is no sum of seeds of its own laws: such a run has no log of "
                "seeds and scalars. Export its weights."
            ) from None
        estimate = {"progress": move.progress, "estimate": state}
        yield estimate if move.seed is None else {"moved": state, "seed": move.seed}


def _end(journal: Journal, steps: int) -> str | None:
    """The checksum of the last step's checkpoint, if there is one."""
    from blackbox import checkpoint

    path = journal.folder / "checkpoints" / f"step-{steps:08d}.safetensors"
    return checksum_of(checkpoint.load(path)["tensors"]) if path.is_file() else None


@dataclass(frozen=True)
class _Move:
    """One step; ``seed`` (of rounding) is None for an estimate that an optimizer turns into a step."""

    direction: Direction
    progress: float
    seed: int | None = None


class _Still(Parameters):
    """Parameters that stay where they are, and remember what they were told to do."""

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters.raw, parameters.module, parameters.fused)
        self.moves: list[_Move] = []

    def apply(self, update: Update | Direction, defer: bool = False) -> None:
        """Take an update down."""
        update = Update(update, seed=self.version) if isinstance(update, Direction) else update
        if update.decay:
            raise UserError("A step scaled the tensors besides adding seeds: such a run has no log of its steps.")
        self.moves.append(_Move(update.direction, 0.0, update.seed))
        self.version += 1


class _Recorder(Optimizer):
    """Takes down the estimates that an optimizer would have been given."""

    def __init__(self, optimizer: Optimizer, moves: list[_Move]) -> None:
        super().__init__(optimizer.lr)
        self._moves = moves

    def step(self, estimate: Estimate, round: Round, parameters: Parameters) -> dict[str, float]:
        """Take an estimate down."""
        self._moves.append(_Move(estimate.direction, round.progress))
        parameters.version += 1
        return {}
