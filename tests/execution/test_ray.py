"""Ray's actors: the bits of worker processes, whoever is lost on the way."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from blackbox.config.loader import check, check_build
from blackbox.config.source import parse
from blackbox.errors import UserError
from blackbox.execution import LayerAccess
from blackbox.execution.ray import RayActors
from blackbox.noise import Coordinate
from blackbox.parameters import Parameters
from blackbox.probe import Context, Probes, Queries
from problems.training import ImageClassification

pytest.importorskip("sklearn")
if importlib.util.find_spec("ray") is None:  # it isn't imported here: that is the execution's to do, with care
    pytest.skip("ray isn't installed", allow_module_level=True)


def problem() -> ImageClassification:
    return ImageClassification(widths=(3, 4), batch_size=16)


def coordinates(parameters: Parameters, context: Context) -> Queries:
    d = parameters.dimension
    probes = Probes(Coordinate(), (0, *range(d)), (0.0, *(1e-2 / d**0.5,) * d))
    return Queries(tuple(f"0.0.{i}" for i in range(d + 1)), probes, context=context)


@pytest.fixture(scope="module")
def actors() -> Iterator[RayActors]:
    """Two, in a cluster of their own; it takes seconds to start."""
    drawn, handler = random.getstate(), signal.getsignal(signal.SIGTERM)
    actors = RayActors(2, chunk=50)
    one = problem()
    actors.evaluate_together(one, coordinates(one.parameters(), Context(1)), one.parameters())
    assert random.getstate() == drawn
    assert signal.getsignal(signal.SIGTERM) is handler
    yield actors
    actors.close()
    import ray

    assert not ray.is_initialized()


def test_the_bits_are_those_of_the_same_portions_in_this_process(actors: RayActors) -> None:
    one = problem()
    for context in (Context(5), Context(6)):
        queries = coordinates(one.parameters(), context)
        there = actors.evaluate_together(one, queries, one.parameters())
        portions = [queries[start : start + 50] for start in range(0, len(queries), 50)]
        here = [LayerAccess().evaluate_together(one, portion, one.parameters()) for portion in portions]
        assert torch.equal(there, torch.cat(here))  # type: ignore[arg-type]
        one.parameters().assign({name: t + 0.01 for name, t in one.parameters().tensors.items()})  # new weights
    smaller = ImageClassification(widths=(2,), batch_size=4)  # another problem: other copies, the same cluster
    queries = coordinates(smaller.parameters(), Context(5))[:40]
    there = actors.evaluate_together(smaller, queries, smaller.parameters())
    assert torch.equal(there, LayerAccess().evaluate_together(smaller, queries, smaller.parameters()))  # type: ignore[arg-type]


def test_an_actor_that_is_lost_costs_nothing_but_time(actors: RayActors) -> None:
    one = problem()
    queries = coordinates(one.parameters(), Context(3))
    calm = actors.evaluate_together(one, queries, one.parameters())
    first, second = actors.pids
    killer = threading.Timer(0.005, os.kill, (first, signal.SIGKILL))
    killer.start()
    found = actors.evaluate_together(one, queries, one.parameters())
    killer.join()
    again = actors.evaluate_together(one, queries, one.parameters())  # and if it died after its last portion
    assert torch.equal(found, calm) and torch.equal(again, calm)  # type: ignore[arg-type]
    assert first not in actors.pids and second in actors.pids and len(actors.pids) == 2


def test_the_cluster_is_for_this_machine_and_who_has_the_token(actors: RayActors) -> None:
    import ray

    host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
    assert host == "127.0.0.1"
    sockets = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    listening = {line.split()[1] for line in sockets if f":{int(port):04X} " in line}
    anywhere = {f"{'0' * 8}:{int(port):04X}", f"{'0' * 32}:{int(port):04X}"}
    assert listening and not listening & anywhere
    code = f"import ray; ray.init(address='{host}:{port}', log_to_driver=False)"
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    stranger["RAY_gcs_server_port_wait_time_s"] = "1"  # one try
    assert os.environ["RAY_AUTH_MODE"] == "token"
    refused = subprocess.run([sys.executable, "-c", code], env=stranger, capture_output=True, text=True, timeout=120)
    assert refused.returncode != 0 and "Failed to connect" in refused.stderr


def test_what_an_actor_refuses_is_said(actors: RayActors) -> None:
    one = problem()
    queries = coordinates(one.parameters(), Context(1))
    strange = RayActors(1, problem={"type": "nonesuch"})
    with pytest.raises(UserError, match="no problem 'nonesuch'"):
        strange.evaluate(one, queries, one.parameters())
    assert strange.pids == []
    assert len(actors.pids) == 2  # the cluster was not that one's to end


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "problem: image-classification\nestimator: coordinate\noptimizer: {type: sgd, lr: 1}\nbudget: {steps: 1}\n"
    config = check(parse(f"{text}execution: {{type: ray, count: 3}}\n", "demo.yaml"))
    check_build(config)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"demo.yaml:5: execution: .*pip install 'blackbox-zo\[ray\]'"):
        check_build(config)


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(UserError, match="gpus must be 0 or more"):
        RayActors(gpus=-1)
    for inside in ("in-place", "workers", "ray"):
        with pytest.raises(UserError, match=f"inside: {inside} can't be"):
            RayActors(inside=inside)
