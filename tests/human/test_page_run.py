"""A real `blackbox run` and the page together: two raters at every round, steering, sounds and films."""

import io
import json
import math
import os
import struct
import subprocess
import sys
import wave
from contextlib import contextmanager

import numpy as np
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tried with playwright, which isn't installed")
Image = pytest.importorskip("PIL.Image", reason="the films need pillow")

from oracles.human import Item, Wishes, history  # noqa: E402

pytestmark = pytest.mark.draws  # playwright and asyncio draw names of temporary files
expect = sync_api.expect

PROBLEM = """
import torch
from problems.base import VectorProblem


class Numbers(VectorProblem):
    start = torch.full((3,), 2.0, dtype=torch.float64)

    def __call__(self, candidates, context):
        return (candidates**2).sum(1)

    def metrics(self, split="test"):
        return {"length": float(self.parameters().flat().norm())}

    def render(self, candidate):
        return {"x": candidate.tolist()}
"""
CONFIG = """
problem: shown_numbers:Numbers
oracle: {type: people, quorum: 2, undo_seconds: 0}
estimator: {type: rank, noise: rademacher, epsilon: 0.3, probes: 4}
strategy: {type: gradient, line_search: {type: ranking, step: 1.0, candidates: 2}}
budget: {steps: 9}
run: {folder: RUNS, name: numbers}
"""


@contextmanager
def running(folder):
    """`blackbox run` of the configuration in a process of its own."""
    (folder / "shown_numbers.py").write_text(PROBLEM)
    (folder / "numbers.yaml").write_text(CONFIG.replace("RUNS", str(folder)))
    code = "import sys; from blackbox.cli.main import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", str(folder / "numbers.yaml")], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def judge(desk, page):
    """Put what the page shows in order by its length; the place in the run of the round that was judged."""
    expect(page.locator("#tray pre").last).not_to_have_text("…")
    found = {}
    for card in page.locator("#tray .card").all():
        expect(card.locator("pre")).to_contain_text("x")
        numbers = json.loads(card.locator("pre").inner_text())["x"]
        found[card.get_attribute("data-letter")] = sum(x * x for x in numbers)
    for letter in sorted(found, key=found.get):
        desk.card(page, letter).focus()
        page.keyboard.press("Enter")
    page.locator("#submit").click()


def test_two_raters_and_a_run_from_end_to_end(served, tmp_path):
    """Four phases are judged by both; then one of them goes on from the very first best, and asks for closer ones."""
    folder = tmp_path / "numbers"
    with running(tmp_path) as process, served(folder) as (desk, _):
        ada, bob = (desk.sit(rater, wait="#tray .card") for rater in ("ada", "bob"))
        for done in range(4):
            for page in (ada, bob):
                expect(page.locator("#progress")).to_contain_text(f"{done} round{'s' if done != 1 else ''} done")
                page.locator("#tray .card").first.wait_for()
                judge(desk, page)
                page.locator("#waiting:visible, #tray .card:visible").first.wait_for()
        page.locator("#tray .card").first.wait_for()
        first = history(desk.inbox)[-1].best[0]
        ada.get_by_role("button", name="Closer").click()
        ada.locator("#history-button").click()
        ada.locator(f'.past[data-id="{first.artifact}"] .onwards').click()
        ada.locator("#branch-yes").click()
        expect(bob.locator("#notice")).to_contain_text("ada went on from an earlier candidate")
        for page in (ada, bob):
            page.locator("#tray .card").first.wait_for()
        points = [np.frombuffer(item.point, "<f8") for item in desk.inbox.round(desk.inbox.next_id("ada")).items]
        assert process.poll() is None
        desk.leave()
    start = next(np.frombuffer(i.point, "<f8") for i in desk.inbox.round(first.round).items if i.query == first.query)
    distances = [np.linalg.norm(point - start) for point in points]
    np.testing.assert_allclose(distances, 0.3 / 1.4 * math.sqrt(3), rtol=1e-9)
    records = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    raters = [record["rater"] for record in records if record["kind"] == "ranking"]
    assert sorted(raters) == ["ada"] * 4 + ["bob"] * 4
    steered = [record for record in records if record["kind"] == "steered"]
    assert [record["by"] for record in steered] == ["ada", "ada"]
    assert Wishes(desk.inbox).all(untaken=True) == []


def tone():
    """A tenth of a second of a note, as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(n / 3))) for n in range(800)))
    return file.getvalue()


def clip():
    """Four pictures as a GIF."""
    file = io.BytesIO()
    first, *others = [Image.fromarray(np.full((32, 48), 60 * i, np.uint8)) for i in range(4)]
    first.save(file, "GIF", save_all=True, append_images=others, duration=50, loop=0)
    return file.getvalue()


# What Chromium itself records of a canvas: a film that it can play, without a program that makes films.
RECORD = """async () => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 48 });
  const brush = canvas.getContext("2d");
  const recorder = new MediaRecorder(canvas.captureStream(25), { mimeType: "video/webm" });
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const ended = new Promise((resolve) => (recorder.onstop = resolve));
  recorder.start();
  for (let i = 0; i < 12; i++) {
    brush.fillStyle = `rgb(${20 * i}, 80, 80)`;
    brush.fillRect(0, 0, 64, 48);
    await new Promise((resolve) => setTimeout(resolve, 40));
  }
  recorder.stop();
  await ended;
  return [...new Uint8Array(await new Blob(parts).arrayBuffer())];
}"""


def test_sounds_and_films_are_loaded_and_play(empty_desk, browser):
    desk = empty_desk
    blank = browser.new_page()
    film = bytes(blank.evaluate(RECORD))
    blank.close()
    kinds = {"audio/wav": tone(), "image/gif": clip(), "video/webm": film}
    desk.new_round(0, [Item(f"0.0.{i}", kind, data) for i, (kind, data) in enumerate(kinds.items())])
    page, letter = desk.sit(), desk.letters()
    content = lambda place: desk.card(page, letter[place]).locator(".content")  # noqa: E731
    page.wait_for_function("e => Math.abs(e.duration - 0.1) < 0.01", arg=content(0).element_handle())
    page.wait_for_function("e => e.naturalWidth === 48", arg=content(1).element_handle())
    page.wait_for_function("e => e.videoWidth === 64 && !e.error", arg=content(2).element_handle())
    for place in (0, 2):
        content(place).evaluate("player => { player.muted = true; return player.play(); }")
        page.wait_for_function("player => player.currentTime > 0.02", arg=content(place).element_handle())
    address = f"{desk.address}{content(0).get_attribute('src')}"
    part = page.request.get(address, headers={"Range": "bytes=44-47"})
    assert part.status == 206 and part.body() == tone()[44:48]
    assert part.headers["content-range"] == f"bytes 44-47/{len(tone())}"
    desk.card(page, letter[2]).focus()
    page.keyboard.press("z")
    page.wait_for_function("() => document.querySelector('#viewer-stage video').videoWidth === 64")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer-stage video")).to_have_count(0)
    desk.place_first(page, letter[2])
    desk.submit(page)
    assert desk.answer() == ([[2], [0, 1]], [])
