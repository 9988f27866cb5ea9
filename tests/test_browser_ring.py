"""The ring scrubber in a real JupyterLab: keys, buttons and choices move it, it draws and says what Python read from the cache,
a key press is seen at once, and nothing of it reaches the notebook.

SCREENSHOTS=folder saves pictures of it.
"""

import os
from pathlib import Path

import live_widget
import pytest

from minimistral.widgets import ring
from minimistral.widgets.ring import RingScrubber

pytestmark = live_widget.MARKS
CELL = """
from IPython.display import display
from minimistral.widgets.ring import RingScrubber
display(RingScrubber())
display(RingScrubber())  # a second one of the same must live beside the first
display(RingScrubber(window=3, chunk_size=2, frame=4))
"""
STATE = RingScrubber()
#: what one scrubber draws
DRAWN = """n => {
    const root = document.querySelectorAll('.mm-ring')[n], all = css => [...root.querySelectorAll(css)];
    const number = text => text === 'null' ? null : +text;
    return {
        held: all('.mm-ring-slot').map(g => number(g.dataset.position)), lost: all('.mm-ring-slot[data-lost="1"]').length,
        states: all('.mm-ring-token').map(g => g.dataset.state), pointer: all('.mm-ring-pointer').map(p => +p.dataset.slot),
        seen: all('.mm-ring-seen').map(bar => +bar.parentNode.dataset.position),
        said: root.querySelector('.mm-ring-said').innerText, line: root.querySelector('.mm-ring-line').innerText,
        coming: all('.mm-ring-slot text').map(text => text.textContent).filter(text => text.startsWith('←')),
    };
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with live_widget.lab(tmp_path_factory.mktemp("ring"), [CELL, "2"], STATE) as lab:
        yield lab


@pytest.fixture(scope="module")
def notebook(lab):
    with live_widget.live(lab, ".mm-ring[data-shown] svg circle") as notebook:
        yield notebook


def shown(notebook, n=0) -> str:
    """Which frame the n-th scrubber shows, after checking all that it draws and says against what Python read from the cache."""
    at = notebook.page.locator(".mm-ring").nth(n).get_attribute("data-shown")
    window, chunk_size, k = map(int, at.split("/"))
    frame, drawn, words = STATE.frames(window, chunk_size)[k], notebook.page.evaluate(DRAWN, n), STATE.words()
    comes, chunk = frame.phase == "comes", range(*frame.chunk)
    assert drawn["held"] == list(frame.held)
    assert drawn["said"] == ring.say(frame, words, window) and drawn["line"] == ring.line(frame, words)
    assert drawn["pointer"] == ([frame.next % window] if frame.next < len(words) else [])
    assert drawn["seen"] == (list(frame.seen) if comes else [])
    assert drawn["lost"] == (len(set(frame.lost) & set(frame.held)) if comes else 0)
    assert drawn["coming"] == ([f"← {p}" for _, p in frame.takes] if comes else [])
    for p, state in enumerate(drawn["states"]):
        expected = (
            "lost" if comes and p in frame.lost else "comes" if comes and p in chunk
            else "future" if p >= frame.next else "gone" if p not in frame.held else "fresh" if p in chunk else "held"
        )  # fmt: skip
        assert state == expected, (at, p)
    if folder := os.environ.get("SCREENSHOTS"):
        name = f"ring_{n}_{at.replace('/', '_')}.png"
        notebook.page.locator(".mm-ring").nth(n).screenshot(path=str(Path(folder) / name))
    return at


def test_it_comes_alive_and_hides_its_words(notebook):
    assert shown(notebook) == "4/1/0" and shown(notebook, 2) == "3/2/4"
    assert not notebook.page.locator(".mm-ring-words").first.is_visible()
    assert notebook.page.locator(".mm-ring-svg").first.is_visible()


def test_every_frame_of_a_run_can_be_stepped_through_by_keys(notebook):
    for k in range(1, 27):
        notebook.press(".mm-ring", "ArrowRight")
        assert shown(notebook) == f"4/1/{k}"
    notebook.press(".mm-ring", "ArrowRight")
    assert shown(notebook) == "4/1/26"  # the last one
    notebook.press(".mm-ring", "ArrowLeft", 2)
    assert shown(notebook) == "4/1/24"
    notebook.press(".mm-ring", "Home")
    assert shown(notebook) == "4/1/0"
    notebook.press(".mm-ring-at", "ArrowRight", 3)  # the slider takes them too
    assert shown(notebook) == "4/1/3"
    notebook.press(".mm-ring-at", "End")
    assert shown(notebook) == "4/1/26"


def test_what_a_hasty_write_would_have_destroyed_lights_up(notebook):
    page = notebook.page
    page.locator(".mm-ring-chunk").first.select_option("3")
    notebook.press(".mm-ring", "Home")
    reds = []
    for _ in range(10):
        notebook.press(".mm-ring", "ArrowRight")
        shown(notebook)
        reds.append(page.evaluate(DRAWN, 0)["lost"])
    assert reds == [0, 0, 2, 0, 2, 0, 2, 0, 0, 0]


def test_another_window_or_chunk_size_stays_at_the_same_place_of_the_text(notebook):
    page = notebook.page
    page.locator(".mm-ring-chunk").first.select_option("1")
    notebook.press(".mm-ring", "Home")
    notebook.press(".mm-ring", "ArrowRight", 12)
    assert shown(notebook) == "4/1/12"  # six tokens are stored
    page.locator(".mm-ring-window").first.select_option("8")
    assert shown(notebook) == "8/1/12"
    page.locator(".mm-ring-chunk").first.select_option("2")
    assert shown(notebook) == "8/2/6"
    page.locator(".mm-ring-chunk").first.select_option("5")
    assert shown(notebook) == "8/5/4"  # five at a time: six is passed with ten
    page.locator(".mm-ring-window").first.select_option("2")
    assert shown(notebook) == "2/5/4"
    assert shown(notebook, 1) == "4/1/0" and shown(notebook, 2) == "3/2/4"  # the others on the page stand where they stood


def test_the_buttons_step_and_play_and_the_space_bar_plays_and_stops(notebook):
    page = notebook.page
    page.locator(".mm-ring-step").nth(2).click()
    assert shown(notebook, 2) == "3/2/5"
    page.locator(".mm-ring-back").nth(2).click()
    assert shown(notebook, 2) == "3/2/4"
    root = page.locator(".mm-ring").nth(2)
    root.focus()
    root.press(" ")
    page.wait_for_function("() => document.querySelectorAll('.mm-ring')[2].dataset.shown === '3/2/6'", timeout=10_000)
    assert page.locator(".mm-ring-play").nth(2).inner_text() == "⏸ pause"
    root.press(" ")
    stopped = shown(notebook, 2)
    page.wait_for_timeout(1_500)
    assert shown(notebook, 2) == stopped and page.locator(".mm-ring-play").nth(2).inner_text() == "▶ play"
    root.press("End")
    page.locator(".mm-ring-play").nth(2).click()  # at the end: from the beginning
    assert shown(notebook, 2) == "3/2/0"
    root.press("ArrowRight")  # a step stops it
    page.wait_for_timeout(1_500)
    assert shown(notebook, 2) == "3/2/1"


FOCUS = "() => document.activeElement.className.split(' ')[0]"


def test_after_a_click_the_keys_belong_to_the_ring_again(notebook):
    page, root = notebook.page, notebook.page.locator(".mm-ring").first
    page.locator(".mm-ring-window").first.select_option("4")
    page.locator(".mm-ring-chunk").first.select_option("1")
    assert page.evaluate(FOCUS) == "mm-ring"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert shown(notebook) == "4/1/1"  # a step, not another choice
    for button, there in (("step", "4/1/2"), ("back", "4/1/1")):
        page.locator(f".mm-ring-{button}").first.click()
        assert shown(notebook) == there and page.evaluate(FOCUS) == "mm-ring"
    page.keyboard.press(" ")
    assert page.locator(".mm-ring-play").first.inner_text() == "⏸ pause"
    page.locator(".mm-ring-play").first.click()
    assert page.locator(".mm-ring-play").first.inner_text() == "▶ play" and page.evaluate(FOCUS) == "mm-ring"
    root.press("Home")


def test_who_comes_by_keys_stays_where_they_are(notebook):
    page = notebook.page
    page.locator(".mm-ring-step").first.focus()
    page.keyboard.press(" ")
    page.keyboard.press("Enter")
    assert shown(notebook) == "4/1/2" and page.evaluate(FOCUS) == "mm-ring-step"
    page.locator(".mm-ring-chunk").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")  # where the list has opened, this closes it
    assert shown(notebook).startswith("4/2/") and page.evaluate(FOCUS) == "mm-ring-chunk"
    page.locator(".mm-ring-chunk").first.evaluate("e => e.blur()")
    page.locator(".mm-ring-chunk").first.select_option("1")
    notebook.press(".mm-ring", "Home")


def test_nothing_moves_by_itself_for_who_wants_less_motion(notebook):
    page, glow = notebook.page, "() => getComputedStyle(document.querySelector('.mm-ring .lost')).animationName"
    page.locator(".mm-ring-chunk").first.select_option("3")
    page.locator(".mm-ring-window").first.select_option("4")
    notebook.press(".mm-ring", "Home")
    notebook.press(".mm-ring", "ArrowRight", 3)
    assert page.evaluate(glow) == "mm-ring-glow"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(glow) == "none"
    page.emulate_media(reduced_motion="no-preference")


def test_keys_pressed_in_it_do_nothing_to_the_notebook(notebook):
    assert live_widget.keeps_its_keys(notebook, ".mm-ring", ".mm-ring-at", ".mm-ring-step")


def test_from_key_press_to_picture_in_30_ms(notebook):
    notebook.page.locator(".mm-ring-window").first.select_option("8")
    notebook.page.locator(".mm-ring-chunk").first.select_option("1")
    notebook.press(".mm-ring", "End")
    assert live_widget.milliseconds(notebook, ".mm-ring", ".mm-ring", ["ArrowLeft"] * 10 + ["ArrowRight"] * 10) <= 30


def test_nothing_is_asked_of_the_network(notebook):
    assert notebook.foreign_requests() == []


def test_without_scripts_the_words_remain(lab):
    with live_widget.saved(lab, "ring") as saved:
        words = saved.page.get_by_text("go into a RollingBuffer with W = 4").first
        words.wait_for(timeout=60_000)
        assert words.is_visible() and "ball 12*" in words.inner_text()
        assert saved.page.locator("svg.mm-ring-svg:visible").count() == 0


def test_the_moving_picture_of_the_readme_shows_every_frame(lab):
    import animate

    taken = animate.photographs(window=3, chunk_size=5)
    assert len(taken) == len(STATE.frames(3, 5)) and len({picture.size for picture in taken}) == 1
    assert all(a.tobytes() != b.tobytes() for a, b in zip(taken, taken[1:], strict=False))
