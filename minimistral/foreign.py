"""Somebody else's cache on trial: transformers' own, through the lattice of chapter 06.

    lattice.run(foreign.cells(), foreign.transformers("dynamic"))

Adapters are short. A subject is called with our model, a kind and chunks of (tokens, lengths), and returns each chunk's logits;
whose model and whose cache works inside is its own affair.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import torch

from minimistral import lattice
from minimistral.checkpoint import hf_name, to_half_split, turned_heads
from minimistral.model import Mistral
from minimistral.writing import hf_config

KINDS = ("dynamic", "static")


def cells(windows=(1, 2, 3, 5, 8), every: int = 6, some: int = 6) -> list[lattice.Cell]:
    """The lattice's cells that transformers' caches can be asked: a ring, one sequence. (Its ragged batches pad on the left.)"""
    return lattice.cells(windows=windows, kinds=("ring",), heads=[(4, 2)], ragged=[False], every=every, some=some)


def transformers(kind: str = "dynamic") -> Callable:
    """A subject for lattice.run(): transformers' Mistral with our weights, and its cache of this kind, "dynamic" or "static"."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected 'dynamic' or 'static'.")

    @torch.no_grad()
    def subject(model: Mistral, _, chunks: list[lattice.Chunk]) -> list[torch.Tensor]:
        from transformers import DynamicCache, StaticCache

        theirs, T = _kept(model), sum(tokens.shape[1] for tokens, _ in chunks)
        cache = DynamicCache(config=theirs.config) if kind == "dynamic" else StaticCache(config=theirs.config, max_cache_len=T)
        return [theirs(tokens, past_key_values=cache, use_cache=True).logits for tokens, _ in chunks]

    return subject


def twin(model: Mistral, attention: str = "sdpa"):
    """transformers' Mistral with the weights of ours: wq and wk are copies, all else is the same memory. ImportError without it.

    attention  which of its implementations: "sdpa", its own choice, or "eager"
    """
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(**hf_config(model.config, "float32"), attn_implementation=attention)
    with torch.device("meta"):
        theirs = MistralForCausalLM(config)
    weights = {}
    for name, tensor in model.state_dict().items():
        heads = turned_heads(name, model.config)
        weights[hf_name(name)] = to_half_split(tensor, heads) if heads else tensor
    theirs.load_state_dict(weights, assign=True)
    with torch.device(model.output.weight.device):  # its frequencies are no weights: made anew
        theirs.model.rotary_emb = type(theirs.model.rotary_emb)(config)
    return theirs.requires_grad_(False).eval()


_kept = lru_cache(maxsize=16)(partial(twin, attention="eager"))
