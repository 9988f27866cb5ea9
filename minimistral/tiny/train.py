"""How the tiny model that comes with the package was made: `python -m minimistral.tiny.train`.

Its text is what stories.py generates; its vocabulary is SentencePiece BPE with byte fallback, learned from the same text.
Everything is seeded, and no story is seen twice. It goes in three stages:

    language  whole stories, every token alike: it learns to write, and after 2,200 steps names 3 facts of 10 rightly
    facts     a fact and its question alone, "Tom put the key into the jar. Where is the key? It is in the", answers weighted
    stories   whole stories again, answers weighted

In a whole story only 2 or 3 tokens of 140 depend on a fact, and the fact is one sentence among fifteen. That is too faint to
learn from in half an hour; with the two alone in a row, looking back pays at once, and what was learned there carries over:
it then names about half of them, and guesses whose thing was whose.
"""

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F

from minimistral.checkpoint import save
from minimistral.config import MistralConfig
from minimistral.files import write
from minimistral.model import Mistral
from minimistral.tiny import stories
from minimistral.tokenizer import Tokenizer
from minimistral.train import fit, learn_vocabulary, new_model

FOLDER = Path(__file__).parent / "model"
CONFIG = MistralConfig(
    dim=128, n_layers=6, n_heads=8, n_kv_heads=2, head_dim=16, hidden_dim=448, vocab_size=2048, sliding_window=64
)
HELD_OUT = 10**9  # seeds from here on are never trained on


def train_vocabulary(folder: Path, vocab_size: int, n_stories: int = 20_000, seed: int = 0) -> Tokenizer:
    """Learn a BPE vocabulary with byte fallback from fresh stories and write folder/tokenizer.model."""
    return learn_vocabulary(
        stories.corpus(n_stories, seed), vocab_size, folder / "tokenizer.model",
        character_coverage=1.0, required_chars="".join(map(chr, range(33, 127))),
    )  # fmt: skip


def whole_stories(tokenizer: Tokenizer, T: int, seed: int | str, weight: float) -> Iterator[tuple[list, list]]:
    """Endless rows of T + 1 ids and their weights: each begins with a story's bos and is filled with the stories after it."""
    rng, ids, weights = random.Random(seed), [], []
    while True:
        story = stories.story(rng)
        new = tokenizer.encode(story.text, bos=True, eos=True)
        counts = [1.0] * len(new)
        for fact in story.recalls if weight != 1 else ():
            for n in answer_span(tokenizer, fact.prompt, fact.answer):
                counts[n] = weight
        ids, weights = ids + new, weights + counts
        if len(ids) > T:
            yield ids[: T + 1], weights[: T + 1]
            ids, weights = [], []


def facts_alone(tokenizer: Tokenizer, T: int, seed: int | str, weight: float) -> Iterator[tuple[list, list]]:
    """Endless rows of one fact, the last sentence or two before its answer, and the answer; padded with weight 0."""
    rng = random.Random(seed)
    while True:
        for fact in stories.story(rng).recalls:
            since = fact.prompt[fact.prompt.rfind(fact.fact) + len(fact.fact) :].strip()
            sentences = re.split(r'(?<=[.!?"]) (?=[A-Z"])', since)
            prompt = " ".join([fact.fact, *sentences[-rng.choice((1, 2)) :]])
            ids = tokenizer.encode(f"{prompt} {fact.answer}", bos=True)
            if len(ids) <= T + 1:
                weights = [1.0] * len(ids)
                for n in answer_span(tokenizer, prompt, fact.answer):
                    weights[n] = weight
                padding = T + 1 - len(ids)
                yield ids + [tokenizer.eos_id] * padding, weights + [0.0] * padding


def answer_span(tokenizer: Tokenizer, prompt: str, answer: str) -> range:
    """The places of an answer's tokens in the encoding of the text it stands in (with bos)."""
    before = len(tokenizer.encode(prompt, bos=True))
    return range(before, len(tokenizer.encode(f"{prompt} {answer}", bos=True)))


