"""Showing a small model where to look while it learns.

In "Hana had to buy tea, and Sam had to buy fish. ... Hana asked for tea" three looks lead to the last word:

    owner  from "tea", where it is told, to "Hana": whose it is
    asked  from "for" to the "Hana" before it: whose is wanted
    found  from "for" to "tea", where it is told, which by then holds that it is Hana's

Left to itself, a model this small learns within an hour which two things a story told, and not whose is which: the third look
pays only once the first two are there, and they pay only with the third. So each kind has its heads, and the loss gets a second
part: -ln of the weight that these heads give to the key they should look at (as it were, next-key loss beside next-token loss).

Stories ask two or three times each. Drills ask in every sentence ("Rosa had plum. fox had Rosa. Rosa had plum."), any word of the
stories with any other. What they teach, to compare two words and to repeat one, the stories then only have to put to use. Where
what is wanted was told before its owner ("a plum for Rosa"), it is Rosa who holds the plum, and is looked for.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from minimistral import masks, rope
from minimistral.model import Mistral
from minimistral.tiny import stories
from minimistral.tokenizer import Tokenizer

#: kind of look -> the layer, counted from 0, that is shown it
LAYERS = {"owner": 1, "asked": 1, "found": 2}
#: its heads: one of each of the two key heads
HEADS = (0, 4)


@dataclass
class Row:
    """Ids, what each counts when it is predicted, and the looks: (kind, place it is from, place it is to)."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    looks: list[tuple[str, int, int]] = field(default_factory=list)

    def __add__(self, other: "Row") -> "Row":
        moved = [(kind, at + len(self.ids), to + len(self.ids)) for kind, at, to in other.looks]
        return Row(self.ids + other.ids, self.weights + other.weights, self.looks + moved)


# ---- Stories ---------------------------------------------------------------------------------------------


def answer_span(tokenizer: Tokenizer, prompt: str, answer: str) -> range:
    """The places of an answer's tokens in the encoding of the text it stands in (with bos)."""
    before = len(tokenizer.encode(prompt, bos=True))
    return range(before, len(tokenizer.encode(f"{prompt} {answer}", bos=True)))


def ends(recall: stories.Recall, word: str, start: int, stop: int) -> list[int]:
    """Where a word ends in recall.prompt[start:stop], each time that it stands there."""
    return [found.end() for found in re.compile(rf"\b{re.escape(word)}\b").finditer(recall.prompt, start, stop)]


def fact_span(recall: stories.Recall) -> tuple[int, int]:
    """From where to where in recall.prompt the fact is told."""
    told = recall.prompt.rfind(recall.fact)
    return told, told + len(recall.fact)


def links(recall: stories.Recall) -> tuple[list[tuple[int, int]], tuple[int, int] | None]:
    """Where the words that lead to an answer end, as places in recall.prompt.

    -> (later, earlier) for each word that the fact tells of together with the answer; and (asked, found): the word by which
    the answer is asked for, and the later one of it and the answer in the fact. None if nothing told names the answer.
    """
    told, end = fact_span(recall)
    owners, asked = [], []
    for word in recall.about:
        both = [(a, b) for a in ends(recall, recall.answer, told, end) for b in ends(recall, word, told, end)]
        if both:
            near = min(both, key=lambda pair: abs(pair[0] - pair[1]))
            owners.append((max(near), min(near)))
            asked += [(at, max(near)) for at in ends(recall, word, end, len(recall.prompt))[-1:]]
    return owners, max(asked, default=None)


def story_row(tokenizer: Tokenizer, story: stories.Story, weight: float) -> Row:
    """One story, from bos to eos; the tokens that a fact decides count `weight`, the others 1."""
    row = Row(tokenizer.encode(story.text, bos=True, eos=True))
    row.weights = [1.0] * len(row.ids)

    def place(end: int) -> int:  # of the token that ends there
        return len(tokenizer.encode(story.text[:end], bos=True)) - 1

    for recall in story.recalls:
        answer = answer_span(tokenizer, recall.prompt, recall.answer)
        for n in answer:
            row.weights[n] = weight
        owners, asking = links(recall)
        row.looks += [("owner", place(later), place(earlier)) for later, earlier in owners]
        if asking:
            row.looks += [(kind, answer.start - 1, place(end)) for kind, end in zip(("asked", "found"), asking, strict=True)]
    return row


