"""What an order says about points that nobody has asked about: a Gaussian process of preferences, by BoTorch.

A utility f ~ GP with an RBF kernel over the unit cube; "a is better than b" has the probability
Phi((f(a) - f(b))/sqrt 2) (Chu & Ghahramani 2005, "Preference Learning with Gaussian Processes"; Laplace's
approximation, BoTorch's PairwiseGP). Length scales and the utility's scale are those of the highest approximate
evidence, under BoTorch's priors. The next candidates x_1 .. x_q are those of the highest expected utility of the best
of them (qEUBO, arXiv:2303.15746):

    x_1 .. x_q = argmax E[max_i f(x_i)]

BoTorch is called so that it draws nothing from a global generator: where it would, it is given a start or a seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from botorch.acquisition import PosteriorMean
from botorch.acquisition.preference import qExpectedUtilityOfBestOption
from botorch.models.pairwise_gp import PairwiseGP, PairwiseLaplaceMarginalLogLikelihood
from botorch.optim import optimize_acqf
from botorch.optim.fit import fit_gpytorch_mll_scipy
from botorch.sampling.normal import SobolQMCNormalSampler
from linear_operator.utils.errors import NotPSDError
from torch import Tensor

from blackbox.strategies.preferential import spread

_SAMPLES, _RAW, _STARTS = 128, 128, 4
_OPTIONS = {"maxiter": 50}


class PreferenceModel:
    """Fitted to comparisons; a function of them alone, to the bit.

    Args:
        points: float64 [n, k] in the unit cube, each in some comparison.
        comparisons: int64 [m, 2], rows (better, worse) of points; at least one.
    """

    def __init__(self, points: Tensor, comparisons: Tensor) -> None:
        self.points = points
        with _quiet():
            self._gp = _Pairwise(points, comparisons)
            likelihood = PairwiseLaplaceMarginalLogLikelihood(self._gp.likelihood, self._gp)
            before = {name: value.clone() for name, value in self._gp.covar_module.state_dict().items()}
            try:
                fit_gpytorch_mll_scipy(likelihood, options={"maxiter": 100})
            except NotPSDError:  # far from any sensible scale: then the priors' modes
                self._gp.covar_module.load_state_dict(before)
            likelihood.eval()
            self._gp.set_train_data(points, comparisons, update_model=True)

    def utility(self, points: Tensor) -> Tensor:
        """float64 [n]: the mean utility, up to a constant; higher is better."""
        with _quiet(), torch.no_grad():
            mean: Tensor = self._gp.posterior(points).mean.squeeze(-1)
        return mean

    def best(self) -> Tensor:
        """float64 [k]: where the mean utility is highest in the unit cube."""
        known = self.points[self.utility(self.points).topk(min(_STARTS, len(self.points))).indices]
        return self._highest(PosteriorMean(self._gp), known.unsqueeze(1).clamp(0, 1))[0]

    def candidates(self, count: int, seed: int) -> Tensor:
        """float64 [count, k]: what to ask next, in the unit cube."""
        k = self.points.shape[1]
        drawn = spread(_RAW, count * k, seed).view(_RAW, count, k)
        drawn[::2, 0] = self.points[self.utility(self.points).argmax()].clamp(0, 1)  # against the best so far
        sampler = SobolQMCNormalSampler(torch.Size([_SAMPLES]), seed=seed)
        with _quiet(), torch.no_grad():
            acquisition = qExpectedUtilityOfBestOption(self._gp, sampler=sampler)
            value = acquisition(drawn)
        return self._highest(acquisition, drawn[value.topk(_STARTS).indices])

    def _highest(self, acquisition: Any, starts: Tensor) -> Tensor:
        """[q, k] of the highest acquisition, climbing from starts [s, q, k]."""
        cube = torch.stack([torch.zeros_like(starts[0, 0]), torch.ones_like(starts[0, 0])])
        with _quiet():
            found: Tensor = optimize_acqf(
                acquisition,
                cube,
                q=starts.shape[1],
                num_restarts=len(starts),
                batch_initial_conditions=starts,
                options=_OPTIONS,
                retry_on_optimization_warning=False,
            )[0]
        return found.detach()


class _Pairwise(PairwiseGP):  # type: ignore[misc]
    """Looks for the likeliest utilities from zero; BoTorch would start at a draw of NumPy's global generator."""

    _x0: Any

    def _update(self, datapoints: Tensor, **how: Any) -> None:
        if self._x0 is None or len(self._x0) != self.n:
            self._x0 = np.zeros(self.n)  # what the search starts from
        super()._update(datapoints, **how)


@contextmanager
def _quiet() -> Iterator[None]:
    """The libraries warn of scales and of searches that ended early; neither is the user's to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
