"""Fine-tuning in one call: MeZO (arXiv:2305.17333) over a transformers model that is in memory, or named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from blackbox.budget import Budget
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference
from blackbox.estimators.base import Estimator
from blackbox.execution import Execution
from blackbox.experiment import settings_of
from blackbox.hooks import Hook, MetricsFile
from blackbox.journal import Journal
from blackbox.noise import Rademacher
from blackbox.optimizers import SGD
from blackbox.optimizers.base import Optimizer
from blackbox.result import Status
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from oracles import ObjectiveOracle
from problems.llm.choice import Choice
from problems.llm.classification import Classification
from problems.llm.generation import Generation
from problems.llm.masked import MaskedClassification
from problems.llm.model import Loaded
from problems.llm.tasks import TASKS
from problems.llm.text import TextProblem

EPSILON = {"lora": 1e-2, "prefix": 1e-1, "prompt": 1e-1}
"""MeZO's grids; 1e-3 for weights."""


def finetune(
    model: Any,
    tokenizer: Any = None,
    dataset: Iterable[Mapping[str, Any]] | Mapping[str, Iterable[Mapping[str, Any]]] = (),
    objective: str | Callable[..., Any] = "cross_entropy",
    *,
    template: str = "{prompt}",
    answer: str | None = None,
    verbalizer: Mapping[Any, str] | None = None,
    tuning: str | Sequence[str] = "full",
    queries: int = 2000,
    batch_size: int = 16,
    lr: float | None = None,
    epsilon: float | None = None,
    estimator: Estimator | None = None,
    optimizer: Optimizer | None = None,
    execution: Execution | None = None,
    keys: Mapping[str, Any] | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    evaluate_every: int = 0,
    progress: bool = True,
) -> Any:
    """Tune a language model by forward passes alone, and return it.

    Args:
        model: a causal model of transformers, or with a verbaliser a masked one (tuned in place, on its device, in its
            precision); or what `model` of a configuration may be: a built-in name, a folder, a GGUF file, a hub id.
        tokenizer: of the model; may be left out where that is a name.
        dataset: rows (mappings, or a `datasets.Dataset`), or such rows of train, validation and test by name.
        objective: `cross_entropy`; `accuracy` with a verbaliser; `f1` or `exact_match` of generated text without; or a
            function `(prompts, completions, **columns)` that gives each completion a reward, higher is better. It sees
            what the model generates, or with a verbaliser the answer that it prefers.
        template: the prompt, with columns of the dataset in braces, or the name of a task such as `sst2`.
        answer: the text that is right, as such a template; left out, that of the task, or `{completion}`.
        verbalizer: the answer of each value of the column `label`; left out, that of the task. Without any the model is
            taught to generate, or to choose where the task has options.
        tuning: `full`, `last-layer`, `lora`, `prefix`, `prompt`, or patterns of parameter names.
        queries: forward passes over a batch; a step takes two.
        batch_size: examples of a query; no more than there are.
        lr: learning rate, linearly decayed. Left out, a rule of thumb: 1e4 / (number of tuned weights), at most 1e-3;
            of LoRA 1e3 / that number, at most 1e-2; of virtual tokens 1e-2.
        epsilon: distance of the two probes; left out 1e-3, of LoRA 1e-2, of virtual tokens 1e-1.
        estimator: in place of a central difference along Rademacher noise (`epsilon` is its own then).
        optimizer: in place of sgd (`lr` is its own then).
        execution: in place of the write-free one.
        keys: further keys of the problem, as in a configuration: `lora`, `max_tokens`, `autocast`, `new_tokens` ...
        seed: of everything that is drawn.
        folder: for journal, metrics and checkpoints. Called again with the same arguments, the run there is gone on
            with.
        evaluate_every: steps between metrics of the validation rows, if there are some.
        progress: show a bar, in a terminal.

    Returns:
        The model, in eval mode, ready for `save_pretrained`; with an adapter, peft's model.

    Raises:
        UserError: arguments that don't fit each other, the model or the dataset; a function that fails too often.
    """
    shared = {"objective": objective, "template": template, "tuning": tuning, "seed": seed, **dict(keys or {})}
    problem = _problem(_loaded(model, tokenizer), dataset, batch_size, verbalizer, answer, shared)
    if estimator is not None and epsilon is not None:
        raise UserError("epsilon: given beside an estimator, which has its own")
    if optimizer is not None and lr is not None:
        raise UserError("lr: given beside an optimizer, which has its own")
    scheme, parameters = str(tuning), problem.parameters()
    estimator = estimator or CentralDifference(Rademacher(), EPSILON.get(scheme, 1e-3) if epsilon is None else epsilon)
    optimizer = optimizer or SGD(_rule_of_thumb(scheme, parameters.dimension) if lr is None else lr)
    strategy, oracle = GradientStrategy(estimator, optimizer), ObjectiveOracle(problem, execution)
    hooks: list[Hook] = []
    with ExitStack() as stack:
        journal = None if folder is None else stack.enter_context(closing(Journal(folder)))
        if folder is not None:
            hooks.append(MetricsFile(Path(folder)))
        if progress:
            from blackbox.cli.progress import ProgressHook

            hooks.append(stack.enter_context(ProgressHook()))
        result = run(
            Session(strategy, parameters, seed, journal, settings_of(oracle, parameters), replay=oracle.replay),
            oracle,
            Budget(queries=queries),
            hooks,
            metrics=_metrics(problem) if evaluate_every else None,
            evaluate_every=evaluate_every,
            checkpoint_every=100 if journal is not None else 0,
        )
        parameters.flush()
    if result.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    if result.status is Status.FAILURES:
        raise UserError(f"{result.message} The last: {'; '.join(result.reasons[-1:])}")
    return problem.language_model.detached()


