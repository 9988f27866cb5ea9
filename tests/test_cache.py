"""The rolling buffer: what its slots hold, which keys it hands to whom, and the logits that come of it."""

import itertools

import pytest
import torch
from helpers import (
    SMALL,
    compositions,
    fed_in_chunks,
    largest_difference,
    random_ids,
    random_split,
    small_config,
    small_model,
)

import minimistral as mm
from minimistral import naive
from minimistral.cache import RollingBuffer

ONE_HEAD = dict(n_layers=1, n_heads=1, n_kv_heads=1, head_dim=2)


def keys_seen(cache, chunks):
    """Feed keys that carry their own position; return, a row, the list of positions each real query may see.

    chunks: (T, lengths) each. Padding carries the key -1000, which nobody may ever see.
    """
    B = cache.batch_size
    seen, position = [[] for _ in range(B)], [0] * B
    for T, lengths in chunks:
        k = torch.full((B, 1, T, 2), -1000.0)
        for row, n in enumerate(lengths):
            k[row, 0, :n] = torch.arange(position[row], position[row] + n)[:, None]
        step = cache.begin(T, torch.tensor(lengths))
        assert step.positions[:, 0].tolist() == position
        keys, values = cache.exchange(0, k, -k, step)
        assert torch.equal(values, -keys)
        for row, n in enumerate(lengths):
            for i in range(n):
                if step.mask is None:  # plain window over the chunk alone
                    W = cache.config.sliding_window
                    mine = keys[row, 0, max(0, i - W + 1) if W else 0 : i + 1, 0]
                else:
                    mine = keys[row, 0, step.mask.expand(B, 1, T, -1)[row, 0, i], 0]
                seen[row].append(sorted(mine.tolist()))
            position[row] += n
        cache.finish(step)
    return seen


def in_window(T, W):
    return [list(range(0 if W is None else max(0, i - W + 1), i + 1)) for i in range(T)]


# --- slots -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("W", [1, 2, 3, 4, 5])
def test_slots_hold_what_writing_one_by_one_leaves_for_every_way_to_chunk(W):
    for sizes in compositions(8):
        cache = RollingBuffer(small_config(W, **ONE_HEAD))
        keys_seen(cache, [(n, [n]) for n in sizes])
        assert cache.keys[0, 0, 0, :, 0].tolist() == naive.rolling_buffer(range(8), W), sizes
        assert cache.position.tolist() == [8]


def test_held_is_the_inverse_of_writing():
    for size, position in itertools.product(range(1, 6), range(12)):
        slots = naive.rolling_buffer(range(position), size)
        held = RollingBuffer.held(torch.arange(size), position, size).tolist()
        assert [None if p < 0 else p for p in held] == slots


def test_bytes_of_the_7b():
    """Per token 131,072 bytes in bfloat16, so 4,096 slots are 512 MiB: an eighth of what 32k tokens take."""
    config = mm.MistralConfig(4096, 32, 32, 8, 128, 14336, 32000, sliding_window=4096)
    cache = RollingBuffer(config, device="meta", dtype=torch.bfloat16)
    assert cache.n_bytes() == 131_072 * 4_096 == 512 * 2**20
    assert RollingBuffer(config, 3, device="meta", dtype=torch.bfloat16).n_bytes() == 3 * 512 * 2**20


def test_the_ring_never_grows_and_the_growing_cache_keeps_everything():
    ring, growing = RollingBuffer(small_config(3)), RollingBuffer(small_config(3), window=None)
    before = ring.n_bytes()
    model, tokens = small_model(3), random_ids(1, 150)
    for cache in (ring, growing):
        fed_in_chunks(model, tokens, [100, 50], cache)
    assert ring.n_bytes() == before
    assert growing.keys.shape[3] >= 150
    assert growing.keys[0, 0, 0, :150].abs().sum(-1).min() > 0


