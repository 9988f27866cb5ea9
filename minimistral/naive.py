"""The judge: every component again in plain loops, one number at a time where it matters.

Nothing here is fast and nothing here is shared with the fast code, so that the two can disagree. Each function is named
after the thing it judges. Shapes as everywhere: B batch, T positions, H query heads, Hkv key heads, D head size, W window.
"""

import math

import torch


def attend(q, k, v, window=None):
    """Causal grouped-query attention: q (B, H, T, D), k and v (B, Hkv, T, D) -> (B, H, T, D)."""
    B, H, T, D = q.shape
    group = H // k.shape[1]
    out = torch.zeros_like(q)
    for b in range(B):
        for h in range(H):
            for i in range(T):
                first = 0 if window is None else max(0, i - window + 1)
                seen = range(first, i + 1)
                scores = [q[b, h, i] @ k[b, h // group, j] / math.sqrt(D) for j in seen]
                weights = softmax(torch.stack(scores))
                for weight, j in zip(weights, seen, strict=True):
                    out[b, h, i] += weight * v[b, h // group, j]
    return out


def softmax(scores):
    """Numbers (n,) -> positive weights (n,) that sum to 1. The largest is taken off first, so nothing overflows."""
    powers = torch.exp(scores - scores.max())
    return powers / powers.sum()


def rotate(x, position, theta):
    """One vector (D,) turned for one position: the pair (2j, 2j+1) by position * theta^(-2j/D) radians."""
    out = torch.zeros_like(x)
    for j in range(0, len(x), 2):
        angle = position * theta ** (-j / len(x))
        out[j] = x[j] * math.cos(angle) - x[j + 1] * math.sin(angle)
        out[j + 1] = x[j] * math.sin(angle) + x[j + 1] * math.cos(angle)
    return out


def rms_norm(x, weight, eps):
    """One vector (dim,), brought to a root mean square of 1, times a weight per coordinate."""
    return x / math.sqrt((x * x).mean().item() + eps) * weight


def feed_forward(x, w1, w2, w3):
    """SwiGLU for one vector (dim,): w2(silu(w1 x) * w3 x)."""
    gate = w1 @ x
    return w2 @ (gate / (1 + torch.exp(-gate)) * (w3 @ x))


def rolling_buffer(items, window):
    """What the slots hold after writing items one by one: item i goes to slot i mod W, over whatever was there.

    >>> rolling_buffer(["the", "cat", "sat", "on", "the mat"], window=4)
    ['the mat', 'cat', 'sat', 'on']
    """
    slots = [None] * window
    for i, item in enumerate(items):
        slots[i % window] = item
    return slots


def logits(weights, config, tokens):
    """One sequence of ids through the whole model, from its weights by native name: -> (T, V)."""
    H, Hkv, D = config.n_heads, config.n_kv_heads, config.head_dim
    T = len(tokens)
    xs = [weights["tok_embeddings.weight"][token] for token in tokens]
    for layer in range(config.n_layers):
        w = {name: weights[f"layers.{layer}.{name}.weight"] for name in LAYER_TENSORS}
        normed = [rms_norm(x, w["attention_norm"], config.norm_eps) for x in xs]
        q = torch.stack([(w["attention.wq"] @ n).view(H, D) for n in normed], dim=1)
        k = torch.stack([(w["attention.wk"] @ n).view(Hkv, D) for n in normed], dim=1)
        v = torch.stack([(w["attention.wv"] @ n).view(Hkv, D) for n in normed], dim=1)
        for heads in (q, k):
            for h in range(len(heads)):
                for i in range(T):
                    heads[h, i] = rotate(heads[h, i].clone(), i, config.rope_theta)
        mixed = attend(q[None], k[None], v[None], config.windows[layer])[0]
        for i in range(T):
            xs[i] = xs[i] + w["attention.wo"] @ mixed[:, i].reshape(H * D)
            normed_i = rms_norm(xs[i], w["ffn_norm"], config.norm_eps)
            xs[i] = xs[i] + feed_forward(
                normed_i, w["feed_forward.w1"], w["feed_forward.w2"], w["feed_forward.w3"]
            )
    final = [rms_norm(x, weights["norm.weight"], config.norm_eps) for x in xs]
    return torch.stack([weights["output.weight"] @ x for x in final])


LAYER_TENSORS = (
    "attention_norm",
    "attention.wq",
    "attention.wk",
    "attention.wv",
    "attention.wo",
    "ffn_norm",
    "feed_forward.w1",
    "feed_forward.w2",
    "feed_forward.w3",
)
