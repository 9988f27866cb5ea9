"""Attention over a window without the wasted work: no score outside the window is calculated. Chapter 11 is its lesson.

Cut the sequence into blocks of W. What a query sees lies in its own block, o, and in the block before, b; in both it is a
triangle. A last block that is not full has a rectangle r as well. For T = 10 and W = 4:

    o . . . | . . . . | . .     A kernel for causal attention calculates exactly such triangles: the o as they are, the b with
    o o . . | . . . . | . .     queries and keys in reversed order. Each call gives the softmax over a part of the keys, and
    o o o . | . . . . | . .     the log-sum-exp of that part's scores. That is all it takes to merge two parts into the
    o o o o | . . . . | . .     softmax over both, as FlashAttention does (arXiv:2205.14135, section 3.1).
    --------+---------+----
    . b b b | o . . . | . .     Over 4 blocks, full causal attention is 4 triangles and 6 squares: 16 triangles. The window
    . . b b | o o . . | . .     is 4 + 3 = 7. So it can be 16/7 = 2.286 times as fast, and not more.
    . . . b | o o o . | . .
    . . . . | o o o o | . .
    --------+---------+----
    . . . . | . b r r | o .
    . . . . | . . r r | o o
"""

import os
from dataclasses import dataclass
from functools import cache
from inspect import signature
from shutil import which

import torch
import torch.nn.functional as F
from torch import Tensor

from minimistral import masks

aten = torch.ops.aten
HALF = (torch.bfloat16, torch.float16)


def choose(q: Tensor, window: int | None) -> str:
    """The rule of method="auto": what suits q (B, H, T, D) on its device.

    causal     PyTorch's own kernel, where the window does not bite
    varlen     on CUDA in half precision, where this build's kernel knows windows
    triangles  elsewhere on CUDA, and on a CPU unless the sequence is short
    dense      a short sequence, and any device or dtype that has none of these kernels: one mask, every score
    """
    T = q.shape[2]
    if window is None or window >= T:
        return "causal"
    if lacking("varlen", q) is None:
        return "varlen"
    if lacking("triangles", q) is None and (q.is_cuda or T >= 512):
        return "triangles"
    return "dense"


def lacking(method: str, q: Tensor) -> str | None:
    """What this device, dtype or build lacks for a method, as a clause; None: it can run."""
    device, D = q.device.type, q.shape[3]
    if method == "varlen":
        if _kernel(q) != "flash":
            return f"it needs CUDA of compute capability 8.0, half precision and D up to 256; q is {q.dtype} on {device}, D {D}"
        if D % 8:
            return f"it needs a head size D that is a multiple of 8, and D is {D}"
        if "window_size" not in signature(_varlen()).parameters:
            return f"varlen_attn of PyTorch {torch.__version__} has no window"
    elif method in ("triangles", "flex"):
        if device not in ("cpu", "cuda"):
            return f"it needs a CPU or CUDA, and q is on {device}"
        if method == "triangles" and device == "cuda" and q.dtype == torch.float64:
            return "there is no float64 kernel for it on CUDA"
        if method == "flex" and device == "cpu" and not any(map(which, (os.environ.get("CXX", "g++"), "clang++"))):
            return "it compiles its kernel, and there is no C++ compiler (Debian, Ubuntu: sudo apt install g++)"
    return None


# --- two triangles --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocks:
    """n runs of positions, each `length` long: one begins at `first`, the next W later, and so on."""

    first: int
    length: int
    n: int
    W: int
    backwards: bool = False  # a kernel is to read each run from its end

    def view(self, x: Tensor) -> Tensor:
        """x (B, heads, T, D) -> (B, n, heads, length, D), without a copy."""
        end = self.first + (self.n - 1) * self.W + self.length
        return x[:, :, self.first : end].unfold(2, self.length, self.W).permute(0, 2, 1, 4, 3)

    def take(self, x: Tensor) -> Tensor:
        """x (B, heads, T, D) -> (B n, heads, length, D), as a kernel reads it: a copy only where B > 1 or backwards."""
        rows = self.view(x).flatten(0, 1)
        return rows.flip(2) if self.backwards else rows

    def back(self, rows: Tensor) -> Tensor:
        """The other way: what a kernel gave (B n, heads, length, D) -> (B, n, heads, length, D), as view() lays it out."""
        return (rows.flip(2) if self.backwards else rows).unflatten(0, (-1, self.n))


