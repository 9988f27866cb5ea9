"""The sampling widget in a real JupyterLab: its numbers are generation.probabilities', id for id, and keys are seen at once.

SCREENSHOTS=folder saves pictures of it.
"""

import os
import random
from pathlib import Path

import live_widget
import pytest
import torch
from test_sampling_widget import draw_lots

import minimistral as mm
from minimistral.generation import probabilities
from minimistral.widgets.sampling import SHOWN, STOPS, Cut, SamplingWidget

pytestmark = live_widget.MARKS
PROMPT = "It was a sunny day, and Noah and Mia walked to the"
START = dict(temperature=1.0, top_p=0.8)
SOURCE = f"""import minimistral as mm
from minimistral.widgets.sampling import SamplingWidget
SamplingWidget(*mm.load_tiny(), {PROMPT!r}, temperature=1.0, top_p=0.8)"""
#: moves the four sliders to their n-th stop each, as a hand would, and returns what is computed and what is drawn
AT = """stops => {
    const host = document.querySelector('.mm-sampling');
    ['temperature', 'top_k', 'top_p', 'min_p'].forEach((name, n) => {
        const input = host.querySelector('.mm-' + name);
        input.value = stops[n];
        input.dispatchEvent(new Event('input'));
    });
    const bars = kind => [...host.querySelectorAll('svg rect.' + kind)]
        .map(bar => [(bar.y.baseVal.value - 28) / 17, bar.width.baseVal.value]);  // the place among the rows, and the length
    return {...host.shown, said: host.querySelector('.mm-said').textContent, drawn: host.querySelector('.mm-drawn').textContent,
        keptBars: bars('mm-kept'), cutBars: bars('mm-cut')};
}"""


@pytest.fixture(scope="module")
def tiny():
    return mm.load_tiny()


@pytest.fixture(scope="module")
def lab(tmp_path_factory, tiny):
    with live_widget.lab(tmp_path_factory.mktemp("sampling"), [SOURCE, SOURCE], SamplingWidget(*tiny, PROMPT, **START)) as lab:
        yield lab


@pytest.fixture(scope="module")
def notebook(lab):
    with live_widget.live(lab, ".mm-sampling[data-live] svg rect.mm-kept") as notebook:
        yield notebook


def picked(stops):
    return {name: values[n] for (name, values), n in zip(STOPS.items(), stops, strict=True)}


def test_at_hundreds_of_settings_its_numbers_are_pythons(notebook, tiny):
    """All 2,048 shares, what cut each, how many are left and what they held; and the bars are as long as the numbers say."""
    cut = Cut.predicted(*tiny, PROMPT)
    logits, pick = torch.tensor([cut.logits]), random.Random(0)
    sizes = [len(values) for values in STOPS.values()]
    off = [9, sizes[1] - 1, sizes[2] - 1, 0]
    alone = [off[:n] + [stop] + off[n + 1 :] for n, size in enumerate(sizes) for stop in range(size)]  # each slider alone
    settings = alone + [[pick.randrange(size) for size in sizes] for _ in range(150)]
    assert picked(off) == {"temperature": 1.0, "top_k": None, "top_p": None, "min_p": None}
    for stops in settings:
        now, options = notebook.page.evaluate(AT, stops), picked(stops)
        assert {name: now[name] for name in options} == options
        after = torch.tensor(now["after"], dtype=torch.float32)
        torch.testing.assert_close(after, probabilities(logits, **options)[0], atol=1e-6, rtol=1e-5)
        state = Cut(PROMPT, cut.pieces, cut.logits, **options)
        assert now["left"] == state.left, options
        assert now["held"] == pytest.approx(state.held, abs=1e-5)
        assert now["by"][:SHOWN] == [state.cut_by(rank) for rank in range(SHOWN)]
        kept = [rank for rank in range(SHOWN) if not state.cut_by(rank)]
        assert [rank for rank, _ in now["keptBars"]] == kept
        assert [rank for rank, _ in now["cutBars"]] == [rank for rank in range(SHOWN) if rank not in kept]
        widths, shares = [width for _, width in now["keptBars"]], state.after[kept]
        assert torch.allclose(torch.tensor(widths) / widths[0], shares / shares[0], atol=1e-4)
    print(f"\n{len(settings)} settings, {logits.shape[1]} numbers each, the same as Python's")


