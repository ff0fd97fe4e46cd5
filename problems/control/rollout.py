"""Episodes: many policies and reset seeds side by side, one forward of all policies a time step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces.utils import flatdim, flatten

from blackbox.config.registry import imported
from blackbox.errors import UserError
from problems.control.moments import Moments
from problems.control.policies import Actions, Array, Policy


@dataclass(frozen=True)
class Episodes:
    """What happened in n episodes.

    Attributes:
        returns: float64 [n], sums of rewards.
        lengths: int64 [n], time steps.
        terminated: bool [n], ended by the environment itself; the others were cut off by a time limit.
        seen: of all observations, if they were to be watched.
    """

    returns: Array
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    terminated: np.ndarray[Any, np.dtype[np.bool_]]
    seen: Moments | None = None


class Arena:
    """Copies of one environment, made as they are needed.

    Args:
        environment: a registered id, or "module:Id", which imports the module first.
        wrappers: import paths of gymnasium wrappers, the innermost first.
        options: keyword arguments of the environment.
        max_steps: time steps an episode lasts at most; the environment's own limit if left out.

    Raises:
        UserError: there is no such environment, or its spaces are not supported.
    """

    def __init__(
        self,
        environment: str,
        wrappers: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        max_steps: int | None = None,
    ) -> None:
        self.environment, self.wrappers = environment, tuple(wrappers)
        self.options, self.max_steps = dict(options or {}), max_steps
        self._envs: list[gymnasium.Env[Any, Any]] = [self.make()]
        self.space = self._envs[0].observation_space
        try:
            self.observations = flatdim(self.space)
        except (NotImplementedError, ValueError) as error:
            raise UserError(f"Observations of {self.space} can't be made a vector: {error}.") from error
        self.actions = Actions(self._envs[0].action_space)

    def make(self, **more: Any) -> gymnasium.Env[Any, Any]:
        """One environment with its wrappers."""
        try:
            env: gymnasium.Env[Any, Any] = gymnasium.make(
                self.environment, max_episode_steps=self.max_steps, **self.options, **more
            )
        except (gymnasium.error.Error, ModuleNotFoundError, TypeError) as error:
            raise UserError(f"The environment {self.environment} can't be made: {error}") from error
        for path in self.wrappers:
            wrap = imported(path)
            try:
                env = wrap(env)
            except (TypeError, ValueError, AssertionError) as error:
                raise UserError(f"wrappers: {path} can't be put around {self.environment}: {error}.") from error
        return env

    def run(
        self, policy: Policy, weights: Array, seeds: Sequence[int], whiten: tuple[Array, Array], watch: bool = False
    ) -> Episodes:
        """An episode for every row of ``weights`` [n, d], reset with ``seeds`` [n].

        ``whiten`` is what is subtracted from an observation, and what it is divided by; ``watch`` asks for ``seen``.
        """
        count = len(weights)
        while len(self._envs) < count:
            self._envs.append(self.make())
        observations = np.stack([self.observe(self._envs[i].reset(seed=seeds[i])[0]) for i in range(count)])
        returns, lengths, ended = np.zeros(count), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)
        active = np.arange(count)
        watched = Moments.of(observations) if watch else None
        while len(active):
            outputs = policy.outputs(weights[active], (observations[active] - whiten[0]) / whiten[1])
            going = []
            for i, output in zip(active, outputs, strict=True):
                seen, reward, terminated, truncated, _ = self._envs[i].step(self.actions.of(output))
                observations[i] = self.observe(seen)
                returns[i] += float(reward)
                lengths[i] += 1
                ended[i] = terminated
                if not (terminated or truncated):
                    going.append(i)
            if watched is not None:
                watched += Moments.of(observations[active])
            active = np.array(going, dtype=np.int64)
        return Episodes(returns, lengths, ended, watched)

    def film(
        self, policy: Policy, weights: Array, seed: int, whiten: tuple[Array, Array], most: int
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Frames uint8 [t, h, w, 3] of one episode, evenly picked if there are more than ``most``."""
        env = self.make(render_mode="rgb_array")
        try:
            observation, frames, done = self.observe(env.reset(seed=seed)[0]), [env.render()], False
            while not done:
                output = policy.outputs(weights[None], ((observation - whiten[0]) / whiten[1])[None])[0]
                seen, _, terminated, truncated, _ = env.step(self.actions.of(output))
                observation, done = self.observe(seen), terminated or truncated
                frames.append(env.render())
        except (gymnasium.error.Error, ModuleNotFoundError, ImportError) as error:
            raise UserError(f"{self.environment} can't be shown: {error}") from error
        finally:
            env.close()
        picked = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).astype(int))
        return np.stack([np.asarray(frames[i], dtype=np.uint8) for i in picked])

    def observe(self, observation: Any) -> Array:
        """An observation of any supported space as a vector [o]."""
        return np.asarray(flatten(self.space, observation), dtype=np.float64)
