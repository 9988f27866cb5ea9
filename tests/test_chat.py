"""A conversation over one cache, carried from turn to turn: the same tokens as everything read again from scratch."""

import pytest
import torch

import minimistral as mm
from minimistral.chat import Chat
from minimistral.cli import main

SAID = ["Where is the key?", "And the hat? Tell me everything you know about it, please.", "Why?", "Thank you, and good night."]


@pytest.fixture(scope="module")
def tiny():
    return mm.load_tiny()


def talk(chat, said=SAID):
    return ["".join(chat.say(text)) for text in said]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "seed": 3}])
def test_a_carried_cache_says_what_recomputation_says(tiny, sampling):
    """Far past the window of 64: after each turn, the whole conversation is fed again to a fresh cache."""
    model, tokenizer = tiny
    chat = Chat(model, tokenizer, max_new_tokens=70, **sampling)
    for n, text in enumerate(SAID):
        messages = [*chat.messages, {"role": "user", "content": text}]
        ids = chat.ids(messages)
        said = "".join(chat.say(text))
        again = mm.generate(model, [ids], max_new_tokens=70, eos_id=tokenizer.eos_id, **sampling).tokens[0]
        assert chat.answers[-1] == [token for token in again if token != tokenizer.eos_id]
        assert said == tokenizer.decode(ids + again)[len(tokenizer.decode(ids)) :]
        assert chat.reused[1] == len(ids) and (chat.reused[0] > 0) == (n > 0)
    assert len(chat.fed) > 3 * model.config.sliding_window
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * len(SAID)


def test_the_cache_holds_what_a_fresh_one_would(tiny):
    """Not only the tokens: the logits after the last turn, against the model without any cache."""
    model, tokenizer = tiny
    chat = Chat(model, tokenizer, max_new_tokens=40)
    talk(chat)
    with torch.no_grad():
        after = model(torch.tensor([[7]]), cache=chat.cache)[0, -1]
        whole = model(torch.tensor([[*chat.fed, 7]]))[0, -1]
    assert torch.allclose(after, whole, atol=1e-3)


@pytest.mark.parametrize("window", [8, None])
@pytest.mark.parametrize(("version", "carried"), [("v1", True), ("v2", False), ("v3", False)])
def test_a_system_prompt_is_carried_where_the_template_leaves_it_in_place(version, carried, window):
    tokenizer = mm.Tokenizer.from_version(version)
    torch.manual_seed(0)
    config = mm.MistralConfig(dim=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=24,
                              vocab_size=tokenizer.vocab_size, sliding_window=window)  # fmt: skip
    model = mm.Mistral(config).requires_grad_(False)
    chat = Chat(model, tokenizer, system="Be brief.", max_new_tokens=5)
    for text in SAID:
        ids = chat.ids([*chat.messages, {"role": "user", "content": text}])
        "".join(chat.say(text))
        again = mm.generate(model, [ids], max_new_tokens=5).tokens[0]
        assert chat.answers[-1] == [token for token in again if token != tokenizer.eos_id]
    assert (chat.reused[0] > 0) == carried


def test_an_answer_can_be_stopped_and_the_conversation_goes_on(tiny):
    model, tokenizer = tiny
    chat = Chat(model, tokenizer, max_new_tokens=60)
    talk(chat, SAID[:1])
    pieces = chat.say(SAID[1])
    heard = [next(pieces) for _ in range(5)]
    pieces.close()  # the stop button
    assert chat.messages[-1]["role"] == "assistant" and chat.messages[-1]["content"].startswith("".join(heard).strip()[:5])
    ids = chat.ids([*chat.messages, {"role": "user", "content": SAID[2]}])
    "".join(chat.say(SAID[2]))
    again = mm.generate(model, [ids], max_new_tokens=60, eos_id=tokenizer.eos_id).tokens[0]
    assert chat.answers[-1] == [token for token in again if token != tokenizer.eos_id]


@pytest.mark.parametrize(("layer", "calls"), [(1, 1), (1, 9), (0, 9)])
def test_an_interrupt_in_the_middle_of_a_pass_leaves_a_conversation_that_goes_on(tiny, layer, calls):
    """Ctrl-C comes while a layer computes, of the prompt or of a single token: what was said stands, and is read again."""
    model, tokenizer = tiny
    chat = Chat(model, tokenizer, max_new_tokens=60)
    talk(chat, SAID[:1])
    passes = iter(range(1, 100))

    def interrupt(module, inputs):
        if next(passes) == calls:
            raise KeyboardInterrupt

    hook = model.layers[layer].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        talk(chat, SAID[1:2])
    hook.remove()
    assert len(chat.messages) == (2 if calls == 1 else 4)
    ids = chat.ids([*chat.messages, {"role": "user", "content": SAID[2]}])
    "".join(chat.say(SAID[2]))
    again = mm.generate(model, [ids], max_new_tokens=60, eos_id=tokenizer.eos_id).tokens[0]
    assert chat.answers[-1] == [token for token in again if token != tokenizer.eos_id]


def test_a_message_that_is_refused_leaves_no_trace(tiny, monkeypatch):
    from minimistral import room

    chat = Chat(*tiny, max_new_tokens=5)
    talk(chat, SAID[:1])
    before = list(chat.messages), list(chat.fed), chat.cache.position.clone()
    with pytest.raises(ValueError, match="expected a string"):
        chat.say(3)
    monkeypatch.setattr(room, "memory", lambda device: 10_000)
    with pytest.raises(ValueError, match="tokens to read: that takes about .* are free"):
        chat.say("And the hat? " * 50)
    assert (chat.messages, chat.fed) == before[:2] and torch.equal(chat.cache.position, before[2])


def test_the_command_talks_until_nothing_is_said(monkeypatch, capsys):
    lines = iter(["Where is the key?", "And now?", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert main(["chat", "--max-new-tokens", "8"]) == 0
    out = capsys.readouterr().out
    assert out.count("tokens were in the cache already") == 2
    assert main(["chat", "--system", "x", "--guardrails"]) == 2
    assert "choose one" in capsys.readouterr().err
