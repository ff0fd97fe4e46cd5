"""A model that scores sentences as people would, fitted to the order in which individual people put them.

The score of a sentence is w . x, with x its encoder features in a standardised subspace of principal components; w is
what is tuned. A query's context is a few sheets of 30 sentences, and each person who rated a sheet judges a candidate w
by its agreement with their own ratings of it, Kendall's tau over the pairs that the person told apart:

    agreement = (pairs in the person's order - pairs in the other order) / pairs told apart

The objective is 1 - agreement, for each person. ``oracles.ReplayedRatings`` lets only each person's order of the
candidates through. Held-out sentences are on sheets of their own, so the people who rated them are others too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor

from blackbox.config.rehearsal import loading_begins
from blackbox.errors import UserError
from blackbox.probe import Context
from blackbox.seeds import derive_seed
from problems.base import VectorProblem, examples_of
from problems.device import resolve_device
from problems.preferences.encoder import features_of
from problems.preferences.records import SHEET, FloatArray, IntArray, Ratings, movie_review_ratings

SPLITS = {"test": 60, "validation": 40}  # sheets; the others are for training
FIRST, SECOND = np.triu_indices(SHEET, 1)
AT_ONCE = 16  # candidates whose pairs are held in memory together


class Preferences(VectorProblem):
    """A linear scoring model, judged by recorded people.

    Args:
        encoder: whose features; `minilm-l6`.
        dimension: d, principal components of the training sentences' features that are kept, 1 to 384; each has
            mean 0 and variance 1.
        raters: people of each training sheet whose ratings are used, drawn from `seed`; at most 15. Nothing else that
            people said about training sentences is looked at.
        sheets: training sheets of 30 sentences that the batch seed of a query's context draws.
        train_sheets: use so many of the 254 training sheets, drawn from `seed`; all if left out.
        seed: of these draws. The split into training, validation (1,200 sentences) and test (1,800) is fixed.
        device: auto, cuda, mps or cpu.

    Raises:
        UserError: a number out of range, or an encoder or data that can't be had.
    """

    def __init__(
        self,
        encoder: str = "minilm-l6",
        dimension: int = 64,
        raters: int = 3,
        sheets: int = 10,
        train_sheets: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        if not 1 <= raters <= 15:
            raise UserError(f"raters: each sheet has at least 15; give 1 to 15, not {raters}.")
        loading_begins()
        self.records = movie_review_ratings()
        self.sheets_of = _split(int(self.records.sheets.max()) + 1)
        every = self.sheets_of["train"]
        count = len(every) if train_sheets is None else train_sheets
        if not 1 <= count <= len(every):
            raise UserError(f"train_sheets: there are {len(every)}, so give 1 to {len(every)}, not {count}.")
        if not 1 <= sheets <= count:
            raise UserError(f"sheets: a query draws from {count} sheets, so give 1 to {count}, not {sheets}.")
        chosen = np.random.Generator(np.random.Philox(key=derive_seed(seed, "sheets"))).permutation(every)[:count]
        self.sheets_of["train"] = np.sort(chosen)
        self.sheets, self.seed = sheets, seed
        self.device = resolve_device(device)
        self.people = _people(self.records, self.sheets_of["train"], raters, seed)  # [train sheets, raters], columns
        self.features = _standardised(features_of(self.records.items, encoder, device), self.items("train"), dimension)
        self._rows, self._told = self._training()
        self.start = torch.zeros(dimension, dtype=torch.float32, device=self.device)

    def __call__(self, candidates: Tensor, context: Context) -> Tensor:
        """Weights [n, d] -> 1 - agreement with each person of the context [n, people], from 0 to 2."""
        chosen = self._chosen(context)
        told = self._told[chosen]
        agreed = [self._agreement(part, chosen, told) for part in torch.split(candidates.to(self.start), AT_ONCE)]
        # Somebody who rated a whole sheet alike has no order to agree with.
        return 1 - torch.cat(agreed)[:, told.any(2).reshape(-1)]

    def recorded_ratings(self, candidates: FloatArray, context: Context) -> tuple[Sequence[str], FloatArray]:
        """What the context's people make of candidates [n, d]: their names, and agreement [n, people]; NaN: nothing."""
        chosen = self._chosen(context)
        told = self._told[chosen]
        parts = torch.split(torch.from_numpy(candidates).to(self.start), AT_ONCE)
        found = torch.cat([self._agreement(part, chosen, told) for part in parts])
        found[:, ~told.any(2).reshape(-1)] = torch.nan
        sheets = self.sheets_of["train"][chosen]
        names = [f"sheet {s}, person {p}" for s, row in zip(sheets, self.people[chosen], strict=True) for p in row]
        return names, found.cpu().double().numpy()

    def items(self, split: str) -> IntArray:
        """Sentences of a split, by their place in `records`."""
        if split not in self.sheets_of:
            raise UserError(f"split: there is no {split!r}; there are {', '.join(self.sheets_of)}.")
        return np.flatnonzero(np.isin(self.records.sheets, self.sheets_of[split]))

    @property
    def judgements(self) -> IntArray:
        """Ratings of the training sentences that may be looked at, int64 [sentences, raters], in `items`' order."""
        items = self.items("train")
        columns = self.people[np.searchsorted(self.sheets_of["train"], self.records.sheets[items])]
        return np.take_along_axis(self.records.ratings[items], columns, 1).astype(np.int64)

    def tau(self, weights: FloatArray, split: str) -> float:
        """Kendall's tau-b between scores under weights [d] and the mean of all human ratings of each sentence."""
        items = self.items(split)
        found = float(kendalltau(self.features[items] @ weights, self.records.means[items]).statistic)
        return found if np.isfinite(found) else 0.0  # scores all alike

    def cost(self, context: Context) -> Mapping[str, float]:
        """Recorded ratings that the query is held against."""
        people = self.people[self._chosen(context)]
        return {"examples": float(people.size * SHEET)}

    def metrics(self, split: str = "test") -> dict[str, float]:
        """Kendall's tau to the mean human ratings of a split, and how many ratings of training sentences are used."""
        weights = self.parameters().flat().double().cpu().numpy()
        return {"tau": self.tau(weights, split), "judgements": float(self.judgements.size)}

    def samples(self, count: int = 6) -> list[dict[str, Any]]:
        """The first test sentences with the people's mean rating and the model's score."""
        weights = self.parameters().flat().double().cpu().numpy()
        items = self.items("test")[:count]
        return [
            {
                "text": self.records.items[i],
                "people": float(self.records.means[i]),
                "score": float(self.features[i] @ weights),
            }
            for i in items
        ]

    def render(self, candidate: Any, count: int = 3) -> str:
        """The validation sentences that a model scores highest and lowest."""
        items = self.items("validation")
        order = items[np.argsort(-(self.features[items] @ np.asarray(candidate, dtype=np.float64)), kind="stable")]
        texts = [self.records.items[i] for i in order]
        return "\n".join(["best:", *texts[:count], "worst:", *texts[-count:]])

    def _chosen(self, context: Context) -> IntArray:
        """Training sheets of a context."""
        found: IntArray = examples_of(context, len(self.people), self.sheets).numpy()
        return found

    def _agreement(self, weights: Tensor, chosen: IntArray, told: Tensor) -> Tensor:
        """[n, d] -> [n, people], people of one sheet side by side."""
        scores = self._rows[chosen] @ weights.T  # [sheets, 30, n]
        order = (scores[:, FIRST] - scores[:, SECOND]).sign()
        pairs = told.abs().sum(2, keepdim=True).clamp(min=1)
        found = (told @ order) / pairs
        return found.permute(2, 0, 1).reshape(len(weights), -1)

    def _training(self) -> tuple[Tensor, Tensor]:
        """Features [sheets, 30, d], and what each person told apart [sheets, raters, pairs]: 1, -1 or 0."""
        count, raters = self.people.shape
        rows = np.zeros((count, SHEET, self.features.shape[1]), dtype=np.float32)
        told = np.zeros((count, raters, len(FIRST)), dtype=np.float32)
        for place, sheet in enumerate(self.sheets_of["train"]):
            items = np.flatnonzero(self.records.sheets == sheet)
            rows[place, : len(items)] = self.features[items]
            given = np.full((SHEET, raters), np.nan)  # the last sheet is shorter
            given[: len(items)] = self.records.ratings[items][:, self.people[place]]
            told[place] = np.nan_to_num(np.sign(given[FIRST] - given[SECOND])).T
        return torch.from_numpy(rows).to(self.device), torch.from_numpy(told).to(self.device)


