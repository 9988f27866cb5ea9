"""Generating and drawing: against one uncached forward pass, and the cuts against plain loops."""

import math

import pytest
import torch
from helpers import random_ids, small_model

import minimistral as mm
from minimistral.generation import choose, decode, prefill, probabilities

V = 40


def prompts_of(*lengths):
    return [random_ids(1, n, seed=n)[0].tolist() for n in lengths]


def greedy_uncached(model, prompt, n):
    """n steps of argmax over the whole sequence so far: ids, their log-probabilities, and how clear each choice was."""
    ids, logprobs, margins = list(prompt), [], []
    for _ in range(n):
        p = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        best = p.topk(2).values
        ids.append(int(p.argmax()))
        logprobs.append(best[0].item())
        margins.append((best[0] - best[1]).item())
    return ids[len(prompt) :], logprobs, min(margins)


# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 1, 3, "W", "W+4"])
@pytest.mark.parametrize("W", [1, 2, 5, None])
def test_a_ragged_batch_gives_each_prompt_what_it_gives_alone(W, chunk):
    """Prompts of 1, 5, W and 3W ids, and 8 new ones: with W = 1, 2, 5 every row crosses the window."""
    size = W or 6
    chunk_size = {"W": size, "W+4": size + 4}.get(chunk, chunk)
    model, prompts = small_model(W, seed=1), prompts_of(1, 5, size, 3 * size)
    together = mm.generate(model, prompts, 8, chunk_size=chunk_size, eos_id=None)
    for prompt, ids, logprobs in zip(prompts, together.tokens, together.logprobs, strict=True):
        expected, expected_logprobs, margin = greedy_uncached(model, prompt, 8)
        assert margin > 1e-3, "a tie would prove nothing: choose another seed"
        assert ids == expected
        assert logprobs == pytest.approx(expected_logprobs, abs=1e-4)
        alone = mm.generate(model, [prompt], 8, chunk_size=chunk_size, eos_id=None)
        assert alone.tokens == [ids]
        assert alone.logprobs[0] == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("options", [dict(), dict(temperature=0.7, seed=5), dict(temperature=2, top_k=9, top_p=0.8)])
def test_logprobs_are_the_models_own_whatever_the_sampling(options):
    model, prompts = small_model(3), prompts_of(2, 7)
    out = mm.generate(model, prompts, 10, eos_id=None, **options)
    for prompt, ids, logprobs in zip(prompts, out.tokens, out.logprobs, strict=True):
        whole = model(torch.tensor([prompt + ids]))[0].log_softmax(-1)
        expected = [whole[len(prompt) - 1 + n, token].item() for n, token in enumerate(ids)]
        assert logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 4, 100])
def test_prefill_gives_each_rows_logits_after_its_last_token(chunk_size):
    model, prompts = small_model(3), prompts_of(1, 4, 9, 8)
    cache = mm.RollingBuffer(model.config, 4)
    logits = prefill(model, prompts, cache, chunk_size)
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(logits[row], model(torch.tensor([prompt]))[0, -1], atol=1e-4, rtol=0)
    assert cache.position.tolist() == [1, 4, 9, 8]


def test_eos_stops_its_row_only_and_is_the_rows_last_id():
    model, prompts = small_model(3), prompts_of(3, 5, 8)
    free = mm.generate(model, prompts, 12, eos_id=None)
    assert [len(row) for row in free.tokens] == [12] * 3
    eos = next(token for token in free.tokens[0][2:] if any(token not in row for row in free.tokens[1:]))
    stopped = mm.generate(model, prompts, 12, eos_id=eos)
    for row in range(3):
        ids = free.tokens[row]
        n = ids.index(eos) + 1 if eos in ids else 12
        assert stopped.tokens[row] == ids[:n]
        assert stopped.logprobs[row] == pytest.approx(free.logprobs[row][:n], abs=1e-5)
    assert {len(row) for row in stopped.tokens} > {12}, "one row should stop and another go on"


