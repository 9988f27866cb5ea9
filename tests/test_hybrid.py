"""Windows that differ from layer to layer: config, model, cache, generate, lattice, and equality with transformers."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import fed_in_chunks, largest_difference, random_ids, small_config, small_model
from transformers import MinistralConfig, MinistralForCausalLM

import minimistral as mm
from minimistral import attention, chat, counting, doctor, hybrid, lattice, naive, probe
from minimistral.checkpoint import export
from minimistral.config import ConfigError, MistralConfig
from minimistral.hybrid import HybridCache, cache_for
from minimistral.writing import hf_config

MIXED = [(3, None), (None, 4), (2, 5), (1, None, 6, 1)]


def mixed_model(windows, **sizes):
    return small_model(windows, n_layers=len(windows), **sizes)


# --- the config -----------------------------------------------------------------------------------------------------------


def test_a_list_that_is_the_same_everywhere_is_one_window():
    one = small_config(4, n_layers=3)
    assert small_config([4, 4, 4], n_layers=3) == one and not one.is_mixed and one.windows == (4, 4, 4)
    assert small_config((None,) * 3, n_layers=3).sliding_window is None
    mixed = small_config([4, None, 4], n_layers=3)
    assert mixed.is_mixed and mixed.windows == mixed.sliding_window == (4, None, 4) and hash(mixed) != hash(one)


@pytest.mark.parametrize("windows, words", [
    ([3], "sliding_window lists 1 windows and n_layers is 2: expected one for each layer"),
    ([3, None, 3], "lists 3 windows and n_layers is 2"),
    ([], "lists 0 windows"),
    ([3, 0], r"sliding_window\[1\] is 0: expected a whole number of at least 1"),
    ([2.0, 3], r"sliding_window\[0\] is 2.0"),
    ([True, 3], r"sliding_window\[0\] is True"),
    ([[3], 3], r"sliding_window\[0\] is \[3\]"),
])  # fmt: skip
def test_a_list_that_is_none_of_windows_is_refused(windows, words):
    with pytest.raises(ConfigError, match=words):
        small_config(windows, n_layers=2)


@pytest.mark.parametrize("windows", [*MIXED, 4, None])
def test_windows_survive_params_json(windows, tmp_path):
    config = small_config(windows, n_layers=len(windows) if isinstance(windows, tuple) else 2)
    (tmp_path / "params.json").write_text(json.dumps(config.to_params()))
    assert MistralConfig.from_file(tmp_path / "params.json") == config


@pytest.mark.parametrize("change, words", [
    (dict(layer_types=["sliding_attention", "chunked_attention"]), "layer_types has 'chunked_attention'; expected a list of"),
    (dict(layer_types="full_attention"), "layer_types has 'full_attention'; expected a list of"),
    (dict(layer_types=["full_attention", ["x"]]), r"layer_types has \['x'\]"),
    (dict(layer_types=["full_attention"]), "lists 1 windows and n_layers is 2"),
    (dict(layer_types=["full_attention", "sliding_attention"], sliding_window=None), "sliding_window is null: how wide"),
    (dict(model_type="gemma3"), "model_type is 'gemma3'; this library runs 'mistral' and 'ministral' models only"),
])  # fmt: skip
def test_layer_types_that_say_nothing_to_us(change, words, tmp_path):
    fields = hf_config(small_config((3, None), n_layers=2), "float32") | change
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match=words):
        MistralConfig.from_file(tmp_path / "config.json")


def test_several_widths_have_no_config_json():
    with pytest.raises(ValueError, match=r"windows are \[2, 5\] wide; transformers knows one width a model"):
        hf_config(small_config((2, 5, None), n_layers=3), "float32")


# --- the model ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", MIXED)
def test_the_model_is_its_naive_twin(windows):
    model, tokens = mixed_model(windows), random_ids(1, 14)
    expected = naive.logits(model.state_dict(), model.config, tokens[0].tolist())
    assert largest_difference(model(tokens)[0], expected) < 1e-4
    for other in (windows[::-1], (windows[0],) * len(windows)):  # it is these windows, in this order
        changed = mixed_model(windows)
        for block, window in zip(changed.layers, other, strict=True):
            block.attention.window = window
        assert largest_difference(changed(tokens)[0], expected) > 1e-3


@pytest.mark.parametrize("windows", MIXED)
@pytest.mark.parametrize("window", ["config", None])
@pytest.mark.parametrize("sizes", [[14], [1] * 14, [5, 1, 1, 7], [3, 8, 3]])
def test_every_feeding_gives_the_same_logits(windows, window, sizes):
    model, tokens = mixed_model(windows), random_ids(2, 14)
    cache = HybridCache(model.config, 2, window=window)
    assert largest_difference(fed_in_chunks(model, tokens, sizes, cache), model(tokens)) < 1e-4
    assert cache.position.tolist() == [14, 14]
    cache.reset()
    assert largest_difference(fed_in_chunks(model, tokens, sizes, cache), model(tokens)) < 1e-4


def test_the_lattice_with_mixed_windows():
    cells = lattice.cells(windows=lattice.MIXED, every=5, some=4)
    assert len({cell.window for cell in cells}) == len(lattice.MIXED) and len(cells) > 1500
    assert {each for windows in lattice.MIXED for each in windows} == {None, *range(1, 9)}
    for windows in lattice.MIXED:
        widths, there = set(windows) - {None}, {cell.T for cell in cells if cell.window == windows}
        assert there >= {W + n for W in (min(widths), max(widths)) for n in (-1, 0, 1)} - {0}
    result = lattice.run(cells, progress=False)
    assert not result.red, result
    assert "none/7/none/6" in result.table()


def test_a_cache_that_gives_every_layer_the_first_ones_window_is_found(monkeypatch):
    first = property(lambda self: self.parts[0].mask, lambda self, mask: None)
    monkeypatch.setattr(hybrid.HybridStep, "mask", first)
    result = lattice.run(lattice.cells(windows=[(None, 2)], heads=[(4, 1)], every=3, some=3), progress=False)
    assert result.red


def test_each_layer_keeps_its_own_ring():
    config = small_config((3, None, 3, 8), n_layers=4)
    cache = HybridCache(config, 2)
    a_slot = 2 * 2 * config.n_kv_heads * config.head_dim * 4  # keys and values, two rows, float32
    assert cache.n_bytes() == a_slot * (3 + 64 + 3 + 8)
    assert [(cache.parts[part].window, n) for part, n in zip(cache.part_of, cache.index, strict=True)] == [
        (3, 0), (None, 0), (3, 1), (8, 0),
    ]  # fmt: skip
    model = mixed_model((3, None, 3, 8))
    fed_in_chunks(model, random_ids(2, 100), [50, 50], cache)
    assert cache.n_bytes() == a_slot * (3 + 128 + 3 + 8)


def test_generate_and_its_bits():
    model, prompts = mixed_model((3, None, 5)), [random_ids(1, n, seed=n)[0].tolist() for n in (4, 9)]
    together = mm.generate(model, prompts, 70, eos_id=None)
    for prompt, tokens in zip(prompts, together.tokens, strict=True):
        alone = mm.generate(model, [prompt], 70, eos_id=None, chunk_size=2)
        assert alone.tokens == [tokens]
        ids = prompt[:]
        for token in tokens[:20]:
            assert model(torch.tensor([ids]))[0, -1].argmax().item() == token
            ids.append(token)


def test_one_ring_refuses_many_windows_and_says_what_to_take():
    config = small_config((3, None), n_layers=2)
    with pytest.raises(ValueError, match=r"The layers' windows are \(3, None\); one ring has one: take hybrid.cache_for"):
        mm.RollingBuffer(config)
    assert type(cache_for(config)) is HybridCache and type(cache_for(replace(config, sliding_window=3))) is mm.RollingBuffer


def test_an_interrupted_pass_is_noticed(monkeypatch):
    model = mixed_model((3, None))
    cache = HybridCache(model.config)
    model(random_ids(1, 5), cache=cache)
    monkeypatch.setattr(model.layers[1], "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(random_ids(1, 1), cache=cache)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="left in the middle of an earlier chunk"):
        model(random_ids(1, 1), cache=cache)
    with pytest.raises(ValueError, match="The cache was made for .*this model is"):
        mixed_model((None, 3))(random_ids(1, 1), cache=cache)


# --- what counts and shows ------------------------------------------------------------------------------------------------


def test_flops_and_bytes_add_up_layer_by_layer():
    config = small_config((3, None, 3), n_layers=3)
    single = {window: counting.flops(small_config(window, n_layers=3), 20)["attention, pairs"] // 3 for window in (3, None)}
    assert counting.flops(config, 20)["attention, pairs"] == 2 * single[3] + single[None]
    cache = HybridCache(config, dtype=torch.bfloat16)
    assert doctor.cache_bytes(config, 64) == cache.n_bytes()
    assert doctor.workspace(config, tokens=4096) > doctor.workspace(small_config(3, n_layers=3), tokens=4096)


def test_the_probe_knows_each_layers_window():
    model, tokens = mixed_model((None, 3)), random_ids(1, 12)
    assert not probe.compare(model, tokens, probe.at_once, probe.through(sizes=4))

    def wider(model, tokens):
        block = model.layers[1].attention
        block.window = 4
        try:
            return model(tokens)
        finally:
            block.window = 3

    found = probe.compare(model, tokens, probe.at_once, wider)
    assert found.layer == 1 and found.window == 3 and "outside the window" in found.what


def test_every_head_is_watched_in_its_own_layers_window():
    model, tokens = mixed_model((2, None, 4)), random_ids(2, 9)
    found = attention.attention_of(model, tokens)
    assert found.shape == (3, 2, model.config.n_heads, 9, 9)
    for layer, window in enumerate(model.config.windows):
        for i in range(9):
            seen = (found[layer, :, :, i] > 0).all((0, 1)).nonzero().flatten().tolist()
            assert seen == list(range(max(0, i - (window or 9) + 1), i + 1))


def test_a_chat_keeps_its_cache():
    model, tokenizer = mm.load_tiny()
    mixed = mm.Mistral(replace(model.config, sliding_window=(64, None) * 3)).requires_grad_(False)
    mixed.load_state_dict(model.state_dict())
    talk = chat.Chat(mixed, tokenizer, max_new_tokens=4)
    for text in ("Hi", "And now?"):
        list(talk.say(text))
    assert type(talk.cache) is HybridCache and int(talk.cache.position[0]) > 10


# --- transformers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("types", ["sf", "fs", "ssfs", "ff"])
def test_logits_equal_transformers_with_mixed_layers(types, tmp_path):
    names = {"s": "sliding_attention", "f": "full_attention"}
    torch.manual_seed(0)
    theirs = MinistralForCausalLM(MinistralConfig(
        vocab_size=40, hidden_size=24, intermediate_size=48, num_hidden_layers=len(types), num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, sliding_window=4, layer_types=[names[kind] for kind in types], initializer_range=0.4,
        attn_implementation="eager")).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path / "theirs")
    ours, _ = mm.load(tmp_path / "theirs", device="cpu")
    assert ours.config.windows == tuple(4 if kind == "s" else None for kind in types)
    tokens = random_ids(2, 15)
    with torch.no_grad():
        expected = theirs(tokens).logits
        assert largest_difference(ours(tokens), expected) < 1e-4
        cache = cache_for(ours.config, 2)
        assert largest_difference(fed_in_chunks(ours, tokens, [6, 1, 1, 7], cache), expected) < 1e-4
    if "s" in types:
        export(ours, tmp_path / "ours")
        again = MinistralForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
        with torch.no_grad():
            assert largest_difference(again(tokens).logits, expected) < 1e-5
