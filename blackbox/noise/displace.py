"""Adding noise to tensors: out = decay * base + c z(s), in one fused pass over memory.

One dynamic flat kernel per law and form, written in torch ops and fused by ``torch.compile``; the noise never exists
in memory. Three forms serve every execution:

    displace             out  <- decay * base + c z
    update_and_displace  base <- decay * base + u z(t), out <- base + c z(t + 1)      (write-free, merged)
    displace_twice       out  <- (decay * base + u z(t)) + c z(t + 1)                 (in place, merged)

``blackbox.noise.fused`` calls the kernels. Small tensors and machines without a compiler take the eager path, here, in
chunks. Rademacher noise is bit-equal on both paths, Gaussian to the last ulps; which path is taken is a property of the
``Displacer``, so a run can journal it. Many terms on a small tensor are one product of weights and noise, summed in
float64; on a large one they are streamed, a pass a term.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blackbox.layout import Layout, TensorSpec
from blackbox.noise.base import Law, draw_together
from blackbox.noise.fused import FUSE_FROM, Fused, Term
from blackbox.noise.kernels import wide
from blackbox.noise.low_rank import FactorNoise, low_rank_of
from blackbox.noise.thin import add_product

_CHUNK = 1 << 17
KEPT = 1 << 20
"""Elements of noise that a displacer holds at most: drawn for a round's candidates, wanted again for its update."""

_FACTORS = 64
"""Terms of low-rank noise that are added in one pass."""


