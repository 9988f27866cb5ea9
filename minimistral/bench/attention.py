"""The attention operator at the paper's N = 16,384 and W = 4,096: full causal, a mask, and the window without wasted work."""

from functools import partial

import torch
import torch.nn.functional as F

import minimistral as mm
from minimistral import masks
from minimistral.attention import attend_masked
from minimistral.bench import measure
from minimistral.bench.report import Line
from minimistral.window import choose, lacking

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def run(N: int = 16_384, W: int = 4_096, heads: int | None = None, kv_heads: int | None = None, D: int = 128,
        device: str = "cpu", dtypes=tuple(DTYPES), rounds: int = 5, within: float | None = None) -> dict:
    """Measure, print a table, return the record. heads and kv_heads: the 7B's 32 and 8 on a GPU, one group of 4 on a CPU."""
    heads, kv_heads = heads or (32 if device == "cuda" else 4), kv_heads or (8 if device == "cuda" else 1)
    record: dict = {
        "benchmark": "attention",
        "setting": dict(N=N, W=W, heads=heads, kv_heads=kv_heads, D=D, device=device, rounds=rounds),
        "machine": measure.machine(device),
        "ceiling": masks.count(N) / masks.count(N, W),
        "results": {},
    }
    try:
        for dtype in dtypes:
            result: dict = dict(seconds={}, absent={})
            record["results"][dtype] = result
            try:
                measure_dtype(record["setting"], dtype, result, within and within / len(dtypes))
            except Exception as error:
                result["failed"] = measure.reason(error)
            measure.free(device)
    except KeyboardInterrupt:
        record["interrupted"] = True
    print(table(record))
    return record


def measure_dtype(setting: dict, dtype: str, result: dict, within: float | None):
    """All contenders in one dtype, into result; first how far each is from the mask, the dense judge."""
    from tqdm import tqdm

    device, rounds, D, N, W = (setting[name] for name in ("device", "rounds", "D", "N", "W"))
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, setting[name], N, D) for name in ("heads", "kv_heads", "kv_heads")]
    q, k, v = (torch.randn(shape, generator=generator).to(device, DTYPES[dtype]) for shape in shapes)
    full, windowed = contenders(q, k, v, W)
    everyone = full | windowed
    result["auto"] = choose(q, W)
    expected = windowed["mask"]()
    result["differs_from_mask"] = {name: (call() - expected).abs().max().item() for name, call in windowed.items()}
    del expected
    for name, apart in result["differs_from_mask"].items():
        if not apart < 0.05:
            raise ValueError(f"{name} differs from the mask by {apart:.2g}: nothing was timed")
    if device == "cuda" and "auto" in everyone:
        result["absent"] |= flash_attn(q, k, v, W, everyone)
    with tqdm(total=(rounds + 1) * len(everyone), desc=f"attention, {dtype}", unit="call") as bar:
        measure.paired(everyone, rounds, device, bar.update, result["seconds"], result["absent"], within)
    still = [name for name in everyone if name in result["seconds"]]
    result["peak_bytes"] = {name: measure.peak_bytes(everyone[name], device) for name in still}


def flash_attn(q, k, v, W: int, everyone: dict) -> dict:
    """Add Dao's own package to the contenders, or say why not."""
    try:
        from flash_attn import flash_attn_func

        heads_last = [x.transpose(1, 2).contiguous() for x in (q, k, v)]
        own = partial(flash_attn_func, *heads_last, causal=True, window_size=(W - 1, 0))
        own()
    except Exception as error:
        return {"flash-attn": measure.reason(error)}
    everyone["flash-attn"] = own
    return {}


def contenders(q, k, v, W) -> tuple[dict, dict]:
    """Full causal attention and window attention: name -> call, of all that run on this device and build."""
    at = masks.positions(q.shape[2], q.device)
    mask = masks.dense(at, at, W)
    full = {"causal": partial(F.scaled_dot_product_attention, q, k, v, is_causal=True, enable_gqa=True)}
    windowed = {"mask": partial(attend_masked, q, k, v, mask), "auto": partial(mm.attend, q, k, v, W)}
    if q.is_cuda:  # on a CPU auto is the triangles, and flex no rival
        full = causal_kernels(q, k, v)
        methods = [name for name in ("triangles", "varlen", "flex") if not lacking(name, q)]
        windowed |= {name: partial(mm.attend, q, k, v, W, name) for name in methods}
    full, windowed = ({name: call for name, call in calls.items() if runs(call)} for calls in (full, windowed))
    return full, windowed


