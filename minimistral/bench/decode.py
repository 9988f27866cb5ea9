"""Decode: one token after another, past the window, against transformers with the same weights and against the memory's speed."""

from functools import partial

import torch

from minimistral import foreign, roofline
from minimistral.bench import cases
from minimistral.bench.cases import figure, lines  # noqa: F401 - lines() is part of what a benchmark offers
from minimistral.captured import capture

BATCH = 32


def run(device: str = "cpu", rounds: int = 7, within: float | None = None, sizes=None) -> dict:
    """Measure, print a table, return the record. sizes: of cases.CONFIGS; two small models on a CPU, the 7B on a GPU."""
    sizes = sizes or (("7B",) if device == "cuda" else ("1.8M", "141M"))
    return cases.run_cases("decode", {size: partial(prepare, size, device) for size in sizes}, device, rounds, within)


def prepare(size: str, device: str, result: dict) -> dict:
    """Check the model, then make its contenders: each call decodes some tokens, far into a text."""
    config = cases.CONFIGS[size]
    W = config.sliding_window
    model = cases.random_model(config, device, torch.bfloat16 if device == "cuda" else torch.float32)
    result["config"], count = config.to_params(), {"1.8M": 64, "141M": 8}.get(size, 16)
    cases.checked(model, result)
    contenders = {
        "model(...)": loop(ordinary(model, 4 * W), count, device),
        **{f"captured, at {n} W": captured(model, n * W, count) for n in (1, 4, 8)},
    }
    contenders["copy of as many bytes"] = copying(model, W, count)
    if device == "cuda":
        contenders |= cases.peer(result, "compiled", lambda: {"compiled": captured(model, 4 * W, count, compiled=True)})
        contenders |= cases.peer(result, "captured, window 4 W", lambda: wide(model, 4 * W, count))
        contenders |= cases.peer(result, f"batch {BATCH}", lambda: batched(model, W, count))
        contenders |= cases.peer(result, "transformers", lambda: static(model, 4 * W, count))
        ours = "compiled" if "compiled" in contenders else "captured, at 4 W"
    else:
        contenders |= cases.peer(result, "transformers", lambda: dynamic(model, 2 * W, count))
        ours = "captured, at 4 W"
    width = model.output.weight.element_size()
    result["tokens"] = {name: count * (BATCH if name.startswith("batch") else 1) for name in contenders if "copy" not in name}
    result["bytes_a_step"] = roofline.decode_bytes(config, 4 * W, W, width=width)
    result["figures"] = [
        figure(f"{ours} against transformers", "transformers", ours, because="a rival"),
        figure(f"{ours} against model(...)", "model(...)", ours, because="the same operations"),
        figure("share of the copy's bandwidth", "copy of as many bytes", ours, 1, "as many bytes moved as a step reads"),
        *(figure(f"at {n} W against W", "captured, at 1 W", f"captured, at {n} W", 1, "the ring does not grow") for n in (4, 8)),
    ]
    if size == "1.8M":  # it lies in the processor's cache, whatever memory can do
        del contenders["copy of as many bytes"], result["figures"][2]
    if device == "cuda":
        result["figures"] += [
            figure("window against full, batch 1, at 4 W", "captured, window 4 W", "captured, at 4 W",
                   roofline.decode_ratio(config, 4 * W, W), "bytes"),
            figure(f"window against full, batch {BATCH}, at 4 W", f"batch {BATCH}, full", f"batch {BATCH}, window",
                   roofline.decode_ratio(config, 4 * W, W, BATCH), "bytes"),
        ]  # fmt: skip
    return contenders


def loop(step, count: int, device: str, batch: int = 1):
    """A contender: `count` steps, each fed what the one before found likeliest."""
    @torch.inference_mode()
    def call():
        chosen = torch.full((batch,), 5, device=device)
        for _ in range(count):
            chosen = step(chosen).argmax(-1)

    return call


def ordinary(model, position: int):
    """A step, ids (B,) -> logits (B, V), that calls the model with a cache `position` tokens into a text."""
    cache = cases.primed(model, position)
    return lambda ids: model(ids[:, None], cache=cache)[:, -1]


@torch.inference_mode()
def captured(model, position: int, count: int, batch: int = 1, compiled: bool = False):
    """A contender: decode through captured.capture(), `position` tokens into a text."""
    cache = cases.primed(model, position, batch)
    return loop(capture(model, cache, position, compiled), count, cache.keys.device.type, batch)


def wide(model, window: int, count: int):
    """Full attention, as a ring that has forgotten nothing yet: the window is as long as the text."""
    return {"captured, window 4 W": captured(cases.with_window(model, window), window, count)}


def batched(model, W: int, count: int):
    """BATCH texts at once, 4 W tokens into each: with the window, and without."""
    of = {"window": model, "full": cases.with_window(model, 4 * W)}
    return {f"batch {BATCH}, {name}": captured(one, 4 * W, count, BATCH) for name, one in of.items()}


def copying(model, W: int, count: int):
    """A contender: copy so much that as many bytes are read and written as `count` steps have to read."""
    weight = model.output.weight
    half = roofline.decode_bytes(model.config, 4 * W, W, width=weight.element_size()) // 2
    source = torch.zeros(half, dtype=torch.uint8, device=weight.device)
    target = torch.empty_like(source)

    def call():
        for _ in range(count):
            target.copy_(source)

    return call


def dynamic(model, position: int, count: int):
    """transformers as it decodes by itself."""
    from transformers.cache_utils import DynamicCache

    theirs = foreign.twin(model)
    cache = DynamicCache(config=theirs.config)
    with torch.inference_mode():
        theirs(cases.ids(model.config, 1, position), past_key_values=cache, use_cache=True, logits_to_keep=1)

    def step(chosen):
        return theirs(chosen[:, None], past_key_values=cache, use_cache=True).logits[:, -1]

    return {"transformers": loop(step, count, "cpu")}


def static(model, position: int, count: int):
    """transformers with its static cache and torch.compile."""
    from transformers.cache_utils import StaticCache

    theirs, device = foreign.twin(model), model.output.weight.device
    cache = StaticCache(config=theirs.config, max_cache_len=position + 4096)
    at = torch.tensor([position], device=device)
    with torch.inference_mode():
        theirs(cases.ids(model.config, 1, position, device=device), past_key_values=cache, use_cache=True, logits_to_keep=1)

    @partial(torch.compile, mode="reduce-overhead", fullgraph=True)
    def forward(chosen, at):
        return theirs(chosen[:, None], past_key_values=cache, use_cache=True, cache_position=at).logits[:, -1].argmax(-1)

    @torch.inference_mode()
    def call():
        chosen = torch.full((1,), 5, device=device)
        for _ in range(count):
            chosen = forward(chosen, at).clone()  # its graph's output is overwritten by the next call
            at.add_(1)
        if at.item() > position + 4096 - 2 * count:
            at.fill_(position)

    return {"transformers": call}
