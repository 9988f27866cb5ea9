"""The cliff: one fact, random filler, and a stack of windows that has to look back for it.

    and ant so it was then and ? ant      a row of 8 tokens; an animal is told once, "?" asks for it
        ^--- distance 6 ---^              6 tokens from the fact to the question

The filler is drawn at random and the animal too, so that nothing else in the row says which one it was: a model that cannot
see the fact is right one time in 16. In each layer a position sees W - 1 places back, so L layers reach L (W - 1) places and
not one more; whether training finds a way to use all of them is what this measures.
"""

from math import ceil

import torch
from torch import Tensor

from minimistral.config import MistralConfig, Window
from minimistral.model import Mistral

ANIMALS = "ant bat cat dog elk fox gnu hen ibis jay kiwi lynx mole newt owl pig".split()
FILLER = "and it was so then as ever after".split()
WORDS = [*ANIMALS, "?", *FILLER]
ASK = len(ANIMALS)
CHANCE = 1 / len(ANIMALS)
HELD_OUT = 10**9  # seeds from here on are never trained on


def exact_reach(config: MistralConfig) -> int | None:
    """How many tokens back a position can know of at all: L (W - 1), or the sum of each layer's W - 1. None: everything before
    it, for a layer without a window sees all, and what stands there is handed on.

    >>> from minimistral.reach import cliff
    >>> cliff.exact_reach(cliff.config(n_layers=2, window=16))
    30
    """
    return None if None in config.windows else sum(W - 1 for W in config.windows if W)


def narrow(window: Window) -> Window:
    """The largest window of a list of them, None counting nothing; a single window as it is."""
    return max(filter(None, window), default=None) if isinstance(window, tuple) else window


def config(n_layers: int, window: Window, dim: int = 64) -> MistralConfig:
    """The small model of this experiment: 25 words, 4 query heads on 2 key heads."""
    return MistralConfig(dim=dim, n_layers=n_layers, n_heads=4, n_kv_heads=2, head_dim=dim // 4, hidden_dim=2 * dim,
                         vocab_size=len(WORDS), sliding_window=window)


def facts(seed: int, n: int, longest: int, distance: int | None = None) -> tuple[Tensor, Tensor]:
    """n rows with one fact each: -> ids and weights, both (n, longest + 2).

    A row ends with "?" and the answer, and only the answer counts (weight 1). The fact stands `distance` tokens before the
    "?"; where that is None, each row has its own, drawn from 1 to `longest`. The same seed gives the same rows; rows that
    differ only in `distance` have the same filler and answers.
    """
    if longest < 1 or (distance is not None and not 1 <= distance <= longest):
        raise ValueError(f"distance is {distance} and longest {longest}; expected a distance from 1 to longest (None: draw it).")
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(ASK + 1, len(WORDS), (n, longest + 2), generator=generator)
    answers = torch.randint(len(ANIMALS), (n,), generator=generator)
    back = torch.randint(1, longest + 1, (n,), generator=generator) if distance is None else torch.full((n,), distance)
    ids[torch.arange(n), longest - back] = answers
    ids[:, longest], ids[:, -1] = ASK, answers
    weights = torch.zeros(ids.shape)
    weights[:, -1] = 1
    return ids, weights


def words(ids) -> str:
    """A row of ids as text."""
    return " ".join(WORDS[i] for i in ids)


def growing(n_layers: int, window: Window, steps: int, batch: int = 32, seed: int = 0, farthest: int | None = None):
    """Rows for train.fit, step -> (ids, weights): distances up to W at first, up to `farthest` after half the steps.

    farthest: a third beyond L (W - 1), where it is not given, so that what cannot be learned is asked for as well.
    """
    end = farthest or beyond(n_layers, window)
    start = min(narrow(window) or 4, end)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        share = min(1.0, 2 * step / steps)
        return facts(seed * 1_000_000 + step, batch, round(start + (end - start) * share))

    return batches


def beyond(n_layers: int, window: Window) -> int:
    """The farthest distance asked for in training: a third beyond L (W - 1), and at least 4. Of a list, W is the largest."""
    reach = n_layers * (narrow(window) - 1)
    return reach + max(4, ceil(reach / 3))


def settings(n_layers: int, window: Window) -> dict:
    """Steps and learning rate for train(): 10 steps a token of reach, and more from W = 17 on, where neighbours are harder to
    tell apart (with 500 or 820 steps, 2 layers of W = 32 recall the last tokens of their reach less than surely)."""
    step = narrow(window) - 1
    return dict(steps=200 + n_layers * step * max(10, 2 * step // 3), lr=3e-3)


def train(n_layers: int, window: Window, seed: int = 0, *, steps: int | None = None, seconds: float | None = None,
          batch: int = 32, dim: int = 64, watch=None, progress: bool = True, **options) -> Mistral:
    """Teach a new model to look back: -> the trained Mistral. One or two layers at W = 16 take under half a minute on one core.

    steps    None: settings(). seconds: stop after so many, if that is sooner.
    watch    called with train.fit's Log as it goes on; other options (lr, ...) go to train.fit.
    window   one for all layers, or a tuple with one for each, (16, None, 16, 16) say
    Raises ValueError for a window below 2 (it sees nothing but itself) or numbers that describe no model.
    """
    from minimistral.train import fit, new_model

    shape = config(n_layers, window, dim)
    if (narrow(window) or 0) < 2:
        raise ValueError(f"window is {window}: the cliff needs a window of at least 2 (1 sees only itself, None has no cliff).")
    chosen = settings(n_layers, window) | ({"steps": steps} if steps else {}) | {"warmup": 50} | options
    model = new_model(shape, seed)
    fit(model, growing(n_layers, window, chosen["steps"], batch, seed), seconds=seconds, watch=watch, progress=progress, **chosen)
    return model


@torch.no_grad()
def curve(model: Mistral, distances, n: int = 256, seed: int = HELD_OUT) -> dict[int, float]:
    """Recall against distance: {d: share of n rows in which the right animal is the likeliest word}.

    All rows are equally long.
    """
    return {d: right / of for d, (right, of) in counts(model, distances, n, seed).items()}


@torch.no_grad()
def counts(model: Mistral, distances, n: int = 256, seed: int = HELD_OUT) -> dict[int, tuple[int, int]]:
    """curve() before the division: {d: (right, of)}."""
    distances = sorted(set(distances))
    if not distances:
        raise ValueError("distances is empty; give the distances to ask at, as range(1, 41).")
    found = {}
    for d in distances:
        ids, _ = facts(seed + d, n, distances[-1], d)  # other rows for each distance, or chance would err everywhere alike
        said = model(ids[:, :-1], last_only=True)[:, 0].argmax(-1)
        found[d] = (int((said == ids[:, -1]).sum()), n)
    return found


def first_forgotten(recall: dict[int, float], bound: float = 0.5) -> int | None:
    """The smallest distance asked at which recall is below the bound; None: it never is."""
    return min((d for d, share in recall.items() if share < bound), default=None)
