"""`minimistral lab --projector`: the type, the pictures and the widgets on the page are larger, and no setting is written.

SCREENSHOTS=folder saves pictures of it.
"""

import os
from pathlib import Path

import browser
import execute
import live_widget
import nbformat
import pytest

from minimistral.lab import large_type

pytestmark = live_widget.MARKS

SOURCES = [
    "import ipywidgets\nfrom minimistral.widgets import picture, sharing\n\nsharing.HeadMap(8, 2)",
    'ipywidgets.VBox([ipywidgets.IntSlider(3, 1, 6, description="layer"), ipywidgets.HTML("<b>words</b>")])',
    'picture.finish(picture.figure(3, 1)[0], "a picture")',
    "print(1)",
]
#: what is looked at -> how much larger it is to be at 1280 and at 1920 pixels
LARGER = {
    ".cm-content": (19 / 13, 23 / 13),
    ".jp-RenderedText pre": (19 / 13, 23 / 13),
    ".jp-MarkdownOutput p": (20 / 14, 24 / 14),
    ".lm-MenuBar-itemLabel": (16 / 13, 18 / 13),
    ".mm-sharing .mm-map text": (1.2, 1.5),
    ".widget-label": (1.2, 1.5),
    ".widget-html-content b": (1.2, 1.5),
    ".jp-RenderedImage img": (1.2, 1.5),
}
#: of the first of them to be seen, its height; of a menu's label, whose height is its bar's, the width
SIZE = """css => {
    const side = css.includes('MenuBar') ? 'width' : 'height';
    return [...document.querySelectorAll(css)].map(e => e.getBoundingClientRect()[side]).find(size => size > 0);
}"""
FITS = """css => {
    const place = document.querySelector(css).closest('.jp-OutputArea-output');
    return place.scrollWidth <= place.clientWidth + 1;
}"""


def seen(folder, options, picture=None):
    """The sizes of what LARGER names, at both widths; and whether the map fits into its place."""
    with browser.Lab(folder, options=options) as lab:
        notebook = lab.open_notebook("a.ipynb")
        notebook.run_all()
        notebook.page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
        sizes = {css: [] for css in LARGER}
        for width, height in ((1280, 800), (1920, 1080)):
            notebook.page.set_viewport_size({"width": width, "height": height})
            notebook.page.wait_for_selector(".mm-sharing[data-live] svg line")
            notebook.page.wait_for_timeout(1000)
            for css in LARGER:
                sizes[css].append(notebook.page.evaluate(SIZE, css))
            assert notebook.page.evaluate(FITS, ".mm-sharing")
            if picture:
                notebook.screenshot(Path(picture) / f"projector_{width}.png")
        assert notebook.foreign_requests() == []
        notebook.close()
    return sizes


def test_everything_is_larger_and_no_setting_is_written(tmp_path):
    cells = [nbformat.v4.new_markdown_cell("# Large\n\na paragraph"), *map(nbformat.v4.new_code_cell, SOURCES)]
    (tmp_path / "a.ipynb").write_text(nbformat.writes(execute.tidy(nbformat.v4.new_notebook(cells=cells))), encoding="utf-8")
    usual = seen(tmp_path, [])
    large = seen(tmp_path, large_type(), os.environ.get("SCREENSHOTS"))
    for css, wanted in LARGER.items():
        found = [b / a for a, b in zip(usual[css], large[css], strict=True)]
        if css in (".cm-content", ".widget-label"):  # heights with paddings, or fixed
            assert all(ratio > 1.1 for ratio in found), css
        else:
            assert found == pytest.approx(wanted, rel=0.12), css
    assert not [word for option in large_type() for word in ("settings_dir", "config_dir", "overrides") if word in option]
