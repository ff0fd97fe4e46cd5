"""Fifty raters on twenty runs through one server: is an answer lost, is one counted twice, how long does one take?

    python -m benchmarks.human_load [--quick]

Twenty processes each drive a run whose oracle is People (quorum 2); one process is `blackbox serve` over all of them;
fifty raters, each with a connection, a cookie and a page's headers of their own, take rounds of any run, look at the
candidates, think for about a second and answer over HTTP. Some send an answer twice (same token), some take it back,
some answer a round that is over.

What became of the answers is read from the journals and from the inboxes' tables by the code below, not by the
package's: ``lost`` are those that the server took, that nobody took back, and that are neither in the journal nor
waiting for a round that is still undecided. ``duplicated`` are rankings of one rater in one round beyond the first,
in a journal. ``uncalled_for`` are rankings in a journal that no rater stands by.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import random
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import arguments, finish, machine
from blackbox.budget import Budget
from blackbox.estimators import RankEvolution
from blackbox.journal import Journal
from blackbox.noise import Gaussian
from blackbox.optimizers import SGD
from blackbox.parameters import Parameters
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from oracles.human import People

RATERS, RUNS, QUORUM, UNDO_SECONDS = 50, 20, 2, 2.0
LEASE_MINUTES = 0.05  # who leaves without a word keeps others from a round no longer
THINKS = (0.3, 1.7)  # seconds, uniform
TWICE, UNDONE, STALE, GOES_ON = 0.15, 0.1, 0.1, 0.6  # how often


# --- the runs -----------------------------------------------------------------------------------------------------


class Numbers:
    """A problem that shows a candidate as JSON."""

    def render(self, candidate: np.ndarray) -> dict[str, Any]:
        return {"x": candidate.tolist()}


def drive(folder: Path, seed: int) -> None:
    """One run, until it is interrupted."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    strategy = GradientStrategy(RankEvolution(Gaussian(), 0.3, 3), SGD(0.3))
    with closing(Journal(folder)) as journal:
        session = Session(strategy, Parameters.from_vector(np.ones(4)), seed, journal)
        people = People(
            Numbers(), quorum=QUORUM, undo_seconds=UNDO_SECONDS, folder=str(folder), lease_minutes=LEASE_MINUTES
        )
        run(session, people, Budget(queries=1e9))


# --- the raters ---------------------------------------------------------------------------------------------------


class Browser:
    """What a browser with the page open sends: the cookie that it was given, an origin, the page's header."""

    def __init__(self, port: int, token: str) -> None:
        self._origin = f"http://127.0.0.1:{port}"
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers: dict[str, str] = {}
        self.requests = 0
        _, headers, _ = self._ask("GET", f"/?token={token}")
        self._headers["Cookie"] = headers["set-cookie"].partition(";")[0]
        for path in ("/", "/app.js"):
            assert self._ask("GET", path)[0] == 200
        found = json.loads(self._ask("GET", "/api/runs")[2])
        self.runs: list[str] = found["runs"]
        self._headers |= {"X-CSRF-Token": found["csrf"], "Origin": self._origin}

    def get(self, path: str) -> Any:
        """The JSON there; ValueError unless all is well."""
        status, _, body = self._ask("GET", path)
        if status != 200:
            raise ValueError(f"{path.partition('?')[0]}: status {status}, {body[:200]!r}")
        return json.loads(body)

    def post(self, path: str, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, _, body = self._ask("POST", path, json.dumps(message).encode())
        return status, json.loads(body)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any, bytes]:
        headers = self._headers | ({"Content-Type": "application/json"} if body else {})
        self.requests += 1
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()


@dataclass
class Given:
    """An answer that the server acknowledged."""

    run: str
    message: dict[str, Any]
    withdrawn: bool = False