class Displacer:
    """Adds one law's noise to the tensors of one layout.

    Args:
        law: the law.
        layout: the tensors.
        fused: use compiled kernels for large tensors; False is the eager path everywhere.

    Attributes:
        scaled: whether the law has a scale other than 1.
    """

    def __init__(self, law: Law, layout: Layout, fused: bool = True) -> None:
        self.law = law
        self.layout = layout
        self.scaled = type(law).scale is not Law.scale
        self._fused = Fused(law, layout, fused)
        small = [s for s in layout.specs if s.numel < FUSE_FROM]
        # What depends on the step is drawn tensor by tensor, each when its last update is paid.
        together = len(small) > 1 and sum(s.numel for s in small) <= KEPT and not law.stepwise
        self._few = {s.name: s for s in small} if together else {}
        self._few_drawn: dict[tuple[int, torch.device], dict[str, Tensor]] = {}
        self._factors = FactorNoise(layout)
        self._kept: dict[tuple[str, torch.dtype, torch.device], tuple[list[int], Tensor]] = {}

    def terms(self, terms: Sequence[Term]) -> list[Term]:
        """The terms with the law's scale multiplied into the coefficients."""
        if not self.scaled:
            return list(terms)
        return [(seed, c * self.law.scale(seed, self.layout)) for seed, c in terms]

    def displace(self, out: Tensor, base: Tensor, spec: TensorSpec, terms: Sequence[Term], decay: float = 1.0) -> None:
        """out <- decay * base + sum_i c_i z(s_i); flat tensors; ``out`` may be ``base``, or of another dtype."""
        if not terms:
            torch.mul(base, decay, out=out) if out.dtype == base.dtype else out.copy_(base * decay)
            return
        if self.law.stepwise:
            self._displace_in_step(out, base, spec, terms, decay)
            return
        if len(terms) > 1 and base.numel() < FUSE_FROM:
            self._sum(out, base, spec, terms, decay)
            return
        if self._is_factored(base, spec):
            self._add_factors(out, base, spec, terms, decay)
            return
        for seed, coefficient in terms:
            done = self._fused.displace(out, base, spec, (seed, coefficient), decay)
            self._eager(out, base, spec, done, seed, coefficient, decay)
            base, decay = out, 1.0

    def update_and_displace(
        self, out: Tensor, base: Tensor, spec: TensorSpec, update: Term, probe: Term, decay: float = 1.0
    ) -> None:
        """base <- decay * base + u z(t), then out <- base + c z(t + 1), in one pass."""
        if self.law.stepwise:
            self.displace(base, base, spec, [update], decay)
            self.displace(out, base, spec, [probe])
            return
        done = self._fused.move("update_and_displace", (out, base), spec, update, probe, decay)
        self._eager(base, base, spec, done, *update, decay)
        self._eager(out, base, spec, done, *probe, 1.0)

    def displace_pair(self, plus: Tensor, minus: Tensor, base: Tensor, spec: TensorSpec, probe: Term) -> None:
        """plus <- base + c z, minus <- base - c z, in one pass."""
        seed, c = probe
        done = self._fused.displace_pair(plus, minus, base, spec, probe)
        self._eager(plus, base, spec, done, seed, c, 1.0)
        self._eager(minus, base, spec, done, seed, -c, 1.0)

    def update_and_displace_pair(
        self,
        plus: Tensor,
        minus: Tensor,
        base: Tensor,
        spec: TensorSpec,
        update: Term,
        probe: Term,
        decay: float = 1.0,
    ) -> None:
        """base <- decay * base + u z(t), then plus and minus <- base +- c z(t + 1), in one pass."""
        if self.law.stepwise:
            self.displace(base, base, spec, [update], decay)
            self.displace_pair(plus, minus, base, spec, probe)
            return
        done = self._fused.move("update_and_displace_pair", (plus, minus, base), spec, update, probe, decay)
        self._eager(base, base, spec, done, *update, decay)
        self._eager(plus, base, spec, done, *probe, 1.0)
        self._eager(minus, base, spec, done, probe[0], -probe[1], 1.0)

    def displace_twice(self, base: Tensor, spec: TensorSpec, update: Term, probe: Term, decay: float = 1.0) -> None:
        """base <- (decay * base + u z(t)) + c z(t + 1), in one pass."""
        if self.law.stepwise:
            self.displace(base, base, spec, [update], decay)
            self.displace(base, base, spec, [probe])
            return
        done = self._fused.move("displace_twice", (base,), spec, update, probe, decay)
        self._eager(base, base, spec, done, *update, decay)
        self._eager(base, base, spec, done, *probe, 1.0)

    def noise(
        self, seeds: list[int], spec: TensorSpec, start: int, stop: int, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Elements start .. stop-1 of distinct seeds' unscaled noise: [len(seeds), stop - start], not to be written to.

        Kept if the seeds' noise of the whole layout has at most KEPT elements. Contiguous, but for a part of kept
        noise.
        """
        if len(seeds) * self.layout.dimension > KEPT:
            return self.law.sample(seeds, spec, start, stop, device).to(dtype).contiguous()
        drawn, noise = self._kept.get((spec.name, dtype, device), ([], None))
        if noise is None or (drawn != seeds and not set(seeds) <= set(drawn)):
            drawn, noise = list(seeds), self.law.sample(seeds, spec, 0, spec.numel, device).to(dtype).contiguous()
            self._kept[spec.name, dtype, device] = drawn, noise
        elif drawn != seeds:
            first = drawn.index(seeds[0])
            if drawn[first : first + len(seeds)] == seeds:
                noise = noise[first : first + len(seeds)]
            else:
                noise = noise[[drawn.index(seed) for seed in seeds]]
        return noise if stop - start == spec.numel else noise[:, start:stop]

    def small(self, seed: int, spec: TensorSpec, device: torch.device) -> Tensor:
        """One seed's unscaled noise of a whole small tensor, float32 [numel]; not to be written to.

        Drawn with that of all other small tensors by one hash call, and kept for the last seeds, 4 at least.
        """
        if spec.name not in self._few:
            return self.law.sample((seed,), spec, 0, spec.numel, device)[0]
        drawn = self._few_drawn
        if (seed, device) not in drawn:
            most = max(4, KEPT // sum(few.numel for few in self._few.values()))
            while len(drawn) >= most:
                del drawn[next(iter(drawn))]
            drawn[seed, device] = self.small_noise(seed, list(self._few.values()), device)
        return drawn[seed, device][spec.name]

    def small_noise(self, seed: int, specs: Sequence[TensorSpec], device: torch.device) -> dict[str, Tensor]:
        """Unscaled noise of many small tensors by one hash call: float32 [numel] by name."""
        law = self.law
        if law.grouped:
            return draw_together(law, seed, specs, device)
        low_rank = low_rank_of(law)
        plain = [s for s in specs if low_rank is not None and not low_rank.is_factored(s)]
        found = {}
        if low_rank is not None and plain:
            found = {n: z * law.factor(self.layout.by_name[n]) for n, z in low_rank.plain(seed, plain, device).items()}
        return {
            s.name: found[s.name] if s.name in found else law.sample((seed,), s, 0, s.numel, device)[0] for s in specs
        }

    def _eager(
        self, out: Tensor, base: Tensor, spec: TensorSpec, start: int, seed: int, c: float, decay: float
    ) -> None:
        if start == base.numel():
            return
        if self.law.stepwise:
            self._add_at_once(out, base, spec, [(seed, c)], decay, start)
            return
        if self._is_factored(base, spec):
            self._add_factors(out, base, spec, [(seed, c)], decay)
            return
        if spec.name in self._few:
            noise = self.small(seed, spec, base.device).to(wide(base)) * c
            part = base.to(noise.dtype)
            out.copy_(noise.add_(part if decay == 1.0 else part * decay))
            return
        for low in range(start, base.numel(), _CHUNK):
            high = min(low + _CHUNK, base.numel())
            noise = self.law.sample((seed,), spec, low, high, base.device)[0].to(wide(base))
            part = base[low:high].to(noise.dtype)
            out[low:high] = noise.mul_(c).add_(part if decay == 1.0 else part * decay)

    def factors(self, seeds: Sequence[int], spec: TensorSpec, device: torch.device) -> tuple[Tensor, Tensor]:
        """L and R of a matrix, z = L R^T, float32 [k, m, r] and [k, n, r]; only under a low-rank law.

        Those of all matrices are drawn by one hash call a seed, and kept for the seeds in use.
        """
        law = low_rank_of(self.law)
        assert law is not None
        left, right = self._factors.of(law, seeds, spec, device)
        factor = self.law.factor(spec)
        return left if factor == 1.0 else left * factor, right

    def _is_factored(self, base: Tensor, spec: TensorSpec) -> bool:
        """Whether z can be added as a product of thin matrices. In float64 that would show: elements are float32."""
        law = low_rank_of(self.law)
        large = base.numel() >= FUSE_FROM and base.dtype == torch.float32
        return law is not None and large and law.is_factored(spec)

    def _add_factors(self, out: Tensor, base: Tensor, spec: TensorSpec, terms: Sequence[Term], decay: float) -> None:
        """``displace`` by low-rank noise: one pass for every few terms."""
        for low in range(0, len(terms), _FACTORS):
            part = terms[low : low + _FACTORS]
            left, right = self.factors([seed for seed, _ in part], spec, base.device)
            weights = torch.tensor([c for _, c in part], device=base.device)
            left = (left * weights[:, None, None]).transpose(0, 1).flatten(1)
            right = right.transpose(0, 1).flatten(1)
            sums = out if out.dtype == base.dtype else torch.empty_like(base)
            into = sums.view(spec.shape)
            add_product(into, into if base is sums else base.view(spec.shape), left, right, decay)
            base, decay = sums, 1.0
        if base is not out:
            out.copy_(base)

    def _displace_in_step(
        self, out: Tensor, base: Tensor, spec: TensorSpec, terms: Sequence[Term], decay: float
    ) -> None:
        """``displace`` by noise that depends on the step: the mask is had while all elements are as they were."""
        count, words = self._fused.count(base), self._fused.words([seed for seed, _ in terms], spec, base)
        source, factor = base, decay
        for term in terms if count else ():
            self._fused.displace(out, source, spec, term, factor, words)
            source, factor = out, 1.0
        self._add_at_once(out, base, spec, terms, decay, count)

    def _add_at_once(
        self, out: Tensor, base: Tensor, spec: TensorSpec, terms: Sequence[Term], decay: float, start: int
    ) -> None:
        """``displace`` part by part: all of a part's noise is drawn while its elements are as they were."""
        for low in range(start, base.numel(), _CHUNK):
            high = min(low + _CHUNK, base.numel())
            total = base[low:high].to(wide(base), copy=True).mul_(decay)
            for seed, coefficient in terms:
                total.add_(self.law.sample((seed,), spec, low, high, base.device)[0], alpha=coefficient)
            out[low:high] = total

    def _sum(self, out: Tensor, base: Tensor, spec: TensorSpec, terms: Sequence[Term], decay: float) -> None:
        """``displace`` by many terms at once, as many as KEPT allows."""
        exact = torch.float32 if base.device.type == "mps" else torch.float64  # which mps lacks
        weights, block = np.array([c for _, c in terms]), max(1, KEPT // base.numel())
        total = base.to(exact)
        for low in range(0, len(terms), block):
            seeds = [seed for seed, _ in terms[low : low + block]]
            noise = self.noise(seeds, spec, 0, spec.numel, wide(base), base.device).to(exact)
            total = _plus_product(total, decay, weights[low : low + block], noise, out)
            decay = 1.0
        if total is not out:
            out.copy_(total)


def _plus_product(base: Tensor, decay: float, weights: npt.NDArray[np.float64], noise: Tensor, out: Tensor) -> Tensor:
    """decay * base + weights @ noise; in ``out`` if that has the dtype."""
    if base.device.type != "cpu":
        return torch.addmv(base, noise.t(), torch.from_numpy(weights).to(base), beta=decay)
    result = out if out.dtype == base.dtype else torch.empty_like(base)
    sums, here = result.numpy(), base.numpy()  # numpy's calls cost less than torch's
    np.add(here if decay == 1.0 else here * decay, weights @ noise.numpy(), out=sums)
    return result
