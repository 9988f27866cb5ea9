"""The ceilings and the triangles in a real JupyterLab: moved by keys, they draw what Python computed, within 30 ms.

SCREENSHOTS=folder saves pictures of them.
"""

import os
from pathlib import Path

import live_widget
import pytest

from minimistral.widgets.roofline import BATCHES, GPUS, LENGTHS, PARTS, WINDOWS, Ceilings, place, times
from minimistral.widgets.triangles import Triangles

pytestmark = live_widget.MARKS

CELLS = [
    "from minimistral.widgets.roofline import Ceilings\n\nCeilings()",
    "from minimistral.widgets.triangles import Triangles\n\nTriangles(4, 2)",
    "3",
]
BARS = """() => {
    const host = document.querySelector('.mm-ceilings');
    return {wide: [...host.querySelectorAll('.mm-ceilings-bar')].map(bar => bar.width.baseVal.value),
        times: [...host.querySelectorAll('.mm-ceilings-times')].map(text => text.textContent),
        words: [...host.querySelectorAll('p')].map(p => p.textContent),
        parts: [...host.querySelectorAll('svg text')].map(text => text.textContent)};
}"""
GRID = """() => {
    const host = document.querySelector('.mm-triangles'), read = name => [...host.querySelectorAll(`rect[data-${name}]`)].map(
        rect => [rect.x.baseVal.value, rect.y.baseVal.value, rect.dataset[name]]);
    return {marks: read('mark'), turned: read('turned'), words: host.querySelector('p').textContent,
        title: host.querySelector('svg text').textContent};
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with live_widget.lab(tmp_path_factory.mktemp("roofline"), CELLS, Ceilings()) as lab:
        yield lab


@pytest.fixture(scope="module")
def notebook(lab):
    with live_widget.live(lab, ".mm-ceilings[data-live] svg rect") as notebook:
        notebook.page.wait_for_selector(".mm-triangles[data-live] svg rect")
        yield notebook


def keep(host, name):
    if folder := os.environ.get("SCREENSHOTS"):
        host.screenshot(path=str(Path(folder) / f"{name}.png"))


def shown(notebook) -> Ceilings:
    """What the ceilings show, after checking bars and sentences against what Python says of that state."""
    host = notebook.page.locator(".mm-ceilings")
    n, w, b, g = map(int, host.get_attribute("data-shown").split("/"))
    state, drawn = Ceilings(LENGTHS[n], WINDOWS[w], BATCHES[b], GPUS[g]), notebook.page.evaluate(BARS)
    assert drawn["times"] == [times(x) for x in state.ratios()] and set(PARTS) <= set(drawn["parts"])
    assert drawn["wide"] == pytest.approx([max(480 * place(x), 1.5) for x in state.ratios()], abs=0.1)
    assert drawn["words"] == [state.title(), *state.lines()]
    keep(host, f"ceilings_{n}_{w}_{b}_{g}")
    return state


def triangles(notebook) -> Triangles:
    """What the triangles show, after checking every square."""
    host = notebook.page.locator(".mm-triangles")
    n, step = map(int, host.get_attribute("data-shown").split("/"))
    state, drawn = Triangles(n, step), notebook.page.evaluate(GRID)
    marks = [mark for *_, mark in sorted(drawn["marks"], key=lambda one: (round(one[1], 2), round(one[0], 2)))]
    assert "".join(marks) == "".join(state.grid()) and (drawn["title"], drawn["words"]) == (state.title(), state.words())
    assert "".join(mark for *_, mark in drawn["turned"]) == "".join(state.turned())
    keep(host, f"triangles_{n}_{step}")
    return state


def test_the_ceilings_follow_the_keys(notebook):
    page = notebook.page
    assert shown(notebook) == Ceilings()
    notebook.press(".mm-ceilings-n", "ArrowRight")
    assert shown(notebook) == Ceilings(N=32_768)
    notebook.press(".mm-ceilings-b", "ArrowRight", 5)
    assert shown(notebook) == Ceilings(N=32_768, batch=32)
    notebook.press(".mm-ceilings-w", "Home")
    page.locator(".mm-ceilings-gpu[value='4']").check()
    assert shown(notebook) == Ceilings(32_768, 1_024, 32, "T4 (float16)")
    notebook.press(".mm-ceilings-n", "Home")
    assert shown(notebook).ratios() == (1, 1, 1, 1)
    notebook.press(".mm-ceilings-n", "End")
    notebook.press(".mm-ceilings-b", "End")
    assert shown(notebook) == Ceilings(131_072, 1_024, 64, "T4 (float16)")


def test_the_triangles_follow_the_keys(notebook):
    assert triangles(notebook) == Triangles(4, 2)
    notebook.press(".mm-triangles-step", "Home")
    for step in range(7):
        assert triangles(notebook) == Triangles(4, step)
        notebook.press(".mm-triangles-step", "ArrowRight")
    notebook.press(".mm-triangles-n", "End")
    assert triangles(notebook) == Triangles(8, 6)
    notebook.press(".mm-triangles-n", "Home")
    assert triangles(notebook) == Triangles(2, 6)


@pytest.mark.parametrize("css", [".mm-ceilings-n", ".mm-ceilings-gpu[value='1']", ".mm-triangles-step"])
def test_keys_pressed_in_them_do_nothing_to_the_notebook(notebook, css):
    notebook.press(css, "ArrowRight")  # the widget's cell becomes the active one
    assert live_widget.keeps_its_keys(notebook, css)


def test_from_key_press_to_picture_in_30_ms(notebook):
    keys = ["ArrowLeft", "ArrowRight"] * 10
    assert live_widget.milliseconds(notebook, ".mm-ceilings-n", ".mm-ceilings svg", keys) <= 30
    assert live_widget.milliseconds(notebook, ".mm-triangles-step", ".mm-triangles svg", keys) <= 30


def test_nothing_is_asked_of_the_network(notebook):
    assert notebook.foreign_requests() == []


def test_without_scripts_the_still_picture_remains(lab):
    with live_widget.saved(lab, "ceilings") as saved:
        live_widget.still_picture(saved)
        assert saved.page.locator(".mm-ceilings-bar").count() == 0
