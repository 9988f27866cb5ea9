"""Who may see whom: one predicate, and the forms it is needed in."""

from functools import lru_cache

import torch
from torch import Tensor


def visible(i, j, window: int | None = None):
    """May position i see position j? Yes, if j is not later and lies among the last `window` positions, i counted.

    Works alike on two whole numbers and on integer tensors that broadcast. See the paper's Figure 1; its text says
    "between i-W and i", which would be W+1 keys: only W, as here, fits a buffer of W slots.
    """
    if window is None:
        return j <= i
    return (j <= i) & (j > i - window)


def dense(q_positions: Tensor, k_positions: Tensor, window: int | None = None) -> Tensor:
    """The predicate for every pair: positions (..., T) and (..., S) give a bool tensor (..., T, S), True = may see."""
    return visible(q_positions.unsqueeze(-1), k_positions.unsqueeze(-2), window)


def table(T: int, window: int | None = None) -> str:
    """The mask as text, one query a line: `x` attended, `.` the future, `-` fallen out of the window.

    >>> print(table(5, window=3))
    x . . . .
    x x . . .
    x x x . .
    - x x x .
    - - x x x
    """
    def mark(i, j):
        return "x" if visible(i, j, window) else "." if j > i else "-"

    return "\n".join(" ".join(mark(i, j) for j in range(T)) for i in range(T))


def count(T: int, window: int | None = None) -> int:
    """How many (query, key) pairs a causal pass over T positions attends: the sum of min(i + 1, W).

    >>> count(16_384), count(16_384, window=4_096)
    (134225920, 58722304)
    """
    W = T if window is None else min(window, T)
    return W * (W + 1) // 2 + (T - W) * W


@lru_cache(maxsize=8)
def block_mask(T: int, window: int | None = None, device=None):
    """The predicate for FlexAttention: which blocks of 128 x 128 scores to skip, to mask inside, to take whole. Kept once made.

    It is made from the nearest and the farthest pair of each block. (create_block_mask asks all T x T pairs.)
    """
    from torch.nn.attention.flex_attention import BlockMask

    size, W = 128, window or T
    first = torch.arange(0, T, size, device=device)
    nearest = first[:, None] - (first + size - 1)  # the smallest i - j in a block, and the largest
    farthest = nearest + 2 * (size - 1)
    some = (farthest >= 0) & (nearest < W)
    whole = (nearest >= 0) & (farthest < W) & (first[:, None] + size <= T)

    def listed(blocks):  # of each row, how many, and their columns, those first
        columns = blocks.int().argsort(dim=-1, descending=True, stable=True).int()
        return blocks.sum(-1, dtype=torch.int32)[None, None], columns[None, None]

    def rule(b, h, i, j):
        return visible(i, j, window)

    return BlockMask.from_kv_blocks(*listed(some & ~whole), *listed(whole), BLOCK_SIZE=size, mask_mod=rule, seq_lengths=(T, T))


def positions(T: int, device=None) -> Tensor:
    """0, 1, ..., T-1."""
    return torch.arange(T, device=device)
