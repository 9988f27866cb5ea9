"""The chat in a real browser: one types, reads the answer as it comes, stops a long one, and goes on. SCREENSHOTS=folder."""

import os
import re
from pathlib import Path

import browser
import execute
import nbformat
import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser.find_chromium() is None, reason=f"no Chromium: {browser.INSTALL}"),
]
CELL = """
import torch
import minimistral as mm
from minimistral.widgets.chat import ChatBox
tokenizer = mm.Tokenizer.from_version("v1")
torch.manual_seed(0)
sizes = dict(dim=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=24, vocab_size=32000)
config = mm.MistralConfig(**sizes, sliding_window=8)
ChatBox(mm.Mistral(config).requires_grad_(False), tokenizer, max_new_tokens=1_000_000)
"""
#: notes how the conversation's text grew, and what the live region said
WATCH = """() => {
    window.grown = [];
    new MutationObserver(() => window.grown.push(document.querySelector('.mm-chat-log').textContent.length))
        .observe(document.querySelector('.mm-chat-log'), {childList: true, subtree: true});
}"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    (folder / "chat.ipynb").write_text(nbformat.writes(execute.tidy(nb)), encoding="utf-8")
    with browser.Lab(folder) as lab:
        notebook = lab.open_notebook("chat.ipynb")
        notebook.run_all()
        notebook.page.wait_for_selector(".mm-chat[data-wired]")
        yield notebook
        if shots := os.environ.get("SCREENSHOTS"):
            notebook.screenshot(Path(shots) / "chat.png")
        notebook.close()


def field(notebook):
    return notebook.page.locator(".mm-chat-text textarea")


def says(notebook, words):
    notebook.page.wait_for_function(
        "words => document.querySelector('.mm-chat-note').textContent.includes(words)", arg=words, timeout=30_000
    )
    return notebook.page.locator(".mm-chat-note").inner_text()


def reused(notebook):
    return [int(n.replace(",", "")) for n in re.search(r"([\d,]+) of ([\d,]+) tokens", says(notebook, "stopped;")).groups()]


def streams(notebook, text, least=6):
    """Type, press Enter, and see the conversation grow several times while the answer is being written."""
    notebook.page.evaluate(WATCH)
    field(notebook).press_sequentially(text, delay=15)
    field(notebook).press("Enter")
    notebook.page.wait_for_function("n => new Set(window.grown).size >= n", arg=least, timeout=30_000)
    assert text.strip() in notebook.page.locator(".mm-chat-you").last.inner_text()
    assert field(notebook).input_value() == ""


def test_an_answer_streams_is_stopped_and_the_next_turn_reuses_the_cache(notebook):
    streams(notebook, "Hello <b>there</b>")
    assert notebook.page.locator(".mm-chat-send").is_disabled()
    notebook.page.locator(".mm-chat-stop").click()
    assert reused(notebook)[0] == 0
    assert "tokens/s" in says(notebook, "tokens/s")
    length = notebook.page.locator(".mm-chat-log").inner_text()
    notebook.page.wait_for_timeout(400)
    assert notebook.page.locator(".mm-chat-log").inner_text() == length  # it did stop
    streams(notebook, "And more?")
    field(notebook).press("Escape")  # stops, too
    carried, whole = reused(notebook)
    assert 0 < carried < whole
    assert notebook.page.locator(".mm-chat-model").count() == 2
    assert notebook.foreign_requests() == []


def test_the_keyboard_is_the_field_s_and_not_the_notebook_s(notebook):
    before = len(notebook.cells())
    field(notebook).click()
    for key in ("a", "b", "d", "d", "Shift+Enter", "m", "x"):
        field(notebook).press(key)
    assert field(notebook).input_value() == "abdd\nmx"
    assert len(notebook.cells()) == before
    field(notebook).fill("")


def test_it_can_be_heard(notebook):
    note = notebook.page.locator(".mm-chat-note")
    assert [note.get_attribute(name) for name in ("role", "aria-live")] == ["status", "polite"]
    assert field(notebook).get_attribute("aria-label") == "Your message"


def test_a_new_conversation_takes_the_system_prompt(notebook):
    notebook.page.locator(".mm-chat-system textarea").fill("Be brief.")
    notebook.page.locator(".mm-chat-system textarea").press("Tab")
    says(notebook, "next new conversation")
    notebook.page.locator(".mm-chat-new").click()
    notebook.page.wait_for_function("() => document.querySelectorAll('.mm-chat-you').length === 0")
    assert "Be brief." in notebook.page.locator(".mm-chat-log").inner_text()
