"""The cache's bad input: it refuses, or it goes on and is right. A silent wrong answer is the one thing it must not give."""

import copy
import itertools

import pytest
import torch
from helpers import fed_in_chunks, largest_difference, random_ids, small_config, small_model

import minimistral as mm
from minimistral import cache as cache_module
from minimistral import naive
from minimistral.cache import RollingBuffer
from minimistral.generation import decode, prefill

KINDS = {"ring": "config", "wider ring": 6, "growing": None}
each_kind = pytest.mark.parametrize("window", KINDS.values(), ids=KINDS.keys())
MIDDLE = r"middle of an earlier chunk.*cache.reset\(\)"


@pytest.fixture
def model():
    return small_model(3)


def judged(model, T=13):
    tokens = random_ids(1, T)
    return tokens, naive.logits(model.state_dict(), model.config, tokens[0].tolist())[None]


# --- a cache reused for something else -----------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize(
    "change, words",
    [
        (lambda model: model.bfloat16(), "cache is torch.float32 on cpu, the model torch.bfloat16"),
        (lambda model: model.double(), "cache is torch.float32 on cpu, the model torch.float64"),
        (lambda model: model.to("meta"), "cache is torch.float32 on cpu, the model torch.float32 on meta"),
        (lambda model: small_model(5), "sliding_window=3.*this model is .*sliding_window=5"),
        (lambda model: small_model(None), "sliding_window=3.*this model is .*sliding_window=None"),
        (lambda model: small_model(3, n_layers=1), "n_layers=2.*this model is .*n_layers=1"),
        (lambda model: small_model(3, n_heads=2, n_kv_heads=2), "n_heads=6.*this model is .*n_heads=2"),
        (lambda model: small_model(3, norm_eps=1e-6), "norm_eps=1e-05.*this model is .*norm_eps=1e-06"),
    ],
)
def test_a_cache_half_way_through_a_text_serves_no_other_model(model, window, change, words):
    """And it is as it was: with the first model it goes on."""
    tokens, expected = judged(model)
    first = copy.deepcopy(model)
    cache = RollingBuffer(model.config, window=window)
    got = fed_in_chunks(first, tokens[:, :7], [4, 1, 2], cache)
    other, device = change(model), "cpu"
    if other.output.weight.device.type == "meta":
        device = "meta"
    with pytest.raises(ValueError, match=words):
        other(tokens[:, 7:9].to("cpu" if device == "meta" else device), cache=cache)
    got = torch.cat([got, fed_in_chunks(first, tokens[:, 7:], [2, 4], cache)], dim=1)
    assert largest_difference(got, expected) < 1e-4


@each_kind
@pytest.mark.parametrize("rows", [1, 3])
def test_a_cache_serves_no_other_number_of_rows(model, window, rows):
    tokens = random_ids(3, 9)
    cache = RollingBuffer(model.config, batch_size=2, window=window)
    before = model(tokens[:2, :5], cache=cache)
    with pytest.raises(ValueError, match=f"holds 2 rows and tokens has {rows}: make a cache for {rows}"):
        model(tokens[:rows, 5:7], cache=cache)
    got = torch.cat([before, model(tokens[:2, 5:], cache=cache)], dim=1)
    assert largest_difference(got, model(tokens[:2])) < 1e-4


def test_prefill_names_a_cache_that_does_not_fit(model):
    with pytest.raises(ValueError, match="holds 1 rows and tokens has 2"):
        prefill(model, [[1, 2], [3]], RollingBuffer(model.config))


# --- an error in the middle ----------------------------------------------------------------------------------------------


def second_write(buffer, new, step, calls=itertools.count()):  # noqa: B008 - one count for the whole chunk
    """Keys are stored, values not."""
    if next(calls) % 2:
        raise KeyboardInterrupt
    buffer[step.rows, :, step.slots] = new[step.rows, :, step.columns]


def stop(*_, **__):
    raise KeyboardInterrupt


#: where it stops -> what to replace there
POINTS = {
    "the embedding": lambda model, cache: (model.tok_embeddings, "forward", stop),
    "layer 0, before it stores": lambda model, cache: (model.layers[0].attention, "project", stop),
    "layer 0, keys stored and values not": lambda model, cache: (cache, "_write", second_write),
    "layer 0, after it stored": lambda model, cache: (model.layers[0].attention.wo, "forward", stop),
    "layer 1, before it stores": lambda model, cache: (model.layers[1].attention_norm, "forward", stop),
    "layer 1, after it stored": lambda model, cache: (model.layers[1].feed_forward, "forward", stop),
    "closing the chunk": lambda model, cache: (cache, "finish", stop),
    "the last norm": lambda model, cache: (model.norm, "forward", stop),
    "the logits": lambda model, cache: (model.output, "forward", stop),
}