def _loaded(model: Any, tokenizer: Any) -> str | Loaded:
    if isinstance(model, str):
        if tokenizer is not None:
            raise UserError(f"tokenizer: given, but {model!r} brings its own; give the model itself to use another")
        return model
    if tokenizer is None:
        raise UserError("tokenizer: a model that is in memory needs its tokenizer")
    name = getattr(getattr(model, "config", None), "name_or_path", "")
    return Loaded(model, tokenizer, name or type(model).__name__)


def _problem(
    model: str | Loaded,
    dataset: Any,
    batch_size: int,
    verbalizer: Mapping[Any, str] | None,
    answer: str | None,
    shared: Mapping[str, Any],
) -> TextProblem:
    splits = dataset if isinstance(dataset, Mapping) else {"train": dataset}
    rows = {split: [dict(row) for row in found] for split, found in splits.items()}
    if not rows.get("train"):
        raise UserError("dataset: there are no rows to train on")
    given = {"batch_size": min(batch_size, len(rows["train"])), **shared}
    task = TASKS.get(str(shared["template"]))
    if task is not None and task.options is not None:
        return Choice(model, rows, **given)
    if verbalizer is not None or (task is not None and task.verbalizer is not None):
        kind = Classification
        if isinstance(model, Loaded) and type(model.model).__name__.endswith("ForMaskedLM"):
            kind = MaskedClassification
        return kind(model, rows, verbalizer=verbalizer, **given)
    return Generation(model, rows, answer=answer or (None if task is not None else "{completion}"), **given)


def _rule_of_thumb(scheme: str, dimension: int) -> float:
    """Drawn through rates that worked for models of 3e4, 1.3e8 and 1.3e10 weights; see docs/llm.md."""
    if scheme in ("prefix", "prompt"):
        return 1e-2
    return min(1e-2, 1e3 / dimension) if scheme == "lora" else min(1e-3, 1e4 / dimension)


def _metrics(problem: TextProblem) -> Callable[[], dict[str, float]]:
    return lambda: problem.metrics("validation")