def test_a_finished_row_yields_none_and_the_loop_ends_when_all_have_finished():
    model, prompts = small_model(3), prompts_of(3, 5)
    first = [row[0] for row in mm.generate(model, prompts, 1, eos_id=None).tokens]
    assert first[0] != first[1]
    steps = list(decode(model, prompts, 6, eos_id=first[0]))
    assert steps[0][0] == first and all(ids[0] is None and logprobs[0] is None for ids, logprobs in steps[1:])
    assert len(list(decode(model, prompts[:1], 6, eos_id=first[0]))) == 1


def test_no_new_tokens_is_an_answer_too():
    out = mm.generate(small_model(3), prompts_of(3, 5), 0)
    assert out.tokens == out.logprobs == [[], []]


def test_decoding_computes_no_gradients_and_leaves_them_switched_on_outside(monkeypatch):
    model, inside = small_model(3).requires_grad_(True), []
    forward = model.output.forward
    monkeypatch.setattr(model.output, "forward", lambda x: inside.append(x.requires_grad) or forward(x))
    for _ in decode(model, prompts_of(3), 3, eos_id=None):
        assert torch.is_grad_enabled()  # also while the loop is paused
    assert inside == [False] * 3


# --- drawing ---------------------------------------------------------------------------------------------------------


def twin(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """The cuts in plain loops over one row of numbers, in double precision."""
    powers = [math.exp((x - max(logits)) / temperature) for x in logits]
    p = [x / sum(powers) for x in powers]
    ranking = sorted(range(len(p)), key=lambda n: (-p[n], n))  # likeliest first; of equals the lower id first
    kept = ranking[:top_k]
    if top_p is not None and top_p < 1:
        whole, held, n = sum(p[i] for i in kept), 0.0, 0
        while held < top_p and n < len(kept):
            held += p[kept[n]] / whole
            n += 1
        kept = kept[:n]
    if min_p is not None:
        kept = [n for n in kept if p[n] >= min_p * p[ranking[0]]]
    whole = sum(p[n] for n in kept)
    return [p[n] / whole if n in kept else 0.0 for n in range(len(p))]


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 3.0])
@pytest.mark.parametrize(
    "cuts",
    [
        dict(),
        dict(top_k=1),
        dict(top_k=7),
        dict(top_k=V),
        dict(top_p=0.01),
        dict(top_p=0.5),
        dict(top_p=0.95),
        dict(top_p=1.0),
        dict(min_p=0.0),
        dict(min_p=0.1),
        dict(min_p=1.0),
        dict(top_k=9, top_p=0.8),
        dict(top_k=20, top_p=0.9, min_p=0.05),
    ],
    ids=str,
)
def test_probabilities_equal_the_loops_over_random_draws(cuts, temperature):
    logits = torch.randn(25, V, generator=torch.Generator().manual_seed(3)) * 2
    got = probabilities(logits, temperature, **cuts)
    for row, expected in zip(got, (twin(row, temperature, **cuts) for row in logits.tolist()), strict=True):
        assert [x > 1e-30 for x in row.tolist()] == [x > 1e-30 for x in expected]  # float32 ends near 1e-45
        assert row.tolist() == pytest.approx(expected, abs=1e-5)


#: powers of two, exact in any arithmetic: 1/2, 1/4, 1/8, 1/8
EXACT = torch.tensor([[0.25, 0.5, 0.125, 0.125]])


@pytest.mark.parametrize(
    "cuts, kept",
    [
        (dict(top_p=0.5), [1]),  # the likeliest already holds a half
        (dict(top_p=0.5001), [0, 1]),
        (dict(top_p=0.75), [0, 1]),
        (dict(top_p=0.8), [0, 1, 2]),  # of two equals the lower id
        (dict(top_p=0.876), [0, 1, 2, 3]),
        (dict(top_k=3), [0, 1, 2]),
        (dict(min_p=0.5), [0, 1]),  # exactly half as likely is kept
        (dict(min_p=0.51), [1]),
        (dict(top_k=2, top_p=0.66), [1]),  # among the two left, 2/3 and 1/3
        (dict(top_k=2, top_p=0.67), [0, 1]),
    ],
    ids=str,
)
def test_cuts_at_their_very_edge(cuts, kept):
    p = probabilities(EXACT.log(), **cuts)
    assert p[0].nonzero().flatten().tolist() == kept
    assert p.sum().item() == pytest.approx(1)
    assert (p[0, kept] / EXACT[0, kept]).std(correction=0).item() == pytest.approx(0, abs=1e-6)


