"""The page in a real browser: the best so far, pins, going on from an earlier candidate, closer and wilder."""

import io
import json

import numpy as np
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tried with playwright, which isn't installed")
Image = pytest.importorskip("PIL.Image", reason="the pictures need pillow")

from oracles.human import Item, Pins, Wishes  # noqa: E402

pytestmark = pytest.mark.draws  # playwright and asyncio draw names of temporary files
expect = sync_api.expect
M = 5
TIMES = "\N{MULTIPLICATION SIGN}"


def captions(page, gallery="#rounds"):
    return [text.split(" by ")[0] for text in page.locator(f"{gallery} figcaption").all_inner_texts()]


def shade(page, figure):
    """The grey in the middle of the picture that is shown there."""
    address = figure.locator("img").get_attribute("src")
    data = page.request.get(f"{page.url.rstrip('/')}{address}").body()
    return int(np.asarray(Image.open(io.BytesIO(data)))[32, 32, 0])


def test_the_winner_of_each_round_newest_first_by_key_and_by_button(empty_desk):
    empty_desk.judged(3, 0, 4)
    empty_desk.new_round(3)
    page = empty_desk.sit()
    empty_desk.card(page, "A").focus()
    page.keyboard.press("h")
    expect(page.locator("#rounds .past")).to_have_count(3)
    assert captions(page) == ["Best of round 3", "Best of round 2", "Best of round 1"]
    figures = page.locator("#rounds .past").all()
    assert [shade(page, figure) for figure in figures] == [40 * winner + 30 for winner in (4, 0, 3)]
    assert "bob" in figures[0].inner_text()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.letter") == "A"
    page.get_by_role("button", name="History").click()
    expect(page.locator("#history")).to_be_visible()


def test_a_long_history_comes_by_pages_and_its_pictures_when_they_come_near(empty_desk):
    empty_desk.judged(*(i % M for i in range(30)))
    empty_desk.new_round(30)
    page = empty_desk.sit()
    asked = []
    page.on("request", lambda request: "/artifact/" in request.url and asked.append(request.url))
    page.set_viewport_size({"width": 390, "height": 500})
    page.locator("#history-button").click()
    expect(page.locator("#rounds .past")).to_have_count(12)
    more = page.get_by_role("button", name="Earlier rounds")
    more.click()
    expect(page.locator("#rounds .past")).to_have_count(24)
    more.click()
    expect(page.locator("#rounds .past")).to_have_count(30)
    expect(more).to_be_hidden()
    assert captions(page) == [f"Best of round {n}" for n in range(30, 0, -1)]
    page.wait_for_function("() => [...document.querySelectorAll('#rounds img')].some(i => i.naturalWidth === 64)")
    assert page.locator("#rounds img[loading=lazy]").count() == 30


def test_nothing_in_the_history_tells_the_open_candidates_apart(empty_desk):
    """The last best is asked about again, and another rater has pinned a candidate of the open round."""
    desk = empty_desk
    desk.judged(3, 1)
    old = next(item for item in desk.inbox.round("0.1").items if item.query == "0.1.1")
    again = Item("0.2.4", old.media_type, old.data, point=old.point)
    others = [Item(f"0.2.{i}", "text/plain", f"candidate {i}".encode()) for i in range(4)]
    desk.new_round(2, [*others, again])
    artifacts = {item.query: item.artifact for item in desk.inbox.round("0.2").items}
    Pins(desk.inbox).add("bob", artifacts["0.2.0"])
    page = desk.sit()
    page.locator("#history-button").click()
    expect(page.locator("#rounds .past")).to_have_count(2)
    newest = page.locator("#rounds .past").first
    assert "Shown once the round is over" in newest.inner_text() and newest.locator("img").count() == 0
    told = page.request.get(f"{desk.address}/api/history?run={desk.folder.name}&rater=ada").text()
    assert old.artifact not in told and not any(artifact in told for artifact in artifacts.values())
    assert page.locator("#pins .past").count() == 0 and "0.1.1" not in told
    desk.inbox.close_round("0.2")
    told = page.request.get(f"{desk.address}/api/history?run={desk.folder.name}&rater=ada").text()
    assert old.artifact in told


def test_pins_come_and_go_and_stay(desk):
    page = desk.sit()
    desk.card(page, "B").focus()
    page.keyboard.press("p")
    star = desk.card(page, "D").get_by_role("button", name="Pin")
    star.click()
    expect(star).to_have_attribute("aria-pressed", "true")
    page.reload()
    page.locator("#tray .card").first.wait_for()
    assert page.locator('.card .pin[aria-pressed="true"]').count() == 2
    page.locator("#history-button").click()
    expect(page.locator("#pins .past")).to_have_count(2)
    assert "once the round is over" in page.locator("#pins .past").first.inner_text()
    page.locator("#pins .pin").first.click()
    expect(page.locator("#pins .past")).to_have_count(1)
    items = desk.inbox.round("0.0", "ada").items
    assert [card.artifact for card in Pins(desk.inbox).of("ada")] == [items[1].artifact]
    assert Pins(desk.inbox).of("bob") == []


