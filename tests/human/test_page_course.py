"""The page in a real browser: undoing, going on, coming back, and what ends meanwhile."""

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tried with playwright, which isn't installed")

from oracles.human import Checks, Rules  # noqa: E402

pytestmark = pytest.mark.draws  # playwright and asyncio draw names of temporary files
expect = sync_api.expect
M = 5


def test_undo_change_and_submit_again_counts_the_second_once(desk):
    page, letter = desk.sit(), desk.letters()
    desk.card(page, letter[1]).focus()
    page.keyboard.press("Enter")
    desk.submit(page)
    page.reload()  # in the middle of the countdown
    page.get_by_role("button", name="Undo").click()
    desk.card(page, letter[0]).focus()
    page.keyboard.press("1")
    desk.submit(page)
    assert desk.answer() == ([[0], [1], [2, 3, 4]], [])


def test_going_on_seals_and_the_next_round_comes_by_itself(desk):
    page, letter = desk.sit(), desk.letters()
    desk.card(page, letter[1]).focus()
    page.keyboard.press("Enter")
    desk.submit(page)
    assert desk.inbox.final("0.0") == []
    page.get_by_role("button", name="Next round").click()
    page.locator("#waiting").wait_for()
    assert len(desk.inbox.final("0.0")) == 1
    desk.new_round(1)
    page.locator("#board").wait_for()
    assert desk.order_on(page) == [] and page.locator("#tray .card").count() == M


def test_reload_keeps_what_was_begun(desk):
    page, letter = desk.sit(), desk.letters()
    desk.drag(page, letter[2], page.locator("#ranked"), 0.9)
    desk.card(page, letter[0]).focus()
    page.keyboard.press("s")
    page.reload()
    page.locator("#ranked .card").wait_for()
    assert desk.order_on(page) == [letter[2]] and page.locator("#skipped .card").count() == 1


def test_a_stale_tab_is_refused_and_told_why(desk):
    page = desk.sit()
    other = page.context.new_page()
    other.goto(f"{desk.address}/")
    for tab in (page, other):
        tab.locator("#tray .card").first.focus()
        tab.keyboard.press("Enter")
    other.route("**/api/progress*", lambda route: route.abort())  # it isn't told beforehand
    desk.submit(page)
    desk.new_round(1)  # as when the oracle has gone on
    other.locator("#submit").click()
    other.locator("#notice").wait_for()
    assert "changed nothing" in other.locator("#notice").inner_text()
    assert desk.answer(0)[0] and desk.inbox.final("0.1") == []


def test_killed_and_started_again_nothing_is_lost(served, tmp_path):
    with served(tmp_path / "run") as (desk, process):
        desk.new_round()
        page, letter = desk.sit(), desk.letters()
        desk.place_first(page, letter[2])
        process.kill()
        process.wait()
        page.locator("#submit").click()
        page.locator("#notice").wait_for()
        assert "doesn't answer" in page.locator("#notice").inner_text() and desk.order_on(page) == [letter[2]]
    with served(tmp_path / "run", port=int(desk.address.rpartition(":")[2])) as (_, process):
        desk.submit(page)
        process.kill()
        process.wait()
    assert desk.answer() == ([[2], [0, 1, 3, 4]], [])
    desk.leave()


def test_a_link_on_another_site_lets_in(browser, empty_desk):
    address, token = empty_desk.address, empty_desk.token
    context = browser.new_context()
    page = context.new_page()
    elsewhere = address.replace("127.0.0.1", "localhost")
    page.goto(f"{elsewhere}/?token={token}")  # to the browser another site
    page.evaluate("url => { location = url }", f"{address}/?token={token}")
    page.wait_for_url(f"{address}/")
    page.get_by_label("Who are you?").wait_for(timeout=15_000)
    context.close()


def test_an_open_board_is_told_when_its_round_is_over(desk):
    page, letter = desk.sit(), desk.letters()
    desk.place_first(page, letter[0])
    desk.new_round(1)
    page.locator("#notice").wait_for()
    assert "it has all the answers it needs" in page.locator("#notice").inner_text()
    assert desk.order_on(page) == [] and page.locator("#tray .card").count() == M
    desk.place_first(page, desk.letters(number=1)[3])
    desk.submit(page)
    assert desk.answer(1) == ([[3], [0, 1, 2, 4]], [])


def test_progress_is_shown_and_a_round_in_the_making_too(empty_desk):
    desk = empty_desk
    desk.inbox.rules = Rules(quorum=2)
    page = desk.sit(wait="#waiting")
    desk.inbox.database.note("rendering", [3, 6])
    expect(page.locator("#waiting-words")).to_contain_text("Rendering 3 of 6")
    expect(page.locator("#progress")).to_have_text("0 rounds done · 0 answered by you · rendering 3 of 6")
    desk.inbox.database.note("rendering", None)
    desk.new_round()
    page.locator("#tray .card").first.wait_for()
    expect(page.locator("#progress")).to_have_text("0 rounds done · 0 answered by you · 0 of 2 have answered")
    query = desk.inbox.known("0.0")[0]
    desk.inbox.submit("0.0", "bob", [[query]], [], "bob's only answer")
    expect(page.locator("#progress")).to_contain_text("1 of 2 have answered")


def test_no_more_than_the_quorum_are_at_a_round_until_a_lease_ends(desk):
    desk.inbox.rules = Rules(quorum=1, lease_minutes=5 / 60)
    ada = desk.sit("ada")
    bob = desk.sit("bob", wait="#waiting")
    expect(bob.locator("#waiting-title")).to_have_text("Others are ranking this round")
    bob.locator("#tray .card").first.wait_for()  # ada's lease is over
    desk.place_first(ada, desk.letters()[1])
    desk.submit(ada)  # and her answer still welcome
    assert desk.answer() == ([[1], [0, 2, 3, 4]], [])


def test_a_check_comes_between_rounds_and_stays_out_of_the_run(desk):
    desk.inbox.rules = Rules(check_every=1)
    page, letter = desk.sit(), desk.letters()
    desk.place_first(page, letter[2])
    desk.submit(page)
    desk.new_round(1)
    page.get_by_role("button", name="Next round").click()
    page.locator("#check-hint").wait_for()
    assert page.locator("#tray .card").count() == 2
    found = Checks(desk.inbox).due("ada")
    first = next(n for n, card in enumerate(found.cards) if card.query == "0.0.2")
    desk.place_first(page, "AB"[1 - first])  # not what she said before
    page.locator("#submit").click()
    expect(page.locator("#tray .card")).to_have_count(M)
    assert page.locator("#check-hint").is_hidden()
    assert [(one.agreed, one.asked) for one in Checks(desk.inbox).consistency()] == [(0, 1)]
    assert len(desk.inbox.final("0.0")) == 1 and desk.inbox.final("0.1") == []