@dataclass(frozen=True)
class Piece:
    """n equal pieces of the square of scores.

    shape  which columns its row r sees. lower: 0 ... r. full: all. upper: r and later; with rows and columns read
           backwards that is a lower one
    """

    shape: str
    queries: Blocks
    keys: Blocks


def pieces(T: int, W: int) -> list[Piece]:
    """The window over T > W positions, each pair of query and key in exactly one piece.

    >>> for piece in pieces(10, 4): print(piece.shape, piece.queries.n, "x", piece.queries.length, piece.keys.length)
    lower 2 x 4 4
    upper 1 x 3 3
    lower 1 x 2 2
    full 1 x 2 2
    upper 1 x 1 1
    """
    n, rest = divmod(T, W)
    last = n * W  # where the block begins that is not full
    found = (
        Piece("lower", Blocks(0, W, n, W), Blocks(0, W, n, W)),
        Piece("upper", Blocks(W, W - 1, n - 1, W, True), Blocks(1, W - 1, n - 1, W, True)),
        Piece("lower", Blocks(last, rest, 1, W), Blocks(last, rest, 1, W)),
        Piece("full", Blocks(last, rest, 1, W), Blocks(last - W + rest, W - rest, 1, W)),
        Piece("upper", Blocks(last, rest - 1, 1, W, True), Blocks(last - W + 1, rest - 1, 1, W, True)),
    )
    return [piece for piece in found if piece.queries.n > 0 and piece.queries.length > 0]


def triangles(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """q (B, H, T, D), k and v (B, Hkv, T, D), T > window -> (B, H, T, D). Memory: a few copies of q, nothing of size T x W."""
    D = q.shape[3]
    if q.is_cuda and D % 8:  # the kernels there want groups of 8 numbers
        q, k, v = (F.pad(x, (0, -D % 8)) for x in (q, k, v))
    return _Triangles.apply(q, k, v, window, D**-0.5)[..., :D]


class _Triangles(torch.autograd.Function):
    """The kernels' log-sum-exp carries no gradient, so autograd through the merge would be silently wrong.

    Instead each piece's own backward kernel is given the *merged* result and log-sum-exp. From these it works out its
    weights again, as they are in the softmax over all keys, and from the weights its share of each gradient.
    """

    @staticmethod
    def forward(ctx, q, k, v, W, scale):
        B, H, T, D = q.shape
        out = q.new_empty(B, T, H, D).transpose(1, 2)  # in memory head beside head, as the output projection reads it
        lse = q.new_empty(B, H, T, 1, dtype=torch.promote_types(q.dtype, torch.float32))
        notes = []
        for piece in pieces(T, W):
            rows, columns = piece.queries, piece.keys
            part, part_lse, note = _forward(rows.take(q), columns.take(k), columns.take(v), piece.shape != "full", scale)
            part, part_lse = rows.back(part), rows.back(part_lse)
            so_far, so_far_lse = rows.view(out), rows.view(lse)
            if piece.shape == "lower":  # of its rows, the first piece
                so_far.copy_(part)
                so_far_lse.copy_(part_lse)
            else:
                so_far.lerp_(part, torch.sigmoid(part_lse - so_far_lse).to(q.dtype))  # sigmoid(b - a) is e^b / (e^a + e^b)
                so_far_lse.copy_(torch.logaddexp(so_far_lse, part_lse))
            notes.append(note)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.W, ctx.scale, ctx.notes = W, scale, notes
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        q, k, v, out, lse = ctx.saved_tensors
        dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
        for piece, note in zip(pieces(q.shape[2], ctx.W), ctx.notes, strict=True):
            rows, columns = piece.queries, piece.keys
            inputs = rows.take(grad), rows.take(q), columns.take(k), columns.take(v), rows.take(out), rows.take(lse)
            part_q, part_k, part_v = _backward(*inputs, piece.shape != "full", ctx.scale, note)
            rows.view(dq).add_(rows.back(part_q))
            columns.view(dk).add_(columns.back(part_k))
            columns.view(dv).add_(columns.back(part_v))
        return dq, dk, dv, None, None


# --- the kernels beneath: attention that also returns its log-sum-exp ------------------------------------------------------


def _kernel(q: Tensor) -> str:
    """Which of PyTorch's attention kernels takes this: its own for the CPU, FlashAttention, or the memory-efficient one."""
    if not q.is_cuda:
        return "cpu"
    flash = q.dtype in HALF and q.shape[3] <= 256 and torch.cuda.get_device_capability(q.device) >= (8, 0)
    return "flash" if flash else "efficient"


def _forward(q, k, v, causal, scale):
    """(B, H, T, D) over (B, Hkv, S, D) -> the result (B, H, T, D), its log-sum-exp (B, H, T, 1), and a note for _backward."""
    kernel = _kernel(q)
    if kernel == "cpu":
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
        return out, lse.unsqueeze(-1), ()
    if kernel == "flash":
        out, lse, *note, _ = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)
        return out, lse.unsqueeze(-1), note
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    out, lse, *note = aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, causal, scale=scale)
    return out, lse[:, :, : q.shape[2], None], note  # there it is padded to a multiple of 32


