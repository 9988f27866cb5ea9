"""The lattice on transformers' caches: what it finds is theirs, and our adapter adds nothing to it."""

import pytest
import torch
from helpers import largest_difference, random_ids, small_model

from minimistral import foreign, lattice


def test_the_twin_is_our_model():
    for window in (2, 5, None):
        model, tokens = small_model(window), random_ids(2, 12)
        assert largest_difference(foreign.twin(model)(tokens).logits, model(tokens)) < 1e-4


@pytest.mark.parametrize("kind", foreign.KINDS)
def test_transformers_caches_agree_with_the_judge_from_a_window_of_two_on(kind):
    result = lattice.run(foreign.cells(windows=(2, 3, 5)), foreign.transformers(kind), progress=False)
    assert len(result.cells) > 100 and not result.red, result


def test_at_a_window_of_one_the_dynamic_cache_goes_wrong_and_the_static_one_does_not():
    """A sliding layer keeps the last W - 1 keys: for W = 1 that is `[-0:]`, all of them."""
    cells = foreign.cells(windows=(1,))
    found = lattice.run(cells, foreign.transformers("dynamic"), progress=False)
    assert {cell for cell, _ in found.red} == {cell for cell in cells if len(cell.sizes) > 1}
    assert not lattice.run(cells, foreign.transformers("static"), progress=False).red


def test_a_broken_twin_is_found(monkeypatch):
    monkeypatch.setattr(foreign, "to_half_split", lambda rows, heads: rows)
    foreign._kept.cache_clear()
    try:
        assert lattice.run(foreign.cells(windows=(3,), every=2, some=2), foreign.transformers(), progress=False).red
    finally:
        foreign._kept.cache_clear()


def test_an_unknown_cache_is_refused():
    with pytest.raises(ValueError, match="kind is 'paged'; expected 'dynamic' or 'static'"):
        foreign.transformers("paged")
    assert torch.is_grad_enabled()
