"""Attention sinks: the first tokens of a text, to which heads give the attention that they want to give to nobody.

A softmax cannot say "nothing": its weights sum to 1. A model that was trained without a window often learns to lay what is left
over on the first token, which every query can see. Where a window pushes that token out, such a model loses its place for it;
keeping the first few tokens in sight mends that (Xiao et al., StreamingLLM, arXiv:2309.17453, section 3).

A cache that keeps sinks has a gap between them and its window. Counted in the text, the distance across the gap grows without
end; counted in the cache, it does not (section 3.2 there). RoPE only knows distances, so losses() takes either.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minimistral import attention, masks, rope
from minimistral.config import check_count, check_window
from minimistral.model import Mistral


def visible(T: int, window: int | None, sinks: int = 0) -> Tensor:
    """(T, T) bool: who sees whom in a window that also keeps the first `sinks` tokens in sight.

    >>> visible(5, window=2, sinks=1).int()
    tensor([[1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 1, 0, 0],
            [1, 0, 1, 1, 0],
            [1, 0, 0, 1, 1]], dtype=torch.int32)
    """
    check_count("T", T)
    check_window(window)
    if not isinstance(sinks, int) or isinstance(sinks, bool) or sinks < 0:
        raise ValueError(f"sinks is {sinks!r}: expected a whole number of at least 0.")
    at = torch.arange(T)
    return masks.dense(at, at, window) | (masks.dense(at, at, None) & (at < sinks))


def in_text(T: int, window: int | None, sinks: int = 0) -> Tensor:
    """(T, T) int64: how far key j lies behind query i in the text; -1 where i does not see j, as visible() says."""
    seen, at = visible(T, window, sinks), torch.arange(T)
    return torch.where(seen, at[:, None] - at, -1)


def _check_rows(tokens, shape: str):
    """Refuse what is no batch of texts, or texts of one token."""
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64 or tokens.dim() != 2:
        given = f"{tokens.dtype}, {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(f"tokens is of type {given}; expected an int64 tensor {shape}.")
    if (n := tokens.shape[1]) < 2:
        raise ValueError(f"tokens has {n} position{'s' * (n != 1)}; expected at least 2: position 0 sees nobody but itself.")


@torch.no_grad()
def losses(model: Mistral, tokens: Tensor, distances: Tensor) -> Tensor:
    """tokens (B, T + 1) -> (B, T): the loss in nats on each token but the first, with these distances in all layers.

    distances  (T, T) int64: how many places query i and key j are apart, as RoPE is told; negative where i does not see j
    Whatever windows the model was trained with, only `distances` counts.
    Raises ValueError where a query sees nothing, or the shapes do not fit.
    """
    _check_rows(tokens, "(B, T + 1)")
    T, c = tokens.shape[1] - 1, model.config
    if not isinstance(distances, Tensor) or distances.dtype != torch.int64:
        given = distances.dtype if isinstance(distances, Tensor) else type(distances).__name__
        raise ValueError(f"distances is of type {given}; expected an int64 tensor: how far, and -1 where nothing is seen.")
    if tuple(distances.shape) != (T, T):
        raise ValueError(f"distances has the shape {tuple(distances.shape)}; expected ({T}, {T}) for {T + 1} tokens a row.")
    if not (distances >= 0).any(1).all():
        raise ValueError("distances leaves a query without a key; each token sees at least itself, at distance 0.")
    cos, sin = rope.angles(distances, c.head_dim, c.rope_theta)  # (T, T, D/2)
    x, unturned = model.tok_embeddings(tokens[:, :-1]), rope.angles(torch.zeros(T), c.head_dim, c.rope_theta)
    for block in model.layers:
        q, k, v = block.attention.project(block.attention_norm(x), unturned)
        k, v = (each.repeat_interleave(c.group, dim=1) for each in (k, v))
        turned = (rope.rotate(q[:, :, i : i + 1], cos[i], sin[i]) for i in range(T))  # each query, by its distance to each key
        scores = torch.stack([(each * k).sum(-1) for each in turned], dim=2)
        scores = scores.masked_fill(distances < 0, float("-inf"))
        mixed = (scores * c.head_dim**-0.5).softmax(-1) @ v
        x = x + block.attention.wo(mixed.transpose(1, 2).flatten(2))
        x = x + block.feed_forward(block.ffn_norm(x))
    logits = model.output(model.norm(x)).float()
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def first_share(model: Mistral, tokens: Tensor) -> Tensor:
    """(n_layers, H): how much of its attention each head gives to position 0, the mean over all later queries that see it.

    tokens (B, T), with T at least 2. Raises ValueError for a layer with a window of 1, where no later query sees it.
    """
    _check_rows(tokens, "(B, T)")
    if 1 in model.config.windows:
        raise ValueError(f"Layer {model.config.windows.index(1)} has a window of 1: there, only position 0 sees position 0.")
    found = attention.attention_of(model, tokens)[..., 0]  # (L, B, H, T)
    return torch.stack([each[:, :, 1:window].mean((0, 2)) for each, window in zip(found, model.config.windows, strict=True)])
