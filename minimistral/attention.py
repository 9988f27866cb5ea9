"""Grouped-query attention over a window: the operator, apart from the model around it.

Letters: B batch, T query positions, S key positions, H query heads, Hkv key heads, D head size, W window.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimistral import masks, naive, rope
from minimistral.config import check_window
from minimistral.window import choose, flex, lacking, triangles, varlen

METHODS = ("auto", "naive", "dense", "triangles", "flex", "varlen")


def attend(q: Tensor, k: Tensor, v: Tensor, window: int | None = None, method: str = "auto") -> Tensor:
    """Causal attention of a sequence to itself: q (B, H, T, D), k and v (B, Hkv, T, D) -> (B, H, T, D).

    Query head h uses key head h // (H // Hkv). Position i sees i-W+1 ... i (all of 0 ... i if window is None).

    method  "naive": plain loops, the judge. "dense": one T x T mask through PyTorch's kernel, which calculates every score.
            Those that calculate only the window: "triangles", "flex" (PyTorch's FlexAttention; without gradients on a
            CPU), "varlen" (FlashAttention, on CUDA). "auto": what suits device, dtype and length; window.choose is the rule.
    Raises ValueError for shapes, dtypes, devices or a window that do not fit together, or a method that cannot run here.
    """
    check_window(window)
    check_shapes(q, k, v)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}.")
    T = q.shape[2]
    if k.shape[2] != T:
        raise ValueError(f"q has {T} positions and k has {k.shape[2]}: attend() is self-attention, they must be equal.")
    if missing := lacking(method, q):
        works = ", ".join(name for name in METHODS if not lacking(name, q))
        raise ValueError(f"method {method!r} cannot run here: {missing}. What can: {works}.")
    bites = window is not None and window < T
    if method == "auto":
        method = choose(q, window)
    if method == "naive":
        return naive.attend(q, k, v, window)
    if method == "flex":
        return flex(q, k, v, window)
    if method == "varlen":
        return varlen(q, k, v, window)
    if method == "triangles" and bites:
        return triangles(q, k, v, window)
    if method == "dense":
        at = masks.positions(T, q.device)
        return attend_masked(q, k, v, masks.dense(at, at, window))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def attend_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q (B, H, T, D) over k, v (B, Hkv, S, D) where mask, bool and broadcastable to (B, H, T, S), is True. None: over all.

    Each query must see at least one key: an empty softmax has no value. A single position of each row (T = 1) with a mask that
    is the same for all heads: the queries of a group become positions, so that its key head is read once and not group times.
    """
    if q.shape[2] == 1 and (mask is None or mask.ndim == 4 and mask.shape[1] == 1):
        groups = q.reshape(k.shape[0], k.shape[1], -1, q.shape[3])  # (B, Hkv, H // Hkv, D)
        return F.scaled_dot_product_attention(groups, k, v, attn_mask=mask).reshape(q.shape)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def weights(q: Tensor, k: Tensor, window: int | None = None) -> Tensor:
    """What attend() mixes the values with, to be looked at: (B, H, T, T) float32; each row sums to 1, zero where unseen."""
    check_window(window)
    check_shapes(q, k, k)
    at = masks.positions(q.shape[2], q.device)
    keys = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = q.float() @ keys.float().transpose(-1, -2) / q.shape[3] ** 0.5
    return scores.masked_fill(~masks.dense(at, at, window), float("-inf")).softmax(-1)


@torch.no_grad()
def attention_of(model: nn.Module, ids: Tensor) -> Tensor:
    """A Mistral and ids (B, T) -> what all its heads mix the values with, (L, B, H, T, T), each layer in its own window."""
    turn = rope.angles(masks.positions(ids.shape[1], ids.device), model.config.head_dim, model.config.rope_theta)
    x, found = model.tok_embeddings(ids), []
    for layer, block in enumerate(model.layers):
        q, k, _ = block.attention.project(block.attention_norm(x), turn)
        found.append(weights(q, k, block.attention.window))
        x = block(x, turn, None, layer, None)
    return torch.stack(found)


def check_shapes(q: Tensor, k: Tensor, v: Tensor):
    """Raise ValueError, in one sentence, for the first thing that does not fit."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected four dimensions (batch, heads, positions, D).")
        if x.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(x.shape)}: there is nothing to attend.")
        if not x.is_floating_point():
            raise ValueError(f"{name} is {x.dtype}; expected a floating dtype.")
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(f"q is {q.dtype} on {q.device} and {name} is {x.dtype} on {x.device}; they must be the same.")
    if k.shape != v.shape:
        raise ValueError(f"k has shape {tuple(k.shape)} and v {tuple(v.shape)}; they must be equal.")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q has shape {tuple(q.shape)} and k {tuple(k.shape)}; batch and head size (first, last) must agree.")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"q has {q.shape[1]} heads and k has {k.shape[1]}; the first must be a multiple of the second.")
