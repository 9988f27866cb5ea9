"""What pre-fill and decode are measured on: models of random weights, and the dense judge."""

from dataclasses import replace
from functools import partial
from unittest.mock import patch

import torch

from minimistral import counting
from minimistral.attention import attend
from minimistral.bench import measure
from minimistral.bench.report import Line, table
from minimistral.cache import RollingBuffer
from minimistral.captured import capture
from minimistral.config import MistralConfig
from minimistral.model import Mistral

CONFIGS = {
    "1.8M": MistralConfig(128, 6, 8, 2, 16, 448, 2_048, sliding_window=64),
    "141M": MistralConfig(768, 12, 12, 3, 64, 2_688, 32_000, sliding_window=256),
    "7B": counting.VERSIONS["v0.1"],
}

#: relative error against the judge from which on nothing is timed: bfloat16 has 8 bits
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}


def random_model(config: MistralConfig, device: str, dtype=torch.float32) -> Mistral:
    """Random weights, made where they are used."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            return Mistral(config).requires_grad_(False).eval()
    finally:
        torch.set_default_dtype(before)


def with_window(model: Mistral, window: int | None) -> Mistral:
    """The same weights, in memory once, under another window."""
    with torch.device("meta"):
        twin = Mistral(replace(model.config, sliding_window=window))
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin.requires_grad_(False).eval()


def ids(config: MistralConfig, *shape, device="cpu"):
    """Random ids of this shape, the same ones every time."""
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(device)


def cache_of(model: Mistral, batch: int = 1) -> RollingBuffer:
    """An empty ring on the model's device and in its dtype."""
    weight = model.output.weight
    return RollingBuffer(model.config, batch, device=weight.device, dtype=weight.dtype)


def primed(model: Mistral, position: int, batch: int = 1) -> RollingBuffer:
    """A cache as it stands `position` tokens into a text: random keys and values, for they change no shape and no address."""
    cache = cache_of(model, batch)
    cache.keys.normal_()
    cache.values.normal_()
    cache.position.fill_(position)
    cache.filled = min(position, cache.size)
    return cache


@torch.inference_mode()
def differs(model: Mistral, steps: int = 8) -> float:
    """How far pre-fill and captured decode lie from the dense judge, some tokens past the window: relative error of the logits.

    The judge is the model without a cache, whose attention calculates every score under a T x T mask.
    """
    W = model.config.sliding_window
    T = W + W // 8 + steps
    tokens = ids(model.config, 1, T, device=model.output.weight.device)
    with patch("minimistral.model.attend", partial(attend, method="dense")):
        judged = model(tokens)[0, -steps - 1 : -1].clone()
    cache = cache_of(model)
    logits = [model(tokens[:, :-steps], cache=cache, last_only=True)[0, 0]]
    step = capture(model, cache, T)
    logits += [step(tokens[:, n])[0].clone() for n in range(T - steps, T - 1)]
    return ((torch.stack(logits) - judged).norm() / judged.norm()).item()


def checked(model: Mistral, result: dict):
    """Note how far the model is from the judge. Raises ValueError if it is wrong: then nothing is worth timing."""
    result["differs_from_judge"] = apart = differs(model)
    if not apart < TOLERANCE[model.output.weight.dtype]:
        raise ValueError(f"the logits differ from the dense judge's by {apart:.2g} of their size: nothing was timed.")


def figure(what: str, slow: str, fast: str, ceiling: float | None = None, because: str = "", goal: str = "") -> dict:
    """One ratio to be reported: contender `slow` over contender `fast`, and what can be computed of it."""
    return dict(what=what, slow=slow, fast=fast, ceiling=ceiling, because=because, goal=goal)


def run_cases(kind: str, cases: dict, device: str, rounds: int, within: float | None = None) -> dict:
    """Measure the cases (name -> function of its result, which returns contenders), print a table, return the record.

    A case or a contender that fails says why, and the rest goes on; an interrupt leaves what was measured.
    """
    from tqdm import tqdm

    record: dict = {
        "benchmark": kind,
        "setting": dict(device=device, rounds=rounds),
        "machine": measure.machine(device),
        "results": {},
    }
    try:
        for name, prepare in cases.items():
            result: dict = dict(seconds={}, absent={}, figures=[])
            record["results"][name] = result
            try:
                contenders = prepare(result)
                with tqdm(total=(rounds + 1) * len(contenders), desc=f"{kind}, {name}", unit="call") as bar:
                    share = within and within / len(cases)
                    measure.paired(contenders, rounds, device, bar.update, result["seconds"], result["absent"], share)
            except Exception as error:
                result["failed"] = str(error) if isinstance(error, ValueError) else measure.reason(error)
            contenders = None
            measure.free(device)
    except KeyboardInterrupt:
        record["interrupted"] = True
    print(table(record))
    return record


def peer(result: dict, name: str, make):
    """make(), the contenders that a peer brings; or none, and the reason noted."""
    try:
        return make()
    except Exception as error:
        result["absent"][name] = measure.reason(error)
        return {}


def lines(record: dict) -> tuple[list[Line], list[str]]:
    """Each figure of the record beside its ceiling; and notes."""
    told, notes = [], []
    for case, result in record["results"].items():
        if "failed" in result:
            told.append(Line(case, result["failed"]))
            continue
        seconds = result["seconds"]
        for one in result["figures"]:
            expected = f"{one['ceiling']:.3g} ({one['because']})" if one["ceiling"] else one["because"]
            told.append(Line(f"{case}: {one['what']}", said(one, seconds, result["absent"]), expected))
        for name, taken in seconds.items():
            if taken and name in result.get("tokens", {}):
                rate = result["tokens"][name] / measure.median(taken)
                most = result.get("most", {}).get(name)
                told.append(Line(f"{case}: {name}", f"{rate:,.1f} tokens a second", f"at most {most:,.0f}" if most else ""))
        notes.append(f"{case}: logits differ from the dense judge's by {result.get('differs_from_judge', 0):.1g} of their size")
    if record.get("interrupted"):
        notes.append("interrupted: not all of it was measured")
    return told, notes


def said(one: dict, seconds: dict, absent: dict) -> str:
    """A ratio; or why there is none."""
    for name in (one["slow"], one["fast"]):
        if name in absent:
            return f"{name}: {absent[name]}"
    slow, fast = (seconds.get(one[which], []) for which in ("slow", "fast"))
    n = min(len(slow), len(fast))
    return str(measure.ratio(slow[:n], fast[:n])) if n > 1 else "too few rounds"
