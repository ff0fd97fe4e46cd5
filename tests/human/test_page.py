"""The page in a real browser, against a server in a process of its own."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the page needs the extra web")
sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tried with playwright, which isn't installed")
Image = pytest.importorskip("PIL.Image", reason="the pictures need pillow")

from oracles.human import Inbox, Item  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
    pytest.mark.draws,  # playwright and asyncio draw names of temporary files
]
TOKEN = "a-token-of-the-tests-own"
SERVE = "import sys, typer; from blackbox.cli.serve import serve; typer.run(serve)"
M = 5


def picture(place):
    """A PNG whose grey says the place of its query in the round."""
    array = np.full((64, 64, 3), 40 * place + 30, np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def new_round(folder, number=0):
    """An inbox in the folder with one more open round of M pictures."""
    folder.mkdir(exist_ok=True)
    inbox = Inbox(folder / "inbox.sqlite")
    inbox.open_round(f"0.{number}", [Item(f"0.{number}.{i}", "image/png", picture(i)) for i in range(M)])
    return inbox


@contextmanager
def serving(folders, undo_seconds=10.0, port=None):
    """A server for these runs; yields (process, address)."""
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    arguments = [*map(str, folders), "--port", str(port), "--token", TOKEN, "--undo-seconds", str(undo_seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SERVE, *arguments], env=environment, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < until:
            try:
                urllib.request.urlopen(f"{address}/")
            except urllib.error.HTTPError:
                break  # 401: it is up
            except OSError:
                time.sleep(0.1)
        yield process, address
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server with a run for every test; yields (folder of the runs, address)."""
    root = tmp_path_factory.mktemp("runs")
    folders = [root / f"run{i}" for i in range(20)]
    for folder in folders:
        new_round(folder)
    with serving(folders) as (_, address):
        yield iter(folders), address


class Desk:
    """Raters at the page of one run."""

    def __init__(self, browser, folder, address):
        self.browser, self.folder, self.address = browser, folder, address
        self.inbox, self.contexts = Inbox(folder / "inbox.sqlite"), []

    def sit(self, rater="ada", **options):
        """A page at which a rater has the candidates before them; what scripts report fails the test."""
        context = self.browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)  # a busy machine
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda message: "Content Security" in message.text and page.faults.append(message.text))
        page.goto(f"{self.address}/?token={TOKEN}")
        assert "token" not in page.url
        page.get_by_label("Who are you?").fill(rater)
        if page.locator("#run").is_visible():
            page.locator("#run").select_option(self.folder.name)
        page.get_by_role("button", name="Begin").click()
        page.locator("#tray .card").first.wait_for()
        return page

    def letters(self, rater="ada", number=0):
        """{place of the query: letter on the rater's page}, from the inbox itself."""
        items = self.inbox.next_round(rater).items
        return {int(item.query.rpartition(".")[2]): "ABCDE"[i] for i, item in enumerate(items)}

    def answer(self, number=0, rater="ada"):
        """(groups, skipped) of the one final answer, as places of queries."""
        self.inbox.seal(rater)
        (answer,) = (a for a in self.inbox.final(f"0.{number}") if a.rater == rater)
        place = lambda query: int(query.rpartition(".")[2])  # noqa: E731
        return [sorted(map(place, group)) for group in answer.groups], sorted(map(place, answer.skipped))


@pytest.fixture
def desk(browser, server):
    folders, address = server
    desk = Desk(browser, next(folders), address)
    yield desk
    for context in desk.contexts:
        for page in context.pages:
            assert not getattr(page, "faults", None)
        context.close()


def card(page, letter):
    return page.locator(f'.card[data-letter="{letter}"]:not(.ghost)')


def order_on(page):
    """The order that the page shows: letters of each group."""
    groups = page.locator("#ranked > .group").all()
    return ["".join(sorted(c.get_attribute("data-letter") for c in group.locator(".card").all())) for group in groups]


