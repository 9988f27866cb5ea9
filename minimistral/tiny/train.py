"""How the tiny model that comes with the package was made: `python -m minimistral.tiny.train`.

Its text is what stories.py generates; its vocabulary is SentencePiece BPE with byte fallback, learned from the same text.
Everything is seeded, and no story is seen twice. It goes in five stages (looks.py says what drills and looks are):

    drills   sentences in which any word has any other; the model is shown where to look
    shown    whole stories, with some drills among them; it is shown where to look
    turned   the same, where half of the drills' sentences tell a thing before its owner
    stories  whole stories, and nothing is shown any more
    last     the same, slower, and what a fact decides counts more

In a whole story only 2 or 3 tokens of 140 depend on a fact, and the fact is one sentence among fifteen. That is too faint to
learn from in an hour, unless one is shown where to look.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import trange

from minimistral.checkpoint import save
from minimistral.config import MistralConfig
from minimistral.files import write
from minimistral.model import Mistral
from minimistral.progress import Log
from minimistral.tiny import looks, stories
from minimistral.tokenizer import Tokenizer
from minimistral.train import adamw, learn_vocabulary, new_model, rise_and_fall

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


def in_batches(tokenizer: Tokenizer, T: int, batch: int, seed: int, weight: float = 1) -> Callable:
    """What train.fit() wants: step -> (ids, weights) of stories, (batch, T + 1) each, the same for the same step."""

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = list(islice(looks.story_rows(tokenizer, T, f"{seed}/{step}", weight), batch))
        return torch.tensor([row.ids for row in rows]), torch.tensor([row.weights for row in rows])

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
    """How often the model names what its story told: by how many tokens back the word was told, {"0-15": [right, of]}.

    A recall is right if every token of the answer is the likeliest one after the tokens before it.
    """
    found: dict[str, list[int]] = {}
    for n in range(n_stories):
        story = stories.story(random.Random(HELD_OUT + n), distance)
        for fact in story.recalls:
            whole = tokenizer.encode(f"{fact.prompt} {fact.answer}", bos=True)
            answer = looks.answer_span(tokenizer, fact.prompt, fact.answer)
            told = looks.ends(fact, fact.answer, *looks.fact_span(fact))[-1]
            gap = answer.start - len(tokenizer.encode(fact.prompt[:told], bos=True)) + 1
            likeliest = model(torch.tensor([whole]))[0, answer.start - 1 : -1].argmax(-1).tolist()
            tally = found.setdefault(f"{gap // 16 * 16}-{gap // 16 * 16 + 15}", [0, 0])
            tally[0] += likeliest == whole[answer.start :]
            tally[1] += 1
    return dict(sorted(found.items(), key=lambda item: int(item[0].split("-")[0])))


@dataclass(frozen=True)
class Stage:
    """One part of the training: what its batches hold, how many there are, how fast it learns, and what counts."""

    name: str
    steps: int
    lr: float
    stories: int  # rows of a batch
    drills: int
    looks: float  # how much the looks count in the loss; 0 shows none
    weight: float  # of a token that a fact decides; others count 1
    turned: float = 0  # the share of a drill's sentences that tell a thing before its owner
    length: int = 192  # tokens a row


STAGES = (
    Stage("drills", 400, 1e-3, stories=0, drills=16, looks=1, weight=20),
    Stage("shown", 2600, 1.5e-3, stories=12, drills=4, looks=1, weight=20),
    Stage("turned", 1700, 1.3e-3, stories=12, drills=4, looks=1, weight=20, turned=0.5),
    Stage("stories", 800, 8e-4, stories=16, drills=0, looks=0, weight=10),
    Stage("last", 500, 5e-4, stories=16, drills=0, looks=0, weight=30),
)


def born(config: MistralConfig, seed: int) -> Mistral:
    """A new model that can still tell its words apart in the layers that are shown where to look.

    Embeddings are of size 1, so that what a layer adds does not drown them. Heads that find are born comparing (queries made as
    keys are), and heads that are shown something born repeating (what is read is written as it was read), after Trockman and
    Kolter, "Mimetic initialization of self-attention layers" (2023).
    """
    model = new_model(config, seed)
    for name, p in model.named_parameters():
        if p.ndim == 2 and not name.startswith("output"):
            added = name.endswith(("wo.weight", "w2.weight"))
            size = 1.0 if name.startswith("tok_embeddings") else p.shape[1] ** -0.5
            nn.init.normal_(p, std=size / (2 * config.n_layers) ** 0.5 if added else size)
    D = config.head_dim
    with torch.no_grad():
        model.output.weight.copy_(0.02 * model.tok_embeddings.weight)
        for kind, layer in looks.LAYERS.items():
            attention = model.layers[layer].attention
            for head in looks.HEADS:
                mine, shared = slice(head * D, (head + 1) * D), slice(head // config.group * D, (head // config.group + 1) * D)
                if kind == "found":
                    attention.wq.weight[mine] = attention.wk.weight[shared]
                attention.wo.weight[:, mine] = 2 * attention.wv.weight[shared].T
    return model


def rows_of(stage: Stage, tokenizer: Tokenizer, seed: str) -> list[looks.Row]:
    """The rows of one step. A drill has many answers: each counts a fifth of a story's."""
    told = looks.story_rows(tokenizer, stage.length, seed, stage.weight)
    drilled = looks.drill_rows(tokenizer, stage.length, seed, stage.weight / 5, stage.turned)
    return [*islice(told, stage.stories), *islice(drilled, stage.drills)]


def learn(model: Mistral, tokenizer: Tokenizer, stage: Stage, seed: int) -> Log:
    """Train a model in place through one stage; -> the losses of its tokens, looks not counted."""
    window, log, start = model.config.sliding_window, Log(), time.perf_counter()
    optimizer = adamw(model.requires_grad_(True), stage.lr, betas=(0.9, 0.98), weight_decay=0.1)
    schedule = rise_and_fall(optimizer, stage.steps, warmup=50, final=0.1)
    for step in (bar := trange(stage.steps, desc=stage.name)):
        ids, weights, places = looks.batch(rows_of(stage, tokenizer, f"{seed}/{step}"), window)
        logits, kept = looks.read(model, ids[:, :-1])
        each, counts = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none"), weights[:, 1:]
        loss = (each * counts).sum() / counts.sum()
        shown = stage.looks * looks.look_loss(kept, places, window) if stage.looks else torch.zeros(())
        (loss + shown).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        log.steps.append(step)
        log.losses.append(loss.item())
        bar.set_postfix_str(f"loss {log.recent():.3f}, looks {shown.item():.2f}", refresh=False)
    model.requires_grad_(False)
    log.seconds = time.perf_counter() - start
    return log


def main(arguments=None):
    """Make vocabulary and model, and write them with their record; --out and --seed say where and from what.

    A vocabulary that lies there already stays: the twins read its ids too.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    kept = options.out / "tokenizer.model"
    tokenizer = Tokenizer(kept) if kept.exists() else train_vocabulary(options.out, CONFIG.vocab_size)
    model, record = born(CONFIG, options.seed), {"seed": options.seed, "torch": torch.__version__, "stages": []}
    for n, stage in enumerate(STAGES):
        log = learn(model, tokenizer, stage, seed=1000 * options.seed + n)
        tens = [(step, round(sum(log.losses[step - 10 : step]) / 10, 3)) for step in range(10, stage.steps + 1, 10)]
        record["stages"].append(asdict(stage) | {"minutes": round(log.seconds / 60, 1), "loss": tens})
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