# --- who sees what ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", ["W", "W+1", "W+4", None])
@pytest.mark.parametrize("W", [1, 2, 3, 4])
def test_each_query_sees_exactly_its_window_for_every_way_to_chunk(W, slots):
    size = None if slots is None else W + int(slots[1:] or 0)
    for sizes in compositions(9):
        cache = RollingBuffer(small_config(W, **ONE_HEAD), window=size)
        assert keys_seen(cache, [(n, [n]) for n in sizes]) == [in_window(9, W)], sizes


def test_without_a_window_each_query_sees_all_before_it():
    for sizes in compositions(7):
        cache = RollingBuffer(small_config(None, **ONE_HEAD))
        assert keys_seen(cache, [(n, [n]) for n in sizes]) == [in_window(7, None)], sizes


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("W, size", [(1, 1), (2, 2), (3, 3), (3, 5), (3, None), (None, None)])
def test_padded_rows_see_exactly_their_own_window_and_never_padding(W, size, seed):
    """Rows of different lengths; some sit a chunk out altogether."""
    generator = torch.Generator().manual_seed(seed)
    chunks = []
    for _ in range(7):
        T = int(torch.randint(1, 6, (), generator=generator))
        chunks.append((T, torch.randint(0, T + 1, (3,), generator=generator).tolist()))
    cache = RollingBuffer(small_config(W, **ONE_HEAD), batch_size=3, window=size)
    totals = [sum(lengths[row] for _, lengths in chunks) for row in range(3)]
    assert keys_seen(cache, chunks) == [in_window(total, W) for total in totals]
    assert cache.position.tolist() == totals


# --- logits ----------------------------------------------------------------------------------------------------------


def judged(W, T=13):
    model, tokens = small_model(W), random_ids(1, T)
    return model, tokens, naive.logits(model.state_dict(), model.config, tokens[0].tolist())[None]


@pytest.mark.parametrize("W", [1, 2, 3, 5, None])
def test_every_way_to_feed_every_cache_gives_the_judges_logits(W):
    model, tokens, expected = judged(W)
    T = tokens.shape[1]
    ways = [[T], [1] * T, [1, T - 1], [T - 1, 1], *(random_split(T, seed) for seed in range(6))]
    sizes = ["config", None] if W is None else ["config", None, W + 1, W + 3, 3 * T]
    assert largest_difference(model(tokens), expected) < 1e-4
    for way, size in itertools.product(ways, sizes):
        cache = RollingBuffer(model.config, window=size)
        assert largest_difference(fed_in_chunks(model, tokens, way, cache), expected) < 1e-4, (way, size)


@pytest.mark.parametrize("W", [1, 3, 4])
def test_a_chunk_keeps_the_keys_its_own_last_tokens_overwrite(W):
    """Chunks of 2 to 2W+1 after the ring is full: writing before attending would lose keys, or leak the future."""
    model, tokens, expected = judged(W, T=3 * W + 3)
    for n in range(2, 2 * W + 2):
        sizes = [W + 1, n, 2 * W + 2 - n]
        got = fed_in_chunks(model, tokens, sizes, RollingBuffer(model.config))
        assert largest_difference(got, expected) < 1e-4, sizes


@pytest.mark.parametrize("W", [3, None])
def test_slots_never_written_are_never_attended(W):
    """Poison every slot: whatever is unwritten must not reach a logit (0 · inf would be NaN)."""
    model, tokens, expected = judged(W)
    for sizes in ([1] * 13, [2, 5, 6]):
        cache = RollingBuffer(model.config)
        cache.keys.fill_(50.0)
        cache.values.fill_(1e4)
        assert largest_difference(fed_in_chunks(model, tokens, sizes, cache), expected) < 1e-4


def test_the_growing_cache_stays_right_past_its_first_bound():
    model, tokens = small_model(70), random_ids(1, 200)
    whole = model(tokens)
    sizes = [60] + [1] * 10 + [100] + [1] * 30
    for window in ("config", None):
        got = fed_in_chunks(model, tokens, sizes, RollingBuffer(model.config, window=window))
        assert largest_difference(got, whole) < 1e-3


def test_a_cache_works_with_gradients_on_too():
    model, tokens, expected = judged(3)
    model.requires_grad_(True)
    cache = RollingBuffer(model.config)
    got = torch.cat([model(chunk, cache=cache) for chunk in tokens.split(4, dim=1)], dim=1)
    assert largest_difference(got, expected) < 1e-4


