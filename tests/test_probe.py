"""The divergence probe: differences planted on purpose are found where they were planted; healthy ways are found to agree."""

import contextlib
import re
from unittest import mock

import pytest
import torch
from helpers import compositions, random_ids, small_model

import minimistral as mm
from minimistral import attention, museum, probe, rope
from minimistral import model as library
from minimistral.cache import RollingBuffer

PNG = b"\x89PNG\r\n\x1a\n"
W, T = 4, 13


@pytest.fixture(scope="module")
def model():
    return small_model(W)  # 2 layers, 6 query heads on 2 key heads


@pytest.fixture(scope="module")
def tokens():
    return random_ids(1, T)


def patched(target, replacement):
    """A way that calculates all at once while something of the library is replaced."""
    def way(model, tokens):
        with mock.patch(target, replacement):
            return model(tokens)

    return way


def tampered(change, back):
    """A way that calculates all at once with a changed model, and repairs it."""
    def way(model, tokens):
        old = change(model)
        try:
            return model(tokens)
        finally:
            back(model, old)

    return way


def scaled(name, factor):
    """A way with one parameter of the model multiplied."""
    def times(model, factor):
        model.get_parameter(name).data.mul_(factor)

    return tampered(lambda model: times(model, factor), lambda model, _: times(model, 1 / factor))


def place(found):
    return found.layer, found.head, found.query, found.key


def true_weights(model, tokens, layer=0):
    """Another way to the attention weights: (H, T, T)."""
    x = model.tok_embeddings(tokens)
    turn = rope.angles(torch.arange(tokens.shape[1]), model.config.head_dim, model.config.rope_theta)
    for block in model.layers[:layer]:
        x = block(x, turn, None, 0, None)
    block = model.layers[layer]
    q, k, _ = block.attention.project(block.attention_norm(x), turn)
    return attention.weights(q, k, model.config.sliding_window)[0]


# --- healthy --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [3, 1, [5, 8], [1, 2, 3, 7], 13, 100])
def test_a_healthy_ring_agrees(model, tokens, sizes):
    for window in ("config", None, 9):
        found = probe.compare(model, tokens, probe.at_once, probe.through(sizes=sizes, window=window))
        assert not found and found.layer is None and found.difference == found.logits < 1e-4
        assert repr(found).startswith("They agree: the largest difference of the logits is")


def test_every_split_agrees_with_every_other(model, tokens):
    splits = list(compositions(5))
    for sizes, others in zip(splits, reversed(splits), strict=True):
        assert not probe.compare(model, tokens[:, :5], probe.through(sizes=list(sizes)), probe.through(sizes=list(others)))


@pytest.mark.parametrize("method", ["naive", "dense", "triangles"])
def test_the_methods_of_attention_agree(model, tokens, method):
    way = patched("minimistral.model.attend", lambda q, k, v, window: mm.attend(q, k, v, window, method=method))
    assert not probe.compare(model, tokens, probe.at_once, way)


def test_recomputing_every_prefix_is_a_way_too(model, tokens):
    def again(model, tokens):
        return torch.stack([model(tokens[:, : n + 1])[:, -1] for n in range(tokens.shape[1])], dim=1)

    assert not probe.compare(model, tokens, again, probe.through(sizes=5))
    found = probe.compare(model, tokens, again, probe.through(museum.WritesFirst, 3))
    assert found.layer == 0 and found.query == 3


# --- planted --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1])
def test_a_window_of_one_too_many_in_one_layer(model, tokens, layer):
    def widen(model):
        model.layers[layer].attention.window = W + 1

    def back(model, _):
        model.layers[layer].attention.window = W

    found = probe.compare(model, tokens, probe.at_once, tampered(widen, back))
    assert place(found) == (layer, 0, W, 0)
    assert re.search(r"b sees key 0, which is outside the window, and gives it 0\.\d+", repr(found))
    turned_round = probe.compare(model, tokens, tampered(widen, back), probe.at_once)
    assert place(turned_round) == place(found) and "a sees key 0, which is outside the window" in repr(turned_round)


def test_no_causality(model, tokens):
    everything = torch.ones(T, T, dtype=torch.bool)
    found = probe.compare(model, tokens, probe.at_once, patched(
        "minimistral.model.attend", lambda q, k, v, window: attention.attend_masked(q, k, v, everything)))
    assert place(found)[:3] == (0, 0, 0) and found.key > 0 and "which is the future" in found.what


