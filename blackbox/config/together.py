"""Checks of the blocks against each other: what no block can know alone."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from blackbox.config.block import Block
from blackbox.config.fit import execution_misfit, kinds_of, misfit
from blackbox.config.loader import HOW
from blackbox.config.registry import components, find
from blackbox.config.source import Cursor, nearest

if TYPE_CHECKING:
    from blackbox.config.loader import Config

_DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".gguf")


def check_together(config: Config, root: Cursor) -> None:
    """Refuse blocks that are missing, useless or unfit beside the others; raises UserError."""
    if config.problem is not None and config.trains_itself:
        for key in HOW:
            if key in root.value:
                raise root.error(f"{config.problem.label} trains itself; leave the block out.", key)
        return
    for key in ("estimator", "optimizer"):
        given, needed = getattr(config, key), config.strategy.injected.get(key)
        if key == "optimizer" and needed is False:  # the one thing that can stand in for it
            needed = config.strategy.arguments.get("line_search") is None
        if given is None and needed:
            names = ", ".join(c.name for c in components(key))
            raise root.error(f"the block `{key}` is missing; {config.strategy.label} needs one: {names}.")
        if given is not None and needed is None:
            raise root.error(f"{config.strategy.label} takes no {key}; leave the block out.", key)
    if config.variance_reduction and config.estimator is None:
        raise root.error("there is no estimator to wrap.", "variance_reduction")
    if config.execution is not None and config.oracle.wants("execution") is None:
        raise root.error(f"{config.oracle.label} takes no execution; leave the block out.", "execution")
    for block in (config.oracle, *config.baselines):
        if block.wants("problem") and config.problem is None:
            raise root.error(f"{block.label} needs a block `problem`.")
    _check_files(config.problem)
    _check_fit(config)
    _check_execution(config)


def _check_files(problem: Block | None) -> None:
    """A data file that isn't there is found before anything is loaded."""
    for key, value in ({} if problem is None else problem.arguments).items():
        entries = value.items() if isinstance(value, dict) else [(None, value)]
        for name, text in entries:
            if isinstance(text, str) and text.endswith(_DATA_SUFFIXES) and "\0" not in text:
                path = Path(text).expanduser()
                if not path.exists():
                    assert problem is not None
                    cursor = problem.cursor if name is None else problem.cursor.child(key)
                    there = [p.name for p in path.parent.glob("*") if p.suffix in _DATA_SUFFIXES]
                    raise cursor.error(f"there is no file {text}.{nearest(path.name, there)}", name or key)


def _check_fit(config: Config) -> None:
    """Refuse an oracle whose answers the estimator cannot use, and name those that could."""
    judge = config.strategy
    if "estimator" in config.strategy.injected and config.estimator is not None:
        judge = next(
            (b for b in reversed(config.variance_reduction) if kinds_of(b.target, "accepts")), config.estimator
        )
    accepts, answers = kinds_of(judge.target, "accepts"), _answers(config.oracle)
    if not accepts or not answers:
        return
    kind = "estimator" if judge is not config.strategy else "strategy"
    why = misfit(kind, judge.label, accepts, config.oracle.label, answers)
    if why is not None:
        raise config.oracle.cursor.error(why)


def _check_execution(config: Config) -> None:
    """Refuse an execution that can't evaluate the problem, where the objective oracle would hand it one."""
    if config.execution is None or config.problem is None or not _asks_problem(config.oracle):
        return
    why = execution_misfit(config.execution.target, config.problem.target)
    if why is not None:
        raise config.execution.cursor.error(why)


def _asks_problem(oracle: Block) -> bool:
    objective = find("oracle", "objective")
    own = inspect.isclass(oracle.target) and issubclass(oracle.target, objective)
    return own or any(_asks_problem(block) for block in oracle.nested)


def _answers(oracle: Block) -> frozenset[type]:
    """What it answers; a wrapper answers what the oracle inside does."""
    own = kinds_of(oracle.target, "answers")
    return own or next((kinds for block in oracle.nested if (kinds := _answers(block))), own)
