"""Every notebook in a real JupyterLab: all cells run, nothing fails, nothing is asked of the network.

SCREENSHOTS=folder saves pictures of each notebook's whole length.
"""

import os

import browser
import execute
import nbformat
import pytest

NOTEBOOKS = sorted(execute.NOTEBOOKS.glob("*.ipynb"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser.find_chromium() is None, reason=f"no Chromium: {browser.INSTALL}"),
]


@pytest.fixture(scope="module")
def lab():
    with browser.learners_copy(execute.NOTEBOOKS) as folder, browser.Lab(folder) as lab:
        yield lab


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_learner_runs_all_of_it(lab, path):
    notebook = lab.open_notebook(f"my/{path.name}")
    before = notebook.cells()
    assert not any(cell["outputs"] or cell["execution_count"] for cell in before), "the learner's copy has outputs already"
    try:
        notebook.run_all()
    finally:
        if folder := os.environ.get("SCREENSHOTS"):
            notebook.screenshots(folder, path.stem)
    assert [cell["execution_count"] for cell in notebook.cells()] == list(range(1, len(before) + 1))
    assert notebook.foreign_requests() == []
    notebook.close()


PIECES = """
import struct, zlib
import ipywidgets as widgets

def png(level):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head, row = struct.pack(">IIBBBBB", 32, 32, 8, 0, 0, 0, 0), b"\\0" + bytes([level]) * 32
    return b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row * 32)) + chunk(b"IEND", b"")

slider, image = widgets.IntSlider(max=9), widgets.Image(width=32)
slider.add_class("the-slider"), image.add_class("the-image")
slider.observe(lambda change: setattr(image, "value", png(25 * slider.value)), "value")
image.value = png(0)
widgets.VBox([slider, image])
"""


def test_the_harness_moves_a_slider_and_sees_the_picture_change_and_cells_fail(tmp_path):
    for name, source in (("widget", PIECES), ("bad", "print(1 / 0)")):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source), nbformat.v4.new_code_cell("2")])
        (tmp_path / f"{name}.ipynb").write_text(nbformat.writes(execute.tidy(nb)), encoding="utf-8")
    with browser.Lab(tmp_path) as lab:
        notebook = lab.open_notebook("widget.ipynb")
        notebook.run_all()
        before = notebook.source(".the-image")
        notebook.press(".the-slider .noUi-handle", "ArrowRight", 3)
        assert notebook.wait_image_change(".the-image", before) != before
        assert notebook.page.locator(".the-slider .noUi-handle").get_attribute("aria-valuenow") == "3.0"
        notebook.screenshot(tmp_path / "shot.png")
        assert (tmp_path / "shot.png").stat().st_size > 10_000
        notebook.close()
        with pytest.raises(browser.BrowserError, match="ZeroDivisionError: division by zero"):
            lab.open_notebook("bad.ipynb").run_all()


def test_a_notebook_that_does_not_end_is_said(tmp_path):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import time; time.sleep(100)")])
    (tmp_path / "slow.ipynb").write_text(nbformat.writes(execute.tidy(nb)), encoding="utf-8")
    with browser.Lab(tmp_path) as lab, pytest.raises(browser.BrowserError, match="has not run in 2 s"):
        lab.open_notebook("slow.ipynb").run_all(seconds=2)