@dataclass
class Rater:
    """One person: what they did and what they were told."""

    name: str
    seed: int
    given: list[Given] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _late: list[dict[str, Any]] = field(default_factory=list)

    def work(self, port: int, token: str, until: float) -> None:
        chance = random.Random(self.seed)
        time.sleep(chance.uniform(0, 1))
        try:
            browser = Browser(port, token)
            while time.monotonic() < until:
                self._one(browser, chance)
            self.counts["requests"] = browser.requests
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            self.wrong.append(f"{type(error).__name__}: {error}")

    def _one(self, browser: Browser, chance: random.Random) -> None:
        name = chance.choice(browser.runs)
        shown = browser.get(f"/api/round?run={name}&rater={self.name}")["round"]
        if shown is None:
            time.sleep(chance.uniform(0.05, 0.2))
            return
        values = {}
        for item in shown["items"]:
            there = browser.get(f"/artifact/{name}/{item['id']}")
            values[item["id"]] = sum(x * x for x in there["x"])
        time.sleep(chance.uniform(*THINKS))
        message = {"run": name, "rater": self.name, "round": shown["id"], **order(values, chance)}
        if chance.random() < STALE:
            self._late.append(message)  # to be sent when the round is long over
            return
        self._answer(browser, chance, message)
        if self._late and chance.random() < 0.5:
            self._stale(browser, self._late.pop(0))

    def _answer(self, browser: Browser, chance: random.Random, message: dict[str, Any]) -> None:
        status, told = self._submit(browser, message)
        if status != 200:
            self._count("too_late", status, 409)
            return
        given = Given(message["run"], message)
        self.given.append(given)
        self.counts["accepted"] += 1
        if chance.random() < TWICE:
            again, same = self._submit(browser, message)
            self._count("sent_twice", again, 200)
            if same != told:
                self.wrong.append(f"the same answer sent again is {same}, not {told}")
        if chance.random() < UNDONE:
            time.sleep(chance.uniform(0, 0.5 * UNDO_SECONDS))
            about = {"run": message["run"], "rater": self.name, "answer": told["answer"]}
            status, _ = browser.post("/api/undo", about)
            given.withdrawn = status == 200
            self._count("undone" if status == 200 else "undone_too_late", status, 200, 409)
        elif chance.random() < GOES_ON:
            status, _ = browser.post("/api/seal", {"run": message["run"], "rater": self.name})
            self._count("gone_on", status, 200)

    def _stale(self, browser: Browser, message: dict[str, Any]) -> None:
        """Most of these come to a round that is over; one that isn't is an answer like any other."""
        status, _ = self._submit(browser, message)
        self._count("stale_refused" if status == 409 else "accepted", status, 200, 409)
        if status == 200:
            self.given.append(Given(message["run"], message))

    def _submit(self, browser: Browser, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        began = time.perf_counter()
        status, told = browser.post("/api/submit", message)
        self.seconds.append(time.perf_counter() - began)
        return status, told

    def _count(self, what: str, status: int, *right: int) -> None:
        self.counts[what] += 1
        if status not in right:
            self.wrong.append(f"{what}: status {status}")


def order(values: dict[str, float], chance: random.Random) -> dict[str, Any]:
    """Best first; some are skipped now and then, and some tied."""
    ids = sorted(values, key=lambda one: values[one])
    skipped = [ids.pop(chance.randrange(len(ids)))] if chance.random() < 0.2 else []
    groups = [[one] for one in ids]
    if chance.random() < 0.2:
        groups[-2:] = [groups[-2] + groups[-1]]
    return {"groups": groups, "skipped": skipped, "token": secrets.token_hex(16)}


# --- what became of the answers -----------------------------------------------------------------------------------

Said = tuple[str, str, tuple[tuple[str, ...], ...], frozenset[str]]
"""Round, rater, groups (inner ones sorted), skipped."""


def said(round_id: str, rater: str, groups: Any, skipped: Any) -> Said:
    return round_id, rater, tuple(tuple(sorted(group)) for group in groups if group), frozenset(skipped)


def rankings_of(folder: Path) -> list[Said]:
    """Every ranking in a run's journal."""
    found = []
    for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["kind"] == "ranking":
            ids = [i for group in record["groups"] for i in group] + record["skipped"]
            found.append(said(ids[0].rpartition(".")[0], record["rater"], record["groups"], record["skipped"]))
    return found


def check(folder: Path, given: list[Given]) -> Counter[str]:
    """One run's answers against its journal and its inbox's tables."""
    journal = rankings_of(folder)
    decided = {one[0] for one in journal}
    with closing(sqlite3.connect(f"file:{folder / 'inbox.sqlite'}?mode=ro", uri=True)) as database:
        query_of = dict(database.execute("SELECT artifact, query FROM items").fetchall())
        rows = database.execute("SELECT token, round, rater, groups, skipped, withdrawn FROM answers").fetchall()
    kept = {t: (said(r, who, json.loads(g), json.loads(s)), gone) for t, r, who, g, s, gone in rows}
    found: Counter[str] = Counter(rounds=len(decided))
    per_rater = Counter((round_id, rater) for round_id, rater, _, _ in journal)
    found["duplicated"] = sum(count - 1 for count in per_rater.values())
    stood_by = set()
    for one in given:
        message = one.message
        groups = [[query_of[i] for i in group] for group in message["groups"]]
        meant = said(message["round"], message["rater"], groups, [query_of[i] for i in message["skipped"]])
        if one.withdrawn:
            continue
        stood_by.add(meant)
        content, gone = kept.get(message["token"], (None, None))
        waiting = content == meant and gone is None and meant[0] not in decided
        found["applied" if meant in journal else "waiting" if waiting else "lost"] += 1
    found["uncalled_for"] = len(set(journal) - stood_by)
    return found


# --- all of it ----------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def serve(folders: list[Path], port: int, token: str) -> subprocess.Popen[bytes]:
    """The server, once it listens."""
    program = [sys.executable, "-m", "blackbox", "serve", *map(str, folders), "--port", str(port), "--token", token]
    server = subprocess.Popen(program, stdout=subprocess.DEVNULL)
    while server.poll() is None:
        time.sleep(0.1)
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return server
    raise SystemExit(f"The server ended with status {server.returncode}.")


def stop(drivers: Sequence[BaseProcess], number: int) -> None:
    """Send every driver that lives a signal, and wait for them."""
    for driver in drivers:
        if driver.is_alive() and driver.pid is not None:
            os.kill(driver.pid, number)
    for driver in drivers:
        driver.join()


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "").parse_args()
    seconds = 20.0 if options.quick else 60.0
    print(f"human load on {machine()}\n  {RATERS} raters, {RUNS} runs, quorum {QUORUM}, {seconds:g} s")
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / f"run-{n:02d}" for n in range(RUNS)]
        fork = multiprocessing.get_context("fork")
        drivers = [fork.Process(target=drive, args=(folder, n)) for n, folder in enumerate(folders)]
        for driver in drivers:
            driver.start()
        try:
            while not all((folder / "inbox.sqlite").exists() for folder in folders):
                time.sleep(0.1)
            port, token = free_port(), secrets.token_urlsafe(24)
            server = serve(folders, port, token)
            raters = [Rater(f"rater-{n}", n) for n in range(RATERS)]
            until = time.monotonic() + seconds
            threads = [threading.Thread(target=rater.work, args=(port, token, until)) for rater in raters]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            time.sleep(UNDO_SECONDS + 1)  # the last answers become final, and are acted on
            stop(drivers, signal.SIGINT)
            server.terminate()
            _, _, usage = os.wait4(server.pid, 0)
            server.wait()
        finally:
            stop(drivers, signal.SIGKILL)
        found: Counter[str] = Counter()
        for folder in folders:
            found += check(folder, [one for rater in raters for one in rater.given if one.run == folder.name])
        crashed = sum(driver.exitcode != 0 for driver in drivers)
    counts = sum((rater.counts for rater in raters), Counter())
    wrong = [f"{rater.name}: {what}" for rater in raters for what in rater.wrong]
    for what in wrong[:20]:
        print(f"  {what}")
    milliseconds = 1000 * np.array([one for rater in raters for one in rater.seconds])
    finish(
        {
            "lost": found["lost"],
            "duplicated": found["duplicated"],
            "uncalled_for": found["uncalled_for"],
            "p95_milliseconds": float(np.quantile(milliseconds, 0.95)),
            "median_milliseconds": float(np.median(milliseconds)),
            "server_milliseconds_per_request": 1000 * (usage.ru_utime + usage.ru_stime) / counts["requests"],
            "wrong_replies": len(wrong),
            "crashed_runs": crashed,
            "submits": len(milliseconds),
            **{name: found[name] for name in ("applied", "waiting", "rounds")},
            **dict(sorted(counts.items())),
        }
    )


if __name__ == "__main__":
    main()
