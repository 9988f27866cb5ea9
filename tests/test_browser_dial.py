"""The RoPE dial in a real browser: each control moves it, it says what Python says, and a key press is seen at once."""

import os

import live_widget
import pytest

from minimistral.widgets.dial import Dial, RopeDial

pytestmark = live_widget.MARKS
CELL = """
from IPython.display import display
from minimistral.widgets.dial import RopeDial
display(RopeDial([1, 0] * 4, [1, 0] * 4))
display(RopeDial([1, 0] * 4, [1, 0] * 4))  # a second one of the same must live beside the first
display(RopeDial([1.0] * 128, [0.5, -1.0] * 64, last=2_000))
display(RopeDial([1, 0], [0, 1], last=0))
display(RopeDial([], []))
"""
STATE = Dial((1, 0) * 4, (1, 0) * 4)
PICTURE = "() => document.querySelector('.mm-dial-canvas').toDataURL()"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with live_widget.lab(tmp_path_factory.mktemp("dial"), [CELL], RopeDial([1, 0] * 4, [1, 0] * 4)) as lab:
        yield lab


@pytest.fixture(scope="module")
def notebook(lab):
    with live_widget.live(lab, ".mm-dial-said") as notebook:
        yield notebook
        if shots := os.environ.get("SCREENSHOTS"):
            notebook.screenshots(shots, "dial")


def said(notebook, n=0):
    return notebook.page.locator(".mm-dial-said").nth(n).inner_text()


def test_it_comes_alive_and_hides_its_words(notebook):
    assert said(notebook) == STATE.say()
    assert not notebook.page.locator(".mm-dial-words").first.is_visible()
    assert notebook.page.locator(".mm-dial-canvas").first.is_visible()
    assert notebook.foreign_requests() == []


def test_each_control_moves_the_picture_and_says_what_python_says(notebook):
    at = {"query": 12, "key": 9, "hand": 0, "shift": 0}
    moves = (("query", "ArrowRight", 1), ("key", "ArrowLeft", -1), ("hand", "ArrowRight", 1), ("shift", "End", 12))
    for what, key, step in moves:
        before = notebook.page.evaluate(PICTURE)
        notebook.press(f".mm-dial-{what}", key)
        at[what] += step
        assert said(notebook) == STATE.say(**at)
        assert notebook.page.evaluate(PICTURE) != before
    assert "query at 1,013, key at 1,008" in said(notebook)
    notebook.press(".mm-dial-shift", "Home")
    assert said(notebook).split("Pair")[1] == STATE.say(**at).split("Pair")[1]  # the shift has changed neither angle nor score
    for what in ("query", "key", "hand"):
        notebook.press(f".mm-dial-{what}", "Home")
    assert said(notebook) == STATE.say(query=0, key=0, hand=0, shift=0)


def test_a_key_in_the_future_takes_the_query_along(notebook):
    notebook.press(".mm-dial-query", "Home")
    notebook.press(".mm-dial-key", "End")
    assert said(notebook) == STATE.say(query=20, key=20, hand=0, shift=0)
    notebook.press(".mm-dial-query", "ArrowLeft", 2)
    assert said(notebook) == STATE.say(query=18, key=18, hand=0, shift=0)
    notebook.press(".mm-dial-key", "Home")
    assert said(notebook) == STATE.say(query=18, key=0, hand=0, shift=0)


def test_the_others_on_the_page_are_alive_too(notebook):
    assert notebook.page.locator(".mm-dial-live").count() == 4
    assert said(notebook, 1) == STATE.say()
    big = Dial((1.0,) * 128, (0.5, -1.0) * 64, last=2_000)
    assert said(notebook, 2) == big.say()
    assert notebook.page.get_by_text("2,001 positions were asked for; 0 to 24 are shown.").last.is_visible()
    assert said(notebook, 3).startswith("query at 0, key at 0: 0 apart.")
    assert notebook.page.get_by_text("nothing to show. q has 0 numbers").is_visible()


def test_from_key_press_to_picture_in_30_ms(notebook):
    notebook.press(".mm-dial-query", "Home")
    assert live_widget.milliseconds(notebook, ".mm-dial-query", ".mm-dial", ["ArrowRight"] * 20 + ["Home"]) <= 30


def test_where_scripts_do_not_run_the_words_stand(lab):
    with live_widget.saved(lab, "dial") as saved:
        words = saved.page.get_by_text("RoPE dial, hands with these radians a step").first
        words.wait_for(timeout=60_000)
        assert words.is_visible() and "1,012" in words.inner_text()
        assert saved.page.locator("canvas.mm-dial-canvas:visible").count() == 0
