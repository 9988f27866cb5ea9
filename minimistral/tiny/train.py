"""How the tiny model that comes with the package was made: `python -m minimistral.tiny.train`.

Its text is what stories.py generates; its vocabulary is SentencePiece BPE with byte fallback, learned from the same text.
Everything is seeded. One epoch never repeats a story, so the loss on the training text is as honest as on held-out text.
"""

import argparse
import io
import json
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F

from minimistral.checkpoint import save, write
from minimistral.config import MistralConfig
from minimistral.model import Mistral
from minimistral.tiny import stories
from minimistral.tokenizer import Tokenizer

FOLDER = Path(__file__).parent / "model"
CONFIG = MistralConfig(
    dim=128, n_layers=6, n_heads=8, n_kv_heads=2, head_dim=16, hidden_dim=448, vocab_size=2048, sliding_window=64
)
HELD_OUT = 10**9  # seeds from here on are never trained on


def train_vocabulary(folder: Path, vocab_size: int, n_stories: int = 20_000, seed: int = 0) -> Tokenizer:
    """Learn a BPE vocabulary with byte fallback from fresh stories and write folder/tokenizer.model."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=stories.corpus(n_stories, seed),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        character_coverage=1.0,
        hard_vocab_limit=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
        required_chars="".join(map(chr, range(33, 127))),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "tokenizer.model", model.getvalue())
    return Tokenizer(folder / "tokenizer.model")


def rows(tokenizer: Tokenizer, T: int, seed: int) -> Iterator[list[int]]:
    """Endless training rows of T + 1 ids: each begins with a story's bos and is filled with the stories after it."""
    row: list[int] = []
    while True:
        for text in stories.corpus(256, seed):
            row += tokenizer.encode(text, bos=True, eos=True)
            if len(row) > T:
                yield row[: T + 1]
                row = []
        seed += 1


def train(config: MistralConfig, tokenizer: Tokenizer, *, steps: int, batch: int, T: int, lr: float, seed: int,
          log: list) -> Mistral:
    """Next-token loss, AdamW, a short warm-up and a cosine down to a tenth, gradients clipped at 1."""
    from tqdm.auto import tqdm

    torch.manual_seed(seed)
    model = Mistral(config)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            torch.nn.init.normal_(p, std=0.02)
        if name.endswith(("wo.weight", "w2.weight")):  # what is added to the residual stream, layer after layer
            torch.nn.init.normal_(p, std=0.02 / (2 * config.n_layers) ** 0.5)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.95)
    )
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, total_iters=min(100, steps))
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - 100), eta_min=lr / 10)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, fall], [min(100, steps)])
    source = rows(tokenizer, T, seed)
    with tqdm(range(steps), unit="step") as bar:
        for step in bar:
            ids = torch.tensor(list(islice(source, batch)))
            loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if step % 10 == 0 or step == steps - 1:
                log.append((step, round(loss.item(), 4)))
                bar.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()


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
            before = tokenizer.encode(fact.prompt, bos=True)
            whole = tokenizer.encode(f"{fact.prompt} {fact.answer}", bos=True)
            words = fact.prompt.split()
            gap = len(tokenizer.encode(" ".join(words[len(words) - fact.distance :])))
            likeliest = model(torch.tensor([whole]))[0, len(before) - 1 : -1].argmax(-1).tolist()
            tally = found.setdefault(f"{gap // 16 * 16}-{gap // 16 * 16 + 15}", [0, 0])
            tally[0] += likeliest == whole[len(before) :]
            tally[1] += 1
    return dict(sorted(found.items(), key=lambda item: int(item[0].split("-")[0])))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=16, help="rows a step")
    parser.add_argument("--length", type=int, default=256, help="tokens a row")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    tokenizer = train_vocabulary(options.out, CONFIG.vocab_size)
    log: list = []
    began = time.time()
    model = train(CONFIG, tokenizer, steps=options.steps, batch=options.batch, T=options.length, lr=options.lr,
                  seed=options.seed, log=log)
    minutes = (time.time() - began) / 60
    model = model.to(torch.bfloat16)
    save(model, options.out)
    model = model.float()  # what is measured is what was saved
    record = {
        "steps": options.steps, "rows_a_step": options.batch, "tokens_a_row": options.length, "lr": options.lr,
        "seed": options.seed, "minutes": round(minutes, 1), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "held_out_loss": round(held_out_loss(model, tokenizer), 4), "recall": recall(model, tokenizer), "loss": log,
    }  # fmt: skip
    write(options.out / "training.json", (json.dumps(record) + "\n").encode())
    print({name: value for name, value in record.items() if name != "loss"})


if __name__ == "__main__":
    main()
