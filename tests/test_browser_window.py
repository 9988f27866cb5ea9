"""The window widget in a real browser: every slider moves it, it draws and says what Python computes, within 30 ms.

SCREENSHOTS=folder saves pictures of it.
"""

import os
from dataclasses import replace
from pathlib import Path

import live_widget
import pytest

import minimistral as mm
from minimistral import masks
from minimistral.widgets import window as view

pytestmark = live_widget.MARKS

SENTENCE = "Ginger always slept in the wooden box. Then Ginger was gone. Lily found Ginger in the"
ODD = 'Tom said "<b>" & then </script> he `ran`'
SETUP = "import minimistral as mm\nfrom minimistral.widgets import window as view\n\nmodel, tokenizer = mm.load_tiny()"
SOURCE = f"view.explore(model, tokenizer, {SENTENCE!r}, window=6, layers=3, layer=3, head=6)"
#: of each row of the cone, lowest first: how its circles look, by token; of the strip: the squares, and the bars' heights
DRAWN = """() => {
    const svg = document.querySelector('.mm-window svg'), rows = {};
    for (const circle of svg.querySelectorAll('circle'))
        (rows[circle.cy.baseVal.value] ??= []).push(circle.getAttribute('class'));
    return {cone: Object.keys(rows).map(Number).sort((a, b) => b - a).map(y => rows[y]),
        cells: [...svg.querySelectorAll('rect.in, rect.out, rect.later')].sort((a, b) => a.x.baseVal.value - b.x.baseVal.value)
            .map(rect => rect.getAttribute('class')),
        bars: [...svg.querySelectorAll('rect.bar')].map(bar => bar.height.baseVal.value / 66),
        said: document.querySelector('.mm-window-said').textContent, label: svg.getAttribute('aria-label')};
}"""


@pytest.fixture(scope="module")
def seen():
    return view.explore(*mm.load_tiny(), SENTENCE, window=6, layers=3, layer=3, head=6)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, seen):
    cells = [SETUP, SOURCE, f"view.explore(model, tokenizer, {ODD!r})", "2"]
    with live_widget.lab(tmp_path_factory.mktemp("window"), cells, seen) as lab:
        yield lab


@pytest.fixture(scope="module")
def notebook(lab):
    with live_widget.live(lab, ".mm-window[data-live] svg circle") as notebook:
        yield notebook


def shown(notebook, seen) -> view.Seen:
    """What the widget shows, after checking it circle by circle and bar by bar against what Python computes for it."""
    host = notebook.page.locator(".mm-window").first
    window, query, layers, layer, head = map(int, host.get_attribute("data-shown").split("/"))
    state = replace(seen, window=window, query=query, layers=layers, layer=layer, head=head)
    drawn = notebook.page.evaluate(DRAWN)
    n, weights = len(seen.labels), state.weights()
    assert drawn["said"] == drawn["label"] == state.say()
    looks = ["later" if j > query else "in" if masks.visible(query, j, window) else "out" for j in range(n)]
    assert drawn["cells"] == looks
    assert drawn["bars"] == pytest.approx([w for w, look in zip(weights, looks, strict=True) if look == "in"], abs=1e-5)
    firsts = state.cone()[::-1]  # lowest row first
    cone = [["later" if j > query else "in" if j >= first else "out" for j in range(n)] for first in firsts[:-1]]
    assert drawn["cone"] == [*cone, ["in"]]
    if folder := os.environ.get("SCREENSHOTS"):
        host.screenshot(path=str(Path(folder) / f"window_{window}_{query}_{layers}_{layer}_{head}.png"))
    return state


def test_it_follows_the_keys_and_draws_what_python_computed(notebook, seen):
    assert shown(notebook, seen) == seen
    notebook.press(".mm-window-window", "ArrowLeft")
    assert shown(notebook, seen).window == 5
    notebook.press(".mm-window-layers", "ArrowRight", 2)
    assert (shown(notebook, seen).layers, shown(notebook, seen).layer) == (5, 3), "the cone's layers leave the bars alone"
    notebook.press(".mm-window-layer", "ArrowLeft")
    assert (shown(notebook, seen).layers, shown(notebook, seen).layer) == (5, 2)
    notebook.press(".mm-window-query", "ArrowLeft", 7)
    assert shown(notebook, seen).query == 11
    notebook.press(".mm-window-head", "Home")  # the average of the heads
    assert shown(notebook, seen).head == 0


CORNERS = (
    "Home Home End End End", "End End Home Home Home", "Home Home Home Home Home", "End End End End End",
    "Home End End Home Home",
)  # fmt: skip


@pytest.mark.parametrize("keys", CORNERS)
def test_at_the_ends_of_every_slider(notebook, seen, keys):
    for what, key in zip(("window", "query", "layers", "layer", "head"), keys.split(), strict=True):
        notebook.press(f".mm-window-{what}", key)
    shown(notebook, seen)


def test_every_window_of_some_queries(notebook, seen):
    notebook.press(".mm-window-layers", "Home")
    notebook.press(".mm-window-layers", "ArrowRight", 2)
    notebook.press(".mm-window-query", "End")
    for head in ("Home", "End"):
        notebook.press(".mm-window-head", head)
        for _ in range(2):
            notebook.press(".mm-window-window", "Home")
            for _ in range(len(seen.labels) - 1):
                shown(notebook, seen)
                notebook.press(".mm-window-window", "ArrowRight")
            notebook.press(".mm-window-query", "ArrowLeft", 4)


def test_a_second_one_lives_beside_it_and_shows_its_text_as_text(notebook):
    odd = view.explore(*mm.load_tiny(), ODD)
    other = notebook.page.locator(".mm-window").nth(1)
    assert other.get_attribute("data-live") and other.locator(".mm-window-said").inner_text() == odd.say()
    words = other.locator("svg text").all_text_contents()
    assert all(label[:12] in words for label in odd.labels) and other.locator("b").count() == 0


def test_keys_pressed_in_it_do_nothing_to_the_notebook(notebook):
    assert live_widget.keeps_its_keys(notebook, ".mm-window-window")


def test_from_key_press_to_picture_in_30_ms(notebook):
    for slider in ("layers", "window", "query"):  # the fullest picture
        notebook.press(f".mm-window-{slider}", "End")
    assert live_widget.milliseconds(notebook, ".mm-window-window", ".mm-window svg", ["ArrowLeft", "ArrowRight"] * 10) <= 30


def test_nothing_is_asked_of_the_network(notebook):
    assert notebook.foreign_requests() == []


def test_without_scripts_the_still_picture_remains(lab):
    with live_widget.saved(lab, "window") as saved:
        live_widget.still_picture(saved)
        assert saved.page.locator(".mm-window svg").count() == 0
