"""An opaque function inside backpropagation: its backward is estimated at its input, per sample."""

import numpy as np
import torch
from torch import nn

from blackbox.estimators import CentralDifference
from blackbox.layout import Layout
from blackbox.noise import Rademacher
from blackbox.seeds import derive_seed


class OpaqueLayer(nn.Module):
    """f is only called; values are <grad_output, f(x)> per sample; the call counter is in the state_dict."""

    def __init__(self, f, estimator):
        super().__init__()
        self.f, self.estimator = f, estimator
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        return _Opaque.apply(x, self)


class _Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer):
        ctx.save_for_backward(x)
        ctx.layer = layer
        return layer.f(x)

    @staticmethod
    def backward(ctx, grad):
        (x,), layer, estimator = ctx.saved_tensors, ctx.layer, ctx.layer.estimator
        spec = Layout.of({"x": (x.shape[1],)}).specs[0]
        seeds = [derive_seed(0, "opaque", int(layer.calls), i) for i in range(estimator.probes)]
        z = estimator.noise.sample(seeds, spec, 0, spec.numel).to(x)  # [q, d]
        points = torch.from_numpy(estimator.coefficients()).to(x) @ z  # [m, d]
        values = torch.stack([(layer.f(x + point) * grad).sum(1) for point in points])  # [m, batch]
        layer.calls += len(points)
        return torch.from_numpy(estimator.weights(values.numpy())).to(x).T @ z, None


def test_a_network_around_an_opaque_function_gets_the_gradient_of_autograd():
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    x = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    first = torch.eye(6, dtype=torch.float64).requires_grad_()
    layer = OpaqueLayer(lambda h: torch.tanh(h @ w), CentralDifference(Rademacher(), 1e-4, probes=1_500))
    exact, estimated = (
        torch.autograd.grad((f(x @ first) ** 2).sum(), first)[0] for f in (lambda h: torch.tanh(h @ w), layer)
    )
    assert torch.linalg.norm(estimated - exact) < 0.1 * torch.linalg.norm(exact)  # expected: sqrt(5 / 1500) = .06
    assert layer.state_dict()["calls"] == 3_000
    assert np.isfinite(estimated.numpy()).all()