def _split(sheets: int) -> dict[str, IntArray]:
    order = np.random.Generator(np.random.Philox(key=0)).permutation(sheets)
    ends = np.cumsum(list(SPLITS.values()))
    parts = np.split(order, ends)
    return {name: np.sort(part) for name, part in zip((*SPLITS, "train"), parts, strict=True)}


def _people(records: Ratings, sheets: IntArray, raters: int, seed: int) -> IntArray:
    """Columns [sheets, raters]. More raters of one seed are the fewer ones and others."""
    found = []
    for sheet in sheets:
        there = int((~np.isnan(records.ratings[records.sheets == sheet][0])).sum())
        generator = np.random.Generator(np.random.Philox(key=derive_seed(seed, f"people of sheet {sheet}")))
        found.append(generator.permutation(there)[:raters])
    return np.array(found, dtype=np.int64)


def _standardised(features: np.ndarray[Any, Any], training: IntArray, dimension: int) -> FloatArray:
    """All items in principal components of the training items, each with mean 0 and variance 1 over these."""
    centred = features.astype(np.float64) - features[training].astype(np.float64).mean(0)
    _, spread, axes = np.linalg.svd(centred[training], full_matrices=False)
    most = int((spread > 1e-6 * spread[0]).sum())
    if not 1 <= dimension <= most:
        raise UserError(f"dimension: the features span {most} dimensions, so give 1 to {most}, not {dimension}.")
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])  # the decomposition leaves them open
    kept: FloatArray = (centred @ (signs[:, None] * axes)[:dimension].T) / spread[:dimension] * len(training) ** 0.5
    return kept
