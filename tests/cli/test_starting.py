"""How a run starts: what is refused before anything is loaded or moved, and what a folder holds that may be lost."""

from pathlib import Path

import pytest
import rich.console  # noqa: F401 (draws a random number when it is first imported)

from blackbox.cli.main import main
from blackbox.config.loader import check_build, load
from blackbox.errors import UserError
from blackbox.report import load as load_run
from oracles.human import Inbox

SPHERE = """
problem: {type: sphere, dimension: 3}
estimator: {type: central, noise: rademacher, epsilon: 1e-3}
optimizer: {type: sgd, lr: 1e-2}
budget: {queries: 40}
"""

PEOPLE = """
problem: {type: control, environment: CartPole-v1}
oracle: {type: people, undo_seconds: 0}
estimator: {type: rank-es, epsilon: 0.5, probes: 2}
optimizer: {type: sgd, lr: 1.0}
budget: {queries: 4}
run: {on_pending: return, test_on: null}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder with two configurations."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sphere.yaml").write_text(SPHERE)
    (tmp_path / "people.yaml").write_text(PEOPLE)
    return tmp_path


def blackbox(*arguments):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


def test_a_run_that_waits_for_people_is_a_run_although_nobody_has_answered(here, capsys):
    assert blackbox("run", "people.yaml") == 0
    asked = (here / "runs/people/journal.jsonl").read_bytes()
    assert blackbox("run", "people.yaml") == 2
    assert "holds a run already. Go on by --resume" in capsys.readouterr().err
    assert (here / "runs/people/journal.jsonl").read_bytes() == asked
    assert blackbox("run", "people.yaml", "--resume") == 0
    assert blackbox("run", "people.yaml", "--fresh", "--set", "estimator.epsilon=0.25") == 0
    assert "kept in runs/people.1" in capsys.readouterr().err
    first, second = (Inbox(here / f"runs/{name}/inbox.sqlite").round("0.0") for name in ("people.1", "people"))
    assert {item.query for item in first.items} == {item.query for item in second.items}
    assert [item.point for item in first.items] != [item.point for item in second.items]


# Each is found by another door: a constructor's check, a file that is missing, a secret, parameters that don't fit.
TROUBLE = {
    "constructor": ["problem.dimension=0"],
    "loading": ["problem={type: recorded-items, comparisons: nothing.jsonl, folder: nowhere}"],
    "secret": ["oracle={type: http, url: 'https://127.0.0.1:9', token_env: NO_SUCH_SECRET}", "run.start=[1.0]"],
    "parameters": ["oracle=users_oracle:f", "problem.start=[1.0]"],
    "exit": ["oracle=users_oracle:f", "problem=users_oracle:Leaves"],
}


@pytest.mark.parametrize("settings", TROUBLE.values(), ids=TROUBLE)
def test_a_fresh_run_that_cannot_start_leaves_the_former_one_where_it_is(here, capsys, settings):
    (here / "users_oracle.py").write_text(
        "import sys\nf = lambda x: 1.0\nclass Leaves:\n    def __init__(self):\n        sys.exit()\n"
    )
    assert blackbox("run", "sphere.yaml") == 0
    before = {path.name: path.read_bytes() for path in (here / "runs/sphere").iterdir() if path.is_file()}
    more = [part for setting in settings for part in ("--set", setting)]
    assert blackbox("run", "sphere.yaml", "--fresh", *more) == 2
    assert "is kept in" not in capsys.readouterr().err
    assert [path.name for path in (here / "runs").iterdir()] == ["sphere"]
    assert {path.name: path.read_bytes() for path in (here / "runs/sphere").iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("{type: sphere, dimension: 0}", "dimension"),
        ("{type: llm-classification, model: no-such-model, objective: entropy}", "objective: 'entropy' is not one of"),
        ("{type: image-classification, data: nowhere.npz, validation: 2}", "validation is a share"),
        ("{type: diffusion, score: {kind: clip}}", "clip: a model and a text"),
        ("{type: diffusion, score: {}, pipeline: {path: nowhere, steps: 0}}", "steps must be 1 or more"),
        ("{type: diffusion, score: {}, cached: -1}", "cached is a number of images"),
        ("{type: preferences, raters: 99}", "raters: each sheet has"),
        ("{type: finite-sum, held_out: 3}", "held_out is a share"),
        ("{type: burgers, unrolled: 100}", "unrolled: at most the 40"),
        ("{type: control, environment: CartPole-v1, episodes: 0}", "episodes must be at least 1"),
        ("{type: control, environment: Cartpoal-v1}", "Cartpoal"),
    ],
)
def test_what_only_a_constructor_knows_is_found_without_loading(here, problem, words):
    settings = [f"problem={problem}"]
    with pytest.raises(UserError, match=words) as caught:
        check_build(load("sphere.yaml", settings))
    assert str(caught.value).startswith("--set problem")


@pytest.mark.parametrize(
    ("oracle", "words"),
    [
        ("{type: http, url: 'ftp://there'}", "url must begin with https"),
        ("{type: people, quorum: 0}", "quorum is a number of raters"),
        ("{type: timed-out, seconds: 0, oracle: {type: command, command: [cat]}}", "seconds must be positive"),
    ],
)
@pytest.mark.parametrize("problem", ["sphere", "{type: llm-classification, model: no-such-model}"])
def test_an_oracles_constructor_is_heard_too_whether_or_not_its_problem_is_loaded(here, oracle, words, problem):
    settings = [f"oracle={oracle}", f"problem={problem}"]
    if "people" in oracle:
        settings += ["estimator={type: rank-es, epsilon: 1e-3}"]
    with pytest.raises(UserError, match=words) as caught:
        check_build(load("sphere.yaml", settings))
    assert str(caught.value).startswith("--set oracle")


def test_a_defence_is_checked_around_what_it_does_not_load(here):
    config = Path(__file__).parents[2] / "configs" / "defence.yaml"
    check_build(load(config, ["problem.box={type: network, weights: nowhere.safetensors}"]))
    with pytest.raises(UserError, match="network: small-classifier, resnet20 or an import path"):
        check_build(load(config, ["problem.box={type: network, weights: nowhere.safetensors, network: vgg}"]))
    with pytest.raises(UserError, match="sigma and lr must be positive"):
        check_build(load(config, ["problem.box={type: network, weights: nowhere.safetensors}", "problem.sigma=0"]))


def test_a_users_own_problem_is_not_constructed_to_be_validated(here):
    (here / "users_problem.py").write_text("class Mine:\n    def __init__(self):\n        raise SystemExit\n")
    assert blackbox("validate", "sphere.yaml", "--set", "problem=users_problem:Mine") == 0


def test_validating_writes_nothing(here):
    asked = "oracle={type: people, folder: there}"
    assert blackbox("validate", "people.yaml", "--set", asked) == 0
    assert sorted(path.name for path in here.iterdir()) == ["people.yaml", "sphere.yaml"]


def test_a_budget_too_small_for_one_round_says_so(here, capsys):
    assert blackbox("run", "sphere.yaml", "--set", "budget.queries=1") == 0
    assert load_run("runs/sphere").message == "Nothing was asked: one round costs 2 queries, and budget.queries is 1."
    assert "one round costs 2 queries" in " ".join(capsys.readouterr().out.split())
