"""Rotary positions: turn each pair of a query or key by an angle that grows with its position (Su et al., 2021).

A dot product of two vectors, each turned by its own position, depends only on the difference of the positions.
The pairs are (0, 1), (2, 3), ...: Mistral's native layout. Hugging Face files pair (j, j + D/2) instead, with the rows
of wq and wk permuted to match; `minimistral.checkpoint` undoes that on the way in.
"""

import torch
from torch import Tensor


def frequencies(head_dim: int, theta: float, device=None) -> Tensor:
    """Angle per position of each pair, (D/2,) float32: theta^(-2j/D), from 1 radian down to nearly 1/theta."""
    return theta ** -(torch.arange(0, head_dim, 2, device=device).float() / head_dim)


def angles(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (..., D/2) float32, for integer positions of any shape (...).

    Always float32: in bfloat16 the positions 15,999 and 16,000 are the same number.
    """
    turn = positions.unsqueeze(-1).float() * frequencies(head_dim, theta, positions.device)
    return turn.cos(), turn.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (0, 1), (2, 3), ... of x (..., D) by the angles (..., D/2). Same shape and dtype as x."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
