"""How fast it could be at most, before anything is measured: from pairs, operations and bytes. Chapter 11 is its lesson.

A machine can do so many operations a second and move so many bytes a second. What takes longer of the two is the least time
that a piece of work can take, whoever writes the kernel: a roof (Williams, Waterman, Patterson 2009, "Roofline").
Pre-fill of a thousand tokens or more is bound by operations, decode by bytes.

N tokens, a window of W or None. Full attention is the same model with W = None. Everything here is arithmetic; what a
machine really does lies in bench/.
"""

from dataclasses import dataclass, replace

from minimistral import counting, masks
from minimistral.config import MistralConfig, check_count, check_window


@dataclass(frozen=True)
class Gpu:
    """bandwidth: bytes a second. flops: operations a second of dense bfloat16 matrix products (float16 where it has none).
    memory: bytes. All as its maker states them."""

    bandwidth: float
    flops: float
    memory: float
    source: str


#: what the makers' data sheets say; "with sparsity" figures are halved
GPUS = {
    "H200": Gpu(4.8e12, 989e12, 141e9, "https://www.nvidia.com/en-us/data-center/h200/"),
    "H100 SXM": Gpu(3.35e12, 989e12, 80e9, "https://www.nvidia.com/en-us/data-center/h100/"),
    "A100 80 GB": Gpu(2.039e12, 312e12, 80e9, "https://www.nvidia.com/en-us/data-center/a100/"),
    "RTX 4090": Gpu(1.008e12, 165.2e12, 24e9, "NVIDIA Ada GPU architecture (whitepaper), appendix A"),
    "T4 (float16)": Gpu(320e9, 65e12, 16e9, "NVIDIA T4 product brief, table 2; Turing architecture (whitepaper), appendix C"),
}


def attention_ratio(N: int, W: int | None) -> float:
    """Pairs of full causal attention over pairs in the window: how many times as fast the attention operator can be.

    >>> round(attention_ratio(16_384, 4_096), 3)
    2.286
    """
    check(N, W)
    return masks.count(N) / masks.count(N, W)


def block_ratio(N: int, W: int, block: int = 256) -> float:
    """The same where the kernel works in blocks of so many queries and calculates the whole block at the diagonal.

    PyTorch's kernel for CPUs does (256 queries from 768 on), both for the full triangle and for each of the window's. N is a
    multiple of W.
    """
    check(N, W)
    if N % W or N == W:
        raise ValueError(f"N is {N} and W {W}; expected two or more whole windows.")
    n = N // W
    return block_scores(N, block) / (n * block_scores(W, block) + (n - 1) * block_scores(W - 1, block))


def block_scores(T: int, block: int = 256) -> int:
    """Scores calculated for a causal triangle of T rows, in blocks of rows: each row up to the end of its block."""
    return sum((min(start + block, T) - start) * min(start + block, T) for start in range(0, T, block))


def prefill_flops(config: MistralConfig, N: int, W: int | None) -> tuple[int, int]:
    """Operations of a pre-fill of N tokens: (matrix products with weights, attention). Logits of the last position only."""
    check(N, W)
    parts = counting.flops(replace(config, sliding_window=W), N, last_only=True)
    attention = parts.pop("attention, pairs")
    return sum(parts.values()), attention


def prefill_ratio(config: MistralConfig, N: int, W: int | None, attention_rate: float = 1.0) -> float:
    """How many times as fast a whole pre-fill can be with the window.

    attention_rate  operations a second of attention over those of the matrix products: 1 if both run equally well, 0.5 if
                    attention runs at half their rate, as kernels often do. The slower attention is, the larger its share
                    of the time, and so the gain.
    """
    if not attention_rate > 0:
        raise ValueError(f"attention_rate is {attention_rate}; expected a number above 0, such as 0.5.")
    full, near = (linear + attention / attention_rate for linear, attention in (prefill_flops(config, N, w) for w in (None, W)))
    return full / near


def prefill_seconds(config: MistralConfig, flops: float, N: int, W: int | None, batch: int = 1) -> float:
    """The least time for a pre-fill of `batch` sequences of N tokens at so many operations a second."""
    check(N, W, batch)
    return batch * sum(prefill_flops(config, N, W)) / flops


def cache_bytes(config: MistralConfig, N: int, W: int | None, batch: int = 1, width: int = 2) -> int:
    """Keys and values of `batch` sequences of N tokens, `width` bytes a number. With a window never more than W each."""
    check(N, W, batch)
    kept = N if W is None else min(N, W)
    return batch * kept * 2 * config.n_layers * config.n_kv_heads * config.head_dim * width


def decode_bytes(config: MistralConfig, N: int, W: int | None, batch: int = 1, width: int = 2) -> int:
    """What one step of decode reads: every weight once, of the embeddings a row a sequence, and each sequence's cache."""
    parts = counting.parameters(config)
    weights = sum(parts.values()) - parts["embeddings"] + batch * config.dim
    return weights * width + cache_bytes(config, N, W, batch, width)


def decode_tokens_per_second(config: MistralConfig, bandwidth: float, N: int, W: int | None, batch: int = 1) -> float:
    """At most so many new tokens a second, of all sequences together, N tokens into the text, at `bandwidth` bytes a second."""
    return batch * bandwidth / decode_bytes(config, N, W, batch)


def decode_ratio(config: MistralConfig, N: int, W: int | None, batch: int = 1) -> float:
    """How many times as fast a step of decode can be with the window. The bandwidth cancels out."""
    return decode_bytes(config, N, None, batch) / decode_bytes(config, N, W, batch)


def held_bytes(config: MistralConfig, N: int, W: int | None, batch: int = 1, width: int = 2) -> int:
    """What must lie in memory: all weights and the cache. (A little more is needed for what is being calculated.)"""
    return sum(counting.parameters(config).values()) * width + cache_bytes(config, N, W, batch, width)


def check(N: int, W: int | None, batch: int = 1):
    """Raise ValueError for a length, window or batch that cannot be."""
    check_window(W)
    for name, value in (("N", N), ("batch", batch)):
        check_count(name, value)
