"""The margins of Table 2 in a real JupyterLab: moved by keys, they draw what Python computed, within 30 ms.

SCREENSHOTS=folder saves pictures of them.
"""

import os
from pathlib import Path

import live_widget
import pytest

from minimistral.widgets.claims import FACTORS, RIVALS, Margins

pytestmark = live_widget.MARKS

CELLS = ["from minimistral.widgets.claims import Margins\n\nMargins()", "3"]
DRAWN = """() => {
    const host = document.querySelector('.mm-margins'), rows = [...host.querySelectorAll('.mm-margins-row')];
    return {rows: rows.map(row => [row.dataset.what, row.getAttribute('stroke-dasharray')]),
        texts: [...host.querySelectorAll('svg text')].map(text => text.textContent), words: host.querySelector('p').textContent};
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with live_widget.lab(tmp_path_factory.mktemp("margins"), CELLS, Margins()) as lab:
        yield lab


@pytest.fixture(scope="module")
def notebook(lab):
    with live_widget.live(lab, ".mm-margins[data-live] .mm-margins-row") as notebook:
        yield notebook


def shown(notebook) -> Margins:
    """What is shown, after checking every row and word against what Python says of that state."""
    host = notebook.page.locator(".mm-margins")
    r, f = map(int, host.get_attribute("data-shown").split("/"))
    state, drawn = Margins(RIVALS[r], FACTORS[f]), notebook.page.evaluate(DRAWN)
    assert [what for what, _ in drawn["rows"]] == [row.decides for row in state.rows()]
    assert all((dashes == "none") == (what != "undecided") for what, dashes in drawn["rows"])
    for row in state.rows():
        assert {f"{row.name} {row.questions:,}", f"{row.lead:+.1f}", row.decides} <= set(drawn["texts"])
    assert drawn["texts"][0] == state.title() and drawn["words"] == state.words()
    if folder := os.environ.get("SCREENSHOTS"):
        host.screenshot(path=str(Path(folder) / f"margins_{r}_{f}.png"))
    return state


def test_they_follow_the_keys(notebook):
    assert shown(notebook) == Margins()
    notebook.press(".mm-margins-factor", "ArrowRight")
    assert shown(notebook) == Margins(factor=2)
    notebook.press(".mm-margins-rival[value='0']", "ArrowDown")
    assert shown(notebook) == Margins("Llama 2 7B", 2)
    notebook.press(".mm-margins-rival[value='1']", "ArrowDown")
    assert shown(notebook) == Margins("Code-Llama 7B", 2)
    notebook.press(".mm-margins-factor", "End")
    assert shown(notebook) == Margins("Code-Llama 7B", 16)
    notebook.press(".mm-margins-factor", "Home")
    assert shown(notebook) == Margins("Code-Llama 7B")


@pytest.mark.parametrize("css", [".mm-margins-factor", ".mm-margins-rival[value='1']"])
def test_keys_pressed_in_them_do_nothing_to_the_notebook(notebook, css):
    notebook.press(css, "ArrowRight")  # the widget's cell becomes the active one
    assert live_widget.keeps_its_keys(notebook, css)


def test_from_key_press_to_picture_in_30_ms(notebook):
    keys = ["ArrowLeft", "ArrowRight"] * 10
    assert live_widget.milliseconds(notebook, ".mm-margins-factor", ".mm-margins svg", keys) <= 30


def test_nothing_is_asked_of_the_network(notebook):
    assert notebook.foreign_requests() == []


def test_without_scripts_the_still_picture_remains(lab):
    with live_widget.saved(lab, "margins") as saved:
        live_widget.still_picture(saved)
        assert saved.page.locator(".mm-margins-row").count() == 0
