"""The global random generators: neither read nor set by anything in the framework."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def global_state() -> dict[str, bytes]:
    """The states of the generators of torch (all devices), numpy and random, comparable by ==."""
    numpy_state = np.random.get_state(legacy=False)
    words = numpy_state["state"]["key"].tobytes().hex() if "key" in numpy_state["state"] else ""
    state = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": f"{words} {numpy_state}".encode(),
        "random": repr(random.getstate()).encode(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = b"".join(s.numpy().tobytes() for s in torch.cuda.get_rng_state_all())
    return state


@contextmanager
def untouched() -> Iterator[None]:
    """Fails if the body changes the state of a global generator."""
    before = global_state()
    yield
    after = global_state()
    changed = [name for name, state in before.items() if after[name] != state]
    assert not changed, f"the global generator of {', '.join(changed)} was read or set"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let the body draw from torch's global CPU generator (to build a module), seeded; then restore it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
