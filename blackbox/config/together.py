"""Checks of the blocks against each other: what no block can know alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from blackbox.config.block import Block
from blackbox.config.registry import components, find
from blackbox.config.source import Cursor, nearest
from blackbox.errors import UserError
from blackbox.feedback import Failed

if TYPE_CHECKING:
    from blackbox.config.loader import Config

_DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".gguf")


def check_together(config: Config, root: Cursor) -> None:
    """Refuse blocks that are missing, useless or unfit beside the others; raises UserError."""
    for key in ("estimator", "optimizer"):
        given, needed = getattr(config, key), config.strategy.injected.get(key)
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
            (b for b in reversed(config.variance_reduction) if _kinds(b.target, "accepts")), config.estimator
        )
    accepts, answers = _kinds(judge.target, "accepts"), _answers(config.oracle)
    if not accepts or not answers or accepts & answers:
        return
    kind = "estimator" if judge is not config.strategy else "strategy"
    fitting = [c.name for c in components(kind) if _accepts_any(kind, c.name, answers)]
    raise config.oracle.cursor.error(
        f"{judge.label} needs {_names(accepts)}, but {config.oracle.label} answers {_names(answers)}. "
        f"{kind.capitalize()}s that accept {_names(answers)}: {', '.join(fitting) or 'none yet'}."
    )


def _answers(oracle: Block) -> frozenset[type]:
    """What it answers; a wrapper answers what the oracle inside does."""
    own = _kinds(oracle.target, "answers")
    return own or next((kinds for block in oracle.nested if (kinds := _answers(block))), own)


def _accepts_any(kind: str, name: str, answers: frozenset[type]) -> bool:
    try:
        return bool(_kinds(find(kind, name), "accepts") & answers)
    except UserError:  # an installed component whose own needs are missing
        return False


def _kinds(target: Any, attribute: str) -> frozenset[type]:
    """The feedback types a class declares; empty if only its instances know."""
    declared = getattr(target, attribute, None)
    return frozenset(declared) - {Failed} if isinstance(declared, set | frozenset) else frozenset()


def _names(kinds: frozenset[type]) -> str:
    return " or ".join(sorted(kind.__name__ for kind in kinds))