def test_going_on_from_an_earlier_one_is_confirmed_and_closes_the_open_round(empty_desk):
    desk = empty_desk
    desk.judged(3, 1)
    desk.new_round(2)
    ada, bob = desk.sit("ada"), desk.sit("bob")
    desk.place_first(bob, "A")
    bob.route("**/api/progress*", lambda route: route.abort())  # he isn't told beforehand
    ada.locator("#history-button").click()
    first = ada.locator("#rounds .past").last
    first.get_by_role("button", name="Go on from this").click()
    assert "closed at once" in ada.locator("#branch-words").inner_text()
    ada.get_by_role("button", name="Stay where it is").click()
    assert Wishes(desk.inbox).all() == [] and desk.inbox.next_id("ada") == "0.2"
    first.get_by_role("button", name="Go on from this").click()
    ada.locator("#branch-yes").click()
    ada.locator("#waiting").wait_for()
    (wish,) = Wishes(desk.inbox).all(untaken=True)
    assert (wish.query, wish.rater, wish.round) == ("0.0.3", "ada", "0.2")
    np.testing.assert_array_equal(Wishes(desk.inbox).point(wish), [3.0, 0.0])
    bob.locator("#submit").click()
    bob.locator("#notice").wait_for()
    assert "changed nothing" in bob.locator("#notice").inner_text() and desk.inbox.final("0.2") == []
    bob.locator("#history-button").click()
    expect(bob.locator("#rounds .note").first).to_have_text("ada went on from an earlier candidate")
    assert len(captions(bob)) == 2  # the round that was given up is none


def test_what_has_no_point_cannot_be_gone_on_from_and_says_so(empty_desk):
    items = [Item(f"0.0.{i}", "text/plain", b"words %d" % i) for i in range(M)]
    empty_desk.new_round(0, items)
    empty_desk.inbox.submit("0.0", "bob", [["0.0.1"]], [], "bob's only answer")
    empty_desk.new_round(1)
    page = empty_desk.sit()
    page.locator("#history-button").click()
    past = page.locator("#rounds .past")
    expect(past.locator("pre")).to_have_text("words 1")
    assert "its point isn't kept" in past.inner_text() and past.locator(".onwards").count() == 0


def test_closer_and_wilder(desk):
    page = desk.sit()
    factor = page.locator("#factor")
    page.get_by_role("button", name="Wilder").click()
    expect(factor).to_have_text(f"{TIMES} 1.4")
    expect(page.locator("#factor-waits")).to_be_visible()
    page.get_by_role("button", name="Wilder").click()
    expect(factor).to_have_text(f"{TIMES} 2")
    for _ in range(3):
        page.get_by_role("button", name="Closer").click()
    expect(factor).to_have_text(f"{TIMES} 0.71")
    Wishes(desk.inbox).take(wish.id for wish in Wishes(desk.inbox).all())
    expect(page.locator("#factor-waits")).to_be_hidden()
    expect(factor).to_have_text(f"{TIMES} 0.71")
    page.locator("#history-button").click()
    expect(page.locator("#rounds .note")).to_have_text("ada asked for closer candidates: radius times 0.71")
    assert desk.inbox.next_id("ada") == "0.0"  # the open round goes on


def test_save_from_the_viewer_and_from_the_history(empty_desk, tmp_path):
    empty_desk.judged(2)
    empty_desk.new_round(1)
    page = empty_desk.sit()
    empty_desk.card(page, "C").focus()
    page.keyboard.press("z")
    with page.expect_download() as first:
        page.locator("#viewer").get_by_role("link", name="Save").click()
    page.keyboard.press("Escape")
    page.locator("#history-button").click()
    with page.expect_download() as second:
        page.locator("#rounds").get_by_role("link", name="Save").click()
    shown, best = empty_desk.inbox.round("0.1", "ada").items[2], empty_desk.inbox.round("0.0").items
    for download, data in ((first.value, [shown.data]), (second.value, [item.data for item in best])):
        download.save_as(tmp_path / "file")
        assert (tmp_path / "file").read_bytes() in data
        name = download.suggested_filename
        assert name.startswith("blackbox-") and name.endswith(".png") and "0." not in name


def test_the_history_fits_a_phone_and_is_reached_without_a_mouse(empty_desk):
    empty_desk.judged(3, 0)
    empty_desk.new_round(2)
    page = empty_desk.sit(has_touch=True, viewport={"width": 320, "height": 640})
    page.locator("#history-button").tap()
    expect(page.locator("#rounds .past")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    fits = "() => [...document.querySelectorAll('#history, .past, .card')].every(e => e.scrollWidth <= e.clientWidth)"
    assert page.evaluate(fits)
    sizes = page.evaluate("[...document.querySelectorAll('button, a.button')].map(b => b.getBoundingClientRect())")
    assert all(box["height"] >= 24 and box["width"] >= 24 for box in sizes if box["width"])
    names = page.evaluate("[...document.querySelectorAll('#history button, #history a')].map(b => b.ariaLabel)")
    assert {"Go on from this: Best of round 1", "Pin: Best of round 2"} <= set(names), json.dumps(names)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "onwards":
            break
    page.keyboard.press("Enter")
    expect(page.locator("#branch")).to_be_visible()