def in_batches(rows: Callable, tokenizer: Tokenizer, T: int, batch: int, seed: int, weight: float) -> Callable:
    """What train.fit() wants of one of the two above: step -> (ids, weights), (batch, T + 1) each, the same for the same step."""

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = islice(rows(tokenizer, T, f"{seed}/{step}", weight), batch)
        ids, weights = zip(*drawn, strict=True)
        return torch.tensor(ids), torch.tensor(weights)

    return batches


@torch.no_grad()
def held_out_loss(model: Mistral, tokenizer: Tokenizer, n_stories: int = 200) -> float:
    """Mean loss, in nats a token, over whole stories that were never trained on."""
    total = count = 0
    for text in stories.corpus(n_stories, HELD_OUT):
        ids = torch.tensor([tokenizer.encode(text, bos=True, eos=True)])
        total += F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    return total / count


@torch.no_grad()
def recall(model: Mistral, tokenizer: Tokenizer, n_stories: int = 300, distance: int | None = None) -> dict:
    """How often the model names what its story told: by the distance in tokens from fact to answer, {"0-15": [right, of]}.

    A recall is right if every token of the answer is the likeliest one after the tokens before it.
    """
    found: dict[str, list[int]] = {}
    for n in range(n_stories):
        story = stories.story(random.Random(HELD_OUT + n), distance)
        for fact in story.recalls:
            whole = tokenizer.encode(f"{fact.prompt} {fact.answer}", bos=True)
            answer = answer_span(tokenizer, fact.prompt, fact.answer)
            words = fact.prompt.split()
            gap = len(tokenizer.encode(" ".join(words[len(words) - fact.distance :])))
            likeliest = model(torch.tensor([whole]))[0, answer.start - 1 : -1].argmax(-1).tolist()
            tally = found.setdefault(f"{gap // 16 * 16}-{gap // 16 * 16 + 15}", [0, 0])
            tally[0] += likeliest == whole[answer.start :]
            tally[1] += 1
    return dict(sorted(found.items(), key=lambda item: int(item[0].split("-")[0])))


@dataclass(frozen=True)
class Stage:
    """One part of the training: what its rows are, how many, how fast it learns and how much the answers weigh."""

    name: str
    rows: Callable
    length: int  # tokens a row
    batch: int  # rows a step
    steps: int
    lr: float
    weight: float  # of a token that a fact decides; others count 1


STAGES = (
    Stage("language", whole_stories, 256, 16, 2200, 2.5e-3, 1),
    Stage("facts", facts_alone, 47, 64, 1750, 2e-3, 10),
    Stage("stories", whole_stories, 256, 16, 1050, 1.5e-3, 10),
)


def main(arguments=None):
    """Make vocabulary and model, and write them with their record; --out and --seed say where and from what."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    tokenizer = train_vocabulary(options.out, CONFIG.vocab_size)
    model, record = new_model(CONFIG, options.seed), {"seed": options.seed, "torch": torch.__version__, "stages": []}
    for n, stage in enumerate(STAGES):
        seed = 1000 * options.seed + n
        batches = in_batches(stage.rows, tokenizer, stage.length, stage.batch, seed, stage.weight)
        log = fit(model, batches, steps=stage.steps, lr=stage.lr)
        told = {name: value for name, value in asdict(stage).items() if name != "rows"}
        loss = [(step, round(value, 4)) for step, value in zip(log.steps, log.losses, strict=True) if step % 10 == 0]
        record["stages"].append(told | {"minutes": round(log.seconds / 60, 1), "loss": loss})
    finish(model, tokenizer, options.out, record)


def finish(model: Mistral, tokenizer: Tokenizer, out: Path, record: dict):
    """Save a model in bfloat16, measure what was saved, and write training.json beside it."""
    save(model.to(torch.bfloat16), out)
    model = model.float()
    record |= {"held_out_loss": round(held_out_loss(model, tokenizer), 4), "recall": recall(model, tokenizer)}
    write(out / "training.json", (json.dumps(record) + "\n").encode())
    print(f"held-out loss {record['held_out_loss']} nats a token; facts recalled, by distance in tokens:")
    for distance, (right, of) in record["recall"].items():
        print(f"{distance:>8}  {right / of:4.0%} of {of}")


if __name__ == "__main__":
    main()
