"""Sinks: the mask by hand, the losses against the model itself, and where attention goes."""

import pytest
import torch
import torch.nn.functional as F
from helpers import largest_difference, random_ids, small_model

from minimistral import attention, rope, sinks
from minimistral.exercises.after import cache_distances


@pytest.mark.parametrize("T, window, n", [
    (1, 1, 0), (9, 3, 0), (9, 3, 1), (9, 3, 4), (9, 1, 2), (9, None, 2), (4, 8, 1), (6, 2, 9),
])  # fmt: skip
def test_each_query_sees_its_window_and_the_sinks_before_it(T, window, n):
    seen = sinks.visible(T, window, n)
    for i in range(T):
        for j in range(T):
            assert seen[i, j].item() == (j <= i and (j > i - (window or T) or j < n))


@pytest.mark.parametrize("window", [1, 3, None])
def test_without_sinks_the_losses_are_the_models_own(window):
    model, tokens = small_model(window), random_ids(2, 13)
    expected = F.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")
    distances = sinks.in_text(12, window)
    assert largest_difference(sinks.losses(model, tokens, distances), expected) < 1e-5
    other = small_model(5)  # the model's own window does not matter, only the one that is asked for
    assert largest_difference(sinks.losses(other, tokens, distances), expected) < 1e-5


def test_sinks_change_what_is_beyond_the_window_and_nothing_before():
    model, tokens = small_model(3), random_ids(1, 13)
    plain, kept = (sinks.losses(model, tokens, sinks.in_text(12, 3, n))[0] for n in (0, 2))
    assert largest_difference(plain[:3], kept[:3]) < 1e-6 and (plain[3:] - kept[3:]).abs().min() > 1e-6
    all_kept, none_lost = (sinks.losses(model, tokens, sinks.in_text(12, *seen)) for seen in ((3, 12), (None, 0)))
    assert largest_difference(all_kept, none_lost) < 1e-6


def test_with_sinks_the_losses_are_those_of_a_model_with_that_mask(monkeypatch):
    model, tokens = small_model(3), random_ids(2, 13)

    def with_sinks(q, k, v, window=None, *rest, **more):
        return attention.attend_masked(q, k, v, sinks.visible(12, 3, 2))

    monkeypatch.setattr("minimistral.model.attend", with_sinks)
    expected = F.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")
    assert largest_difference(sinks.losses(model, tokens, sinks.in_text(12, 3, 2)), expected) < 1e-5


def test_distances_in_the_cache_change_what_lies_beyond_the_gap_and_nothing_before():
    model, tokens = small_model(3), random_ids(1, 13)
    in_cache = sinks.losses(model, tokens, cache_distances.answer(12, 3, 2))[0]
    in_text = sinks.losses(model, tokens, sinks.in_text(12, 3, 2))[0]
    assert largest_difference(in_cache[:5], in_text[:5]) < 1e-5  # until position 4 nothing has fallen out
    assert (in_cache[5:] - in_text[5:]).abs().min() > 1e-6


def test_only_distances_count():
    """Keys at any distances: turned by hand, one query and one key at a time, in one layer."""
    model, tokens = small_model(None, n_layers=1), random_ids(1, 7)
    torch.manual_seed(0)
    distances = torch.randint(0, 40, (6, 6)).masked_fill(torch.ones(6, 6).triu(1) > 0, -1)
    c, block = model.config, model.layers[0]
    x = model.tok_embeddings(tokens[:, :-1])
    q, k, v = block.attention.project(block.attention_norm(x), rope.angles(torch.zeros(6), c.head_dim, c.rope_theta))
    mixed = torch.zeros(1, c.n_heads, 6, c.head_dim)
    for h in range(c.n_heads):
        for i in range(6):
            turned = [rope.rotate(q[:, h, i : i + 1], *rope.angles(distances[i, j : j + 1], c.head_dim, c.rope_theta))[0, 0]
                      for j in range(i + 1)]  # fmt: skip
            scores = torch.stack([turned[j] @ k[0, h // c.group, j] for j in range(i + 1)]) * c.head_dim**-0.5
            mixed[0, h, i] = scores.softmax(0) @ v[0, h // c.group, : i + 1]
    x = x + block.attention.wo(mixed.transpose(1, 2).flatten(2))
    x = x + block.feed_forward(block.ffn_norm(x))
    expected = F.cross_entropy(model.output(model.norm(x)).transpose(1, 2), tokens[:, 1:], reduction="none")
    assert largest_difference(sinks.losses(model, tokens, distances), expected) < 1e-5


def test_distances_that_make_no_sense_are_refused():
    model, tokens = small_model(3), random_ids(1, 5)
    with pytest.raises(ValueError, match=r"distances has the shape \(3, 3\); expected \(4, 4\) for 5 tokens"):
        sinks.losses(model, tokens, torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="leaves a query without a key"):
        sinks.losses(model, tokens, torch.full((4, 4), -1))


@pytest.mark.parametrize("window", [4, None])
def test_the_share_of_the_first_token_is_what_the_layers_give_it(window, monkeypatch):
    model, tokens = small_model(window), random_ids(2, 10)
    seen, real = [], attention.attend

    def watched(q, k, v, window=None, *rest, **more):
        seen.append(attention.weights(q, k, window))
        return real(q, k, v, window, *rest, **more)

    monkeypatch.setattr("minimistral.model.attend", watched)
    model(tokens)
    last = window or 10
    expected = torch.stack([weights[:, :, 1:last, 0].mean((0, 2)) for weights in seen])
    assert largest_difference(sinks.first_share(model, tokens), expected) < 1e-6
    assert sinks.first_share(model, tokens).shape == (model.config.n_layers, model.config.n_heads)


def test_a_head_without_a_direction_gives_the_first_token_an_even_share():
    model, tokens = small_model(None), random_ids(1, 12)
    with torch.no_grad():
        for block in model.layers:
            block.attention.wq.weight.zero_()
    even = sinks.first_share(model, tokens)
    assert largest_difference(even, torch.full_like(even, sum(1 / n for n in range(2, 13)) / 11)) < 1e-6


@pytest.mark.parametrize("arguments, words", [
    ((5, 0), "window is 0"), ((5, 2, -1), "sinks is -1"), ((5, 2, 1.5), "sinks is 1.5"), ((5, 2, True), "sinks is True"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        sinks.visible(*arguments)
    with pytest.raises(ValueError, match="tokens has 1 position"):
        sinks.first_share(small_model(3), random_ids(1, 1))


@pytest.mark.parametrize("T", [0, -1, 2.5, "5", None, True])
def test_a_number_of_tokens_that_is_none_is_refused(T):
    for rule in (sinks.visible, sinks.in_text):
        with pytest.raises(ValueError, match=f"T is {T!r}: expected a whole number of at least 1"):
            rule(T, 3, 1)


@pytest.mark.parametrize("tokens, words", [
    ([[1, 2, 3]], "tokens is of type list"), (torch.tensor([1, 2, 3]), r"tokens is of type torch.int64, \(3,\)"),
    (torch.ones(1, 3), r"torch.float32, \(1, 3\); expected an int64 tensor \(B, T"),
    (torch.ones(1, 0).long(), "tokens has 0 positions"),
])  # fmt: skip
def test_tokens_that_are_no_rows_are_refused(tokens, words):
    model = small_model(3)
    for ask in (lambda: sinks.losses(model, tokens, sinks.in_text(2, 2)), lambda: sinks.first_share(model, tokens)):
        with pytest.raises(ValueError, match=words):
            ask()


@pytest.mark.parametrize("distances, words", [
    (sinks.visible(2, 2), "distances is of type torch.bool; expected an int64 tensor"), ([[0, -1], [1, 0]], "of type list"),
    (sinks.in_text(2, 2).float(), "of type torch.float32"), (None, "of type NoneType"),
])  # fmt: skip
def test_who_is_seen_is_no_distance(distances, words):
    """A bool matrix would be read as "all are 0 or 1 away, and everyone is seen"."""
    with pytest.raises(ValueError, match=words):
        sinks.losses(small_model(3), torch.ones(1, 3).long(), distances)


def test_a_window_of_one_has_no_first_share():
    with pytest.raises(ValueError, match="Layer 0 has a window of 1"):
        sinks.first_share(small_model(1), random_ids(1, 5))
