"""Checkpoints: what is saved comes back, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from blackbox import checkpoint
from blackbox.estimators import CentralDifference
from blackbox.execution import materialise
from blackbox.feedback import Values
from blackbox.journal import Journal
from blackbox.noise import Gaussian, Law, Rademacher, Sparse, Sphere
from blackbox.optimizers import SGD, Schedule, TorchOptimizer
from blackbox.parameters import Parameters
from blackbox.probe import Probe
from blackbox.session import Session
from blackbox.strategies import GradientStrategy


def session_in(folder: Path, noise: Law | None = None, adam: bool = True) -> Session:
    schedule = Schedule("constant")
    optimizer = TorchOptimizer("Adam", 0.05, schedule) if adam else SGD(0.01, schedule)
    strategy = GradientStrategy(CentralDifference(noise or Gaussian(), 1e-3, probes=2), optimizer)
    return Session(strategy, Parameters.from_vector([1.0, -2.0, 3.0]), journal=Journal(folder))


def rounds(session: Session, count: int, save_every: int = 0) -> None:
    for _ in range(count):
        queries = session.ask()
        x = materialise(queries, session.parameters)
        session.tell(Values(tuple(q.id for q in queries), (x.square() + x).sum(1).numpy()))
        session.advance()
        if save_every and session.steps % save_every == 0:
            session.save(seconds=float(session.steps))


def close(session: Session) -> None:
    assert session.journal is not None
    session.journal.close()


def bits(session: Session) -> bytes:
    return bytes(session.parameters.flat().numpy().tobytes())


def test_nested_values_and_tensors_come_back(tmp_path: Path) -> None:
    state = {
        "tensors": {"a.b": torch.arange(6.0).view(2, 3), "a": torch.ones(2, dtype=torch.bfloat16)},
        "list": [1, 2.5, None, "word", {"x": torch.zeros(0)}],
        "nothing": {},
    }
    checkpoint.save(tmp_path / "one.safetensors", state)
    back = checkpoint.load(tmp_path / "one.safetensors")
    assert torch.equal(back["tensors"]["a.b"], state["tensors"]["a.b"])  # type: ignore[index]
    assert back["tensors"]["a"].dtype == torch.bfloat16
    assert back["list"][:4] == [1, 2.5, None, "word"]
    assert back["list"][4]["x"].shape == (0,)
    assert back["nothing"] == {}


def test_a_failed_save_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one.safetensors"
    checkpoint.save(path, {"x": torch.ones(3)})

    def dies(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("blackbox.checkpoint.os.replace", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"x": torch.zeros(3)})
    assert torch.equal(checkpoint.load(path)["x"], torch.ones(3))


@pytest.mark.parametrize("adam", [True, False])
def test_a_run_resumed_from_a_checkpoint_ends_as_one_never_stopped(tmp_path: Path, adam: bool) -> None:
    whole = session_in(tmp_path / "whole", adam=adam)
    rounds(whole, 9)
    first = session_in(tmp_path / "parts", adam=adam)
    rounds(first, 5, save_every=3)
    close(first)
    second = session_in(tmp_path / "parts", adam=adam)
    assert (second.steps, second.saved_at) == (5, 3)
    rounds(second, 4)
    assert bits(second) == bits(whole)
    assert second.spent == whole.spent
    assert list(second.history) == list(whole.history)
    close(whole)
    close(second)


def test_without_its_newest_checkpoint_a_run_resumes_from_an_older_one_or_from_none(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    rounds(session, 7, save_every=2)
    end = bits(session)
    close(session)
    saved = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["step-00000004.safetensors", "step-00000006.safetensors"]
    for path in reversed(saved):
        path.unlink()
        again = session_in(tmp_path)
        assert bits(again) == end
        close(again)


def test_nothing_is_saved_while_a_round_is_open(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    session.ask()
    assert session.save(0.0) is None
    close(session)


@pytest.mark.parametrize("noise", [Gaussian(), Rademacher(), Sphere(), Sparse(Gaussian(), density=0.7, seed=3)])
def test_the_lowest_value_survives_with_its_query_and_point(tmp_path: Path, noise: Law) -> None:
    session = session_in(tmp_path, noise)
    rounds(session, 4, save_every=4)
    best = session.best
    close(session)
    again = session_in(tmp_path, noise)
    assert again.steps == again.saved_at == 4  # nothing was replayed
    assert again.best == best
    assert best is not None
    assert isinstance(best.query.candidate, Probe)
    close(again)


def test_a_checkpoint_is_readable_without_this_package(tmp_path: Path) -> None:
    from safetensors import safe_open

    session = session_in(tmp_path)
    rounds(session, 2, save_every=2)
    close(session)
    with safe_open(str(tmp_path / "checkpoints/step-00000002.safetensors"), framework="np") as file:
        np.testing.assert_array_equal(file.get_tensor("/tensors/x"), session.parameters.flat().numpy())
        assert json.loads(file.metadata()["state"])["version"] == 2
