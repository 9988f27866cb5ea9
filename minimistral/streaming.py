"""Distances as one likes: the loss of a model whose queries and keys are any number of places apart, whatever their positions.

A cache that drops keys leaves gaps. Counted in the text, the distance across a gap grows without end; counted in the cache, it
does not (Xiao et al., StreamingLLM, arXiv:2309.17453, section 3.2). RoPE only knows distances, so either can be tried.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minimistral import rope
from minimistral.model import Mistral


@torch.no_grad()
def losses(model: Mistral, tokens: Tensor, distances: Tensor) -> Tensor:
    """tokens (B, T + 1) -> (B, T): the loss in nats on each token but the first, with these distances in all layers.

    distances  (T, T) int64: how many places query i and key j are apart, as RoPE is told; negative where i does not see j
    Raises ValueError where a query sees nothing, or the shapes do not fit.
    """
    T, c = tokens.shape[1] - 1, model.config
    if tuple(distances.shape) != (T, T):
        raise ValueError(f"distances has the shape {tuple(distances.shape)}; expected ({T}, {T}) for {T + 1} tokens a row.")
    if not (distances >= 0).any(1).all():
        raise ValueError("distances leaves a query without a key; each token sees at least itself, at distance 0.")
    x, still = model.tok_embeddings(tokens[:, :-1]), rope.angles(torch.zeros(T, dtype=torch.int64), c.head_dim, c.rope_theta)
    turns = [rope.angles(torch.full((T,), d), c.head_dim, c.rope_theta) for d in range(int(distances.max()) + 1)]
    for block in model.layers:
        q, k, v = block.attention.project(block.attention_norm(x), still)
        k, v = (each.repeat_interleave(c.group, dim=1) for each in (k, v))
        scores = torch.full((*q.shape[:3], T), float("-inf"))
        for d, turn in enumerate(turns):  # all pairs that are d apart
            scores = torch.where(distances == d, rope.rotate(q, *turn) @ k.mT, scores)
        mixed = (scores * c.head_dim**-0.5).softmax(-1) @ v
        x = x + block.attention.wo(mixed.transpose(1, 2).flatten(2))
        x = x + block.feed_forward(block.ffn_norm(x))
    logits = model.output(model.norm(x)).float()
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