def test_it_says_what_python_says(notebook, tiny):
    for options in (dict(), dict(temperature=0.5), dict(temperature=2.0, top_p=0.9), dict(top_k=6, min_p=0.2), dict(min_p=0.05)):
        state = Cut.predicted(*tiny, PROMPT, **options)
        stops = [list(values).index(state.settings()[name]) for name, values in STOPS.items()]
        assert notebook.page.evaluate(AT, stops)["said"] == state.say()


def test_it_follows_the_keys_and_its_words_are_announced(notebook, tiny):
    stops = [list(STOPS[name]).index(Cut.predicted(*tiny, PROMPT, **START).settings()[name]) for name in STOPS]
    notebook.page.evaluate(AT, stops)
    said = notebook.page.locator(".mm-sampling .mm-said").first
    assert said.get_attribute("aria-live") == "polite"
    options = dict(START)
    moves = (("temperature", "End", 3.0), ("top_k", "Home", 1), ("top_k", "ArrowRight", 2), ("min_p", "ArrowRight", 0.01))
    for name, key, value in moves:
        notebook.press(f".mm-{name}", key)
        options[name] = value
        state = Cut.predicted(*tiny, PROMPT, **options)
        assert said.inner_text() == state.say()
        assert notebook.page.locator(f".mm-{name}").first.get_attribute("aria-valuetext") == f"{value:g}"
        assert notebook.page.locator(".mm-sampling svg").first.get_attribute("aria-label") == state.say()


def test_twenty_lots_are_the_ones_that_python_draws_and_follow_the_cut(notebook, tiny):
    button = notebook.page.locator(".mm-draw").first
    before = notebook.page.evaluate("() => document.querySelector('.mm-sampling').shown.seed")
    pick, sizes = random.Random(1), [len(values) for values in STOPS.values()]
    for seed in range(before + 1, before + 6):
        button.focus()
        button.press("Enter")
        for _ in range(10):
            stops = [pick.randrange(size) for size in sizes]
            now, state = notebook.page.evaluate(AT, stops), Cut.predicted(*tiny, PROMPT, **picked(stops))
            assert now["seed"] == seed and now["ranks"] == draw_lots(state, seed)
            assert all(state.after[rank] > 0 for rank in now["ranks"])
            times = {rank: now["ranks"].count(rank) for rank in sorted(now["ranks"])}
            named = ", ".join(f"{state.pieces[rank]} × {n}" for rank, n in times.items())
            assert now["drawn"] == f"seed {seed}: {named}"
    if folder := os.environ.get("SCREENSHOTS"):
        notebook.page.locator(".mm-sampling").first.screenshot(path=str(Path(folder) / "sampling.png"))


def test_keys_pressed_in_it_do_nothing_to_the_notebook(notebook):
    assert live_widget.keeps_its_keys(notebook, ".mm-top_p", ".mm-draw")


def test_a_second_one_lives_beside_the_first(notebook):
    said = notebook.page.locator(".mm-sampling[data-live] .mm-said")
    assert said.count() == 2
    before = said.nth(1).inner_text()
    notebook.press(".mm-temperature", "Home")
    assert said.nth(1).inner_text() == before != said.nth(0).inner_text()


def test_from_key_press_to_picture_in_30_ms(notebook):
    keys = ["ArrowRight"] * 10 + ["ArrowLeft"] * 10
    assert live_widget.milliseconds(notebook, ".mm-temperature", ".mm-sampling svg", keys) <= 30


def test_nothing_is_asked_of_the_network(notebook):
    assert notebook.foreign_requests() == []


def test_without_scripts_the_still_picture_remains(lab):
    with live_widget.saved(lab, "sampling") as saved:
        assert "of 2,048 tokens can be drawn" in live_widget.still_picture(saved).get_attribute("alt")
        assert saved.page.locator(".mm-sliders").count() == 0
