"""Finds weights that are read outside the modules that own them.

The write-free execution displaces a weight while the forward of its owner runs. A model that reads it elsewhere (a
functional call on another module's weight, nn.MultiheadAttention's output projection) would see it undisplaced. The
guard watches every operation of one forward and names such weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class ReadGuard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, an operation on one of ``weights``' storages is noted in ``found`` unless it is ``allowed``.

    ``allowed`` is a set of storage addresses that its user changes as it goes.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, None] = {}
        self.allowed: set[int] = set()
        self._names = {t.untyped_storage().data_ptr(): name for name, t in weights.items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for leaf in tree_iter((args, kwargs)):
            if isinstance(leaf, Tensor):
                address = leaf.untyped_storage().data_ptr()
                if address in self._names and address not in self.allowed:
                    self.found[self._names[address]] = None
        return func(*args, **kwargs)
