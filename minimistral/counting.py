"""What a model costs, by part, from its config alone: parameters, and operations of pre-fill and decode.

An operation is one multiplication or one addition of two numbers. A weight that a token passes takes two. Counted are the
matrix products; norms, RoPE, softmax and SiLU are left out, as PyTorch's torch.utils.flop_counter leaves them out.
"""

from dataclasses import replace

from minimistral import masks
from minimistral.config import MistralConfig

_v01 = MistralConfig(
    dim=4096, n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128, hidden_dim=14336, vocab_size=32_000, sliding_window=4096
)
_v02 = replace(_v01, rope_theta=1e6, sliding_window=None)

#: the released Mistral 7B
VERSIONS = {"v0.1": _v01, "v0.2": _v02, "v0.3": replace(_v02, vocab_size=32_768)}


def matrices(config: MistralConfig) -> dict[str, int]:
    """The numbers in each of a layer's seven matrices, by name."""
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    outputs = {"wq": queries, "wk": keys, "wv": keys, "wo": queries, "w1": config.hidden_dim, "w2": config.hidden_dim,
               "w3": config.hidden_dim}  # fmt: skip
    return {name: config.dim * size for name, size in outputs.items()}


def parameters(config: MistralConfig) -> dict[str, int]:
    """All parameters by part, those of all layers together; the values add up to Mistral(config).n_parameters()."""
    table = config.vocab_size * config.dim
    stack = {name: config.n_layers * size for name, size in matrices(config).items()}
    return {"embeddings": table, **stack, "norms": (2 * config.n_layers + 1) * config.dim, "output": table}


def pairs(config: MistralConfig, tokens: int, cached: int = 0, layer: int = 0) -> int:
    """How many (query, key) pairs one head of a layer looks at, for `tokens` new positions after `cached` earlier ones."""
    if tokens < 1 or cached < 0:
        raise ValueError(f"tokens is {tokens} and cached is {cached}; expected at least 1 new token, and 0 or more before it.")
    window = config.windows[layer]
    return masks.count(cached + tokens, window) - masks.count(cached, window)


def flops(config: MistralConfig, tokens: int, cached: int = 0, last_only: bool = False) -> dict[str, int]:
    """Operations by part, for one sequence: `tokens` new positions after `cached` ones that lie in the cache.

    pre-fill of N tokens           flops(config, N, last_only=True)
    one step of decode             flops(config, 1, cached=position)
    last_only                      the output head for the last position alone, as the model's last_only=

    "attention, pairs" is what no matrix of weights does, q . k and weight * v: 4 * D * H for each pair and layer.
    Only pairs that are seen count. A kernel that calculates and masks more does up to tokens * (cached + tokens).
    """
    sizes = matrices(config)
    projections = sum(sizes[name] for name in ("wq", "wk", "wv", "wo"))
    feed_forward = sum(sizes[name] for name in ("w1", "w2", "w3"))
    seen = sum(pairs(config, tokens, cached, layer) for layer in range(config.n_layers))
    return {
        "attention, matrices": 2 * config.n_layers * projections * tokens,
        "attention, pairs": 4 * config.n_heads * config.head_dim * seen,
        "feed forward": 2 * config.n_layers * feed_forward * tokens,
        "output": 2 * config.vocab_size * config.dim * (1 if last_only else tokens),
    }
