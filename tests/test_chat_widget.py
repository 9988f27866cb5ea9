"""The chat's state: what is said, streamed, stopped and begun again, without a browser."""

import html
import threading

import pytest
import torch
from IPython.core.formatters import DisplayFormatter

import minimistral as mm
from minimistral.chat import Chat
from minimistral.widgets import chat as widget
from minimistral.widgets.chat import ChatBox, Talk

SECONDS = 60


@pytest.fixture(scope="module")
def tiny():
    return mm.load_tiny()


@pytest.fixture(scope="module")
def endless():
    """A model that hardly ever comes to its end, with v1's real words."""
    tokenizer = mm.Tokenizer.from_version("v1")
    torch.manual_seed(0)
    config = mm.MistralConfig(dim=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=24,
                              vocab_size=tokenizer.vocab_size, sliding_window=8)  # fmt: skip
    return mm.Mistral(config).requires_grad_(False), tokenizer


def heard(talk, least):
    """Wait until an answer has `least` letters."""
    there = threading.Event()
    talk.changed = lambda: there.set() if talk.said and len(talk.said[-1][1]) >= least else None
    assert there.wait(SECONDS)


def test_the_answer_is_the_chat_s_own_piece_by_piece_and_the_cache_is_carried(tiny):
    chat, seen = Chat(*tiny, max_new_tokens=40), []
    talk = Talk(*tiny, max_new_tokens=40)
    talk.changed = lambda: seen.append(talk.said[-1][1] if talk.said else "")
    for text in ("Where is the key?", "And now?"):
        assert talk.send(text) and talk.wait(SECONDS)
        "".join(chat.say(text))
        assert talk.said == [({"user": "you"}.get(m["role"], "model"), m["content"]) for m in chat.messages]
    assert f"{chat.reused[0]} of {chat.reused[1]} tokens were in the cache already" in talk.note and chat.reused[0] > 20
    assert "tokens/s" in talk.note and "tokens/s" not in talk.text()
    growing = [piece for piece in dict.fromkeys(seen) if piece]
    assert len(growing) > 40 and any(b.startswith(a) for a, b in zip(growing, growing[1:], strict=False))


def test_stop_ends_a_long_answer_and_the_next_turn_goes_on(endless):
    talk = Talk(*endless, max_new_tokens=10**6)
    assert talk.send("Go on.")
    heard(talk, 200)
    assert talk.running and not talk.send("And?") and "still being written" in talk.note
    talk.stop()
    assert talk.wait(SECONDS) and talk.note.startswith("stopped; ")
    assert talk.said == [("you", "Go on."), ("model", talk.chat.messages[-1]["content"])]
    fed = len(talk.chat.fed)
    assert fed > 20
    assert talk.send("More.")
    heard(talk, 20)
    talk.stop()
    assert talk.wait(SECONDS) and talk.chat.reused[0] == fed


def test_a_new_conversation_forgets_also_what_is_being_written(endless):
    talk = Talk(*endless, max_new_tokens=10**6)
    talk.send("Go on.")
    heard(talk, 50)
    old = talk._thread
    talk.new("Be brief.")
    old.join(SECONDS)
    assert not old.is_alive() and talk.said == [] and not talk.running
    assert talk.chat.messages == [{"role": "system", "content": "Be brief."}] and talk.system == "Be brief."
    assert talk.text() == "system: Be brief.\n(Nothing has been said yet.)"


@pytest.mark.parametrize(("text", "said"), [("  ", "Type something first."), ("half \ud83e", "half of a character")])
def test_what_cannot_be_said_is_told_and_leaves_no_trace(tiny, text, said):
    talk = Talk(*tiny, max_new_tokens=5)
    assert not talk.send(text) and said in talk.note and talk.said == [] and not talk.running
    assert talk.send("Hello") and talk.wait(SECONDS) and len(talk.said) == 2


def test_an_error_in_the_thread_is_seen_and_the_conversation_stands(tiny):
    model, tokenizer = tiny
    talk = Talk(model, tokenizer, max_new_tokens=20)
    talk.send("Hello")
    talk.wait(SECONDS)
    before = list(talk.said)

    def no_memory(module, inputs):
        raise RuntimeError("out of memory")

    hook = model.layers[1].register_forward_pre_hook(no_memory)
    assert talk.send("And now?") and talk.wait(SECONDS)
    hook.remove()
    assert "RuntimeError: out of memory" in talk.note and talk.said == before
    assert talk.send("And now?") and talk.wait(SECONDS) and len(talk.said) == 4
    assert talk.chat.reused[0] == 0  # read again from its start


def test_text_is_never_markup(tiny):
    evil = "<script>alert(1)</script> & <b>bold</b>"
    talk = Talk(*tiny, system=evil, max_new_tokens=3)
    talk.said = [("you", evil), ("model", evil)]
    talk.note = evil
    for shown in (widget.drawn(talk), widget.noted(talk)):
        assert "<script" not in shown and "<b>bold" not in shown and "&lt;script&gt;" in shown


def test_the_box_sends_clears_and_shows(tiny):
    box = ChatBox(*tiny, max_new_tokens=10)
    assert box.halt.disabled and not box.go.disabled
    box.field.value = "Where is the key?"
    box.go.click()
    assert box.field.value == ""
    assert box.talk.wait(SECONDS)
    assert "Where is the key?" in box.shown.value and "tokens/s" in box.note.value
    assert html.escape(box.talk.said[-1][1]) in box.note.value  # for those who listen
    assert box.halt.disabled and not box.go.disabled
    box.field.value = "   "
    box.go.click()
    assert box.field.value == "   " and "Type something" in box.note.value


def test_a_system_prompt_holds_from_the_next_conversation_on(tiny):
    box = ChatBox(*tiny, max_new_tokens=5)
    box.system.value = "Be brief."
    assert box.talk.system == "Be brief."  # nothing was said yet
    box.field.value = "Hello"
    box.go.click()
    assert box.talk.wait(SECONDS)
    box.system.value = "Be long."
    assert box.talk.system == "Be brief." and "next new conversation" in box.note.value and len(box.talk.said) == 2
    box.fresh.click()
    assert box.talk.system == "Be long." and box.talk.said == []


def test_without_a_kernel_there_is_a_picture_and_words(tiny):
    box = ChatBox(*tiny, system="Be $kind$ to 🦊.", max_new_tokens=8)
    box.talk.send("Where is the key?")
    assert box.talk.wait(SECONDS)
    bundle, told = DisplayFormatter().format(box)  # as JupyterLab gets it
    assert bundle["image/png"].startswith(b"\x89PNG") and "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"].startswith("system: Be $kind$ to 🦊.\nyou: Where is the key?\nmodel: ")
    assert bundle["text/plain"].endswith("tokens were in the cache already)")
    assert told == {"image/png": {"alt": bundle["text/plain"]}}
