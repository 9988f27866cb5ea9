"""Two small models for chapter 14 that differ in one thing: the window of their training. `python -m minimistral.tiny.twins`

Both have the same sizes and the same first weights, and read the same stories in the same order, in rows of 256 tokens; one with
a window of 32 in all layers, one without. They come with the package, with the tiny model's vocabulary.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from minimistral import load_tiny
from minimistral.checkpoint import load, save
from minimistral.config import MistralConfig
from minimistral.files import write
from minimistral.model import Mistral
from minimistral.tiny.train import held_out_loss, in_batches
from minimistral.tokenizer import Tokenizer
from minimistral.train import fit, new_model

FOLDER = Path(__file__).parent / "twin_models"
WINDOWS = (32, None)
CONFIG = MistralConfig(dim=64, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=16, hidden_dim=192, vocab_size=2048)


def twin(window: int | None) -> Mistral:
    """The twin that was trained with this window, in float32; it reads the ids of load_tiny()'s tokenizer."""
    if window not in WINDOWS:
        raise ValueError(f"window is {window!r}: the twins were trained with {' and '.join(map(str, WINDOWS))}.")
    return load(FOLDER / f"window-{window}", device="cpu", dtype=torch.float32)[0]


def train(window: int | None, tokenizer: Tokenizer, seed: int, steps: int, progress: bool = True) -> tuple[Mistral, dict]:
    """-> a model trained with this window, and what is to be known of it."""
    model = new_model(replace(CONFIG, sliding_window=window), seed)
    log = fit(model, in_batches(tokenizer, 256, 16, seed), steps=steps, lr=4e-3, progress=progress)
    minutes = round(log.seconds / 60, 1)
    return model, {"seed": seed, "steps": steps, "tokens": log.tokens, "minutes": minutes, "torch": torch.__version__}


def main(arguments=None):
    """Train both twins and write them with their records; --out, --seed and --steps say where, from what and how long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=700)
    options = parser.parse_args(arguments)
    tokenizer = load_tiny()[1]
    for window in WINDOWS:
        model, record = train(window, tokenizer, options.seed, options.steps)
        folder = options.out / f"window-{window}"
        save(model.to(torch.bfloat16), folder)
        record["held_out_loss"] = round(held_out_loss(model.float(), tokenizer), 4)
        write(folder / "training.json", (json.dumps(record, indent=1) + "\n").encode())
        print(f"window {window}: held-out loss {record['held_out_loss']} nats a token")


if __name__ == "__main__":
    main()
