"""What test_parallel.py has two processes do, started by torchrun: each compares its own answers with the whole model's.

python tests/two_ranks.py FOLDER: model folders are in it as native/ and hf/; rank N leaves what it found in FOLDER/N.json.
"""

import json
import os
import sys
from pathlib import Path

import torch
from helpers import fed_in_chunks, largest_difference, random_ids, small_config, small_model
from torch.distributed.tensor import DTensor

import minimistral as mm
from minimistral import cli, parallel
from minimistral.hybrid import cache_for

COMMAND = ["generate", "Once upon a time", "--max-new-tokens", "3", "--parallel"]
CHUNKS = [1, 5, 2, 1, 2]  # shorter and longer than the window of 3, and single tokens after it is full


def held(model) -> int:
    """The numbers of a model's weights that lie in this process."""
    return sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters())


@torch.no_grad()
def compared(window, mesh) -> dict:
    """A whole model, and beside it the part of this rank: the same logits?"""
    whole, part = small_model(window), parallel.split(small_model(window), mesh)
    ids = random_ids(2, sum(CHUNKS))
    expected, cache = whole(ids), cache_for(part.config, batch_size=2)
    return {
        "at once": largest_difference(part(ids), expected),
        "in chunks": largest_difference(fed_in_chunks(part, ids, CHUNKS, cache), expected),
        "cache": cache.n_bytes(),
        "key heads": sorted({ring.keys.shape[2] for ring in cache.parts}),
    }


@torch.no_grad()
def loaded(folder) -> dict:
    """A folder loaded by parts, against the same loaded whole."""
    part, whole = parallel.load(folder)[0], mm.load(folder, device="cpu")[0]
    ids = random_ids(1, 9)
    return {"logits": largest_difference(part(ids), whole(ids)), "held": held(part)}


def generated(folder) -> dict:
    """Without a seed: all ranks must draw the same."""
    part, whole = parallel.load(folder)[0], mm.load(folder, device="cpu")[0]
    prompts, options = [[5, 1, 7, 7, 3], [2]], {"max_new_tokens": 3, "eos_id": None}
    likeliest = mm.generate(part, prompts, chunk_size=3, **options).tokens
    drawn = mm.generate(part, prompts, temperature=3.0, **options).tokens
    return {"likeliest": likeliest == mm.generate(whole, prompts, **options).tokens, "drawn": drawn}


def main(folder: Path):
    mesh = parallel.join()
    found = {"window 3": compared(3, mesh), "mixed": compared((3, None), mesh)}
    found |= {"native": loaded(folder / "native"), "hf": loaded(folder / "hf")}
    found |= generated(folder / "native")
    config = small_config(3, n_heads=3, n_kv_heads=1)
    model = mm.Mistral(config)
    try:
        parallel.split(model, mesh)
    except ValueError as error:
        found["refused"] = [str(error), model.config == config]
    cli.main(COMMAND)  # the only one who prints is rank 0
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
