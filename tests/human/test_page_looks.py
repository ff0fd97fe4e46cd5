"""The page in a real browser: what candidates look like, colours, phones."""

import numpy as np
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tried with playwright, which isn't installed")

from oracles.human import Item  # noqa: E402

pytestmark = pytest.mark.draws  # playwright and asyncio draw names of temporary files
M = 5


def test_flicker_shows_one_and_the_other_in_one_place(desk):
    page = desk.sit()
    desk.card(page, "A").focus()
    desk.card(page, "C").focus()
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
    page, letter = desk.sit(), desk.letters(number=5)
    content = lambda place: desk.card(page, letter[place]).locator(".content")  # noqa: E731
    for place in (0, 1):
        sync_api.expect(content(place)).to_have_text(markup)
    sync_api.expect(content(2)).to_contain_text("2.5")
    page.wait_for_function("e => e.naturalWidth === 9", arg=content(3).element_handle())
    assert page.title() == "blackbox: rank" and page.locator(".content b").count() == 0


def test_a_phone_shows_all_without_scrolling_sideways(desk):
    page, letter = desk.sit(has_touch=True), desk.letters()
    page.set_viewport_size({"width": 390, "height": 844})
    for place in range(3):
        desk.card(page, letter[place]).get_by_role("button", name="Add to your order").tap()
    assert desk.order_on(page) == [letter[0], letter[1], letter[2]]
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
    strip, ranked = desk.card(page, letter[0]).locator(".grip").bounding_box(), page.locator("#ranked").bounding_box()
    pull((strip["x"] + 20, strip["y"] + 20), (strip["x"] + 20, ranked["y"] + 40))
    assert desk.order_on(page) == [letter[0]] and page.evaluate("scrollY") == 0
    image = page.locator("#tray .card img").first.bounding_box()
    pull((image["x"] + 50, image["y"] + 100), (image["x"] + 50, image["y"] - 200))
    assert desk.order_on(page) == [letter[0]]
    page.wait_for_function("scrollY > 50")
