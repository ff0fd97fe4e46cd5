"""Policies judged by episodes, against environments whose returns are known and gymnasium's own loop."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import rich.console  # noqa: F401 (draws a random number when it is first imported)
import torch
from gymnasium import spaces

from blackbox import Budget, Parameters, Session, Status, UserError, run
from blackbox.estimators import AugmentedRandomSearch, RankEvolution
from blackbox.feedback import Answers, Values
from blackbox.journal import Journal
from blackbox.noise import Gaussian
from blackbox.optimizers import SGD, Schedule
from blackbox.probe import Context
from blackbox.strategies import GradientStrategy
from blackbox.testing.estimators import EstimatorSuite, make_round, vector
from oracles import Counted, ObjectiveOracle, Ranked
from problems.control import Control
from problems.control.moments import Moments
from problems.control.policies import Actions, ModulePolicy, Perceptron


class Corridor(gymnasium.Env[Any, Any]):
    """Pays 1 - action**2 a step; ends itself after ``length`` steps if that comes first. Observations: Dict."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, length: int = 5, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Dict(
            {"place": spaces.Box(-1, 1, (2,), np.float64), "light": spaces.Discrete(3)}
        )
        self.action_space = spaces.Box(-2, 2, (1,), np.float64)
        self.length, self.render_mode, self.time = length, render_mode, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return self._seen(), 1 - float(action[0]) ** 2, self.time >= self.length, False, {}

    def render(self) -> Any:
        return np.full((4, 6, 3), self.time, dtype=np.uint8)

    def _seen(self) -> dict[str, Any]:
        return {"place": np.array([1.0, self.np_random.random()]), "light": 1}


@pytest.fixture(scope="module", autouse=True)
def corridor() -> Any:
    gymnasium.register("Corridor-v0", Corridor, max_episode_steps=10)
    yield
    del gymnasium.registry["Corridor-v0"]


def returns(problem: Control, weights: Any, reset_seed: int = 1) -> torch.Tensor:
    return problem(torch.tensor(weights, dtype=torch.float64), Context(reset_seed=reset_seed))


def test_returns_are_sums_of_rewards_of_the_same_episodes() -> None:
    """o = flatten(Dict) = (light one-hot 3, place 2); the weight of the constant place drives the action."""
    problem = Control("Corridor-v0", episodes=2)
    assert problem.arena.observations == 5 and problem.start.shape == (5,)
    found = returns(problem, [[0, 0.0, 0, 0, 0], [0, 0, 0, 0.5, 0], [0, 9, 0, 9, 0]])
    assert found.shape == (3, 2)
    torch.testing.assert_close(found[:, 0], torch.tensor([5.0, 5 * 0.75, 5 * (1 - 4)], dtype=torch.float64))
    assert problem.take_cost() == {"environment_steps": 30} and problem.take_cost() == {"environment_steps": 0}
    seeded = returns(problem, [[0, 0, 0, 0, 1.0]] * 2)
    assert torch.equal(seeded[0], seeded[1]) and not torch.equal(seeded[:, 0], seeded[:, 1])
    assert not torch.equal(returns(problem, [[0, 0, 0, 0, 1.0]], 2)[0], seeded[0])


def test_terminated_and_cut_off_are_told_apart() -> None:
    assert Control("Corridor-v0", test_episodes=3).metrics()["terminated"] == 1
    cut = Control("Corridor-v0", test_episodes=3, options={"length": 50}).metrics()
    assert cut["terminated"] == 0 and cut["length"] == 10 and cut["return"] == 10
    assert Control("Corridor-v0", max_steps=4, test_episodes=1).metrics()["length"] == 4


def test_cartpole_plays_as_gymnasium_s_own_loop() -> None:
    weights = np.random.Generator(np.random.Philox(5)).standard_normal((6, 8))
    problem = Control("CartPole-v1")
    found = returns(problem, weights, 3)[:, 0]
    env, seed = gymnasium.make("CartPole-v1"), problem._seeds("episode", 3, 1)[0]
    for row, total in zip(weights, found.tolist(), strict=True):
        seen, _ = env.reset(seed=seed)
        played, done = 0.0, False
        while not done:
            seen, reward, terminated, truncated, _ = env.step(int((seen @ row.reshape(4, 2)).argmax()))
            played, done = played + float(reward), terminated or truncated
        assert played == total


def test_wrappers_go_around_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_wrapper.py").write_text(
        "import gymnasium\n\nclass Half(gymnasium.ActionWrapper):\n    def action(self, action): return action / 2\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    problem = Control("Corridor-v0", wrappers=["half_wrapper:Half"])
    assert float(returns(problem, [[0, 0, 0, 1, 0]])) == pytest.approx(5 * 0.75)


