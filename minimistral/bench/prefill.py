"""Pre-fill of a long prompt: with the window, without, and transformers; and what matmul and attention by themselves allow."""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

from minimistral import foreign, masks, roofline
from minimistral.bench import cases, measure
from minimistral.bench.cases import figure
from minimistral.bench.report import Line

#: size -> (tokens, window)
LENGTHS = {"141M": (8_192, 1_024), "7B": (16_384, 4_096)}


def run(device: str = "cpu", rounds: int = 5, within: float | None = None, sizes=None) -> dict:
    """Measure, print a table, return the record. sizes: of LENGTHS; the 141M model on a CPU, the 7B on a GPU."""
    sizes = sizes or (("7B",) if device == "cuda" else ("141M",))
    return cases.run_cases("prefill", {size: partial(prepare, size, device) for size in sizes}, device, rounds, within)


def prepare(size: str, device: str, result: dict) -> dict:
    """Check the model, then make its contenders."""
    N, W = LENGTHS[size]
    config = replace(cases.CONFIGS[size], sliding_window=W)
    model = cases.random_model(config, device, torch.bfloat16 if device == "cuda" else torch.float32)
    result["config"], result["N"] = config.to_params(), N
    cases.checked(model, result)
    tokens = cases.ids(config, 1, N, device=device)
    contenders = {
        "window": partial(prefill, model, tokens),
        "full": partial(prefill, cases.with_window(model, None), tokens),
        "matrices, one layer": matrices(model.layers[0], N),
        "causal attention, one layer": attention(config, N, tokens.device, model.output.weight.dtype),
    }
    contenders |= cases.peer(result, "transformers", lambda: theirs(model, tokens))
    result["tokens"] = {name: N for name in ("window", "full", "transformers") if name in contenders}
    result["figures"] = [
        figure("window against full", "full", "window", roofline.prefill_ratio(config, N, W), "operations, at equal rates"),
        figure("window against transformers", "transformers", "window", because="a rival"),
    ]
    return contenders


@torch.inference_mode()
def prefill(model, tokens):
    """Read the tokens (B, N) into a new cache; -> the logits of the last position."""
    return model(tokens, cache=cases.cache_of(model), last_only=True)


def theirs(model, tokens):
    """transformers on the same tokens, with the same weights."""
    twin = foreign.twin(model)

    @torch.inference_mode()
    def call():
        return twin(tokens, use_cache=True, logits_to_keep=1)

    return {"transformers": call}


def matrices(block, N: int):
    """A contender: the seven matrix products of one layer, and nothing between them."""
    parts = [part for part in block.modules() if isinstance(part, torch.nn.Linear)]
    weight = parts[0].weight
    inputs = {size: torch.randn(N, size, device=weight.device, dtype=weight.dtype) for size in {p.in_features for p in parts}}

    @torch.inference_mode()
    def call():
        for part in parts:
            part(inputs[part.in_features])

    return call


def attention(config, N: int, device, dtype):
    """A contender: PyTorch's causal kernel, as one layer calls it."""
    heads = (config.n_heads, config.n_kv_heads, config.n_kv_heads)
    q, k, v = (torch.randn(1, h, N, config.head_dim, device=device, dtype=dtype) for h in heads)
    return partial(F.scaled_dot_product_attention, q, k, v, is_causal=True, enable_gqa=True)


def lines(record: dict) -> tuple[list[Line], list[str]]:
    """As of any record; and what the measured rates of matrix products and of attention predict for window against full."""
    told, notes = cases.lines(record)
    for case, result in record["results"].items():
        if predicted := prediction(result):
            got = cases.said(result["figures"][0], result["seconds"], result["absent"])
            told.append(Line(f"{case}: window against full", got, f"{predicted:.3g} (rates measured in the same run)"))
    return told, notes


def prediction(result: dict) -> float | None:
    """Layers of matrices and attention as measured: their time with full attention over that with the window's share of it."""
    seconds = result["seconds"]
    if not all(seconds.get(name) for name in ("matrices, one layer", "causal attention, one layer")):
        return None
    linear, full = (measure.median(seconds[name]) for name in ("matrices, one layer", "causal attention, one layer"))
    share = masks.count(result["N"], result["config"]["sliding_window"]) / masks.count(result["N"])
    return (linear + full) / (linear + full * share)
