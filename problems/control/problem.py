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

from blackbox.config.rehearsal import loading_begins
from blackbox.errors import UserError
from blackbox.probe import Context
from blackbox.seeds import derive_seed
from problems.base import VectorProblem
from problems.control.moments import Moments
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
            ``whiten_episodes`` episodes of random actions.
        whiten_episodes: see ``whiten``.
        whiten_running: let every round's observations count from the next round on (ARS V2, arXiv:1803.07055). The
            journal keeps mean and spread with the answers. Needs ``whiten``.
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
        whiten_running: bool = False,
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
        if whiten_running and not whiten:
            raise UserError("whiten_running goes on with what whiten begins: set whiten too.")
        self.arena = Arena(environment, wrappers, options, max_steps)
        self.policy = make_policy(policy, self.arena.observations, self.arena.actions.size, hidden, bias)
        self.episodes, self.test_episodes, self.seed = episodes, test_episodes, seed
        self.start = torch.from_numpy(self.policy.start(derive_seed(seed, "start")))
        loading_begins()
        none = Moments.none(self.arena.observations)
        self._whiten, self._running = whiten, whiten_running
        self._used, self._next, self._round = self._random(whiten_episodes) if whiten else none, none, -1
        self._changed = False
        self._steps = 0

    @property
    def whitening(self) -> tuple[Array, Array]:
        """What is subtracted from observations, and what they are divided by."""
        if not self._whiten:
            size = self.arena.observations
            return np.zeros(size), np.ones(size)
        return self._used.whitening

    def __call__(self, candidates: Tensor, context: Context) -> Tensor:
        """Weights [n, d] -> returns [n, episodes]; the same reset seeds for all of them."""
        reset_seed = context.reset_seed or 0
        seeds = self._seeds("episode", reset_seed, self.episodes)
        if self._running and reset_seed != self._round:
            self._used, self._next = self._used + self._next, Moments.none(self.arena.observations)
            self._round = reset_seed
        weights = candidates.detach().double().cpu().numpy()
        many = np.repeat(weights, self.episodes, 0)
        found = self.arena.run(self.policy, many, seeds * len(weights), self.whitening, self._running)
        self._steps += int(found.lengths.sum())
        if found.seen is not None:
            self._next, self._changed = self._next + found.seen, True
        return torch.from_numpy(found.returns.reshape(len(weights), self.episodes))

    def cost(self, context: Context) -> Mapping[str, float]:
        """Episodes; time steps are known afterwards, see ``take_cost``."""
        return {"episodes": float(self.episodes)}

    def take_cost(self) -> Mapping[str, float]:
        """Time steps of the environment since the last call."""
        steps, self._steps = self._steps, 0
        return {"environment_steps": float(steps)}

    def take_memory(self) -> Mapping[str, Any] | None:
        """The running mean and spread, if a round has changed them; see ``blackbox`` oracles' ``take_memory``."""
        if not self._changed:
            return None
        self._changed = False
        return {"round": self._round, "used": self._used.to_json(), "next": self._next.to_json()}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Take up what ``take_memory`` gave."""
        self._round = int(memory["round"])
        self._used, self._next = Moments.from_json(memory["used"]), Moments.from_json(memory["next"])

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

    def _random(self, episodes: int) -> Moments:
        """Of the observations in episodes of random actions."""
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
        return Moments.of(np.stack(seen))
