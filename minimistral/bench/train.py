"""Training, in tokens a second, against transformers' Mistral: the same weights, rows and optimizer, step by step in turn."""

from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F

from minimistral import foreign, train
from minimistral.bench import measure
from minimistral.bench.report import Line, where
from minimistral.config import MistralConfig

V = 2048
#: name -> (sizes of the model, rows a step, tokens a row)
SETTINGS = {
    "T = 4 W, short": (dict(dim=128, n_heads=8, n_kv_heads=2, head_dim=16, hidden_dim=448, sliding_window=64), 8, 256),
    "T = 4 W": (dict(dim=128, n_heads=4, n_kv_heads=2, head_dim=32, hidden_dim=448, sliding_window=256), 2, 1024),
    "T = 16 W": (dict(dim=128, n_heads=4, n_kv_heads=2, head_dim=32, hidden_dim=448, sliding_window=512), 1, 8192),
}


def run(device: str = "cpu", rounds: int = 5, seconds: float | None = None) -> dict:
    """Time whole steps (forward, backward, clipping, AdamW), print a table, return the record.

    seconds  about how long it may take in all: fewer rounds then, but at least 2
    """
    import transformers
    from tqdm import tqdm

    record: dict = {
        "benchmark": "train",
        "setting": dict(device=device, rounds=rounds, layers=2, vocab_size=V, dtype="float32"),
        "machine": measure.machine(device) | {"transformers": transformers.__version__},
        "results": {},
    }
    for name, (sizes, rows, T) in SETTINGS.items():
        config = MistralConfig(**sizes, n_layers=2, vocab_size=V)
        ours = train.new_model(config, seed=0).to(device)
        theirs = deepcopy(foreign.twin(ours)).requires_grad_(True).train()  # weights of its own
        ids = torch.randint(V, (rows, T + 1), generator=torch.Generator().manual_seed(0)).to(device)
        losses = {"minimistral": partial(train.loss, ours, ids), "transformers": partial(loss, theirs, ids)}
        differ = abs(losses["minimistral"]().item() - losses["transformers"]().item())
        steps = {who: step(model, losses[who]) for who, model in (("minimistral", ours), ("transformers", theirs))}
        within = seconds and seconds / len(SETTINGS)
        with tqdm(total=2 * (rounds + 1), desc=f"training, {name}", unit="step") as bar:
            taken = measure.paired(steps, rounds, device, bar.update, within=within)
        record["results"][name] = dict(config=config.to_params(), rows=rows, T=T, losses_differ=differ, seconds=taken)
    print(table(record))
    return record


def step(model, loss):
    """One step of training, as fit() takes it: a function without arguments."""
    optimizer = train.adamw(model, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)

    def call():
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return call


def loss(theirs, ids):
    """train.loss() for a model of transformers."""
    logits = theirs(ids[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def lines(record: dict) -> tuple[list[Line], list[str]]:
    """Each figure of the record; the rival is transformers, and the gap is what a mask calculates in vain."""
    found, notes = [], []
    for name, result in record["results"].items():
        c, seconds, tokens = result["config"], result["seconds"], result["rows"] * result["T"]
        theirs, ours = (f"{tokens / measure.median(seconds[who]):,.0f} tokens/s" for who in ("transformers", "minimistral"))
        against = measure.ratio(seconds["transformers"], seconds["minimistral"])
        found += [Line(f"{name}: a step of training", ours, f"transformers: {theirs}"), Line(f"{name}: as fast", str(against))]
        size = f"{c['n_layers']} layers of {c['dim']}, W = {c['sliding_window']}"
        notes.append(f"{name}: {size}, {result['rows']} rows of {result['T']:,} tokens")
    return found, notes


def table(record: dict) -> str:
    """The record in words and columns."""
    told, notes = lines(record)
    machine = record["machine"]
    rows = [f"  {line.what:36}{line.measured:22}{line.ceiling}".rstrip() for line in told]
    return "\n".join([f"{where(machine)}, transformers {machine['transformers']}", *notes, *rows])
