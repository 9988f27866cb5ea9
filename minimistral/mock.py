"""Folders laid out exactly as Mistral 7B's, name for name, with random weights: to try a loader without 13.5 GiB of download.

At full width such a folder is as large as the real one. narrow() keeps the layers, heads, names and vocabulary, and makes the
widths small.
"""

from dataclasses import replace
from pathlib import Path

import torch

from minimistral import counting
from minimistral.config import MistralConfig
from minimistral.model import Mistral
from minimistral.writing import write_folder

#: the released 7B's shapes by version: mock.write(folder, mock.CONFIGS["v0.1"]) writes 14,483,464,192 bytes of tensors
CONFIGS = counting.VERSIONS


def narrow(config: MistralConfig, by: int = 32) -> MistralConfig:
    """The same layers, heads and vocabulary, with every width divided: 32 makes the 7B's 14.5 GB some 30 MB."""
    if config.head_dim % (2 * by) or config.dim % by or config.hidden_dim % by:
        raise ValueError(f"by is {by}: it must divide {config.dim} and {config.hidden_dim}, and leave an even head size.")
    return replace(config, dim=config.dim // by, head_dim=config.head_dim // by, hidden_dim=config.hidden_dim // by)


def write(folder, config: MistralConfig, format: str = "hf", shards: int = 3, dtype: torch.dtype = torch.bfloat16, seed: int = 0,
          progress: bool = True):
    """Write such a folder, tensor by tensor. One seed is one model, in whichever format.

    format  "hf" (`shards` files with an index), "native" (one consolidated.safetensors) or "pth" (v0.1's consolidated.00.pth)

    The tokenizer of the release lies beside the weights where the vocabulary is a released one and mistral_common is installed.
    Says the bytes first (progress). Raises ValueError for settings that do not fit and for a disk without room.
    """
    with torch.device("meta"):
        tensors = {name: tensor.to(dtype) for name, tensor in Mistral(config).state_dict().items()}
    order = {name: n for n, name in enumerate(tensors)}

    def make(name):
        like = tensors[name]
        if name.endswith("norm.weight"):
            return torch.ones(like.shape, dtype=dtype)
        generator = torch.Generator().manual_seed(seed * len(order) + order[name])
        spread = like.shape[-1] ** -0.5  # outputs as large as inputs
        return torch.empty(like.shape, dtype=dtype).uniform_(-spread, spread, generator=generator)

    write_folder(Path(folder), config, tensors, format, shards if format == "hf" else 1, _tokenizer(config), make, progress)


def _tokenizer(config):
    from minimistral.tokenizer import Tokenizer

    version = {32_000: "v1", 32_768: "v3"}.get(config.vocab_size)
    try:
        return version and Tokenizer.from_version(version)
    except ImportError:
        return None
