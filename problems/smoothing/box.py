"""Black boxes: images go in, scores or images come out, and every one that is asked is counted.

A network of this process is a black box that may be opened, which only the first-order routes of a defence and
first-order attacks do. A service or a program is reached through ``oracles.remote.RemoteFunction``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from blackbox.config.registry import imported
from blackbox.config.rehearsal import loading_begins
from blackbox.errors import UserError
from oracles.command import CommandTransport
from oracles.remote import RemoteFunction
from problems.training.networks import ResNet20, load, seeded

CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BlackBox(ABC):
    """Images float [n, c, h, w] in -> outputs float [n, ...] out: logits of classes, or images.

    Attributes:
        queries: images it was asked about, opened or not.
    """

    def __init__(self) -> None:
        self.queries = 0

    @abstractmethod
    def answer(self, images: Tensor) -> Tensor:
        """The outputs, on the images' device."""

    def place(self, device: torch.device) -> None:
        """Images will lie on this device."""
        return

    def close(self) -> None:
        """Let go of what is outside this process."""
        return

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The outputs, without gradients; counted."""
        self.queries += len(images)
        return self.answer(images)

    def opened(self, images: Tensor) -> Tensor:
        """The outputs with gradients to the images; counted. Raises UserError where the box can't be opened."""
        raise UserError(f"{type(self).__name__} can only be asked: first-order methods need a network of this process.")


class Module(BlackBox):
    """A network as it is: neither its mode nor its weights are ever changed.

    Args:
        module: images [n, c, h, w] -> outputs; in eval mode.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def place(self, device: torch.device) -> None:
        """The network goes there."""
        self.module.to(device)

    def answer(self, images: Tensor) -> Tensor:
        """As the base says."""
        outputs: Tensor = self.module(images)
        return outputs

    def opened(self, images: Tensor) -> Tensor:
        """As the base says."""
        self.queries += len(images)
        return self.answer(images)


class Network(Module):
    """A classifier with saved weights.

    Args:
        weights: a safetensors file.
        network: "small-classifier" (greyscale, as the diffusion models' judge), "resnet20" (of CIFAR-10), or the import
            path of a function without arguments that makes the network.
    """

    def __init__(self, weights: str, network: str = "small-classifier") -> None:
        if network not in ("small-classifier", "resnet20") and ":" not in network:
            raise UserError(
                f"network: small-classifier, resnet20 or an import path (package.module:function), not '{network}'."
            )
        loading_begins()
        if network == "small-classifier":
            from problems.diffusion.classifier import load_classifier

            module: nn.Module = load_classifier(Path(weights).expanduser())
        elif network == "resnet20":
            module = nn.Sequential(_Standardised(CIFAR_MEAN, CIFAR_STD), seeded(ResNet20, 0))
            load(module[1], weights)
        else:
            with torch.random.fork_rng(devices=[]):  # first weights are drawn before they are overwritten
                module = imported(network)()
            load(module, weights)
        # A CPU's convolutions are twice as quick in this layout.
        super().__init__(module.eval().requires_grad_(False).to(memory_format=torch.channels_last))  # type: ignore[call-overload]


class _Remote(BlackBox):
    """What stands outside this process."""

    def __init__(self, function: RemoteFunction) -> None:
        super().__init__()
        self.function = function

    def answer(self, images: Tensor) -> Tensor:
        """As the base says; what the transport complains about is raised."""
        before = self.function.spent.get("queries", 0)
        try:
            return self.function(images)
        finally:  # attempts that failed count, and what never reached the other side doesn't
            self.queries += int(self.function.spent.get("queries", 0) - before) - len(images)

    def close(self) -> None:
        """As the base says."""
        self.function.transport.close()


class HttpBox(_Remote):
    """A service: images are posted as nested lists under "candidates", "values" holds a list of outputs for each.

    Args:
        url, concurrency, token_env, headers_env, timeout, attempts, backoff, rate: as for HttpTransport.
        batch: images that one request holds at most.
    """

    def __init__(
        self,
        url: str,
        batch: int = 64,
        concurrency: int = 4,
        token_env: str | None = None,
        headers_env: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        attempts: int = 4,
        backoff: float = 0.5,
        rate: float | None = None,
    ) -> None:
        from oracles.http import HttpTransport  # its package, httpx, is an extra

        transport = HttpTransport(
            url, concurrency, token_env, headers_env, timeout, attempts=attempts, backoff=backoff, rate=rate
        )
        super().__init__(RemoteFunction(transport, batch))


class CommandBox(_Remote):
    """A program: the same JSON on its standard input, and out.

    Args:
        command, persistent, timeout, folder: as for CommandTransport.
        batch: images that one question holds at most.
    """

    def __init__(
        self,
        command: Sequence[str],
        persistent: bool = True,
        batch: int = 64,
        timeout: float = 60.0,
        folder: str | None = None,
    ) -> None:
        super().__init__(RemoteFunction(CommandTransport(command, persistent, timeout, folder=folder), batch))


class _Standardised(nn.Module):
    """(x - mean) / std of each channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(numbers)[:, None, None] for numbers in (mean, std))

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> the same."""
        return (x - self.mean.to(x)) / self.std.to(x)