@each_kind
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("point", POINTS)
def test_wherever_a_chunk_was_interrupted_the_cache_refuses_the_next_until_reset(model, window, size, point, monkeypatch):
    """The call gave no logits, so whoever made it may make it again: tokens stored by the first must not count twice."""
    tokens, expected = judged(model)
    cache = RollingBuffer(model.config, window=window)
    fed_in_chunks(model, tokens[:, :7], [4, 3], cache)
    with monkeypatch.context() as patch:
        patch.setattr(*POINTS[point](model, cache))
        with pytest.raises(KeyboardInterrupt):
            model(tokens[:, 7 : 7 + size], cache=cache)
    with pytest.raises(ValueError, match=MIDDLE):
        model(tokens[:, 7 : 7 + size], cache=cache)
    cache.reset()
    assert largest_difference(fed_in_chunks(model, tokens, [6, 1, 1, 5], cache), expected) < 1e-4


@pytest.mark.parametrize("point", ["dense", "visible"])
@each_kind
def test_an_error_before_anything_is_stored_leaves_the_cache_as_it_was(model, window, point, monkeypatch):
    """Out of memory for the mask: no layer has seen the chunk, and a smaller one may follow."""
    tokens, expected = judged(model)
    cache = RollingBuffer(model.config, window=window)
    got = fed_in_chunks(model, tokens[:, :7], [4, 3], cache)

    def no_memory(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(cache_module.masks, point, no_memory)
        with pytest.raises(RuntimeError, match="out of memory"):
            model(tokens[:, 7:] if point == "dense" else tokens[:, 7:8], cache=cache)
    got = torch.cat([got, fed_in_chunks(model, tokens[:, 7:], [1, 2, 3], cache)], dim=1)
    assert largest_difference(got, expected) < 1e-4


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_growing_cache_that_found_no_room_is_as_it_was(model, fails_at, monkeypatch):
    tokens = random_ids(1, 150)
    cache = RollingBuffer(model.config, window=None)
    model(tokens[:, :60], cache=cache)
    bytes_before, pad, calls = cache.n_bytes(), torch.nn.functional.pad, []

    def no_memory(*args):
        calls.append(args)
        if len(calls) == fails_at:
            raise RuntimeError("out of memory")
        return pad(*args)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "pad", no_memory)
        with pytest.raises(RuntimeError, match="out of memory"):
            model(tokens[:, 60:], cache=cache)
    assert cache.n_bytes() == bytes_before
    got = model(tokens[:, 60:], cache=cache)
    assert largest_difference(got, model(tokens)[:, 60:]) < 1e-3
    assert cache.keys.shape == cache.values.shape


# --- rows that bring nothing ---------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("waits", [1, 2, 3])
def test_a_row_that_begins_later_is_as_if_it_had_been_alone(model, window, waits):
    """Row 1 has length 0 in the first chunks, also in a chunk of a single token; row 0 does not notice."""
    tokens = random_ids(2, 12)
    cache, parts = RollingBuffer(model.config, 2, window=window), [[], []]
    starts = (0, 4, 5, 9, 10)
    for n, (start, end) in enumerate(zip(starts, (*starts[1:], 12), strict=True)):
        lengths = [end - start, 0 if n < waits else end - start]
        out = model(tokens[:, start:end], cache=cache, lengths=lengths)
        for row, length in enumerate(lengths):
            parts[row].append(out[row, :length])
    assert cache.position.tolist() == [12, 12 - starts[waits]]
    for row, start in enumerate((0, starts[waits])):
        assert largest_difference(torch.cat(parts[row]), model(tokens[row : row + 1, start:])[0]) < 1e-4


@each_kind
def test_a_chunk_in_which_nobody_brings_anything_changes_nothing(model, window):
    tokens, expected = judged(model)
    cache, got = RollingBuffer(model.config, window=window), []
    for n in range(0, 12, 4):
        for T in (1, 3):
            model(tokens[:, n : n + T], cache=cache, lengths=[0])
        got.append(model(tokens[:, n : n + 4], cache=cache))
        assert cache.position.tolist() == [n + 4]
    assert largest_difference(torch.cat(got, dim=1), expected[:, :12]) < 1e-4