def story_rows(tokenizer: Tokenizer, T: int, seed: int | str, weight: float) -> Iterator[Row]:
    """Endless rows of T + 1 ids: each begins with a story's bos and is filled with the stories after it."""
    rng = random.Random(seed)
    while True:
        row = Row()
        while len(row.ids) <= T:
            row += story_row(tokenizer, stories.story(rng), weight)
        yield Row(row.ids[: T + 1], row.weights[: T + 1], row.looks)


# ---- Drills ----------------------------------------------------------------------------------------------


def drill_rows(tokenizer: Tokenizer, T: int, seed: int | str, weight: float, turned: float = 0) -> Iterator[Row]:
    """Endless rows of T + 1 ids: who has what, of 2 to 8 words, told again and again in any order.

    What somebody has counts `weight` from the second time on, since then it can be known; "had" counts 1, all else nothing.
    turned  the share of sentences that tell it the other way round, "plum for Rosa": these ask nothing.
    """
    rng = random.Random(seed)
    words = sorted(stories.words())
    code = {word: tokenizer.encode(word) for word in (*words, "had", "for")}
    stop = tokenizer.encode("had.")[len(code["had"]) :]
    while True:
        n = rng.choice((2, 3, 4, 6, 8))
        chosen = rng.sample(words, 2 * n)
        row, told = Row([tokenizer.bos_id], [0.0]), {}
        while len(row.ids) <= T:
            k = rng.randrange(n)
            who, what = code[chosen[k]], code[chosen[n + k]]
            turn = turned > 0 and rng.random() < turned
            first, verb, last = (what, code["for"], who) if turn else (who, code["had"], what)
            at = len(first) + len(verb) - 1  # the places in the sentence: of the verb's end, and of the last word's
            end = at + len(last)
            looks, asks = [("owner", end, len(first) - 1)], not turn and k in told
            if not turn:
                looks.append(("asked", at, len(first) - 1))
            if asks:
                looks.append(("found", at, told[k] - len(row.ids)))
            told[k] = len(row.ids) + end
            counts = [0.0] * len(first) + [1.0] * len(verb) + [weight * asks] * len(last) + [0.0] * len(stop)
            row += Row(first + verb + last + stop, counts, looks)
        yield Row(row.ids[: T + 1], row.weights[: T + 1], row.looks)


# ---- Batches, and their loss -----------------------------------------------------------------------------


def batch(rows: list[Row], window: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Rows of T + 1 -> ids and weights (B, T + 1), and for each kind the looks (3, n): row, from, to.

    A look from outside the row, or farther than the window, is left out: nobody could follow it.
    """
    T = len(rows[0].ids) - 1
    looks: dict[str, list] = {kind: [] for kind in LAYERS}
    for b, row in enumerate(rows):
        for kind, at, to in row.looks:
            if at < T and at - to < window:
                looks[kind].append((b, at, to))
    places = {kind: torch.tensor(some, dtype=torch.int64).reshape(-1, 3).T for kind, some in looks.items()}
    return torch.tensor([row.ids for row in rows]), torch.tensor([row.weights for row in rows]), places


def read(model: Mistral, ids: Tensor) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
    """ids (B, T) -> the model's logits (B, T, V), and the queries and keys of the layers that are shown something."""
    turn = rope.angles(masks.positions(ids.shape[1], ids.device), model.config.head_dim, model.config.rope_theta)
    x, kept = model.tok_embeddings(ids), {}
    for layer, block in enumerate(model.layers):
        if layer in LAYERS.values():
            kept[layer] = block.attention.project(block.attention_norm(x), turn)[:2]
        x = block(x, turn, None, layer, None)
    return model.output(model.norm(x)), kept


def look_loss(kept: dict[int, tuple[Tensor, Tensor]], looks: dict[str, Tensor], window: int) -> Tensor:
    """-ln of the weight given to the right key, a mean over the looks of each kind, added up over kinds and heads."""
    total = torch.zeros(())
    for kind, (row, at, to) in looks.items():
        q, k = kept[LAYERS[kind]]
        unseen = ~masks.dense(at, masks.positions(k.shape[2]), window)  # (n, T)
        for head in HEADS if len(at) else ():
            scores = (k[row, head // (q.shape[1] // k.shape[1])] @ q[row, head, at].unsqueeze(-1))[..., 0] / q.shape[3] ** 0.5
            total = total + F.cross_entropy(scores.masked_fill(unseen, float("-inf")), to)
    return total
