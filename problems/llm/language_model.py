"""A language model with what is tuned of it: loaded as a problem's keys say, and written for other tools to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import save_file
from torch import nn

from blackbox.errors import UserError
from blackbox.parameters import Parameters
from problems.llm.model import Loaded, load_model, quiet
from problems.llm.tuning import ADAPTERS, choose_tuned

HEAD = "head.safetensors"


class LanguageModel:
    """A model, its tokenizer, and what is tuned.

    Args:
        model: `smollm2-135m`, `tiny`, a folder, a `.gguf` file or a hub id; or one that is loaded already.
        tuning: `full`, `last-layer`, `lora`, `prefix`, `prompt`, or patterns of parameter names.
        lora: r, alpha and target_modules.
        virtual_tokens: of `prefix` and `prompt`: how many, or a text that they start at.
        adapter: a folder that peft wrote, to go on from.
        dtype: of the weights: float32, bfloat16, float16 or float64.
        device: auto, cuda, mps or cpu.
        seed: of an adapter's start.
        kind: causal, masked or encoder.
        classes: of a linear layer on top, `head`, that is tuned with the rest and starts at zero; none if 0.

    Attributes:
        module: the model in eval mode, in peft's wrapper for an adapter; what is tuned requires a gradient.
        tokenizer: of transformers.
        device: where the model is.
    """

    def __init__(
        self,
        model: str | Loaded = "smollm2-135m",
        tuning: str | Sequence[str] = "full",
        lora: Mapping[str, Any] | None = None,
        virtual_tokens: int | str | None = None,
        adapter: str | None = None,
        dtype: str = "float32",
        device: str = "auto",
        seed: int = 0,
        kind: str = "causal",
        classes: int = 0,
    ) -> None:
        self.name = model if isinstance(model, str) else model.name
        self.tuning = tuning
        loaded, self.tokenizer, self.device = load_model(model, dtype, device, kind)
        width = getattr(loaded.config, "hidden_size", 0)
        self.module: Any = choose_tuned(loaded, tuning, lora, seed, virtual_tokens, adapter, self.tokenizer)
        self.head: nn.Linear | None = None
        if classes:
            # From memory that is not drawn: the constructor would fill it from the global generator.
            self.head = nn.Linear(int(width), classes, device="meta").to_empty(device=self.device)
            for parameter in self.head.parameters():
                nn.init.zeros_(parameter)

    def parameters(self) -> Parameters:
        """What is tuned, under the names that it has in a problem; the same object at every call."""
        return self._parameters

    @cached_property
    def _parameters(self) -> Parameters:
        holder = nn.Module()
        holder.model = self.module
        if self.head is not None:
            holder.head = self.head
        return Parameters.from_module(holder)

    def detached(self) -> Any:
        """The model as transformers and peft know it, with nothing of ours left in it."""
        for handle in getattr(self.module, "virtual_hooks", ()):
            handle.remove()
        return self.module

    def export(self, folder: Path) -> str:
        """Write the model as it is now, with its tokenizer; what kind of folder it is, in words.

        All weights in transformers' format; of an adapter only what is tuned, in peft's.

        Raises:
            UserError: the folder can't be written.
        """
        adapter = self.tuning in ADAPTERS
        if adapter:
            # Not where its weights happen to lie on this machine.
            self.module.active_peft_config.base_model_name_or_path = self.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with quiet():
                self.module.save_pretrained(str(folder), **({"save_embedding_layers": False} if adapter else {}))
            self.tokenizer.save_pretrained(str(folder))
            if self.head is not None:
                save_file({name: value.cpu() for name, value in self.head.state_dict().items()}, str(folder / HEAD))
        except OSError as error:
            raise UserError(f"{folder} can't be written ({error.strerror or error}).") from error
        what = f"an adapter of {self.name} for peft" if adapter else "a model for transformers"
        return what if self.head is None else f"{what}, and {HEAD}"


class OfLanguageModel:
    """What problems over a language model share besides their data.

    Attributes:
        language_model: the model that is tuned.
        kind: of the model: causal, masked or encoder.
        start_keys: those of a problem's keys that say where a run starts; none of them speaks of data.
    """

    language_model: LanguageModel
    kind: ClassVar[str] = "causal"
    start_keys: ClassVar[tuple[str, ...]] = (
        *("model", "tuning", "lora", "virtual_tokens", "adapter"),
        *("dtype", "device", "seed"),
    )

    def export(self, folder: Path) -> str:
        """Write the model at the present point; see ``LanguageModel.export``."""
        return self.language_model.export(folder)

    @classmethod
    def without_data(cls, **keys: Any) -> LanguageModel:
        """What a problem with these keys tunes, at its starting point; no data is read."""
        return LanguageModel(**{key: keys[key] for key in cls.start_keys if key in keys}, kind=cls.kind)
