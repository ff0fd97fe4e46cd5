"""CMA-ES (Hansen 2016, arXiv:1604.00772) by the package cmaes, on vectors.

CMA-ES sorts its candidates and looks at nothing else, so an order is all it needs: it is told mean ranks. A candidate
that failed, or was skipped, has no place in an order; the round is then repeated with other candidates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from blackbox.errors import UserError
from blackbox.estimators.base import Plan, Round
from blackbox.feedback import Answers, Preferences, Ranking, Values
from blackbox.order import order_of
from blackbox.parameters import Parameters
from blackbox.probe import DenseCandidate
from blackbox.strategies.base import Strategy


class CMAES(Strategy):
    """CMA-ES around the present point.

    Args:
        sigma: the initial width, in units of the parameters; positive.
        population: candidates of one round; 4 + 3 ln d if left out.
    """

    accepts = frozenset({Values, Ranking, Preferences})

    def __init__(self, sigma: float, population: int | None = None) -> None:
        if not sigma > 0:
            raise UserError(f"sigma is a width and must be positive, not {sigma}.")
        if population is not None and population < 2:
            raise UserError(f"population must be at least 2, not {population}.")
        self.sigma = sigma
        self.population = population
        self._cma: Any = None
        self._asked: list[np.ndarray[Any, np.dtype[np.float64]]] = []

    def begin(self, parameters: Parameters) -> None:
        """The first mean is the starting point."""
        from cmaes import CMA

        if parameters.module is not None:
            raise UserError("CMA-ES needs a vector problem: its candidates are whole vectors.")
        mean = parameters.flat().double().cpu().numpy()
        self._cma = CMA(mean=mean, sigma=self.sigma, population_size=self.population, seed=0)

    def plan(self, round: Round, phase: int, answers: Answers) -> Plan:
        """One generation; its random numbers are the round's, so nothing of a generator need be kept."""
        if phase > 0:
            return Plan()
        self._cma._rng = np.random.RandomState(round.seed("population") % 2**32)
        asked = [self._cma.ask() for _ in range(self._cma.population_size)]
        mean = self._cma.mean
        self._asked = asked if round.radius == 1 else [mean + round.radius * (x - mean) for x in asked]
        return Plan(round.queries(0, [DenseCandidate(x) for x in self._asked]))

    def step(self, round: Round, answers: Answers, parameters: Parameters) -> dict[str, float]:
        """Tell the ranks; the parameters become the mean."""
        ids = round.ids(0, len(self._asked))
        values = answers.values(ids)
        info = {} if np.isnan(values).all() else {"value": float(np.nanmin(values))}
        judged = {i for ranking in answers.rankings for group in ranking.groups for i in group}
        judged |= {i for one in answers.preferences for i in one.ids}
        told = [i in judged for i in ids] if judged else ~np.isnan(values if values.ndim == 1 else values.mean(1))
        if all(told):
            ranks = order_of(answers, ids).ranks
            self._cma.tell(list(zip(self._asked, ranks.tolist(), strict=True)))
        parameters.assign(_unflatten(self._cma.mean, parameters))
        parameters.version += 1
        return {**info, "sigma": float(self._cma._sigma)}

    def state_dict(self) -> dict[str, Any]:
        """Everything the package's object holds: numbers and arrays."""
        state: dict[str, Any] = {}
        for name, value in vars(self._cma).items():
            if isinstance(value, np.ndarray):
                state[name] = torch.from_numpy(np.array(value))
            elif value is None or isinstance(value, bool | int | float):
                state[name] = value
            elif isinstance(value, np.generic):
                state[name] = value.item()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As the base says."""
        for name, value in state.items():
            setattr(self._cma, name, value.numpy().copy() if isinstance(value, torch.Tensor) else value)


def _unflatten(flat: np.ndarray[Any, Any], parameters: Parameters) -> dict[str, torch.Tensor]:
    whole = torch.from_numpy(flat)
    return {s.name: whole[s.offset : s.offset + s.numel].view(s.shape) for s in parameters.layout.specs}
