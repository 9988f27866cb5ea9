"""The memory planner in a real JupyterLab: moved by keys and menus, it draws what Python computed, within 30 ms.

SCREENSHOTS=folder saves pictures of it.
"""

import os
from pathlib import Path

import live_widget
import pytest

from minimistral.widgets.memory import Planner

pytestmark = live_widget.MARKS

SOURCE = "from minimistral.widgets import memory\n\nmemory.Planner()"
#: the bar's parts in GiB by their width against the frame's, what lies over it, and the words beside it
DRAWN = """() => {
    const host = document.querySelector('.mm-memory'), svg = host.querySelector('svg');
    const widths = css => [...svg.querySelectorAll(css)].map(rect => rect.width.baseVal.value);
    const rows = [...host.querySelectorAll('.mm-twin tr')].map(row => [...row.cells].map(cell => cell.textContent));
    return {parts: widths('.mm-part'), over: widths('.mm-over'), frame: widths('rect[stroke]')[0], rows,
        verdict: host.querySelector('.mm-verdict').textContent,
        fitting: host.querySelector('.mm-where').textContent};
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with live_widget.lab(tmp_path_factory.mktemp("memory"), [SOURCE, "2"], Planner()) as lab:
        yield lab


@pytest.fixture(scope="module")
def notebook(lab):
    with live_widget.live(lab, ".mm-memory[data-live] svg .mm-part") as notebook:
        yield notebook


def shown(notebook) -> Planner:
    """What the picture shows, after checking it part by part against what Python computes for it."""
    host = notebook.page.locator(".mm-memory")
    version, window, bits, tokens, batch, chunk, machine = host.get_attribute("data-shown").split("/")
    state = Planner(version, int(bits), int(tokens), int(batch), int(chunk), window == "1", machine)
    drawn, parts = notebook.page.evaluate(DRAWN), state.parts()
    scale = drawn["frame"] / state.memory()
    assert [width / scale for width in drawn["parts"]] == pytest.approx(list(parts.values()), abs=0.01)
    over = state.total() - state.memory()
    assert drawn["over"] == ([] if over <= 0 else [pytest.approx(over * scale, abs=0.5)])
    sizes = {**parts, "together": state.total(), "memory": state.memory()}
    assert drawn["rows"] == [[name, f"{size:.2f} GiB"] for name, size in sizes.items()]
    assert drawn["verdict"] == f"{machine}: {state.verdict()}"
    assert drawn["fitting"] == state.text().splitlines()[-1].strip()
    if folder := os.environ.get("SCREENSHOTS"):
        host.screenshot(path=str(Path(folder) / f"memory_{version}_{window}_{bits}_{tokens}_{batch}_{chunk}.png"))
    return state


def test_it_follows_keys_and_menus_and_draws_what_python_computed(notebook):
    page = notebook.page
    assert shown(notebook) == Planner()
    notebook.press(".mm-tokens", "ArrowRight", 3)
    assert shown(notebook) == Planner(tokens=131_072)
    page.locator(".mm-window").uncheck()
    assert shown(notebook) == Planner(tokens=131_072, window=False)
    page.locator(".mm-bits").select_option("4")
    assert shown(notebook).verdict() == "int4 does not run on this card"
    page.locator(".mm-machine").select_option("laptop, 32 GiB")
    notebook.press(".mm-batch", "ArrowRight")
    notebook.press(".mm-chunk", "ArrowLeft", 2)
    assert shown(notebook) == Planner("v0.1", 4, 131_072, 4, 128, False, "laptop, 32 GiB")
    page.locator(".mm-window").check()
    page.locator(".mm-version").select_option("v0.3")
    assert page.locator(".mm-window").is_disabled()
    assert shown(notebook) == Planner("v0.3", 4, 131_072, 4, 128, False, "laptop, 32 GiB")
    page.locator(".mm-version").select_option("v0.1")
    notebook.press(".mm-tokens", "Home")
    notebook.press(".mm-batch", "Home")
    assert shown(notebook) == Planner("v0.1", 4, 4_096, 1, 128, True, "laptop, 32 GiB")


def test_keys_pressed_in_it_do_nothing_to_the_notebook(notebook):
    assert live_widget.keeps_its_keys(notebook, ".mm-tokens", ".mm-window")


def test_from_key_press_to_picture_in_30_ms(notebook):
    assert live_widget.milliseconds(notebook, ".mm-tokens", ".mm-memory svg", ["ArrowRight", "ArrowLeft"] * 10) <= 30


def test_nothing_is_asked_of_the_network(notebook):
    assert notebook.foreign_requests() == []


def test_without_scripts_the_still_picture_remains(lab):
    with live_widget.saved(lab, "memory") as saved:
        live_widget.still_picture(saved)
        assert saved.page.locator("svg .mm-part").count() == 0
