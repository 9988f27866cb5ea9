"""What several test files need: small random models, and every way to cut a sequence into chunks."""

import random

import torch

import minimistral as mm

#: 6 query heads on 2 key heads, and heads whose sizes do not add up to dim: nothing that differs happens to be equal
SMALL = dict(dim=20, n_layers=2, n_heads=6, n_kv_heads=2, head_dim=4, hidden_dim=24, vocab_size=40, rope_theta=100.0)


def small_config(window=None, **changes):
    return mm.MistralConfig(**(SMALL | dict(sliding_window=window) | changes))


def small_model(window=None, seed=0, **changes):
    """A model with weights large enough that a wrong key, order or angle shows in every logit."""
    return spread(mm.Mistral(small_config(window, **changes)), seed).requires_grad_(False).eval()


@torch.no_grad()
def spread(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model


def random_ids(*shape, vocab_size=SMALL["vocab_size"], seed=0):
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def compositions(total):
    """Every way to cut `total` tokens into chunks: (3,) (1, 2) (2, 1) (1, 1, 1) for 3."""
    yield (total,)
    for first in range(1, total):
        yield from ((first, *rest) for rest in compositions(total - first))


def random_split(total, seed):
    """One random way to cut `total` tokens into chunks of 1 to 7."""
    pick, sizes = random.Random(seed), []
    while sum(sizes) < total:
        sizes.append(min(pick.randint(1, 7), total - sum(sizes)))
    return sizes


@torch.no_grad()
def fed_in_chunks(model, tokens, sizes, cache):
    """Logits of the whole, fed to the cache in chunks of these sizes."""
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    return torch.cat([model(tokens[:, a : a + n], cache=cache) for a, n in zip(starts, sizes, strict=True)], dim=1)


def largest_difference(a, b):
    return (a - b).abs().max().item()
