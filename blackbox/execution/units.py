"""The units of a module: the parts that run one after the other, each with all the weights it needs.

Blocks are the elements of the module's outermost lists (transformers' ``layers``, ``h``, ``layer``, ``block``), or what
patterns name. Outside of them, the smallest parts that own weights are units.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from blackbox.errors import UserError


@dataclass(frozen=True, eq=False)
class Unit:
    """A part of a module.

    Attributes:
        name: its name in the module.
        module: the part.
        block: whether it is one of the blocks.
    """

    name: str
    module: nn.Module
    block: bool

    def tensors(self) -> list[Tensor]:
        """Its parameters, each once."""
        return list(self.module.parameters())

    @property
    def bytes(self) -> int:
        """Bytes of its parameters."""
        return sum(t.numel() * t.element_size() for t in self.tensors())


def units_of(module: nn.Module, patterns: Sequence[str] = ()) -> list[Unit]:
    """Every part that owns weights belongs to one unit; in the module's order.

    Args:
        module: the whole.
        patterns: regular expressions; a part is a block if one of them matches the whole of its name.

    Raises:
        UserError: a pattern matches nothing, or weights lie beside the blocks in a part that holds blocks.
    """
    names = {part: name for name, part in module.named_modules()}
    if patterns:
        for pattern in patterns:
            if not any(re.fullmatch(pattern, name) for name in names.values()):
                raise UserError(f"blocks: no part of the model is named '{pattern}'.{_lists(module)}")
        blocks = {part for part, name in names.items() if any(re.fullmatch(p, name) for p in patterns)}
    else:
        lists = [part for part in names if isinstance(part, nn.ModuleList)]
        blocks = {b for part in lists for b in part if not isinstance(b, nn.ModuleList | nn.ModuleDict)}
    found: dict[nn.Module, Unit] = {}

    def visit(part: nn.Module) -> None:
        own = [name for name, p in part.named_parameters(recurse=False)]
        if part in blocks or own:
            inside = [names[b] for b in part.modules() if b in blocks and b is not part]
            if part not in blocks and inside:
                raise UserError(
                    f"'{names[part] or type(part).__name__}' owns the weights {', '.join(own[:3])} itself and holds "
                    f"'{inside[0]}', so it can't be taken apart there. Name larger blocks, or leave streaming out."
                )
            if part not in found and any(True for _ in part.parameters()):
                found[part] = Unit(names[part], part, part in blocks)
            return
        for child in part.children():
            visit(child)

    visit(module)
    return list(found.values())


def _lists(module: nn.Module) -> str:
    lists = [name for name, part in module.named_modules() if isinstance(part, nn.ModuleList)]
    return f" Lists in it: {', '.join(lists[:5])}." if lists else ""
