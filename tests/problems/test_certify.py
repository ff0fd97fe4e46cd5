"""Certification against closed forms and scipy's own test, and the command over a tiny problem."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.console  # noqa: F401 (draws a random number when it is first imported)
import torch
from scipy.stats import binomtest, kstest, norm
from torch import Tensor, nn

from blackbox.cli.main import main
from blackbox.errors import UserError
from problems.base import ModuleProblem
from problems.smoothing import certify as module
from problems.smoothing.certified_set import CertifiedSet, certify_set, floored
from problems.smoothing.certify import ABSTAIN, Certificate, certify, hits_needed, lower_bound, predict, radius_of


def half_space(w: Tensor, offset: float) -> Any:
    """Class 1 where w.x + offset > 0: the smoothed classifier is the same, its radius |w.x + offset| / |w|."""

    def classify(inputs: Tensor) -> Tensor:
        score = inputs.flatten(1) @ w + offset
        return torch.stack([-score, score], 1)

    return classify


W, OFFSET = torch.tensor([3.0, -4.0]), 0.5
HALF = half_space(W, OFFSET)


def at_distance(distance: float) -> Tensor:
    """A point of class 1 that far from the boundary, far along it."""
    return W / 5 * (distance - OFFSET / 5) + 7 * torch.tensor([4.0, 3.0]) / 5


# The bound


@pytest.mark.parametrize(
    ("hits", "draws"), [(0, 10), (1, 10), (9, 10), (10, 10), (99, 100), (5100, 10_000), (9999, 10_000)]
)
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_bound_is_scipys_exact_one(hits, draws, alpha):
    peer = binomtest(hits, draws, alternative="greater").proportion_ci(1 - alpha, "exact").low
    assert lower_bound(hits, draws, alpha) == pytest.approx(peer, abs=1e-12)


@pytest.mark.parametrize(("draws", "ceiling"), [(1000, 0.616), (10_000, 0.800), (100_000, 0.953)])
def test_the_largest_radius_is_the_known_one(draws, ceiling):
    radius = radius_of(lower_bound(draws, draws, 0.001), 0.25)
    assert radius == pytest.approx(0.25 * norm.ppf(0.001 ** (1 / draws)), rel=1e-9)
    assert radius == pytest.approx(ceiling, abs=6e-4)


def test_the_hits_needed_are_the_smallest_that_certify():
    radii, draws, alpha, sigma = [0.1, 0.3, 5.0], 500, 0.01, 0.25

    def verdict(hits: int, radius: float) -> bool:
        p = lower_bound(hits, draws, alpha)
        return p >= 0.5 and sigma * norm.ppf(p) >= radius

    brute = {next((k for k in range(draws + 1) if verdict(k, r)), draws + 1) for r in (0.0, *radii)}
    assert hits_needed(radii, draws, alpha, sigma) == sorted(brute)
    assert hits_needed([5.0], draws, alpha, sigma)[-1] == draws + 1


# One input


def test_a_half_space_is_certified_within_its_radius():
    sigma = 0.5
    one = certify(HALF, at_distance(0.6), sigma, estimation=20_000)
    assert one.label == one.selected == 1 and one.draws == 20_000
    p = norm.cdf(0.6 / sigma)
    assert abs(one.hits - 20_000 * p) < 5 * math.sqrt(20_000 * p * (1 - p))
    assert 0.55 < one.radius <= 0.6
    assert one.radius == pytest.approx(sigma * norm.ppf(lower_bound(one.hits, 20_000, 0.001)))


def test_near_the_boundary_it_abstains():
    one = certify(HALF, at_distance(0.001), 0.5, estimation=1000)
    assert one.label == ABSTAIN and one.radius == 0.0 and not one.certified(0.0)


def test_selection_and_estimation_see_other_draws():
    seen: list[Tensor] = []

    def classify(inputs: Tensor) -> Tensor:
        seen.append(inputs.clone())
        return torch.zeros(len(inputs), dtype=torch.int64)

    certify(classify, torch.zeros(3), 1.0, selection=40, estimation=70, batch=50)
    predict(classify, torch.zeros(3), 1.0, draws=40)
    certify(classify, torch.zeros(3), 1.0, selection=40, estimation=70, batch=50, example=1)
    rows = torch.cat(seen)
    assert len(rows) == 260 == len(torch.unique(rows, dim=0))
    assert kstest(rows.flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("shape", [(5,), (1, 3, 11), (3, 16, 16)])
def test_the_noise_does_not_depend_on_the_batch(shape, device):
    def draws(batch: int) -> Tensor:
        x = torch.linspace(0, 1, math.prod(shape), device=device).view(shape)
        noisy = module._Noisy(x, 0.25, batch, seed=3, example=2)
        return torch.cat([part.clone() for part in noisy.batches("estimation", 100)])

    whole = draws(100)
    assert whole.shape == (100, *shape)
    for batch in (1, 7, 32, 64, 1000):
        assert torch.equal(draws(batch), whole)


def test_large_inputs_take_the_same_noise_by_another_path(monkeypatch):
    x = torch.zeros(3, 16, 16)
    first = torch.cat([part.clone() for part in module._Noisy(x, 0.5, 64, 0, 0).batches("estimation", 70)])
    monkeypatch.setattr(module, "FUSE_FROM", 10**9)
    second = torch.cat([part.clone() for part in module._Noisy(x, 0.5, 64, 0, 0).batches("estimation", 70)])
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)
    assert first.std().item() == pytest.approx(0.5, rel=0.02)


def test_counts_do_not_depend_on_the_batch_stopping_or_not():
    for radii in (None, [0.25], [2.0]):
        for distance in (0.05, 0.3, 2.0):
            found = {
                certify(HALF, at_distance(distance), 0.5, estimation=900, batch=batch, radii=radii)
                for batch in (1, 33, 256, 5000)
            }
            assert len(found) == 1


def test_labels_and_scores_are_the_same():
    scores = certify(HALF, at_distance(0.4), 0.5, estimation=500)
    labels = certify(lambda inputs: HALF(inputs).argmax(1), at_distance(0.4), 0.5, estimation=500)
    assert scores == labels


def test_predict_abstains_by_the_two_sided_test():
    assert predict(HALF, at_distance(0.5), 0.5) == 1
    assert predict(HALF, at_distance(-0.5), 0.5) == 0
    assert predict(HALF, at_distance(0.0), 0.5) == ABSTAIN
    # The verdict at the border of significance: 10 of 10 has p = 2^-9, 11 of 11 has 2^-10 < .001.
    always = lambda inputs: torch.ones(len(inputs), dtype=torch.int64)  # noqa: E731
    assert predict(always, torch.zeros(2), 1.0, draws=10) == ABSTAIN
    assert predict(always, torch.zeros(2), 1.0, draws=11) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"alpha": 1.0}, "alpha"),
        ({"estimation": 0}, "estimation"),
        ({"radii": [-1.0]}, "radii"),
        ({"classify": lambda inputs: torch.full((len(inputs), 2), math.nan)}, "not finite"),
        ({"classify": lambda inputs: torch.zeros(len(inputs))}, "whole numbers"),
        ({"classify": lambda inputs: torch.zeros(1, 2)}, "scores"),
    ],
)
def test_mistakes_are_told(arguments, words):
    with pytest.raises(UserError, match=words):
        certify(**{"classify": HALF, "x": torch.zeros(2), "sigma": 0.5, **arguments})


# Stopping early


def test_stopping_early_changes_no_verdict_and_raises_no_radius():
    radii, saved = [0.0, 0.3, 0.6], 0
    for example, distance in enumerate(np.linspace(0.0, 1.2, 40)):
        for sigma in (0.25, 0.6):
            arguments = {"estimation": 400, "alpha": 0.01, "batch": 32, "example": example}
            whole = certify(HALF, at_distance(distance), sigma, **arguments)
            early = certify(HALF, at_distance(distance), sigma, radii=radii, **arguments)
            assert early.label == whole.label and early.selected == whole.selected
            assert [early.certified(r) for r in radii] == [whole.certified(r) for r in radii]
            assert early.radius <= whole.radius and early.hits <= whole.hits and early.draws <= whole.draws
            saved += whole.draws - early.draws
    assert saved > 400


def test_it_stops_at_the_first_draw_after_which_nothing_matters():
    needed = hits_needed([0.0], 200, 0.001, 1.0)[0]
    wrong = certify(Answers([1] * 100 + [0] * 200), torch.zeros(1), 1.0, estimation=200, radii=[0.0], batch=7)
    assert wrong.label == ABSTAIN and (wrong.hits, wrong.draws) == (0, 200 - needed + 1)
    right = certify(Answers([1] * 300), torch.zeros(1), 1.0, estimation=200, radii=[0.0], batch=7)
    assert right.label == 1 and (right.hits, right.draws) == (needed, needed)
    assert right.evaluated == 100 + -(-needed // 7) * 7
    beyond = certify(Answers([1] * 300), torch.zeros(1), 1.0, estimation=200, radii=[0.0, 9.0], batch=7)
    assert beyond.draws == needed  # no number of hits certifies 9


class Answers:
    """Gives classes in the order they are asked for."""

    def __init__(self, classes: list[int]) -> None:
        self.classes = iter(classes)

    def __call__(self, inputs: Tensor) -> Tensor:
        return torch.tensor([next(self.classes) for _ in inputs])


# A set


def some() -> tuple[Tensor, list[int]]:
    distances = [0.9, 0.4, -0.4, 0.01, 0.2]
    return torch.stack([at_distance(d) for d in distances]), [1, 1, 1, 1, 1]  # the third is misclassified


SETTINGS: dict[str, Any] = {"sigma": 0.5, "estimation": 1000, "radii": (0.0, 0.25, 0.5), "batch": 32}


def test_certified_accuracy_counts_what_is_correct_and_certified(tmp_path):
    inputs, labels = some()
    early = certify_set(HALF, inputs, labels, **SETTINGS)
    whole = certify_set(HALF, inputs, labels, **SETTINGS, early_stop=False)
    assert early.table() == whole.table() == [("0.000", 0.6), ("0.250", 0.4), ("0.500", 0.2)]
    assert whole.abstained == early.abstained == 0.2
    assert early.evaluated < whole.evaluated == 5 * 1100
    assert whole.plot(tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_it_goes_on_where_it_was_stopped(tmp_path):
    inputs, labels = some()
    path, calls = tmp_path / "certificates.jsonl", []
    whole = certify_set(HALF, inputs, labels, **SETTINGS, path=path)
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 6
    path.write_text("".join(lines[:3]) + lines[3][:20])
    again = certify_set(HALF, inputs, labels, **SETTINGS, path=path, tell=lambda i, one: calls.append(i))
    assert again.certificates == whole.certificates and calls == [2, 3, 4]
    assert path.read_text() == "".join(lines)
    few = certify_set(HALF, inputs[:2], labels[:2], **SETTINGS, path=path)
    assert few.certificates == whole.certificates[:2]


def test_a_file_of_other_settings_or_inputs_is_refused(tmp_path):
    inputs, labels = some()
    path = tmp_path / "certificates.jsonl"
    certify_set(HALF, inputs, labels, **SETTINGS, path=path)
    for change, words in (({"sigma": 0.6}, "sigma was 0.5, now 0.6"), ({"identity": "other"}, "identity")):
        with pytest.raises(UserError, match=words):
            certify_set(HALF, inputs, labels, **{**SETTINGS, **change}, path=path)
    with pytest.raises(UserError, match="example 1 was another"):
        certify_set(HALF, inputs + torch.tensor([[0], [1], [0], [0], [0]]), labels, **SETTINGS, path=path)
    path.write_text("{}\n")
    with pytest.raises(UserError, match="Move it away"):
        certify_set(HALF, inputs, labels, **SETTINGS, path=path)
    with pytest.raises(UserError, match="labels"):
        certify_set(HALF, inputs, labels[:1], **SETTINGS)


def test_radii_are_never_rounded_up():
    assert floored(0.7999999) == "0.799" and floored(0.8) == "0.800" and floored(0.0) == "0.000"
    for radius in (0.29, 1.001, 0.57, 2.675, 0.1 + 0.2, *np.random.Generator(np.random.Philox(1)).uniform(0, 3, 2000)):
        assert radius - 0.0011 < float(floored(float(radius))) <= radius


def test_a_table_of_certificates():
    ones = [Certificate(1, 0.5, 1, 9, 10, 10), Certificate(ABSTAIN, 0.0, 1, 5, 10, 10)]
    assert CertifiedSet(ones, [1, 1], [0.5]).accuracy(0.5) == 0.5
    assert CertifiedSet(ones, [0, 0], [0.5]).accuracy(0.0) == 0.0


# The command


class TinyDefence(ModuleProblem):
    """A linear classifier of two classes that is to be smoothed."""

    def __init__(self) -> None:
        self.module = nn.Linear(2, 1)
        with torch.no_grad():
            self.module.weight.copy_(W[None])
            self.module.bias.fill_(OFFSET)
        self.inputs, labels = some()
        self.labels = torch.tensor(labels)

    def values(self, context: Any) -> Tensor:
        return nn.functional.softplus(-self.module(self.inputs)[:, 0])

    def metrics(self, split: str = "test") -> dict[str, float]:
        return {"loss": float(self.values(None).detach().mean())}

    def smoothed_classifier(self, parameters: Any) -> Any:
        def classify(inputs: Tensor) -> Tensor:
            score = self.module(inputs)
            return torch.cat([-score, score], 1)

        return classify, 0.5, self.inputs, self.labels


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short run of the tiny defence."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(__file__, "tiny_defence.py")
    Path("tiny.yaml").write_text(
        "problem: {type: 'tiny_defence:TinyDefence'}\n"
        "estimator: {type: central, noise: gaussian}\noptimizer: {type: sgd, lr: 1e-3}\nbudget: {steps: 2}\n"
        "run: {checkpoint_every: 1}\n"
    )
    with pytest.raises(SystemExit) as left:
        main(["run", "tiny.yaml"])
    assert left.value.code == 0
    return Path("runs/tiny")


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["certify", *words])
    return int(left.value.code or 0)


@pytest.mark.draws  # nn.Linear starts from the global generator
def test_the_command_certifies_a_run_and_goes_on(run_folder, capsys):
    capsys.readouterr()
    options = ["--radius", "0", "--radius", "0.25", "--estimation", "1000"]
    assert command(str(run_folder), *options, "--examples", "2") == 0
    assert command(str(run_folder), *options) == 0
    told = capsys.readouterr().out
    assert "2 examples, sigma 0.5" in told and "5 examples" in told and "0.250" in told and "40.0%" in told
    assert (run_folder / "certified.png").read_bytes().startswith(b"\x89PNG")
    head, *lines = [json.loads(line) for line in (run_folder / "certificates.jsonl").read_text().splitlines()]
    assert len(lines) == 5 and head["settings"]["identity"] and [one["label"] for one in lines][:3] == [1, 1, 0]
    assert command(str(run_folder), *options, "--alpha", "0.01") == 2
    assert "alpha was 0.001, now 0.01" in capsys.readouterr().err
    assert command(str(run_folder), *options, "--alpha", "0.01", "--out", "elsewhere") == 0
    assert Path("elsewhere/certified.png").exists()


def test_a_run_without_a_classifier_is_refused_in_words(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["run", "example:functions", "--set", "budget.queries=200"])
    capsys.readouterr()
    assert command("runs/functions") == 2
    assert "has nothing to certify" in capsys.readouterr().err


def test_settings_that_make_no_sense_are_refused_before_they_are_written_down(tmp_path: Path) -> None:
    path = tmp_path / "certificates.jsonl"
    x = torch.zeros(1, 2)

    def classify(inputs: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(inputs), dtype=torch.int64)

    with pytest.raises(UserError, match="alpha is a probability"):
        certify_set(classify, x, [0], 0.25, alpha=5.0, path=path)
    with pytest.raises(UserError, match="radii must be 0 or more"):
        certify_set(classify, x, [0], 0.25, radii=[-1.0], path=path)
    assert not path.exists()