def causal_kernels(q, k, v) -> dict:
    """Each of PyTorch's fused causal kernels by itself, on CUDA."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    group = q.shape[1] // k.shape[1]

    def one(backend):
        own = (k, v) if backend != SDPBackend.EFFICIENT_ATTENTION else tuple(x.repeat_interleave(group, dim=1) for x in (k, v))
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, *own, is_causal=True, enable_gqa=own[0] is k)

    backends = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
    kernels = {f"causal, {backend.name.split('_')[0].lower()}": partial(one, backend) for backend in backends}
    return kernels | {"causal, flex": partial(mm.attend, q, k, v, None, "flex")}


def runs(call) -> bool:
    """Can this kernel be called here at all? The first call compiles, too."""
    try:
        call()
        return True
    except RuntimeError:
        return False


def unfinished(result: dict) -> str | None:
    """Why there is nothing to compare, if so."""
    if "failed" in result:
        return result["failed"]
    seconds, absent = result["seconds"], result.get("absent", {})
    if out := [f"{name}: {absent[name]}" for name in ("causal", "auto", "mask") if name in absent]:
        return "; ".join(out)
    lengths = {len(taken) for taken in seconds.values()}
    return None if "peak_bytes" in result and len(lengths) == 1 and min(lengths) > 1 else "interrupted"


def baseline(seconds: dict) -> str:
    """The fastest full causal kernel: what a window has to be held against."""
    return min((name for name in seconds if name.startswith("causal")), key=lambda name: sum(seconds[name]))


def lines(record: dict) -> tuple[list[Line], list[str]]:
    """Each figure of the record, and what the count of pairs says of it."""
    of, ceiling = record["setting"], f"at most {record['ceiling']:.3f} times (pairs of query and key)"
    found = []
    for dtype, result in record["results"].items():
        if said := unfinished(result):
            found.append(Line(dtype, said))
            continue
        seconds = result["seconds"]
        base = baseline(seconds)
        for name, taken in seconds.items():
            if name not in ("mask", base):
                expected = "1 (as many pairs)" if name.startswith("causal") else ceiling
                found.append(Line(f"{dtype}, {name} against {base}", str(measure.ratio(seconds[base], taken)), expected))
        found.append(Line(f"{dtype}, auto against mask", str(measure.ratio(seconds["mask"], seconds["auto"])), "a rival"))
        found += [Line(f"{dtype}, {name}", why) for name, why in result.get("absent", {}).items()]
    return found, [f"N = {of['N']:,}, W = {of['W']:,}, {of['heads']} heads on {of['kv_heads']}, D = {of['D']}"]


def table(record: dict) -> str:
    """The record in words and columns."""
    of, machine = record["setting"], record["machine"]
    where = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} threads"
    pairs = f"{masks.count(of['N']):,} against {masks.count(of['N'], of['W']):,}"
    lines = [
        f"N = {of['N']:,}, W = {of['W']:,}, {of['heads']} heads on {of['kv_heads']}, D = {of['D']}",
        f"{where}, torch {machine['torch']}",
        f"pairs of query and key: {pairs}, so at most {record['ceiling']:.3f} times as fast",
    ]
    for dtype, result in record["results"].items():
        if said := unfinished(result):
            lines += ["", f"{dtype}: {said}"]
            continue
        seconds = result["seconds"]
        base = baseline(seconds)
        lines += ["", f"{dtype} (auto is {result['auto']})   seconds   peak MiB   as fast as {base}"]
        for name, taken in sorted(seconds.items(), key=lambda pair: -measure.median(pair[1])):
            against = "" if name == base else f"   {measure.ratio(seconds[base], taken)}"
            lines.append(f"  {name:22}{measure.median(taken):12.4f}{result['peak_bytes'][name] / 2**20:11.0f}{against}")
        lines.append(f"  auto against mask: {measure.ratio(seconds['mask'], seconds['auto'])}")
    return "\n".join(lines)
