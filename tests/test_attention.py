"""The attention operator: against plain loops, and the loops against arithmetic."""

import pytest
import torch

import minimistral as mm
from minimistral import attention, naive

SHAPES = [(1, 2, 2, 1, 4), (2, 6, 2, 9, 4), (1, 4, 1, 12, 6), (2, 3, 3, 7, 2)]  # B, H, Hkv, T, D


def qkv(B=1, H=4, Hkv=2, T=5, D=4, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, h, T, D, generator=generator).to(dtype) * 2 for h in (H, Hkv, Hkv)]


@pytest.mark.parametrize("W", [None, 1, 2, 3, 5, 12, 50])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["auto", "dense"])
def test_equals_the_loops(method, shape, W):
    q, k, v = qkv(*shape)
    torch.testing.assert_close(mm.attend(q, k, v, W, method), naive.attend(q, k, v, W), atol=2e-5, rtol=0)


@pytest.mark.parametrize("W", [None, 1, 3, 12])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_weights_shown_are_those_that_mix_the_values(shape, W):
    q, k, v = qkv(*shape)
    weights = attention.weights(q, k, W)
    mixed = weights @ v.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    torch.testing.assert_close(mixed, naive.attend(q, k, v, W), atol=2e-5, rtol=0)
    assert weights.tril().equal(weights) and weights.min() >= 0


@pytest.mark.parametrize("W", [None, 1, 3, 7])
@pytest.mark.parametrize("method", ["naive", "dense", "auto"])
def test_equal_scores_average_exactly_the_keys_in_the_window(method, W):
    """Queries of zero weigh alike whatever they see, and value j is the j-th unit vector: row i is 1/n on n places."""
    T = 7
    k, v = torch.randn(1, 2, T, T), torch.eye(T).expand(1, 2, T, T)
    got = mm.attend(torch.zeros(1, 6, T, T), k, v, W, method)
    for i in range(T):
        seen = range(0 if W is None else max(0, i - W + 1), i + 1)
        expected = torch.tensor([1 / len(seen) if j in seen else 0.0 for j in range(T)])
        torch.testing.assert_close(got[0, :, i], expected.expand(6, T))


@pytest.mark.parametrize("W", [None, 2])
@pytest.mark.parametrize("method", ["naive", "dense", "auto"])
def test_query_heads_are_grouped_not_dealt_out(method, W):
    """Six query heads on two key heads: 0, 1, 2 use the first and 3, 4, 5 the second."""
    q, k, v = qkv(H=6, Hkv=2)
    v = torch.tensor([10.0, 20.0]).view(1, 2, 1, 1).expand_as(v)
    got = mm.attend(q, k, v, W, method)
    assert got[0, :, -1, 0].tolist() == pytest.approx([10, 10, 10, 20, 20, 20])


def test_scores_are_divided_by_the_root_of_the_head_size():
    """Two keys, scores 0 and 4 before the division by sqrt(4): weights 1/(1+e²) and e²/(1+e²)."""
    q = torch.tensor([0.0, 0, 0, 2]).expand(1, 1, 2, 4)
    k = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 2]]).view(1, 1, 2, 4)
    v = torch.tensor([[0.0] * 4, [1.0] * 4]).view(1, 1, 2, 4)
    e2 = 2.718281828**2
    for method in ("naive", "dense", "auto"):
        assert mm.attend(q, k, v, None, method)[0, 0, 1, 0].item() == pytest.approx(e2 / (1 + e2), abs=1e-5)


@pytest.mark.parametrize("W", [0, -1, True, False, 2.0, "4"])
def test_a_window_that_is_none_is_refused(W):
    with pytest.raises(ValueError, match="window is") as error:
        mm.attend(*qkv(), window=W)
    assert repr(W) in str(error.value) and "at least 1" in str(error.value)


def bad(**changes):
    q, k, v = qkv()
    return [changes.get("q", q), changes.get("k", k), changes.get("v", v)]


@pytest.mark.parametrize(
    "tensors, words",
    [
        (bad(q=torch.randn(1, 3, 5, 4)), "3 heads and k has 2"),
        (bad(q=torch.randn(1, 1, 5, 4)), "1 heads and k has 2"),
        (bad(q=torch.randn(1, 4, 5, 6)), r"q has shape \(1, 4, 5, 6\) and k \(1, 2, 5, 4\)"),
        (bad(q=torch.randn(3, 4, 5, 4)), r"q has shape \(3, 4, 5, 4\)"),
        (bad(q=torch.randn(1, 4, 3, 4)), "q has 3 positions and k has 5"),
        (bad(v=torch.randn(1, 2, 4, 4)), r"v \(1, 2, 4, 4\)"),
        (bad(q=torch.randn(4, 5, 4)), r"q has shape \(4, 5, 4\); expected four dimensions"),
        (bad(k=torch.randn(1, 2, 5, 4, 1)), r"k has shape \(1, 2, 5, 4, 1\)"),
        (bad(k=torch.randn(1, 2, 5, 4).double()), "k is torch.float64"),
        (bad(v=torch.randn(1, 2, 5, 4).bfloat16()), "v is torch.bfloat16"),
        (bad(q=torch.ones(1, 4, 5, 4, dtype=torch.int64)), "q is torch.int64; expected a floating dtype"),
        (qkv(T=0), r"q has shape \(1, 4, 0, 4\): there is nothing"),
        (qkv(B=0), r"q has shape \(0, 4, 5, 4\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tensors, words):
    with pytest.raises(ValueError, match=words):
        mm.attend(*tensors)


def test_an_unknown_method_is_refused_with_the_known_ones_named():
    with pytest.raises(ValueError, match="'fast'; expected one of") as error:
        mm.attend(*qkv(), method="fast")
    assert all(method in str(error.value) for method in attention.METHODS)