def test_what_stands_in_the_padding_reaches_nobody(model):
    """Rows of other padding, the same logits to the bit, in the chunk itself and in all that follow."""
    tokens = random_ids(2, 12)
    other = tokens.clone()
    other[1, 2:5] = (other[1, 2:5] + 7) % model.config.vocab_size

    def run(tokens):
        cache = RollingBuffer(model.config, 2)
        first = model(tokens[:, :5], cache=cache, lengths=[5, 2])
        return [first[0], first[1, :2], *(model(tokens[:, n : n + 1], cache=cache) for n in range(5, 12))]

    assert all(map(torch.equal, run(tokens), run(other)))


# --- reset ---------------------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("left", ["a long text", "a short text", "nan", "inf", "an interrupted chunk"])
def test_after_reset_a_cache_is_as_new_to_the_bit(model, window, left, monkeypatch):
    tokens, lengths = random_ids(2, 11, seed=4), [5, 2]
    used, new = (RollingBuffer(model.config, 2, window=window) for _ in range(2))
    if left in ("nan", "inf"):
        model(tokens, cache=used)
        used.keys.fill_(float(left)), used.values.fill_(float(left))
    else:
        fed_in_chunks(model, random_ids(2, 80), [70, 3, 1, 6] if left == "a long text" else [1], used)
    if left == "an interrupted chunk":
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(model.layers[1].attention, "project", stop)
            model(tokens, cache=used)
    used.reset()
    for cache in (used, new):
        cache.got = [model(tokens[:, :5], cache=cache, lengths=lengths)]
        cache.got += [model(tokens[:, n : n + 1], cache=cache) for n in range(5, 11)]
    used.got[0][1, 2:] = new.got[0][1, 2:] = 0  # padding: undefined
    for a, b in zip(used.got, new.got, strict=True):
        assert not a.isnan().any()
        assert largest_difference(a, b) == 0


def test_a_copied_cache_goes_its_own_way(model):
    """Two continuations of one beginning."""
    tokens = random_ids(1, 6)
    cache = RollingBuffer(model.config)
    model(tokens, cache=cache)
    branch = copy.deepcopy(cache)
    for kind, seed in ((cache, 1), (branch, 2)):
        more = random_ids(1, 5, seed=seed)
        got = fed_in_chunks(model, more, [1, 3, 1], kind)
        assert largest_difference(got, model(torch.cat([tokens, more], dim=1))[:, 6:]) < 1e-4


# --- generation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 4, 7])
def test_an_interrupted_generation_leaves_no_trace(model, after, monkeypatch):
    prompts = [[1, 5, 9, 4, 7], [2, 3]]
    expected = mm.generate(model, prompts, 6, chunk_size=2, eos_id=None)
    forward, calls = model.layers[1].forward, []

    def interrupted(*args):
        calls.append(1)
        return stop() if len(calls) > after else forward(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(model.layers[1], "forward", interrupted)
        mm.generate(model, prompts, 6, chunk_size=2, eos_id=None)
    assert mm.generate(model, prompts, 6, chunk_size=2, eos_id=None) == expected


def test_generations_that_take_turns_do_not_meet(model):
    prompts = [[[1, 5, 9, 4, 7]], [[2, 3]]]
    expected = [mm.generate(model, prompt, 7, eos_id=None).tokens[0] for prompt in prompts]
    turns = [decode(model, prompt, 7, eos_id=None) for prompt in prompts]
    got = [[], []]
    for _ in range(7):
        for n in (0, 1):
            got[n].append(next(turns[n])[0][0])
    assert got == expected


def test_a_generation_left_half_way_and_never_finished(model):
    half = decode(model, [[1, 5, 9]], 9, eos_id=None)
    first = [next(half)[0][0] for _ in range(3)]
    half.close()
    assert mm.generate(model, [[1, 5, 9]], 9, eos_id=None).tokens[0][:3] == first


@pytest.mark.parametrize("prompts", [[[]], [[1, 2], []], [[], [1]]])
def test_a_prompt_of_length_zero_is_refused_by_name(model, prompts):
    with pytest.raises(ValueError, match=f"prompt {prompts.index([])} is empty"):
        mm.generate(model, prompts, 2)


def test_config_of_a_cache_cannot_be_changed_behind_its_back():
    with pytest.raises(AttributeError):
        RollingBuffer(small_config(3)).config.sliding_window = 5