def drag(page, letter, target, across=0.5):
    """Drag a card by its strip to a point of the target's box, so far across it."""
    start, box = card(page, letter).locator(".grip").bounding_box(), target.bounding_box()
    page.mouse.move(start["x"] + 20, start["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 15, steps=3)
    page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()


def submit(page):
    page.locator("#submit").click()
    page.locator("#sent").wait_for()


def test_by_dragging(desk):
    page, letter = desk.sit(), desk.letters()
    ranked = page.locator("#ranked")
    drag(page, letter[2], ranked, 0.9)
    drag(page, letter[4], card(page, letter[2]), 0.05)  # before it
    drag(page, letter[0], ranked, 0.9)  # at the end
    drag(page, letter[1], card(page, letter[0]), 0.5)  # onto it: a tie
    drag(page, letter[3], page.locator("#skipped"))
    assert order_on(page) == [letter[4], letter[2], "".join(sorted(letter[0] + letter[1]))]
    submit(page)
    assert desk.answer() == ([[4], [2], [0, 1]], [3])


def test_by_keys_alone(desk):
    page, letter = desk.sit(), desk.letters()
    keys = page.keyboard
    for _ in range(20):  # with Tab to the first candidate
        if page.evaluate("document.activeElement.classList.contains('card')"):
            break
        keys.press("Tab")
    focused = lambda: page.evaluate("document.activeElement.dataset.letter")  # noqa: E731

    def go(wanted):
        for key in ["ArrowRight"] * M + ["ArrowLeft"] * M:
            if focused() == wanted:
                return
            keys.press(key)
        pytest.fail(f"the arrows don't lead to {wanted}")

    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for place in (3, 0, 1):
        go(letter[place])
        keys.press("Enter")
    go(letter[1])
    keys.press("1")  # 1 3 0
    keys.press("Shift+ArrowRight")  # 3 1 0
    assert order_on(page) == [letter[3], letter[1], letter[0]]
    assert page.locator("#live").inner_text() == f"Candidate {letter[1]}, place 2 of 3"
    go(letter[4])
    keys.press("s")
    go(letter[2])
    keys.press("Enter")
    keys.press("t")  # tied with 0
    keys.press("Control+Enter")
    page.locator("#sent").wait_for()
    assert desk.answer() == ([[3], [1], [0, 2]], [4])


def test_by_buttons_and_out_of_a_tie(desk):
    page, letter = desk.sit(), desk.letters()
    press = lambda place, name: card(page, letter[place]).get_by_role("button", name=name).click()  # noqa: E731
    for place in range(M):
        press(place, "Add to your order")
    press(4, "Better")
    press(1, "Tie")
    press(1, "Worse")
    press(0, "Back to not ranked")
    press(0, "Skip")
    submit(page)
    assert desk.answer() == ([[1], [2], [4], [3]], [0])


def test_top_two_and_the_rest_below(desk):
    page, letter = desk.sit(), desk.letters()
    assert page.locator("#submit").is_disabled()
    for place in (2, 0):
        card(page, letter[place]).focus()
        page.keyboard.press("Enter")
    submit(page)
    assert desk.answer() == ([[2], [0], [1, 3, 4]], [])


def test_all_bad_skips_the_round_and_undo_brings_the_order_back(desk):
    page, letter = desk.sit(), desk.letters()
    card(page, letter[3]).focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="All bad").click()
    page.locator("#sent").wait_for()
    assert re.search(r"take it back for \d+ s", page.locator("#countdown").inner_text())
    page.get_by_role("button", name="Undo").click()
    page.locator("#board").wait_for()
    assert order_on(page) == [letter[3]]
    page.get_by_role("button", name="All bad").click()
    page.locator("#sent").wait_for()
    assert desk.answer() == ([], [0, 1, 2, 3, 4])


def test_undo_change_and_submit_again_counts_the_second_once(desk):
    page, letter = desk.sit(), desk.letters()
    card(page, letter[1]).focus()
    page.keyboard.press("Enter")
    submit(page)
    page.reload()  # in the middle of the countdown
    page.get_by_role("button", name="Undo").click()
    card(page, letter[0]).focus()
    page.keyboard.press("1")
    submit(page)
    assert desk.answer() == ([[0], [1], [2, 3, 4]], [])


def test_going_on_seals_and_the_next_round_comes_by_itself(desk):
    page, letter = desk.sit(), desk.letters()
    card(page, letter[1]).focus()
    page.keyboard.press("Enter")
    submit(page)
    assert desk.inbox.final("0.0") == []
    page.get_by_role("button", name="Next round").click()
    page.locator("#waiting").wait_for()
    assert len(desk.inbox.final("0.0")) == 1
    new_round(desk.folder, 1)
    page.locator("#board").wait_for()
    assert order_on(page) == [] and page.locator("#tray .card").count() == M


def test_two_raters(desk):
    ada, bob = desk.sit("ada"), desk.sit("bob")
    for page, rater, best in ((ada, "ada", 1), (bob, "bob", 4)):
        card(page, desk.letters(rater)[best]).focus()
        page.keyboard.press("Enter")
        submit(page)
    assert desk.answer(rater="ada") == ([[1], [0, 2, 3, 4]], [])
    assert desk.answer(rater="bob") == ([[4], [0, 1, 2, 3]], [])


def test_reload_keeps_what_was_begun(desk):
    page, letter = desk.sit(), desk.letters()
    drag(page, letter[2], page.locator("#ranked"), 0.9)
    card(page, letter[0]).focus()
    page.keyboard.press("s")
    page.reload()
    page.locator("#ranked .card").wait_for()
    assert order_on(page) == [letter[2]] and page.locator("#skipped .card").count() == 1


def test_a_stale_tab_is_refused_and_told_why(desk):
    page = desk.sit()
    other = page.context.new_page()
    other.goto(f"{desk.address}/")
    for tab in (page, other):
        tab.locator("#tray .card").first.focus()
        tab.keyboard.press("Enter")
    submit(page)
    new_round(desk.folder, 1)  # as when the oracle has gone on
    other.locator("#submit").click()
    other.locator("#notice").wait_for()
    assert "changed nothing" in other.locator("#notice").inner_text()
    assert desk.answer(0)[0] and desk.inbox.final("0.1") == []


def test_flicker_shows_one_and_the_other_in_one_place(desk):
    page = desk.sit()
    card(page, "A").focus()
    card(page, "C").focus()
    page.keyboard.press("f")
    title = page.locator("#viewer-title")
    boxes = []
    for letter in "CAC":
        assert title.inner_text() == f"Candidate {letter}"
        image = page.locator("#viewer-stage img:visible")
        assert image.get_attribute("alt") == f"Candidate {letter}"
        boxes.append(image.bounding_box())
        page.keyboard.press("f")
    assert boxes[0] == boxes[1] == boxes[2]
    page.keyboard.press("z")
    assert page.locator("#viewer-stage img:visible").bounding_box()["width"] > 2.5 * boxes[0]["width"]
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.letter") == "C"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough(desk, scheme):
    page = desk.sit(color_scheme=scheme)
    style = page.evaluate_handle("getComputedStyle(document.documentElement)")

    def luminance(name):
        colour = style.evaluate("(style, name) => style.getPropertyValue(name).trim()", f"--{name}")
        channel = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    texts = [("text", "ground"), ("text", "card"), ("soft", "ground"), ("soft", "card"), ("accent", "ground")]
    texts += [("accent", "tie"), ("on-accent", "accent"), ("warn", "warn-ground")]
    for pairs, least in ((texts, 4.5), ([("line", "ground"), ("line", "card")], 3.0)):
        for pair in pairs:
            dark, light = sorted(map(luminance, pair))
            assert (light + 0.05) / (dark + 0.05) >= least, (pair, scheme)


def test_text_is_text_and_numbers_are_numbers(desk):
    markup = "<img src=x onerror='document.title=1'><b>bold</b>"
    types = ("text/plain; charset=utf-8", "text/html", "application/json", "image/svg+xml")
    svg = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>document.title = 2</script></svg>"
    shown = (markup, markup, '{"angle": [1, 2.5]}', svg)
    items = [Item(f"0.5.{i}", kind, text.encode()) for i, (kind, text) in enumerate(zip(types, shown, strict=True))]
    desk.inbox.open_round("0.5", items)
    page, letter = desk.sit(), desk.letters()
    content = lambda place: card(page, letter[place]).locator(".content")  # noqa: E731
    for place in (0, 1):
        sync_api.expect(content(place)).to_have_text(markup)
    sync_api.expect(content(2)).to_contain_text("2.5")
    page.wait_for_function("e => e.naturalWidth === 9", arg=content(3).element_handle())
    assert page.title() == "blackbox: rank" and page.locator(".content b").count() == 0


def test_a_phone_shows_all_without_scrolling_sideways(desk):
    page, letter = desk.sit(has_touch=True), desk.letters()
    page.set_viewport_size({"width": 390, "height": 844})
    for place in range(3):
        card(page, letter[place]).get_by_role("button", name="Add to your order").tap()
    assert order_on(page) == [letter[0], letter[1], letter[2]]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    sizes = page.evaluate("[...document.querySelectorAll('button')].map(b => b.getBoundingClientRect())")
    assert all(box["height"] >= 24 and box["width"] >= 24 for box in sizes if box["width"])


def test_a_finger_drags_by_the_strip_and_scrolls_elsewhere(desk):
    page, letter = desk.sit(has_touch=True), desk.letters()
    page.set_viewport_size({"width": 390, "height": 844})
    fingers = page.context.new_cdp_session(page)

    def pull(start, end):
        for kind, (x, y) in (("touchStart", start), *(("touchMove", (start[0], y)) for y in steps(start[1], end[1]))):
            fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    steps = lambda low, high: np.linspace(low, high, 6).tolist()  # noqa: E731
    strip, ranked = card(page, letter[0]).locator(".grip").bounding_box(), page.locator("#ranked").bounding_box()
    pull((strip["x"] + 20, strip["y"] + 20), (strip["x"] + 20, ranked["y"] + 40))
    assert order_on(page) == [letter[0]] and page.evaluate("scrollY") == 0
    image = page.locator("#tray .card img").first.bounding_box()
    pull((image["x"] + 50, image["y"] + 100), (image["x"] + 50, image["y"] - 200))
    assert order_on(page) == [letter[0]]
    page.wait_for_function("scrollY > 50")


def test_killed_and_started_again_nothing_is_lost(browser, tmp_path):
    new_round(tmp_path / "run")
    with serving([tmp_path / "run"]) as (process, address):
        desk = Desk(browser, tmp_path / "run", address)
        page, letter = desk.sit(), desk.letters()
        card(page, letter[2]).focus()
        page.keyboard.press("Enter")
        process.kill()
        process.wait()
        page.locator("#submit").click()
        page.locator("#notice").wait_for()
        assert "doesn't answer" in page.locator("#notice").inner_text() and order_on(page) == [letter[2]]
    with serving([tmp_path / "run"], port=int(address.rpartition(":")[2])) as (process, _):
        submit(page)
        process.kill()
        process.wait()
    assert desk.answer() == ([[2], [0, 1, 3, 4]], [])
    page.context.close()


def test_a_link_on_another_site_lets_in(browser, server):
    _, address = server
    context = browser.new_context()
    page = context.new_page()
    elsewhere = address.replace("127.0.0.1", "localhost")
    page.goto(f"{elsewhere}/?token={TOKEN}")  # to the browser another site
    page.evaluate("url => { location = url }", f"{address}/?token={TOKEN}")
    page.wait_for_url(f"{address}/")
    page.get_by_label("Who are you?").wait_for(timeout=15_000)
    context.close()
