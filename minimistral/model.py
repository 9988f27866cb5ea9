"""Mistral, top to bottom: attention, feed-forward, block, stack (arXiv:2310.06825; parameter names as in its released files).

Letters: B batch, T positions, H query heads, Hkv key heads, D head size, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minimistral import rope
from minimistral.attention import attend, attend_masked
from minimistral.cache import RollingBuffer, Step
from minimistral.config import MistralConfig


class RMSNorm(nn.Module):
    """Bring each vector to a root mean square of 1, in float32, cast back, then weigh its coordinates."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., dim) -> the same shape and dtype."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight


class Attention(nn.Module):
    """Project to heads, turn queries and keys by their positions, attend, project back."""

    def __init__(self, config: MistralConfig, layer: int = 0):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.window = config.windows[layer]
        self.wq = nn.Linear(config.dim, config.n_heads * config.head_dim, bias=False)
        self.wk = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wv = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wo = nn.Linear(config.n_heads * config.head_dim, config.dim, bias=False)

    def project(self, x: Tensor, turn: tuple) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, dim) -> q (B, H, T, D), k and v (B, Hkv, T, D), q and k already turned by their positions."""
        def heads(flat):  # (B, T, heads * D) -> (B, heads, T, D)
            return flat.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        turned = rope.rotate(heads(torch.cat((self.wq(x), self.wk(x)), dim=-1)), *turn)  # both alike, so both at once
        q, k = turned.split((self.n_heads, self.n_kv_heads), dim=1)
        return q, k, heads(self.wv(x))

    def forward(self, x: Tensor, turn: tuple, cache: RollingBuffer | None, layer: int, step: Step | None) -> Tensor:
        """x (B, T, dim) -> (B, T, dim). turn: rope.angles() of its positions; layer and step: as the cache wants them."""
        q, k, v = self.project(x, turn)
        if cache is not None and step is not None:
            k, v = cache.exchange(layer, k, v, step)
        if step is None or step.mask is None and k.shape[2] == q.shape[2]:
            mixed = attend(q, k, v, self.window)
        else:
            mixed = attend_masked(q, k, v, step.mask)
        return self.wo(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: MistralConfig):
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.hidden_dim, bias=False)
        self.w2 = nn.Linear(config.hidden_dim, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., dim) -> (..., dim), through hidden_dim numbers for each vector."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Look around, then think: each adds its result to the residual stream."""

    def __init__(self, config: MistralConfig, layer: int = 0):
        super().__init__()
        self.attention = Attention(config, layer)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, turn: tuple, cache: RollingBuffer | None, layer: int, step: Step | None) -> Tensor:
        """x (B, T, dim) -> (B, T, dim). The rest is for Attention."""
        x = x + self.attention(self.attention_norm(x), turn, cache, layer, step)
        return x + self.feed_forward(self.ffn_norm(x))


class Mistral(nn.Module):
    """The whole model. Call it with token ids; it answers with logits.

    >>> config = MistralConfig(dim=8, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=2, hidden_dim=16, vocab_size=32)
    >>> Mistral(config)(torch.tensor([[1, 5, 3]])).shape
    torch.Size([1, 3, 32])
    """

    def __init__(self, config: MistralConfig):
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor, cache: RollingBuffer | None = None, lengths: Tensor | None = None,
                last_only: bool = False) -> Tensor:
        """tokens (B, T) int64 -> logits (B, T, V) float32; with last_only (B, 1, V), each row's last real position.

        lengths  (B,): rows are right-padded to T, and this says how much of each is real; logits past it are undefined.
                 With a cache a row may have length 0 (it sits this chunk out); its logits are undefined then.
        cache    continues each row where the cache stands, for a chunk of any length.
        Raises ValueError, before anything is computed or stored, for ids, shapes or a cache that do not fit.
        """
        return self.unchecked(tokens, cache, self._checked(tokens, cache, lengths), last_only)

    def unchecked(self, tokens: Tensor, cache: RollingBuffer | None, lengths: Tensor, last_only: bool = False) -> Tensor:
        """forward() for what is known to fit, with lengths given: nothing in it waits for the device to answer."""
        T = tokens.shape[1]
        if cache is None:
            step, at = None, torch.arange(T, device=tokens.device)
        else:
            step = cache.begin(T, lengths)
            at = step.positions[:, None]  # (B, 1, T): the same for every head
        turn = rope.angles(at, self.config.head_dim, self.config.rope_theta)
        x = self.tok_embeddings(tokens)
        for layer, block in enumerate(self.layers):
            x = block(x, turn, cache, layer, step)
        if last_only:
            rows = torch.arange(len(tokens), device=tokens.device)
            x = x[rows, (lengths - 1).clamp(min=0)][:, None]
        logits = self.output(self.norm(x)).float()
        if cache is not None and step is not None:
            cache.finish(step)  # last: after a call that gave no logits the chunk is open, and cannot be fed twice unnoticed
        return logits

    def n_parameters(self) -> int:
        """How many numbers are learned, all matrices and norms together."""
        return sum(p.numel() for p in self.parameters())

    def _checked(self, tokens, cache, lengths) -> Tensor:
        """Refuse what cannot be computed; return lengths as a tensor."""
        if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64:
            kind = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
            raise ValueError(f"tokens is {kind}; expected an int64 tensor of ids, as torch.tensor([[1, 22557]]) makes.")
        if tokens.ndim != 2 or tokens.numel() == 0:
            raise ValueError(f"tokens has shape {tuple(tokens.shape)}; expected (batch, positions), at least 1 by 1.")
        B, T = tokens.shape
        V = self.config.vocab_size
        low, high = (x.item() for x in tokens.aminmax())
        if low < 0 or high >= V:
            raise ValueError(f"tokens holds the id {low if low < 0 else high}; this model's ids are 0 to {V - 1}.")
        if lengths is None:
            lengths = torch.full((B,), T, device=tokens.device)
        else:
            lengths = torch.as_tensor(lengths, device=tokens.device)
            least = 0 if cache is not None else 1
            whole = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
            if lengths.shape != (B,) or not whole or lengths.min() < least or lengths.max() > T:
                raise ValueError(
                    f"lengths is {lengths.tolist()}; expected {B} whole numbers from {least} to {T}, one for each row."
                )
            lengths = lengths.long()  # the cache subtracts from it: a narrow type would wrap
        if cache is not None:
            weight = self.output.weight
            if cache.config != self.config:
                raise ValueError(f"The cache was made for {cache.config}; this model is {self.config}.")
            if cache.batch_size != B:
                raise ValueError(f"The cache holds {cache.batch_size} rows and tokens has {B}: make a cache for {B}.")
            if cache.keys.dtype != weight.dtype or cache.keys.device != weight.device:
                raise ValueError(
                    f"The cache is {cache.keys.dtype} on {cache.keys.device}, the model {weight.dtype} on {weight.device}: "
                    "make the cache with the model's dtype= and device=."
                )
        return lengths