def _backward(grad, q, k, v, out, lse, causal, scale, note):
    """The gradients of q, k and v, by the kernel that _forward took."""
    kernel, lse = _kernel(q), lse.squeeze(-1)
    if kernel == "cpu":
        run = aten._scaled_dot_product_flash_attention_for_cpu_backward
        return run(grad, q, k, v, out, lse, 0.0, causal, scale=scale)
    if kernel == "flash":
        *lengths, seed, offset = note
        run = aten._scaled_dot_product_flash_attention_backward
        return run(grad, q, k, v, out, lse.contiguous(), *lengths, 0.0, causal, seed, offset, scale=scale)
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    lse = F.pad(lse, (0, -lse.shape[2] % 32), value=float("inf"))
    run, wanted = aten._scaled_dot_product_efficient_attention_backward, [True, True, True, False]
    dq, dk, dv, _ = run(grad, q, k, v, None, out, lse, *note, 0.0, wanted, causal, scale=scale)
    return dq, dk.unflatten(1, (-1, group)).sum(2), dv.unflatten(1, (-1, group)).sum(2)


# --- kernels that know windows themselves ---------------------------------------------------------------------------------


def flex(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """PyTorch's FlexAttention with the window as a block mask, compiled: the first calls take some seconds each."""
    if q.device.type == "cpu" and any(x.requires_grad for x in (q, k, v)):
        if torch.is_grad_enabled():
            raise ValueError("method 'flex' has no gradients on a CPU: take triangles, or call it under torch.no_grad().")
        q, k, v = q.detach(), k.detach(), v.detach()
    mask = masks.block_mask(q.shape[2], window, q.device)
    return _flex()(q, k, v, block_mask=mask, enable_gqa=True)


@cache
def _flex():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def varlen(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """PyTorch's FlashAttention for packed sequences, told the window: (left, right) counts neighbours, so (W-1, 0)."""
    B, H, T, D = q.shape
    attend = _varlen()
    starts = torch.arange(0, (B + 1) * T, T, dtype=torch.int32, device=q.device)
    if "enable_gqa" in signature(attend).parameters:
        shared = {"enable_gqa": True}
    else:
        shared, k, v = {}, *(x.repeat_interleave(H // x.shape[1], dim=1) for x in (k, v))
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (B T, heads, D)
    left = T if window is None else window - 1
    return attend(q, k, v, starts, starts, T, T, window_size=(left, 0), **shared).unflatten(0, (B, T)).transpose(1, 2)


@cache
def _varlen():
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn
