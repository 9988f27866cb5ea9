"""Sinks: the mask by hand, the losses against the model itself, and where attention goes."""

import pytest
import torch
import torch.nn.functional as F
from helpers import largest_difference, random_ids, small_model

from minimistral import attention, sinks


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
    assert largest_difference(sinks.losses(model, tokens, window), expected) < 1e-5
    other = small_model(5)  # the model's own window does not matter, only the one that is asked for
    assert largest_difference(sinks.losses(other, tokens, window), expected) < 1e-5


def test_sinks_change_what_is_beyond_the_window_and_nothing_before():
    model, tokens = small_model(3), random_ids(1, 13)
    plain, kept = (sinks.losses(model, tokens, 3, n)[0] for n in (0, 2))
    assert largest_difference(plain[:3], kept[:3]) < 1e-6 and (plain[3:] - kept[3:]).abs().min() > 1e-6
    assert largest_difference(sinks.losses(model, tokens, 3, 12), sinks.losses(model, tokens, None)) < 1e-5


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
