"""The page in a real browser: putting candidates in order."""

import re

import pytest

pytestmark = pytest.mark.draws  # playwright and asyncio draw names of temporary files
M = 5


def test_by_dragging(desk):
    page, letter = desk.sit(), desk.letters()
    ranked = page.locator("#ranked")
    desk.drag(page, letter[2], ranked, 0.9)
    desk.drag(page, letter[4], desk.card(page, letter[2]), 0.05)  # before it
    desk.drag(page, letter[0], ranked, 0.9)  # at the end
    desk.drag(page, letter[1], desk.card(page, letter[0]), 0.5)  # onto it: a tie
    desk.drag(page, letter[3], page.locator("#skipped"))
    assert desk.order_on(page) == [letter[4], letter[2], "".join(sorted(letter[0] + letter[1]))]
    desk.submit(page)
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
    assert desk.order_on(page) == [letter[3], letter[1], letter[0]]
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
    press = lambda place, name: desk.card(page, letter[place]).get_by_role("button", name=name).click()  # noqa: E731
    for place in range(M):
        press(place, "Add to your order")
    press(4, "Better")
    press(1, "Tie")
    press(1, "Worse")
    press(0, "Back to not ranked")
    press(0, "Skip")
    desk.submit(page)
    assert desk.answer() == ([[1], [2], [4], [3]], [0])


def test_top_two_and_the_rest_below(desk):
    page, letter = desk.sit(), desk.letters()
    assert page.locator("#submit").is_disabled()
    for place in (2, 0):
        desk.card(page, letter[place]).focus()
        page.keyboard.press("Enter")
    desk.submit(page)
    assert desk.answer() == ([[2], [0], [1, 3, 4]], [])


def test_all_bad_skips_the_round_and_undo_brings_the_order_back(desk):
    page, letter = desk.sit(), desk.letters()
    desk.card(page, letter[3]).focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="All bad").click()
    page.locator("#sent").wait_for()
    assert re.search(r"take it back for \d+ s", page.locator("#countdown").inner_text())
    page.get_by_role("button", name="Undo").click()
    page.locator("#board").wait_for()
    assert desk.order_on(page) == [letter[3]]
    page.get_by_role("button", name="All bad").click()
    page.locator("#sent").wait_for()
    assert desk.answer() == ([], [0, 1, 2, 3, 4])


def test_two_raters(desk):
    ada, bob = desk.sit("ada"), desk.sit("bob")
    for page, rater, best in ((ada, "ada", 1), (bob, "bob", 4)):
        desk.card(page, desk.letters(rater)[best]).focus()
        page.keyboard.press("Enter")
        desk.submit(page)
    assert desk.answer(rater="ada") == ([[1], [0, 2, 3, 4]], [])
    assert desk.answer(rater="bob") == ([[4], [0, 1, 2, 3]], [])