def test_whitened_observations_have_mean_0_and_spread_1() -> None:
    plain, white = Control("CartPole-v1"), Control("CartPole-v1", whiten=True, whiten_episodes=30)
    mean, spread = white.whitening
    env = plain.arena.make()
    env.action_space.seed(11)
    seen = []
    for seed in range(60):
        seen.append(env.reset(seed=seed)[0])
        done = False
        while not done:
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            seen.append(observation)
            done = terminated or truncated
    scaled = (np.array(seen) - mean) / spread
    assert abs(scaled.mean(0)).max() < 0.3
    assert abs(scaled.std(0) - 1).max() < 0.2
    assert np.array_equal(plain.whitening[0], np.zeros(4))


def test_merged_moments_are_those_of_all_vectors() -> None:
    vectors = np.random.Generator(np.random.Philox(1)).standard_normal((50, 3)) * [1.0, 5.0, 0.0] + 100
    merged = Moments.none(3)
    for part in np.split(vectors, [3, 4, 4, 30]):
        merged += Moments.of(part)
    mean, spread = merged.whitening
    np.testing.assert_allclose(mean, vectors.mean(0), rtol=1e-13)
    np.testing.assert_allclose(spread, [*vectors.std(0)[:2], 1.0], rtol=1e-12)
    again = Moments.from_json(json.loads(json.dumps(merged.to_json())))
    assert np.array_equal(again.squares, merged.squares) and again.count == 50


def test_running_whitening_is_fixed_within_a_round_and_counts_its_observations_after_it() -> None:
    problem = Control("CartPole-v1", whiten=True, whiten_running=True, whiten_episodes=2)
    before = problem._used
    candidates = torch.zeros(3, problem.policy.dimension, dtype=torch.float64)
    first = problem(candidates, Context(reset_seed=5))
    assert torch.equal(problem(candidates, Context(reset_seed=5)), first)  # the same round
    assert problem._used.count == before.count
    lengths = int(first.sum())  # CartPole gives 1 a step
    problem(candidates, Context(reset_seed=6))
    assert problem._used.count == before.count + 2 * (lengths + 3)  # the first observation of each episode too
    with pytest.raises(UserError, match="set whiten too"):
        Control("CartPole-v1", whiten_running=True)


def running_search(folder: Path, steps: int) -> Session:
    problem = Control("CartPole-v1", whiten=True, whiten_running=True, whiten_episodes=2, max_steps=40)
    strategy = GradientStrategy(AugmentedRandomSearch(Gaussian(), 0.5, probes=3), SGD(0.5, Schedule("constant")))
    journal = Journal(folder)
    session = Session(strategy, problem.parameters(), journal=journal)
    run(session, Counted(ObjectiveOracle(problem)), Budget(steps=steps), checkpoint_every=3)
    journal.close()
    return session


def test_a_run_with_running_whitening_ended_after_any_line_ends_as_one_never_ended(tmp_path: Path) -> None:
    whole = running_search(tmp_path / "whole", 5)
    lines = (tmp_path / "whole/journal.jsonl").read_bytes().splitlines(keepends=True)
    assert sum(b'"memory"' in line for line in lines) == 5
    for count in range(1, len(lines) + 1):
        if b'"values"' in lines[count - 1]:
            continue  # answers and memory reach the file together
        folder = tmp_path / str(count)
        shutil.copytree(tmp_path / "whole", folder)
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:count]))
        again = running_search(folder, 5)
        assert torch.equal(again.parameters.flat(), whole.parameters.flat()), f"ended after line {count}"
        assert again.memory == whole.memory


@pytest.mark.draws  # torch draws a layer's first weights
def test_a_perceptron_is_the_torch_network_with_its_weights() -> None:
    policy = Perceptron([3, 5, 2], bias=True)
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()
    weights = np.random.Generator(np.random.Philox(1)).standard_normal((4, policy.dimension))
    observations = np.random.Generator(np.random.Philox(2)).standard_normal((4, 3))
    for row, observation, output in zip(weights, observations, policy.outputs(weights, observations), strict=True):
        first, second = row[:20].reshape(4, 5), row[20:].reshape(6, 2)
        with torch.no_grad():
            for layer, matrix in ((net[0], first), (net[2], second)):
                layer.weight.copy_(torch.from_numpy(matrix[:-1].T))
                layer.bias.copy_(torch.from_numpy(matrix[-1]))
            expected = net(torch.from_numpy(observation)).numpy()
        np.testing.assert_allclose(output, expected, rtol=1e-12)
    same = ModulePolicy(net)
    flat = np.concatenate([p.detach().numpy().ravel() for p in net.parameters()])
    np.testing.assert_allclose(
        same.outputs(np.stack([flat] * 4), observations), net(torch.from_numpy(observations)).detach().numpy()
    )


