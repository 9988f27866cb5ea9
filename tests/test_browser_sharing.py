"""The head-sharing map in a real JupyterLab: moved by keys, it draws what Python computed, within 30 ms.

SCREENSHOTS=folder saves pictures of it.
"""

import os
from pathlib import Path

import live_widget
import pytest

from minimistral.widgets.sharing import HeadMap

pytestmark = live_widget.MARKS

SOURCE = "from minimistral.widgets import sharing\n\nsharing.HeadMap(32, 8)"
#: which key head the line from each query head ends at, by its place among the key heads' boxes; how the byte bar is labelled
DRAWN = """() => {
    const svg = document.querySelector('.mm-sharing svg.mm-map');
    const boxes = [...svg.querySelectorAll('rect[rx]')].map(box => [box.x.baseVal.value + box.width.baseVal.value / 2,
        box.y.baseVal.value]);
    const below = boxes.filter(box => box[1] > 100).map(box => box[0]);
    const used = [...svg.querySelectorAll('line')].map(line => below.findIndex(x => Math.abs(x - line.x2.baseVal.value) < 0.01));
    return {used, kv: below.length, heads: boxes.length - below.length,
        words: [...svg.querySelectorAll('text')].map(text => text.textContent)};
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with live_widget.lab(tmp_path_factory.mktemp("sharing"), [SOURCE, "2"], HeadMap(32, 8)) as lab:
        yield lab


@pytest.fixture(scope="module")
def notebook(lab):
    with live_widget.live(lab, ".mm-sharing[data-live] svg line") as notebook:
        yield notebook


def shown(notebook) -> HeadMap:
    """What the picture shows, after checking it line by line against what Python computes for it."""
    host = notebook.page.locator(".mm-sharing")
    H, Hkv, rule = host.get_attribute("data-shown").split("/")
    state, drawn = HeadMap(int(H), int(Hkv), rule), notebook.page.evaluate(DRAWN)
    assert drawn["used"] == list(state.used()) and (drawn["heads"], drawn["kv"]) == (state.n_heads, state.n_kv_heads)
    assert drawn["words"][0] == state.title() and drawn["words"][-1] == state.text().split(": ")[-1]
    if folder := os.environ.get("SCREENSHOTS"):
        host.screenshot(path=str(Path(folder) / f"sharing_{H}_{Hkv}_{rule}.png"))
    return state


def test_it_follows_the_keys_and_draws_what_python_computed(notebook):
    page = notebook.page
    assert shown(notebook) == HeadMap(32, 8)
    notebook.press(".mm-kv", "ArrowLeft")
    assert shown(notebook) == HeadMap(32, 4)
    notebook.press(".mm-kv", "ArrowRight", 3)
    assert shown(notebook) == HeadMap(32, 32)
    notebook.press(".mm-kv", "ArrowLeft", 2)
    page.locator(".mm-rule[value=mod]").check()
    assert shown(notebook) == HeadMap(32, 8, "mod")
    notebook.press(".mm-heads", "ArrowLeft", 3)  # 24, 16, 12 query heads: 8 key heads fit the first two, then 6
    assert shown(notebook) == HeadMap(12, 6, "mod")
    notebook.press(".mm-heads", "Home")
    assert shown(notebook) == HeadMap(1, 1, "mod")
    notebook.press(".mm-heads", "End")
    page.locator(".mm-rule[value=group]").check()
    notebook.press(".mm-kv", "End")
    assert shown(notebook) == HeadMap(32, 32)


def test_keys_pressed_in_it_do_nothing_to_the_notebook(notebook):
    assert live_widget.keeps_its_keys(notebook, ".mm-heads")


def test_from_key_press_to_picture_in_30_ms(notebook):
    assert live_widget.milliseconds(notebook, ".mm-heads", ".mm-sharing svg", ["ArrowLeft", "ArrowRight"] * 10) <= 30


def test_nothing_is_asked_of_the_network(notebook):
    assert notebook.foreign_requests() == []


def test_without_scripts_the_still_picture_remains(lab):
    with live_widget.saved(lab, "sharing") as saved:
        live_widget.still_picture(saved)
        assert saved.page.locator("svg.mm-map").count() == 0
