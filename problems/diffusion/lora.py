"""Low-rank adapters of a UNet, by peft: W + (alpha / rank) B A in the layers that are named. arXiv:2106.09685."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from blackbox.errors import UserError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


class Lora:
    """Which adapters are added.

    Args:
        rank: of B A.
        alpha: the adapter counts alpha / rank; the rank if left out.
        target_modules: ends of the names of the layers; the attention's four projections if left out.
        seed: of A, which is uniform within 1 / sqrt(its inputs). B is zero, so the search starts from the model.

    Raises:
        UserError: a rank or alpha that isn't positive.
    """

    def __init__(
        self, rank: int = 4, alpha: float | None = None, target_modules: Sequence[str] = ATTENTION, seed: int = 0
    ) -> None:
        if rank < 1:
            raise UserError(f"rank must be 1 or more, not {rank}.")
        if alpha is not None and not alpha > 0:
            raise UserError(f"alpha must be positive, not {alpha}.")
        self.rank, self.alpha = rank, float(rank if alpha is None else alpha)
        self.target_modules, self.seed = list(target_modules), seed

    def add_to(self, unet: nn.Module) -> nn.Module:
        """Puts adapters into a UNet, and lets them alone be tuned; UserError without peft or such layers."""
        try:
            import peft
        except ImportError as error:
            raise UserError("lora: adapters need the package peft (extra `llm`).") from error
        kit: Any = peft
        config = kit.LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules=self.target_modules, lora_dropout=0.0, bias="none"
        )
        unet.requires_grad_(False)
        try:
            with torch.random.fork_rng(devices=[]):  # what peft draws is drawn anew below
                found: nn.Module = kit.inject_adapter_in_model(config, unet).eval()
        except (ValueError, TypeError) as error:
            raise UserError(f"target_modules: {error}") from error
        generator = torch.Generator().manual_seed(self.seed)
        for name, tensor in found.named_parameters():
            if "lora_A" in name:
                bound = tensor[0].numel() ** -0.5
                tensor.data.copy_(torch.empty(tensor.shape).uniform_(-bound, bound, generator=generator))
        return found
