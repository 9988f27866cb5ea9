"""The harder question: several facts, told in short sentences, compete for the same way back.

    Tom's cat sleeps . rain falls . Ann's fox plays . the wind sings . Tom's cat
          ^------------------------ distance 14 ---------------------------^

"Tom's" asks for the animal, which was told 14 tokens before. Two facts are alive, so whoever only remembers which animals
there are is right every other time. To do better, a model has to keep whose is which (to *bind* the two), and to carry it
along. With one fact alive there is nothing to bind, and this is the cliff again, in sentences.

All is drawn at random: people, animals, order, what the animals do, and what is said in between.
"""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from minimistral import rope
from minimistral.config import MistralConfig
from minimistral.model import Mistral
from minimistral.reach.cliff import ANIMALS, HELD_OUT, beyond

OWNERS = [f"{name}'s" for name in "Ann Ben Cem Dan Eva Fay Gus Ida Jon Kai Lea Max Nia Oli Pia Tom".split()]
DOES = "sleeps eats plays waits".split()
SAYINGS = [text.split() for text in ("rain falls .", "the wind sings .", "it is night .", "now the sun shines .")]
WORDS = [*OWNERS, *ANIMALS, *DOES, *dict.fromkeys(word for said in SAYINGS for word in said)]
ID = {word: n for n, word in enumerate(WORDS)}
FILLER = [[ID[word] for word in said] for said in SAYINGS]  # of 3, 4, 4 and 5 tokens: they fill any gap from 3 on
FACT = 4  # tokens of "Tom's cat sleeps ."
NEAREST = 3  # from an animal to the owner who begins the next sentence
ALIVE = (1, 2, 4, 8)
CHANCE = 1 / len(ANIMALS)


@dataclass(frozen=True)
class Question:
    """A story that ends with "Tom's"."""

    ids: list[int]
    answer: int
    told: list[int]  # the animals of all facts alive, the answer among them
    distance: int  # tokens from the end back to the answer


@dataclass(frozen=True)
class Answers:
    """How many of so many questions were answered rightly, and how many with an animal of any fact alive."""

    right: int
    told: int
    of: int


def config(n_layers: int, window: int | None, dim: int = 64) -> MistralConfig:
    """The small model of this experiment: 4 query heads on 2 key heads, and rotary angles for short distances."""
    return MistralConfig(dim=dim, n_layers=n_layers, n_heads=4, n_kv_heads=2, head_dim=dim // 4, hidden_dim=2 * dim,
                         vocab_size=len(WORDS), sliding_window=window, rope_theta=100.0)


# --- stories --------------------------------------------------------------------------------------------------------------


def fact(rng: random.Random, owner: int, animal: int) -> list[int]:
    """A fact as ids: Tom's cat sleeps ."""
    return [owner, animal, ID[rng.choice(DOES)], ID["."]]


def cast(rng: random.Random, alive: int) -> list[tuple[int, int]]:
    """So many owners, each with an animal of its own."""
    owners = rng.sample(range(len(OWNERS)), alive)
    return list(zip(owners, rng.sample(range(len(OWNERS), len(OWNERS) + len(ANIMALS)), alive), strict=True))


def filling(rng: random.Random, gap: int) -> list[list[int]]:
    """Sentences that tell nothing, of `gap` tokens together: 0, 3 or more."""
    said = []
    while gap:
        said.append(rng.choice([words for words in FILLER if gap - len(words) == 0 or gap - len(words) >= 3]))
        gap -= len(said[-1])
    return said


def question(rng: random.Random, distance: int, alive: int, length: int) -> Question:
    """A story of at least `length` tokens with `alive` facts, one of which is asked for, told `distance` tokens before.

    The others stand at random places among the sentences since then, or just before it: all are told within the last
    distance + 4 alive tokens or so. Each owner and each animal occurs in one fact only.
    """
    if distance not in possible([distance]):
        raise ValueError(f"distance is {distance}; expected {NEAREST} (told in the sentence before) or at least {NEAREST + 3}.")
    if not 1 <= alive <= len(OWNERS):
        raise ValueError(f"alive is {alive}; there are {len(OWNERS)} owners, so expected 1 to {len(OWNERS)} facts.")
    gap = distance - NEAREST
    (owner, animal), *others = pairs = cast(rng, alive)
    since = sum(rng.random() < gap / (gap + FACT * alive) for _ in others)  # how many of them are told after it
    while gap - FACT * since < 0 or gap - FACT * since in (1, 2):
        since -= 1
    after = [fact(rng, *pair) for pair in others[:since]] + filling(rng, gap - FACT * since)
    before = [fact(rng, *pair) for pair in others[since:]] + [rng.choice(FILLER)]
    rng.shuffle(after)
    rng.shuffle(before)
    ids = sum([*before, fact(rng, owner, animal), *after], []) + [owner]
    while len(ids) < length:
        ids = rng.choice(FILLER) + ids
    return Question(ids, animal, [told for _, told in pairs], distance)


def possible(distances) -> list[int]:
    """Those distances that sentences of 3 and more tokens can make."""
    return sorted({d for d in distances if d == NEAREST or d >= NEAREST + 3})


