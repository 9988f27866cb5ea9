"""Window attention without the wasted work: every method against a judge in float64, and that no score is calculated in vain."""

import math
import random

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import minimistral as mm
from minimistral import attention, masks, window

WINDOWS = [*range(1, 41), None]
GPU = pytest.mark.gpu


def draw(B, H, Hkv, T, D, dtype=torch.float32, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, h, T, D, generator=generator, dtype=torch.float64).to(device, dtype) for h in (H, Hkv, Hkv)]


def judge(q, k, v, W):
    """In NumPy and float64, from the definition: of each query the keys i-W+1 ... i, of each head the group's."""
    q, k, v = (x.detach().cpu().double().numpy() for x in (q, k, v))
    T, D, group = q.shape[2], q.shape[3], q.shape[1] // k.shape[1]
    out = np.zeros_like(q)
    for i in range(T):
        seen = slice(0 if W is None else max(0, i - W + 1), i + 1)
        for h in range(q.shape[1]):
            scores = np.einsum("bd,bjd->bj", q[:, h, i], k[:, h // group, seen]) / math.sqrt(D)
            powers = np.exp(scores - scores.max(1, keepdims=True))
            out[:, h, i] = np.einsum("bj,bjd->bd", powers / powers.sum(1, keepdims=True), v[:, h // group, seen])
    return torch.from_numpy(out)


@pytest.mark.parametrize("T", range(1, 41))
def test_every_length_and_every_window_to_forty(T):
    for W in WINDOWS:
        q, k, v = draw(2, 4, 2, T, 4, seed=T)
        expected = judge(q, k, v, W)
        for method in ("dense", "triangles", "auto"):
            torch.testing.assert_close(mm.attend(q, k, v, W, method).double(), expected, atol=1e-5, rtol=0)
        q, k, v = q[:1, :2], k[:1, :1], v[:1, :1]
        torch.testing.assert_close(mm.attend(q, k, v, W, "naive").double(), expected[:1, :2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("T", range(1, 41))
def test_exactly_the_keys_of_the_window_are_seen(T):
    """Queries of zero weigh alike whatever they see, and value j is the j-th unit vector: row i is 1/n on n places."""
    k, v = torch.randn(1, 1, T, T), torch.eye(T)[None, None]
    for W in WINDOWS:
        at = torch.arange(T)
        seen = masks.dense(at, at, W)
        for method in ("dense", "triangles", "auto"):
            got = mm.attend(torch.zeros(1, 2, T, T), k, v, W, method)
            assert torch.equal(got[0, 0] > 0, seen) and torch.equal(got[0, 1] > 0, seen)
            torch.testing.assert_close(got[0, 0], seen / seen.sum(-1, keepdim=True))


@pytest.mark.parametrize("seed", range(12))
def test_random_larger_sizes(seed):
    """Long enough that "auto" takes the triangles; heads, sizes and the last block's length at random."""
    pick = random.Random(seed)
    T, D, Hkv, group = pick.randint(512, 900), pick.choice([3, 8, 16, 20]), pick.choice([1, 2]), pick.choice([1, 2, 3])
    W = pick.choice([1, 2, pick.randint(3, 64), pick.randint(65, 500), T - 1])
    q, k, v = draw(pick.choice([1, 2]), Hkv * group, Hkv, T, D, seed=seed)
    assert window.choose(q, W) == "triangles"
    expected = judge(q, k, v, W)
    for method in ("auto", "triangles", "dense"):
        torch.testing.assert_close(mm.attend(q, k, v, W, method).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype, close", [(torch.bfloat16, 0.03), (torch.float16, 0.004), (torch.float64, 1e-12)])
def test_other_number_formats(dtype, close):
    for T, W in ((30, 7), (64, 16), (33, 32), (700, 100)):
        q, k, v = draw(2, 4, 2, T, 8, dtype)
        got = mm.attend(q, k, v, W, "triangles")
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), judge(q, k, v, W), atol=close, rtol=0)


def test_queries_may_lie_in_memory_as_the_projections_leave_them():
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in draw(2, 4, 2, 23, 8))
    assert not q.is_contiguous()
    torch.testing.assert_close(mm.attend(q, k, v, 5, "triangles").double(), judge(q, k, v, 5), atol=1e-5, rtol=0)


# --- gradients ------------------------------------------------------------------------------------------------------------


def gradients(q, k, v, W, method):
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    out = mm.attend(*inputs, W, method)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(out)
    return torch.autograd.grad((out * direction).sum(), inputs)


@pytest.mark.parametrize("T", [2, 5, 12, 24, 29, 31])
def test_gradients_equal_those_of_the_dense_mask(T):
    for W in range(1, T + 2):
        q, k, v = draw(2, 6, 2, T, 4, torch.float64, seed=W)
        pairs = zip(gradients(q, k, v, W, "triangles"), gradients(q, k, v, W, "dense"), strict=True)
        for got, expected in pairs:
            torch.testing.assert_close(got, expected, atol=1e-11, rtol=0)


def test_gradients_equal_finite_differences():
    q, k, v = (x.requires_grad_() for x in draw(1, 2, 1, 11, 3, torch.float64))
    assert torch.autograd.gradcheck(lambda q, k, v: mm.attend(q, k, v, 4, "triangles"), (q, k, v))


@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-4), (torch.bfloat16, 0.15)])
def test_gradients_in_training_formats_over_a_long_sequence(dtype, close):
    q, k, v = draw(1, 4, 2, 700, 16, dtype)
    exact = gradients(q.double(), k.double(), v.double(), 100, "dense")
    for got, expected in zip(gradients(q, k, v, 100, "auto"), exact, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, atol=close, rtol=0.05)


# --- no wasted work -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T, W", [(T, W) for T in (2, 7, 12, 13, 40) for W in (1, 2, 3, 6, 11, 39) if W < T])
def test_the_pieces_cover_each_pair_of_the_window_once(T, W):
    times = torch.zeros(T, T, dtype=torch.int64)
    for piece in window.pieces(T, W):
        for n in range(piece.queries.n):
            for r in range(piece.queries.length):
                for c in range(piece.keys.length):
                    if {"lower": c <= r, "upper": c >= r, "full": True}[piece.shape]:
                        times[piece.queries.first + n * W + r, piece.keys.first + n * W + c] += 1
    at = torch.arange(T)
    assert torch.equal(times, masks.dense(at, at, W).long())


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = [x.numel() for x in (out if isinstance(out, tuple | list) else [out]) if isinstance(x, torch.Tensor)]
        self.numbers = max([self.numbers, *made])
        return out


@pytest.mark.parametrize("T, W", [(2048, 512), (2047, 512), (2048, 16), (1025, 1024), (2048, 1000)])
def test_nothing_grows_with_t_times_w(T, W):
    q, k, v = (x.requires_grad_() for x in draw(1, 2, 1, T, 4))
    with Largest() as triangles:
        mm.attend(q, k, v, W, "triangles").sum().backward()
    assert triangles.numbers <= q.numel()
    with Largest() as dense:
        mm.attend(q, k, v, W, "dense")
    assert dense.numbers == T * T  # so the measure does see a mask


def test_a_window_that_does_not_bite_takes_one_pass(monkeypatch):
    monkeypatch.setattr(attention, "triangles", None)  # would fail if it were called
    q, k, v = draw(1, 2, 1, 600, 4)
    for W in (None, 600, 5000):
        torch.testing.assert_close(mm.attend(q, k, v, W, "triangles"), mm.attend(q, k, v, None, "dense"), atol=1e-5, rtol=0)


# --- FlexAttention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 100, 128, 129, 300, 512])
@pytest.mark.parametrize("W", [None, 1, 2, 127, 128, 129, 256, 400, 5000])
def test_the_block_mask_is_the_one_that_pytorch_makes(T, W):
    from torch.nn.attention.flex_attention import create_block_mask

    ours = masks.block_mask(T, W)
    theirs = create_block_mask(lambda b, h, i, j: masks.visible(i, j, W), 1, 1, T, T, device="cpu")
    for part in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks", "q_indices"):
        assert torch.equal(getattr(ours, part), getattr(theirs, part)), part
    assert ours.seq_lengths == theirs.seq_lengths and ours is masks.block_mask(T, W)


def test_flex_at_twenty_pairs():
    for T in (17, 128, 130, 300):
        for W in (1, 5, 128, 129, None):
            q, k, v = draw(1, 4, 2, T, 16, seed=T)
            torch.testing.assert_close(mm.attend(q, k, v, W, "flex").double(), judge(q, k, v, W), atol=1e-5, rtol=0)


def test_flex_says_what_it_lacks(monkeypatch):
    q, k, v = draw(1, 4, 2, 10, 16)
    with pytest.raises(ValueError, match="'flex' has no gradients on a CPU: .*triangles"):
        mm.attend(q, k, v.requires_grad_(), 4, "flex")
    v.requires_grad_(False)
    monkeypatch.setattr(window, "which", lambda name: None)
    with pytest.raises(ValueError, match="no C\\+\\+ compiler .*What can: auto, naive, dense, triangles"):
        mm.attend(q, k, v, 4, "flex")


# --- kernels of a GPU, as far as they can be judged without one -----------------------------------------------------------


def test_varlen_needs_a_gpu_and_says_what_runs_here():
    with pytest.raises(ValueError, match="'varlen' cannot run here: .*CUDA.*What can: auto, naive, dense, triangles"):
        mm.attend(*draw(1, 4, 2, 10, 16), 4, "varlen")


@pytest.mark.parametrize("knows_gqa", [True, False])
@pytest.mark.parametrize("W", [1, 4, 9, 40, None])
def test_varlen_passes_the_window_as_neighbours_to_the_left(monkeypatch, W, knows_gqa):
    """A stand-in with FlashAttention's conventions: packed rows, and (left, right) neighbours beside the token itself."""

    def packed(q, k, v, starts_q, starts_k, longest_q, longest_k, window_size, enable_gqa=False):
        assert torch.equal(starts_q, starts_k) and longest_q == longest_k
        assert knows_gqa == enable_gqa == (q.shape[1] != k.shape[1])
        left, right = window_size
        out = torch.empty_like(q)
        for a, b in zip(starts_q.tolist()[:-1], starts_q.tolist()[1:], strict=True):
            at = torch.arange(b - a)
            mask = (at >= at[:, None] - left) & (at <= at[:, None] + right)
            row = attention.attend_masked(*(x[a:b].transpose(0, 1)[None] for x in (q, k, v)), mask)
            out[a:b] = row[0].transpose(0, 1)
        return out

    def packed_before_gqa(q, k, v, starts_q, starts_k, longest_q, longest_k, window_size):
        return packed(q, k, v, starts_q, starts_k, longest_q, longest_k, window_size)

    monkeypatch.setattr(window, "_varlen", lambda: packed if knows_gqa else packed_before_gqa)
    q, k, v = draw(3, 4, 2, 9, 8)
    torch.testing.assert_close(window.varlen(q, k, v, W).double(), judge(q, k, v, W), atol=1e-5, rtol=0)


class Context:
    def save_for_backward(self, *tensors):
        self.saved_tensors = tensors


@pytest.mark.parametrize("kernel", ["flash", "efficient"])
def test_the_gpu_kernels_take_what_they_are_given_as_far_as_shapes_go(monkeypatch, kernel):
    """On the meta device PyTorch checks the arguments of a GPU kernel and the shapes that come of them, without a GPU."""
    monkeypatch.setattr(window, "_kernel", lambda q: kernel)
    q, k = (torch.empty(2, heads, 50, 64, device="meta", dtype=torch.bfloat16) for heads in (4, 2))
    context = Context()
    out = window._Triangles.forward(context, q, k, k, 8, 0.125)
    grads = window._Triangles.backward(context, out)
    assert [x.shape for x in (out, *grads[:3])] == [q.shape, q.shape, k.shape, k.shape]


@pytest.mark.parametrize(
    "device, dtype, T, W, kernel, expected",
    [
        ("cpu", torch.float32, 511, 64, "cpu", "dense"),
        ("cpu", torch.float32, 512, 64, "cpu", "triangles"),
        ("cpu", torch.float32, 512, 512, "cpu", "causal"),
        ("cpu", torch.float32, 512, None, "cpu", "causal"),
        ("cuda", torch.bfloat16, 100, 64, "flash", "varlen"),
        ("cuda", torch.bfloat16, 100, 64, "efficient", "triangles"),  # an older GPU
        ("cuda", torch.float32, 100, 64, "efficient", "triangles"),
        ("cuda", torch.float64, 100, 64, "efficient", "dense"),
        ("mps", torch.float32, 5000, 64, "cpu", "dense"),
    ],
)
def test_the_rule_of_auto(monkeypatch, device, dtype, T, W, kernel, expected):
    class Described:
        """What the rule asks of a tensor; one on a GPU cannot be made here."""

        shape, is_cuda = (1, 4, T, 64), device == "cuda"

    Described.dtype, Described.device = dtype, torch.device(device)
    monkeypatch.setattr(window, "_kernel", lambda q: kernel)
    assert window.choose(Described(), W) == expected


# --- with one -------------------------------------------------------------------------------------------------------------


@GPU
@pytest.mark.parametrize("method", ["triangles", "varlen", "flex", "dense", "auto"])
@pytest.mark.parametrize("dtype, close", [(torch.bfloat16, 0.03), (torch.float16, 0.004), (torch.float32, 0.004)])
def test_on_a_gpu(method, dtype, close):
    for T, W in ((30, 7), (64, 16), (128, 127), (700, 100), (1024, 256), (300, 1), (5, 9)):
        q, k, v = draw(2, 4, 2, T, 64, dtype, "cuda")
        if method == "varlen" and dtype == torch.float32:
            with pytest.raises(ValueError, match="half precision"):
                mm.attend(q, k, v, W, method)
            continue
        got = mm.attend(q, k, v, W, method)
        torch.testing.assert_close(got.cpu().double(), judge(q, k, v, W), atol=close, rtol=0)


@GPU
@pytest.mark.parametrize("method", ["triangles", "varlen", "flex"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gradients_on_a_gpu(method, dtype):
    if method == "varlen" and dtype == torch.float32:
        dtype = torch.float16
    for T, W in ((64, 16), (100, 16), (700, 100)):
        q, k, v = draw(2, 4, 2, T, 64, dtype, "cuda")
        exact = gradients(q.double(), k.double(), v.double(), W, "dense")
        for got, expected in zip(gradients(q, k, v, W, method), exact, strict=True):
            torch.testing.assert_close(got.double(), expected, atol=0.1, rtol=0.05)
