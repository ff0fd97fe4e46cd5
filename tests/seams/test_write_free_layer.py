"""Write-free: a layer computes with W + c z made on the fly, and W is never written."""

import torch
from torch import nn

from blackbox import Parameters, Probe, Query
from blackbox.execution import WriteFree
from blackbox.noise import Gaussian


class Objective:
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng():
            layers = nn.Embedding(50, 24), nn.Linear(24, 24), nn.LayerNorm(24), nn.Linear(24, 3)
        self.module = nn.Sequential(*layers).eval()
        for p in self.module.parameters():
            p.data = torch.randn(p.shape, generator=generator)
        self.tokens = torch.randint(0, 50, (6, 4), generator=generator)

    def values(self, context):
        return self.module(self.tokens).square().mean((1, 2))


def test_values_equal_those_of_written_weights_and_nothing_is_written():
    objective = Objective()
    parameters = Parameters.from_module(objective.module)
    before = {n: (t.clone(), t.data_ptr(), t._version) for n, t in parameters.raw.items()}
    query = Query("0.0.0", Probe(Gaussian(), ((11, 0.1), (12, -0.2))))
    (free,) = WriteFree().evaluate(objective, [query], parameters)
    for name, (value, address, version) in before.items():
        tensor = parameters.raw[name]
        assert torch.equal(tensor, value)
        assert (tensor.data_ptr(), tensor._version) == (address, version)
    with torch.no_grad():
        for spec in parameters.layout.specs:
            noise = Gaussian().sample([11, 12], spec, 0, spec.numel)
            parameters.raw[spec.name] += (0.1 * noise[0] - 0.2 * noise[1]).view(spec.shape)
        written = objective.values(None)
    assert torch.allclose(free, written, rtol=1e-5)
