"""The attention viewer in a real browser: it moves, quickly, and survives what people type."""

import statistics

import browser
import execute
import nbformat
import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser.find_chromium() is None, reason=f"no Chromium: {browser.INSTALL}"),
]
CELL = """
import minimistral as mm
from minimistral.widgets.attention import AttentionViewer
AttentionViewer(*mm.load_tiny(), "Mia had a red ball and Tom had a blue kite. Look, said Tom, and he held up the")
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewer")
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    (folder / "viewer.ipynb").write_text(nbformat.writes(execute.tidy(nb)), encoding="utf-8")
    with browser.Lab(folder) as lab:
        notebook = lab.open_notebook("viewer.ipynb")
        notebook.run_all()
        notebook.page.wait_for_selector(".mm-attention-matrix svg")
        yield notebook
        notebook.close()


def matrix(notebook):
    return notebook.page.locator(".mm-attention-matrix svg").first.inner_html()


@pytest.mark.parametrize("control", ["layer", "head", "query"])
def test_each_control_changes_the_picture(notebook, control):
    before = matrix(notebook)
    notebook.press(f".mm-attention-{control} .noUi-handle", "ArrowLeft" if control == "query" else "ArrowRight")
    notebook.page.wait_for_function(
        "before => document.querySelector('.mm-attention-matrix svg').innerHTML !== before", arg=before
    )
    assert matrix(notebook) != before
    assert notebook.foreign_requests() == []


def test_a_key_press_is_seen_within_a_tenth_of_a_second(notebook):
    keys = ["ArrowRight", "ArrowLeft"] * 7
    times = notebook.latencies(".mm-attention-head .noUi-handle", keys, ".mm-attention-matrix")
    print(f"attention viewer, key press to picture: median {statistics.median(times):.0f} ms of {len(times)}")
    assert statistics.median(times) <= 100, times


@pytest.mark.parametrize(
    "typed,said",
    [("", "Type a sentence"), ("Hi", " tokens"), ("the cat sat " * 700, "the last 40 are shown"), ("Where is Tom?", " tokens")],
)
def test_it_stays_alive_whatever_is_typed(notebook, typed, said):
    box = notebook.page.locator(".mm-attention-sentence input").first
    box.fill(typed)
    box.press("Enter")
    notebook.page.get_by_text(said).first.wait_for(timeout=20_000)
    assert matrix(notebook)
