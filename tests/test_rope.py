"""Rotary positions: against plain trigonometry and against transformers' half-split layout."""

import math

import pytest
import torch
from transformers import MistralConfig as HFConfig
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding, apply_rotary_pos_emb

from minimistral import checkpoint, naive, rope


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("D", [2, 6, 128])
def test_rotate_equals_trigonometry_done_one_pair_at_a_time(D, theta):
    x = torch.randn(5, D, generator=torch.Generator().manual_seed(D))
    positions = torch.tensor([0, 1, 2, 77, 1000])
    turned = rope.rotate(x, *rope.angles(positions, D, theta))
    expected = torch.stack([naive.rotate(row, p, theta) for row, p in zip(x, positions.tolist(), strict=True)])
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=0)


def test_a_quarter_turn_by_hand():
    """D = 2 turns by the position itself, in radians."""
    turned = rope.rotate(torch.tensor([[1.0, 0.0]]), *rope.angles(torch.tensor([3]), 2, 1e4))
    assert turned[0].tolist() == pytest.approx([math.cos(3), math.sin(3)], abs=1e-6)


@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_same_scores_as_the_half_split_layout_of_transformers(theta):
    H, T, D = 3, 11, 8
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, H, T, D, generator=generator)
    at = torch.arange(T)

    def half_split(x):  # each head's numbers in the other order
        return torch.stack([checkpoint.to_half_split(head.T, 1).T for head in x[0]])[None]

    config = HFConfig(hidden_size=D * H, num_attention_heads=H, head_dim=D, rope_parameters=dict(rope_theta=theta))
    theirs = apply_rotary_pos_emb(half_split(q), half_split(k), *MistralRotaryEmbedding(config)(q, at[None]))
    ours = [rope.rotate(x, *rope.angles(at, D, theta)) for x in (q, k)]
    torch.testing.assert_close(ours[0] @ ours[1].mT, theirs[0] @ theirs[1].mT, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_angles_at_position_16000_are_right_whatever_the_default_dtype(dtype):
    """In bfloat16 the positions 15,999 and 16,000 are one number: the first pair would be off by a whole radian."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        cos, sin = rope.angles(torch.tensor([15_999, 16_000]), 8, 1e4)
    finally:
        torch.set_default_dtype(before)
    assert cos.dtype == sin.dtype == torch.float32
    for row, position in enumerate((15_999, 16_000)):
        exact = [position * 1e4 ** (-2 * j / 8) for j in range(4)]
        assert cos[row].tolist() == pytest.approx([math.cos(a) for a in exact], abs=2e-3)
        assert sin[row].tolist() == pytest.approx([math.sin(a) for a in exact], abs=2e-3)


def test_rotate_keeps_the_dtype_but_calculates_in_float32():
    x = torch.randn(1, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    turn = rope.angles(torch.tensor([12_345]), 64, 1e4)
    turned = rope.rotate(x, *turn)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rope.rotate(x.float(), *turn).bfloat16())


def test_a_score_depends_only_on_the_distance():
    q, k = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(2))

    def score(i, j):
        turned = [rope.rotate(x, *rope.angles(torch.tensor([p]), 16, 1e4)) for x, p in ((q, i), (k, j))]
        return (turned[0] * turned[1]).sum().item()

    assert score(1_020, 1_005) == pytest.approx(score(20, 5), abs=1e-3)
    assert score(20, 5) != pytest.approx(score(20, 6), abs=1e-2)
