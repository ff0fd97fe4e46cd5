"""Policy search: the weights of a policy, judged by the return of whole episodes.

All candidates of a round meet the same reset seeds (common random numbers), so what an order says is about the
policies. Higher is better; only ``ObjectiveOracle`` turns the sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blackbox.errors import UserError
from blackbox.probe import Context
from blackbox.seeds import derive_seed
from problems.base import VectorProblem
from problems.control.policies import Array, make_policy
from problems.control.rollout import Arena


class Control(VectorProblem):
    """A policy in a gymnasium environment.

    Args:
        environment: a registered id such as "CartPole-v1", or "module:Id".
        policy: "linear", "mlp", or the import path of a callable (observations, outputs) -> torch module.
        hidden: widths of the mlp's hidden layers.
        bias: whether layers of linear and mlp have one.
        episodes: episodes of one query; their mean return counts.
        whiten: subtract the mean of observations and divide by their spread, as found beforehand in
            ``whiten_episodes`` episodes of random actions. They stay fixed, so that a journal can replay the run.
        whiten_episodes: see ``whiten``.
        max_steps: time steps an episode lasts at most; the environment's own limit if left out.
        wrappers: import paths of gymnasium wrappers, the innermost first.
        options: keyword arguments of the environment.
        test_episodes: fresh episodes, with reset seeds of their own, that ``metrics`` takes the mean over.
        seed: of the starting weights and of the test episodes.
    """

    maximize = True

    def __init__(
        self,
        environment: str,
        policy: str = "linear",
        hidden: Sequence[int] = (32,),
        bias: bool = False,
        episodes: int = 1,
        whiten: bool = False,
        whiten_episodes: int = 10,
        max_steps: int | None = None,
        wrappers: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        test_episodes: int = 20,
        seed: int = 0,
    ) -> None:
        counts = {"episodes": episodes, "whiten_episodes": whiten_episodes, "test_episodes": test_episodes}
        for name, number in counts.items():
            if number < 1:
                raise UserError(f"{name} must be at least 1, not {number}.")
        self.arena = Arena(environment, wrappers, options, max_steps)
        self.policy = make_policy(policy, self.arena.observations, self.arena.actions.size, hidden, bias)
        self.episodes, self.test_episodes, self.seed = episodes, test_episodes, seed
        self.start = torch.from_numpy(self.policy.start(derive_seed(seed, "start")))
        size = self.arena.observations
        self.whitening = self._whitening(whiten_episodes) if whiten else (np.zeros(size), np.ones(size))
        self._steps = 0

    def __call__(self, candidates: Tensor, context: Context) -> Tensor:
        """Weights [n, d] -> returns [n, episodes]; the same reset seeds for all of them."""
        seeds = self._seeds("episode", context.reset_seed or 0, self.episodes)
        weights = candidates.detach().double().cpu().numpy()
        found = self.arena.run(self.policy, np.repeat(weights, self.episodes, 0), seeds * len(weights), self.whitening)
        self._steps += int(found.lengths.sum())
        return torch.from_numpy(found.returns.reshape(len(weights), self.episodes))

    def cost(self, context: Context) -> Mapping[str, float]:
        """Episodes; time steps are known afterwards, see ``take_cost``."""
        return {"episodes": float(self.episodes)}

    def take_cost(self) -> Mapping[str, float]:
        """Time steps of the environment since the last call."""
        steps, self._steps = self._steps, 0
        return {"environment_steps": float(steps)}

    def metrics(self, split: str = "test") -> dict[str, float]:
        """Mean and least return over fresh episodes, their mean length, and the share that was terminated."""
        seeds = self._seeds(split, self.seed, self.test_episodes)
        weights = self.parameters().flat().double().cpu().numpy()
        found = self.arena.run(self.policy, np.tile(weights, (len(seeds), 1)), seeds, self.whitening)
        return {
            "return": float(found.returns.mean()),
            "least_return": float(found.returns.min()),
            "length": float(found.lengths.mean()),
            "terminated": float(found.terminated.mean()),
        }

    def render(self, candidate: Any, frames: int = 60) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A clip of one episode, uint8 [t, h, w, 3]."""
        seed = self._seeds("clip", self.seed, 1)[0]
        weights = np.asarray(candidate, dtype=np.float64)
        return self.arena.film(self.policy, weights, seed, self.whitening, frames)

    def _seeds(self, role: str, seed: int, count: int) -> list[int]:
        return [derive_seed(seed, role, i) % 2**31 for i in range(count)]

    def _whitening(self, episodes: int) -> tuple[Array, Array]:
        env = self.arena.make()
        env.action_space.seed(derive_seed(self.seed, "whitening") % 2**31)
        seen: list[Array] = []
        for seed in self._seeds("whitening", self.seed, episodes):
            seen.append(self.arena.observe(env.reset(seed=seed)[0]))
            done = False
            while not done:
                observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
                seen.append(self.arena.observe(observation))
                done = terminated or truncated
        env.close()
        spread = np.std(seen, 0)
        return np.mean(seen, 0), np.where(spread > 1e-8, spread, 1.0)