def test_actions_of_each_kind_of_space() -> None:
    assert Actions(spaces.Discrete(3, start=5)).of(np.array([0.0, 2.0, 1.0])) == 6
    many = Actions(spaces.MultiDiscrete([2, 3]))
    assert many.size == 5 and many.of(np.array([1.0, 0, 0, 0, 3.0])).tolist() == [0, 2]
    box = Actions(spaces.Box(-1, 1, (2,), np.float32))
    assert box.of(np.array([5.0, -0.25])).tolist() == [1.0, -0.25]
    with pytest.raises(ValueError, match="not finite"):
        box.of(np.array([np.nan, 0]))
    with pytest.raises(UserError, match="not supported"):
        Actions(spaces.Text(3))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"environment": "CartPoel-v1"}, "CartPoel-v1 can't be made"),
        ({"environment": "CartPole-v1", "policy": "deep"}, "policy is 'linear', 'mlp' or an import path"),
        ({"environment": "CartPole-v1", "episodes": 0}, "episodes must be at least 1"),
        ({"environment": "CartPole-v1", "options": {"nothing": 1}}, "can't be made"),
        ({"environment": "CartPole-v1", "wrappers": ["no_such_module:X"]}, "no_such_module"),
        ({"environment": "CartPole-v1", "policy": "builtins:dict"}, "could not|gave a|not a torch module|dict"),
    ],
)
def test_mistakes_are_told_in_words(how: Any, words: str) -> None:
    with pytest.raises((UserError, TypeError), match=words):
        Control(**how)


def test_ranks_alone_solve_cartpole_and_episodes_are_counted() -> None:
    problem = Control("CartPole-v1", seed=1)
    strategy = GradientStrategy(RankEvolution(Gaussian(), 0.5, 8), SGD(1.0, "constant"))
    session = Session(strategy, problem.parameters(), 1)
    result = run(session, Ranked(ObjectiveOracle(problem)), Budget(episodes=200))
    assert result.status is Status.EPISODES
    assert result.cost["episodes"] == 192 == result.cost["queries"] == 16 * result.cost["rankings"]
    assert result.cost["environment_steps"] > 192 * 9
    assert problem.metrics()["return"] > 300


def test_a_budget_of_time_steps_ends_after_the_round_that_spends_it() -> None:
    problem = Control("Corridor-v0")
    strategy = GradientStrategy(RankEvolution(Gaussian(), 0.5, 2), SGD(0.1))
    result = run(
        Session(strategy, problem.parameters()), Ranked(ObjectiveOracle(problem)), Budget(environment_steps=70)
    )
    assert result.status is Status.ENVIRONMENT_STEPS
    assert result.cost["environment_steps"] == 80  # rounds of 4 episodes of 5 steps


def test_a_clip_shows_the_episode() -> None:
    problem = Control("Corridor-v0")
    clip = problem.render(np.zeros(5))
    assert clip.dtype == np.uint8 and clip.shape == (6, 4, 6, 3)
    assert clip[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(problem.render(np.zeros(5), frames=3)) == 3


def test_play_films_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame", reason="CartPole is drawn by pygame")
    image = pytest.importorskip("PIL.Image", reason="GIFs are written by pillow")
    from blackbox.cli.main import main

    monkeypatch.setitem(os.environ, "SDL_VIDEODRIVER", "dummy")
    config = Path(__file__).parents[2] / "configs" / "cartpole.yaml"
    with pytest.raises(SystemExit) as stop:
        main(["run", str(config), "--set", f"run.folder={tmp_path}", "--set", "budget.episodes=32"])
    assert stop.value.code == 0
    with pytest.raises(SystemExit) as stop:
        main(["play", str(tmp_path / "cartpole"), "--video", str(tmp_path / "clip.gif")])
    assert stop.value.code == 0
    with image.open(tmp_path / "clip.gif") as clip:
        assert clip.n_frames > 5


class TestARS(EstimatorSuite):
    unbiased_on_linear = False

    @pytest.fixture
    def estimator(self) -> AugmentedRandomSearch:
        return AugmentedRandomSearch(probes=3, best=2)


def test_ars_is_the_paper_s_formula() -> None:
    estimator = AugmentedRandomSearch(Gaussian(), 0.1, probes=3, best=2)
    parameters = Parameters.from_vector(np.zeros(7))
    round = make_round(0, parameters)
    values = np.array([1.0, 5.0, 4.0, 9.0, 2.0, 3.0])  # the pairs' lowest: 1, 4, 2
    found = estimator.estimate(round, Answers([Values(round.ids(0, 6), values)])).direction
    noise = Gaussian().sample(round.seeds("probe", 3), round.layout.specs[0], 0, 7).double().numpy()
    spread = np.std([1.0, 5.0, 2.0, 3.0])
    expected = ((1 - 5) * noise[0] + (2 - 3) * noise[2]) / (2 * spread)
    np.testing.assert_allclose(vector(found, round.layout).numpy(), expected, rtol=1e-6)
