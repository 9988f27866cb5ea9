"""Attention sinks: the first tokens of a text, to which heads give the attention that they want to give to nobody.

A softmax cannot say "nothing": its weights sum to 1. A model that was trained without a window often learns to lay what is left
over on the first token, which every query can see. Where a window pushes that token out, such a model loses its place for it;
keeping the first few tokens in sight mends that (Xiao et al., StreamingLLM, arXiv:2309.17453, section 3).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minimistral import attention, masks, rope
from minimistral.config import check_window
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
    check_window(window)
    if not isinstance(sinks, int) or isinstance(sinks, bool) or sinks < 0:
        raise ValueError(f"sinks is {sinks!r}: expected a whole number of at least 0.")
    at = torch.arange(T)
    return masks.dense(at, at, window) | (masks.dense(at, at, None) & (at < sinks))


@torch.no_grad()
def losses(model: Mistral, tokens: Tensor, window: int | None, sinks: int = 0) -> Tensor:
    """tokens (B, T + 1) -> (B, T): the loss in nats on each token but the first, with this window in all layers.

    Whatever windows the model was trained with, each query sees visible(T, window, sinks); positions stay what they are.
    """
    x, T = model.tok_embeddings(tokens[:, :-1]), tokens.shape[1] - 1
    mask = visible(T, window, sinks)
    turn = rope.angles(torch.arange(T), model.config.head_dim, model.config.rope_theta)
    for block in model.layers:
        q, k, v = block.attention.project(block.attention_norm(x), turn)
        mixed = attention.attend_masked(q, k, v, mask)
        x = x + block.attention.wo(mixed.transpose(1, 2).flatten(2))
        x = x + block.feed_forward(block.ffn_norm(x))
    logits = model.output(model.norm(x)).float()
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def first_share(model: Mistral, tokens: Tensor) -> Tensor:
    """(n_layers, H): how much of its attention each head gives to position 0, the mean over all later queries that see it.

    tokens (B, T), with T at least 2.
    """
    T = tokens.shape[1]
    if T < 2:
        raise ValueError(f"tokens has {T} position; expected at least 2: position 0 sees nobody but itself.")
    found = attention.attention_of(model, tokens)[..., 0]  # (L, B, H, T)
    return torch.stack([each[:, :, 1:window].mean((0, 2)) for each, window in zip(found, model.config.windows, strict=True)])