def test_heads_dealt_out_instead_of_grouped(model, tokens):
    """6 on 2, by h mod n_kv: head 0 is right, head 1 reads key head 1 and not 0."""
    def tiled(q, k, v, window):
        return mm.attend(q, k.repeat(1, 3, 1, 1), v.repeat(1, 3, 1, 1), window)

    found = probe.compare(model, tokens, probe.at_once, patched("minimistral.model.attend", tiled))
    assert place(found)[:3] == (0, 1, 0) and "a reads key head 0, b reads key head 1" in found.what

    def keys_only(q, k, v, window):
        return mm.attend(q, k.repeat(1, 3, 1, 1), v.repeat_interleave(3, dim=1), window)

    found = probe.compare(model, tokens, probe.at_once, patched("minimistral.model.attend", keys_only))
    assert place(found)[:3] == (0, 1, 1) and "the same keys, other weights (the scores differ)" in found.what


@pytest.mark.parametrize("layer, head, query, key", [(0, 0, 5, 3), (1, 4, 7, 4), (1, 5, 12, 12)])
def test_one_key_dropped_by_an_attention_of_ones_own(model, tokens, layer, head, query, key):
    """It uses none of our functions: its weights are asked of itself."""
    calls = []

    def own(q, k, v, window):
        k, v = k.repeat_interleave(3, dim=1), v.repeat_interleave(3, dim=1)
        at = torch.arange(T)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        scores = scores.masked_fill((at[None] > at[:, None]) | (at[None] <= at[:, None] - window), -torch.inf)
        if len(calls) // asked == layer:
            scores[0, head, query:, key] = -torch.inf
        calls.append(1)
        return scores.softmax(-1).nan_to_num(0) @ v

    asked = 1 + 1 + -(-T // model.config.head_dim)  # the call itself, one for the heads, one for every D columns
    found = probe.compare(model, tokens, probe.at_once, patched("minimistral.model.attend", own))
    assert place(found) == (layer, head, query, key)
    weight = true_weights(model, tokens, layer)[head, query, key].item()
    assert found.difference == pytest.approx(weight, abs=1e-4)
    assert f"b does not see key {key}, to which a gives {weight:.2g}" in found.what or "sees no key" in found.what
    assert found.rows[0] == (key, pytest.approx(weight, abs=1e-4), 0.0)


def test_a_ring_that_writes_first(model, tokens):
    """Chunks of 3, W = 4: the second chunk's keys 4 and 5 take the seats of 0 and 1, which query 3 needs."""
    weights = true_weights(model, tokens)
    found = probe.compare(model, tokens, probe.at_once, probe.through(museum.WritesFirst, 3))
    assert place(found) == (0, 0, 3, weights[0, 3, :2].argmax().item())
    assert f"to which a gives {weights[0, 3, found.key]:.2g} (and 1 more, {weights[0, 3, :2].sum():.2g} together)" in found.what
    assert not probe.compare(model, tokens, probe.at_once, probe.through(museum.WritesFirst, 1))
    assert not probe.compare(model, tokens[:, :W], probe.at_once, probe.through(museum.WritesFirst, 3))


class BySlot(RollingBuffer):
    """RoPE turns by the slot, not by the position."""

    def begin(self, T, lengths):
        step = super().begin(T, lengths)
        step.positions = step.positions % self.size
        return step


class TurnedAgain(RollingBuffer):
    """The ring's keys are turned a second time when they are read."""

    def exchange(self, layer, k, v, step):
        keys, values = super().exchange(layer, k, v, step)
        if step.filled:
            keys = keys.clone()
            held = torch.full((step.filled,), 3)
            keys[:, :, : step.filled] = rope.rotate(keys[:, :, : step.filled], *rope.angles(held, k.shape[-1], 100.0))
        return keys, values


class NeverWritten(RollingBuffer):
    """Slots that were never written are attended."""

    def begin(self, T, lengths):
        step = super().begin(T, lengths)
        if T == 1:
            step.mask = torch.ones(1, 1, 1, self.size, dtype=torch.bool)
        return step


class SwappedHeads(RollingBuffer):
    """What is read back has its key heads in the wrong order."""

    def exchange(self, layer, k, v, step):
        keys, values = super().exchange(layer, k, v, step)
        return keys.flip(1) if layer == 1 and step.filled else keys, values


class Poisoned(RollingBuffer):
    """A slot that nobody may see holds inf."""

    def exchange(self, layer, k, v, step):
        keys, values = super().exchange(layer, k, v, step)
        if step.filled == self.size and step.positions.shape[1] > 1:
            values = values.clone()
            values[:, :, step.slots[0]] = torch.inf  # of the position that has just fallen out of the window
        return keys, values


class LostValue(RollingBuffer):
    """In layer 1 the value of position 2 is lost, its key is not."""

    def exchange(self, layer, k, v, step):
        keys, values = super().exchange(layer, k, v, step)
        if layer == 1 and step.filled == 3:
            values = values.clone()
            values[:, :, 2] = 0
        return keys, values


class Twice(RollingBuffer):
    """The chunk is written and then put beside the ring as well."""

    def exchange(self, layer, k, v, step):
        if not step.filled or step.write_first:
            return super().exchange(layer, k, v, step)
        keys, values = super().exchange(layer, k, v, step)
        again = keys[:, :, -1:], values[:, :, -1:]
        return torch.cat((keys, again[0]), 2), torch.cat((values, again[1]), 2)

    def begin(self, T, lengths):
        step = super().begin(T, lengths)
        if step.filled and not step.write_first:
            step.mask = torch.cat((step.mask, step.mask[..., -1:]), -1)
        return step


class NoKey(RollingBuffer):
    """The first query of each later chunk is left with nothing."""

    def begin(self, T, lengths):
        step = super().begin(T, lengths)
        if step.filled and not step.write_first:
            step.mask[:, :, 0] = False
        return step


@pytest.mark.parametrize(
    "kind, sizes, layer, query, key, words",
    [
        (BySlot, 3, 0, 4, None, "the query of position 4 is made differently, the same but turned by another angle"),
        (TurnedAgain, 3, 0, 3, None, "b does not see key"),
        (TurnedAgain, 3, 0, 3, None, "not any token's key: a key turned by another angle"),
        (NeverWritten, 1, 0, 0, None, "to what is not any token's key: a slot that was never written"),
        (SwappedHeads, 4, 1, 4, None, "not any token's key: key head 1's key of position"),
        (Poisoned, 4, 0, 4, None, "a slot to which it gives 0 holds inf or NaN"),
        (LostValue, 3, 1, 3, 2, "the value of key 2 differs: b holds another"),
        (Twice, 3, 0, 5, 5, "the same keys, other weights (b holds that key 2 times): key 5 gets"),
        (NoKey, 3, 0, 3, None, "b sees no key, or one that is not a number"),
    ],
)
def test_broken_caches(model, tokens, kind, sizes, layer, query, key, words):
    found = probe.compare(model, tokens, probe.at_once, probe.through(kind, sizes))
    assert words in found.what, repr(found)
    assert (found.layer, found.query) == (layer, query), repr(found)
    if key is not None:
        assert found.key == key
    assert found.logits > 1e-3 and found.text().startswith(repr(found))


@pytest.mark.parametrize(
    "way, layer, head, query, words",
    [
        (scaled("tok_embeddings.weight", 1.1), 0, None, 0, "the parts before attention differ: the residual stream into layer 0"),
        (scaled("layers.1.attention_norm.weight", 1.1), 1, None, 0, "before attention differ: the norm in front of attention"),
        (scaled("layers.1.attention.wq.weight", 1.1), 1, 0, 0, "the query of position 0 is made differently"),
        (scaled("layers.0.attention.wk.weight", 1.1), 0, 0, 0, "the key of position 0 is made differently"),
        (scaled("layers.1.attention.wv.weight", 1.1), 1, 0, 0, "the value of position 0 is made differently"),
        (scaled("layers.0.attention.wo.weight", 1.1), 0, None, 0, "the parts after attention differ: wo"),
        (scaled("layers.1.feed_forward.w2.weight", 1.1), 1, None, 0, "the norm or the feed-forward after it"),
        (scaled("layers.0.ffn_norm.weight", 1.1), 0, None, 0, "the norm or the feed-forward after it"),
        (scaled("norm.weight", 1.1), None, None, 0, "logits only: all layers agree"),
        (scaled("output.weight", 1.1), None, None, 0, "logits only: all layers agree"),
    ],
)
def test_a_changed_weight_is_found_where_it_is(model, tokens, way, layer, head, query, words):
    found = probe.compare(model, tokens, probe.at_once, way)
    assert (found.layer, found.head, found.query) == (layer, head, query) and words in found.what, repr(found)


def test_a_change_in_one_head_and_one_position(model, tokens):
    def spoiled(q, k, v, window):
        q = q.clone()
        q[:, 4, 6] *= -1
        return attention.attend(q, k, v, window)

    found = probe.compare(model, tokens, probe.at_once, patched("minimistral.model.attend", spoiled))
    assert place(found)[:3] == (0, 4, 6) and "the same keys, other weights (the scores differ)" in found.what


def test_the_smallest_query_comes_before_the_smallest_head(model, tokens):
    def spoiled(q, k, v, window):
        q = q.clone()
        q[:, 5, 6] *= -1
        q[:, 0, 9] *= -1
        return attention.attend(q, k, v, window)

    found = probe.compare(model, tokens, probe.at_once, patched("minimistral.model.attend", spoiled))
    assert place(found)[:3] == (0, 5, 6) and "the same keys, other weights" in found.what


# --- what it shows --------------------------------------------------------------------------------------------------------


def test_names_table_and_picture(model, tokens):
    labels = [f"word{n}" for n in range(T)]
    found = probe.compare(model, tokens[0].tolist(), probe.at_once, probe.through(museum.WritesFirst, 3), labels=labels)
    assert "query 3 (word3): b does not see key" in repr(found) and re.search(r"key (\d) \(word\1\)", repr(found))
    bundle, _ = found._repr_mimebundle_()
    assert bundle["image/png"].startswith(PNG) and bundle["text/plain"] == found.text()
    assert len(found.rows) == 4 and found.rows[0][0] == found.key
    for key, x, y in found.rows:
        assert f"{key} (word{key})" in found.text() and f"{x:.3f}" in found.text() and f"{y:.3f}" in found.text()
    assert sum(x for _, x, _ in found.rows) == pytest.approx(1, abs=1e-4) == sum(y for *_, y in found.rows)
    agreed = probe.compare(model, tokens, probe.at_once, probe.through(sizes=3))
    assert agreed._repr_mimebundle_() == {"text/plain": repr(agreed)}
    elsewhere = probe.compare(model, tokens, probe.at_once, scaled("output.weight", 1.1))
    assert elsewhere._repr_mimebundle_()[0]["image/png"].startswith(PNG)


def test_the_maps_are_the_weights(model, tokens):
    found = probe.compare(model, tokens, probe.at_once, probe.through(museum.WritesFirst, 3))
    assert torch.allclose(found.maps[0], true_weights(model, tokens)[found.head], atol=1e-4)


def test_some_hundred_tokens_of_the_small_model(capsys):
    model, tokenizer = mm.load_tiny()
    ids = tokenizer.encode(museum.STORY * 3, bos=True)
    assert len(ids) > 300
    assert not probe.compare(model, ids, probe.at_once, probe.through(), tolerance=1e-3)
    found = probe.compare(model, ids, probe.through(), probe.through(museum.WritesFirst, museum.CHUNK))
    assert found.layer == 0 and found.query == museum.CHUNK and "b does not see key" in found.what


# --- bad ways and bad input -----------------------------------------------------------------------------------------------


def test_nothing_stays_patched_after_a_way_that_fails(model, tokens):
    before = library.attend, library.attend_masked

    def interrupted(*_):
        raise KeyboardInterrupt

    def fails(model, tokens):
        with mock.patch.object(model.layers[1].attention, "project", interrupted):
            return model(tokens)

    for way in (fails, patched("minimistral.model.attend", interrupted)):
        with pytest.raises(KeyboardInterrupt):
            probe.compare(model, tokens, probe.at_once, way)
    assert (library.attend, library.attend_masked) == before
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and "project" not in vars(module)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"tokens": []}, "expected a list of ids, or int64 of shape (1, T)"),
        ({"tokens": torch.zeros(2, 3).long()}, "tokens is torch.int64 (2, 3)"),
        ({"tokens": torch.zeros(1, 3)}, "tokens is torch.float32 (1, 3)"),
        ({"a": "at_once"}, "a is 'at_once'; expected a way"),
        ({"b": lambda model, tokens: None}, "Way b returned NoneType; expected the logits of every position"),
        ({"b": lambda model, tokens: model(tokens)[:, -1:]}, "Way b returned (1, 1, 40)"),
        ({"b": lambda model, tokens: small_model(W)(tokens)}, "Way b did not run position 0 through layer 0 of this model"),
        ({"b": lambda model, tokens: model(tokens[:, :7]).repeat(1, 2, 1)[:, :13]}, "Way b did not run position 7"),
        ({"b": lambda model, tokens: model(tokens.expand(2, -1))}, "in 2 rows, from position 0 on"),
        ({"b": probe.through(sizes=[3, 3])}, "sizes is [3, 3]: expected whole numbers of at least 1 that add up"),
        ({"labels": ["one"]}, "There are 1 labels for 13 tokens"),
    ],
)
def test_bad_input_is_one_sentence(model, tokens, arguments, words):
    given = {"tokens": tokens, "a": probe.at_once, "b": probe.at_once} | arguments
    with pytest.raises(ValueError, match=re.escape(words)):
        probe.compare(model, **given)


def test_a_position_run_twice_through_one_cache_is_refused(model, tokens):
    def twice(model, tokens):
        cache = RollingBuffer(model.config)
        model(tokens, cache=cache)
        return model(tokens, cache=cache)

    with pytest.raises(ValueError, match="from position 13 on; expected one row of 13 tokens in all"):
        probe.compare(model, tokens, probe.at_once, twice)
    with pytest.raises(ValueError, match="expected a chunk size of at least 1"):
        probe.through(sizes=0)
    with contextlib.suppress(ValueError):
        probe.compare(model, tokens, probe.at_once, twice)
    assert not probe.compare(model, tokens, probe.at_once, probe.through(sizes=4))