def test_ties_do_not_widen_top_k_and_equals_share():
    p = probabilities(torch.zeros(2, V), top_k=3)
    assert (p > 0).sum(-1).tolist() == [3, 3]
    assert p.max().item() == pytest.approx(1 / 3)
    assert probabilities(torch.zeros(1, V), min_p=1.0).tolist()[0] == pytest.approx([1 / V] * V)


def test_top_p_of_one_keeps_even_the_unlikeliest():
    p = probabilities(torch.tensor([[0.0, -20.0, -21.0]]), top_p=1.0)
    assert (p > 0).all()


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-38])
def test_a_tiny_temperature_is_nearly_greedy_and_no_nan(temperature):
    p = probabilities(torch.tensor([[100.0, 99.0, -100.0]]), temperature)
    assert p.tolist() == [[1, 0, 0]]


def test_draws_follow_the_probabilities_and_never_leave_the_cut():
    logits = torch.randn(1, V, generator=torch.Generator().manual_seed(0)).expand(4000, V)
    options = dict(temperature=0.8, top_k=6, top_p=0.9)
    drawn = choose(logits, **options, generator=torch.Generator().manual_seed(1))
    shares = torch.bincount(drawn, minlength=V) / 4000
    expected = torch.tensor(twin(logits[0].tolist(), **options))
    assert shares[expected == 0].sum() == 0
    assert (shares - expected).abs().max() < 0.03  # four standard deviations
    assert torch.equal(choose(logits, 0.0), logits.argmax(-1))


def test_a_seed_repeats_another_does_not_and_the_global_generator_is_left_alone():
    model, prompts = small_model(3), prompts_of(3, 5)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    draws = [mm.generate(model, prompts, 10, temperature=1.5, seed=seed, eos_id=None) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert draws[0] == draws[1]
    assert draws[0].tokens != draws[2].tokens


def test_top_k_of_one_is_greedy_at_any_temperature():
    model, prompts = small_model(3), prompts_of(3, 5)
    greedy = mm.generate(model, prompts, 6, eos_id=None)
    assert mm.generate(model, prompts, 6, temperature=5.0, top_k=1, eos_id=None, seed=0) == greedy


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompts, words",
    [
        ([], r"prompts is \[\]"),
        (None, "prompts is None"),
        ("Hello", "prompts is 'Hello'"),
        (((1, 2),), r"prompts is \(\(1, 2\),\)"),
        ([1, 2], "prompt 0 is a int"),
        ([[1], "Hello"], "prompt 1 is a str"),
        ([[1], []], "prompt 1 is empty"),
        ([[1, -1]], "prompt 0 holds the id -1; this model's ids are 0 to 39"),
        ([[1, 2], [3, 40]], "prompt 1 holds the id 40"),
        ([[1, 2.0]], "prompt 0 holds 2.0"),
        ([[1, True]], "prompt 0 holds True"),
        ([[1, None]], "prompt 0 holds None"),
    ],
)
def test_prompts_that_cannot_be_continued_are_named(prompts, words):
    with pytest.raises(ValueError, match=words):
        mm.generate(small_model(3), prompts, 2)


@pytest.mark.parametrize(
    "name, values",
    [
        ("temperature", [-0.1, float("nan"), float("inf"), "1", None, True]),
        ("top_k", [0, -1, V + 1, 2.0, True, "3"]),
        ("top_p", [0, -0.5, 1.0001, float("nan"), True, "0.9"]),
        ("min_p", [-0.1, 1.1, float("nan"), True, "0"]),
        ("max_new_tokens", [-1, 2.0, True, None, "3"]),
        ("chunk_size", [0, -1, 2.0, True, False, "3"]),
    ],
)
def test_settings_out_of_range_are_named_with_their_value(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"{name} is") as error:
            mm.generate(small_model(3), [[1, 2]], **(dict(max_new_tokens=2) | {name: value}))
        assert repr(value) in str(error.value)


def test_settings_are_refused_when_called_not_when_first_consumed():
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        decode(small_model(3), [[]], 2)
