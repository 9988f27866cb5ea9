"""Who may see whom: against sets written out by hand and by counting."""

import pytest
import torch

from minimistral import masks

SIZES = [(T, W) for T in (1, 2, 5, 9) for W in (None, 1, 2, 3, 4, 9, 12)]


def seen_by(i, W):
    """i-W+1 ... i as a set; everything up to i without a window."""
    return set(range(0 if W is None else max(0, i - W + 1), i + 1))


def test_a_window_of_three_shows_three_keys_the_token_itself_among_them():
    assert [j for j in range(10) if masks.visible(6, j, window=3)] == [4, 5, 6]


@pytest.mark.parametrize("T, W", SIZES)
def test_every_form_of_the_mask_shows_the_same_keys(T, W):
    at = torch.arange(T)
    dense = masks.dense(at, at, W)
    lines = masks.table(T, W).splitlines()
    assert dense.dtype == torch.bool and dense.shape == (T, T)
    for i in range(T):
        expected = seen_by(i, W)
        assert {j for j in range(T) if masks.visible(i, j, W)} == expected
        assert set(dense[i].nonzero().flatten().tolist()) == expected
        assert {j for j, mark in enumerate(lines[i].split()) if mark == "x"} == expected


@pytest.mark.parametrize("T, W", SIZES)
def test_count_is_the_number_of_marks(T, W):
    assert masks.count(T, W) == masks.table(T, W).count("x") == sum(len(seen_by(i, W)) for i in range(T))


def test_pairs_at_16k():
    """16,384 · 16,385 / 2, and what a window of 4,096 leaves of it: the ceiling of the published speed-up, 2.286."""
    full, window = masks.count(16_384), masks.count(16_384, 4_096)
    assert (full, window) == (134_225_920, 58_722_304)
    assert round(full / window, 3) == 2.286


def test_dense_takes_other_positions_for_each_row():
    queries, keys = torch.tensor([[5, 6], [0, 1]]), torch.tensor([[4, 5, 2], [0, 1, 7]])
    expected = [[[1, 1, 0], [0, 1, 0]], [[1, 0, 0], [1, 1, 0]]]
    assert masks.dense(queries, keys, 2).int().tolist() == expected


def test_table_tells_the_future_from_what_fell_out():
    assert masks.table(4, window=2).splitlines() == ["x . . .", "x x . .", "- x x .", "- - x x"]