# --- reset and refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1])
def test_a_cache_left_in_the_middle_refuses_until_reset_and_is_right_then(layer, monkeypatch):
    model, tokens, expected = judged(3)
    cache = RollingBuffer(model.config)
    fed_in_chunks(model, tokens[:, :7], [4, 3], cache)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model.layers[layer].feed_forward, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model(tokens[:, 7:9], cache=cache)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"middle of an earlier chunk.*cache.reset\(\)"):
            model(tokens[:, 7:9], cache=cache)
    for sizes in ([1] * 13, [5, 1, 7]):
        cache.reset()
        assert cache.position.tolist() == [0]
        assert largest_difference(fed_in_chunks(model, tokens, sizes, cache), expected) < 1e-4


def test_a_refused_call_leaves_the_cache_as_it_was():
    model, tokens, expected = judged(3)
    cache = RollingBuffer(model.config)
    first = model(tokens[:, :6], cache=cache)
    for wrong in (tokens[:, :2] - 99, tokens[:, :2].float(), tokens[:, :2].expand(2, 2)):
        with pytest.raises(ValueError):
            model(wrong, cache=cache)
    got = torch.cat([first, model(tokens[:, 6:], cache=cache)], dim=1)
    assert largest_difference(got, expected) < 1e-4


def test_reset_forgets_even_a_nan():
    model, tokens = small_model(4), random_ids(2, 5)
    cache = RollingBuffer(model.config, batch_size=2)
    cache.values.fill_(float("nan"))  # as an overflow in float16 would leave them
    cache.reset()
    lengths = torch.tensor([5, 1])
    model(tokens, cache=cache, lengths=lengths)
    after = model(tokens[:, :1], cache=cache)
    alone = model(torch.tensor([[*tokens[1, :1].tolist(), *tokens[1, :1].tolist()]]))
    assert largest_difference(after[1, 0], alone[0, 1]) < 1e-4


@pytest.mark.parametrize("window", [0, -1, True, 2.0, "4"])
def test_slots_must_be_a_whole_number_of_at_least_one(window):
    with pytest.raises(ValueError, match="window is") as error:
        RollingBuffer(small_config(None), window=window)
    assert repr(window) in str(error.value)


@pytest.mark.parametrize("W, window", [(4, 3), (2, 1), (None, 100)])
def test_a_buffer_that_would_forget_needed_keys_is_refused(W, window):
    with pytest.raises(ValueError, match=f"window is {window} and the model's sliding_window is {str(W).lower()}"):
        RollingBuffer(small_config(W), window=window)


@pytest.mark.parametrize("batch_size", [0, -1, True, 1.0, "1", None])
def test_a_batch_size_must_be_a_whole_number_of_at_least_one(batch_size):
    with pytest.raises(ValueError, match="batch_size is") as error:
        RollingBuffer(small_config(4), batch_size=batch_size)
    assert repr(batch_size) in str(error.value)


@pytest.mark.parametrize(
    "cache, words",
    [
        (lambda: RollingBuffer(small_config(4), batch_size=2), "holds 2 rows and tokens has 1: make a cache for 1"),
        (lambda: RollingBuffer(small_config(4), dtype=torch.bfloat16), "cache is torch.bfloat16 .* torch.float32"),
        (lambda: RollingBuffer(small_config(4), device="meta"), "on meta, the model"),
        (lambda: RollingBuffer(small_config(5)), "sliding_window=5.*this model is .*sliding_window=4"),
        (lambda: RollingBuffer(small_config(4, n_layers=3)), f"n_layers=3.*n_layers={SMALL['n_layers']}"),
        (lambda: RollingBuffer(small_config(4, rope_theta=1e6)), "rope_theta=1000000.0"),
    ],
)
def test_a_cache_made_for_something_else_is_refused(cache, words):
    with pytest.raises(ValueError, match=words):
        small_model(4)(random_ids(1, 3), cache=cache())
