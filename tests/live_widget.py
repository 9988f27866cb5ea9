"""What the browser tests of the inline widgets share: two notebooks, one that is run and one that is only opened; how long a key
press takes to be seen; and that a widget keeps its keys to itself. SCREENSHOTS=folder saves pictures."""

import base64
import os
import statistics
from contextlib import contextmanager
from pathlib import Path

import browser
import execute
import nbformat
import pytest

MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(browser.find_chromium() is None, reason=f"no Chromium: {browser.INSTALL}"),
]
#: milliseconds from each key press, as the browser stamped it, to the painted frame after the first change inside an element
WATCH = """css => {
    const taken = window.taken = [];
    let pressed = 0;
    document.addEventListener('keydown', event => { pressed = event.timeStamp; }, true);
    new MutationObserver(() => {
        if (!pressed) return;
        const from = pressed;
        pressed = 0;
        requestAnimationFrame(() => {
            const channel = new MessageChannel();  // its message comes when the frame has been painted
            channel.port1.onmessage = () => taken.push(performance.now() - from);
            channel.port2.postMessage(0);
        });
    }).observe(document.querySelector(css), {childList: true, subtree: true, attributes: true});
}"""
ACTIVE = "() => window.jupyterapp.shell.currentWidget.content.activeCellIndex"


@contextmanager
def lab(folder: Path, cells: list[str], widget):
    """A JupyterLab with live.ipynb, which has these cells, and saved.ipynb, which holds what is committed of a widget."""
    bundle, told = widget._repr_mimebundle_()
    bundle["image/png"] = base64.b64encode(bundle["image/png"]).decode()
    shown = nbformat.v4.new_output("execute_result", data=bundle, metadata=told, execution_count=1)
    notebooks = {
        "live": [nbformat.v4.new_code_cell(cell) for cell in cells],
        "saved": [nbformat.v4.new_code_cell("1", execution_count=1, outputs=[shown])],
    }
    for name, made in notebooks.items():
        nb = execute.tidy(nbformat.v4.new_notebook(cells=made))
        (folder / f"{name}.ipynb").write_text(nbformat.writes(nb), encoding="utf-8")
    with browser.Lab(folder) as running:
        yield running


@contextmanager
def live(running: browser.Lab, css: str):
    """live.ipynb, run, once `css` is on the page."""
    notebook = running.open_notebook("live.ipynb")
    notebook.run_all()
    notebook.page.wait_for_selector(css)
    yield notebook
    notebook.close()


@contextmanager
def saved(running: browser.Lab, name: str):
    """saved.ipynb, opened and not run, so not trusted: JupyterLab takes its scripts away."""
    notebook = running.open_notebook("saved.ipynb")
    yield notebook
    if folder := os.environ.get("SCREENSHOTS"):
        notebook.screenshot(Path(folder) / f"{name}_saved.png")
    notebook.close()


def still_picture(notebook: browser.Notebook):
    """The picture that stands where no script runs."""
    image = notebook.page.locator(".jp-OutputArea-output img")
    image.wait_for()
    assert image.evaluate("image => image.complete && image.naturalWidth") > 500
    return image


def keeps_its_keys(notebook: browser.Notebook, *css: str) -> bool:
    """JupyterLab's own shortcuts, pressed in these elements, do nothing to the notebook around them."""
    before, active = notebook.cells(), notebook.page.evaluate(ACTIVE)
    for one in css:
        for key in ("ArrowUp", "ArrowDown", "b", "d", "d", "x", "m", "Enter"):
            notebook.press(one, key)
    return notebook.cells() == before and notebook.page.evaluate(ACTIVE) == active


def milliseconds(notebook: browser.Notebook, pressed: str, changed: str, keys: list[str]) -> float:
    """From key press to painted picture: the best median of three, as other programs may hold the processor for a while."""
    notebook.page.evaluate(WATCH, changed)
    medians = []
    for _ in range(3):
        notebook.page.evaluate("() => { window.taken.length = 0; }")
        for key in keys:
            notebook.press(pressed, key)
            notebook.page.wait_for_timeout(50)
        notebook.page.wait_for_function("n => window.taken.length >= n", arg=len(keys))
        medians.append(statistics.median(notebook.page.evaluate("() => window.taken")))
    print(f"\nkey press to picture: {', '.join(f'{ms:.1f}' for ms in medians)} ms (medians of {len(keys)})")
    return min(medians)