def story(rng: random.Random, length: int, alive: int, gap: float) -> tuple[list[int], list[float]]:
    """A row to learn from, `length` ids and their weights: facts are told again and again, with some `gap` tokens between
    them that tell nothing. Where a fact is told again, its animal can be known, and weighs 1; all else weighs 0."""
    pairs, ids, weights, known = cast(rng, alive), [], [], set()
    while len(ids) < length:
        pair = rng.choice(pairs)
        ids += fact(rng, *pair)
        weights += [0.0, float(pair in known), 0.0, 0.0]
        known.add(pair)
        left = 2 * gap * rng.random()
        while left > FACT * rng.random():
            said = rng.choice(FILLER)
            ids, weights, left = ids + said, weights + [0.0] * len(said), left - len(said)
    return ids[:length], weights[:length]


def words(ids) -> str:
    """Ids as text."""
    return " ".join(WORDS[i] for i in ids)


# --- training -------------------------------------------------------------------------------------------------------------


def growing(n_layers: int, window: int | None, steps: int, tokens: int = 1536, seed: int = 0):
    """Rows for train.fit, step -> (ids, weights), about `tokens` of them: facts without pause in the first third of the steps;
    then 1 to 8 facts farther and farther apart, until distances reach a third beyond L (W - 1)."""
    end = 80 if window is None else beyond(n_layers, window)
    longest = max(96, 2 * end)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        grown = min(1.0, max(0.0, (step / steps - 0.35) / 0.4))
        length = round(96 + grown * (longest - 96))
        rng, rows = random.Random(seed * 1_000_000 + step), []
        for _ in range(max(1, tokens // length)):
            alive = rng.choice(ALIVE if grown else (2, 3, 4, 6))
            far = end * grown * rng.random()
            rows.append(story(rng, length + 1, alive, max(0.0, far / alive - FACT)))
        ids, weights = (torch.tensor(part) for part in zip(*rows, strict=True))
        return ids, weights

    return batches


def settings(n_layers: int) -> dict:
    """Steps and learning rate for train()."""
    return dict(steps=500 if n_layers == 1 else 1100, lr=3e-3)


def train(n_layers: int, window: int | None, seed: int = 0, *, steps: int | None = None, dim: int = 64, born: bool = True,
          watch=None, progress: bool = True, **options) -> Mistral:
    """Teach a new model to answer: -> the trained Mistral. born: with head_start(). See settings() for the rest."""
    from minimistral.train import fit, new_model

    if window is not None and window < 4:
        raise ValueError(f"window is {window}; the nearest question of a story needs a window of at least 4.")
    chosen = settings(n_layers)
    steps, lr = steps or chosen["steps"], options.pop("lr", chosen["lr"])
    model = new_model(config(n_layers, window, dim), seed)
    if born:
        head_start(model)
    fit(model, growing(n_layers, window, steps, seed=seed), steps=steps, lr=lr, watch=watch, progress=progress,
        warmup=min(50, steps), **options)
    return model


@torch.no_grad()
def head_start(model: Mistral, strength: float = 6.0):
    """Give a new model one head that looks one token back, the first half of what binding takes; the rest it learns.

    Without it, two layers sit for a long time on the plateau where every animal of the story is as likely as any other. What
    is asked here is how far a stack can look, not how long it searches. All tokens get one coordinate in common; from it
    the first head of the first layer makes the same query and key everywhere, the key turned one position ahead.
    """
    a, c = model.layers[0].attention, model.config
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and name != "output.weight":
            share = c.n_layers if name.endswith(("wo.weight", "w2.weight")) else 1  # of what is added to the residual stream
            weight.normal_(0, 0.5 if name == "tok_embeddings.weight" else (weight.shape[1] * share) ** -0.5)
    model.tok_embeddings.weight[:, 0] = 1
    query = torch.zeros(c.head_dim)
    query[: min(6, c.head_dim) : 2] = strength**0.5  # in the three pairs that turn fastest
    key = rope.rotate(query, *rope.angles(torch.tensor(1), c.head_dim, c.rope_theta))
    for weight, pattern in ((a.wq.weight, query), (a.wk.weight, key)):
        weight[: c.head_dim] *= 0.1
        weight[: c.head_dim, 0] += pattern


# --- questions ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def grid(model: Mistral, distances, alive=ALIVE, n: int = 256, seed: int = HELD_OUT, tick=lambda: None) -> dict:
    """Ask n questions for each number of facts alive and each distance: {(alive, distance): Answers}. tick() after each.

    All stories are about equally long: as long as the farthest distance with the most facts needs.
    """
    length = max(distances) + FACT * max(alive) + 8
    found = {}
    for k in alive:
        for d in sorted(distances):
            rng = random.Random(f"{seed} {k} {d}")
            found[k, d] = answered(model, [question(rng, d, k, length) for _ in range(n)])
            tick()
    return found


@torch.no_grad()
def answered(model: Mistral, questions: list[Question]) -> Answers:
    """The likeliest next word of each story, compared with what was told."""
    lengths = torch.tensor([len(asked.ids) for asked in questions])
    ids = torch.zeros(len(questions), int(lengths.max()), dtype=torch.int64)
    for row, asked in zip(ids, questions, strict=True):
        row[: len(asked.ids)] = torch.tensor(asked.ids)
    said = model(ids, lengths=lengths, last_only=True)[:, 0].argmax(-1).tolist()
    right = sum(word == asked.answer for word, asked in zip(said, questions, strict=True))
    told = sum(word in asked.told for word, asked in zip(said, questions, strict=True))
    return Answers(right, told, len(questions))
