"""Loading a folder at the 7B's width: against a bare read of the same bytes, and against transformers.

    python -c "from minimistral.bench import load; load.run()"                     8 layers, made for it: 4 GB
    python -c "from minimistral.bench import load; load.run('a 7B folder')"        what lies there

Time is paired, in one process, with the files in the system's cache. Memory is of a fresh process each: how far its peak rises
above what it held before loading, resident pages of mapped files included.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from minimistral import checkpoint, mock, room
from minimistral.bench import measure


def run(folder=None, layers: int = 8, rounds: int = 3, config=None, format: str = "hf") -> dict:
    """Measure, print a table, return the record. Without a folder one is made: v0.1's widths (or config), three HF shards."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="minimistral-load-") as made:
            mock.write(made, replace(config or mock.CONFIGS["v0.1"], n_layers=layers), format=format)
            return run(made, rounds=rounds)
    found = checkpoint.inspect(folder)
    calls = {"read": partial(bare_read, found.files), "minimistral": partial(ours, folder)}
    if found.format == "hf":
        calls["transformers"] = partial(theirs, folder)
    seconds = measure.paired(calls, rounds, "cpu") if rounds else {}
    record = {
        "benchmark": "load",
        "setting": dict(format=found.format, files=len(found.files), layers=found.config.n_layers, bytes=found.nbytes,
                        dtype=str(found.dtype).removeprefix("torch."), rounds=rounds),
        "machine": measure.machine("cpu"),
        "seconds": seconds,
        "memory": {name: in_a_fresh_process(name, folder) for name in calls if name != "read"},
    }  # fmt: skip
    print(table(record))
    return record


def bare_read(files) -> None:
    """The same bytes into newly allocated memory, file by file, and nothing else."""
    kept = []
    for file in files:
        kept.append(torch.empty(file.stat().st_size, dtype=torch.uint8))
        into, done = memoryview(kept[-1].numpy()), 0
        with open(file, "rb", buffering=0) as stream:
            while done < len(into):
                done += stream.readinto(into[done:])
    touch(kept)


def ours(folder, tokens: int = 0):
    """Load a folder with this library and touch every weight; -> the ids that follow, if any are asked for."""
    import minimistral as mm

    model, _ = mm.load(folder, device="cpu")
    touch(model.parameters())
    return mm.generate(model, [[1, 2, 3]], tokens, eos_id=None).tokens[0] if tokens else None


def theirs(folder, tokens: int = 0):
    """The same with transformers."""
    from transformers import MistralForCausalLM, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = MistralForCausalLM.from_pretrained(folder, dtype="auto").eval()
    touch(model.parameters())
    if tokens:
        ids = torch.tensor([[1, 2, 3]])
        mask = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        return out[0, 3:].tolist()


def touch(tensors) -> int:
    """Read every number once, so that no tensor is there only by promise."""
    each = (tensor.detach().flatten().view(torch.uint8) for tensor in tensors)
    return sum(int(numbers[: len(numbers) // 8 * 8].view(torch.int64).sum()) for numbers in each)


def in_a_fresh_process(name: str, folder, tokens: int = 10) -> dict:
    """Load, touch, generate `tokens` ids in a process of its own: how its memory grew."""
    code = f"from minimistral.bench import load; load._report({name!r}, {str(folder)!r}, {tokens})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} could not load {folder}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _report(name, folder, tokens):
    call = {"minimistral": ours, "transformers": theirs}[name]
    with tempfile.TemporaryDirectory() as small:  # what imports and first products take is no matter of the folder
        config = mock.narrow(replace(mock.CONFIGS["v0.1"], n_layers=1))
        mock.write(small, config, format=checkpoint.inspect(folder).format, progress=False)
        call(small, 2)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak so far
    start, cpu = time.perf_counter(), time.process_time()
    call(folder)
    taken = dict(seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu)
    grown = _status("VmHWM") - before
    ids = call(folder, tokens)
    print(json.dumps(dict(grown=grown, grown_with_tokens=_status("VmHWM") - before, tokens=ids) | taken))


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def table(record: dict) -> str:
    """The record in words and columns."""
    of, machine, seconds, memory = (record[name] for name in ("setting", "machine", "seconds", "memory"))
    lines = [
        f"{of['bytes']:,} bytes of tensors in {of['files']} files ({of['format']}, {of['layers']} layers, {of['dtype']})",
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}",
    ]
    for name, taken in seconds.items():
        more = "" if name == "read" else f"   {measure.ratio(taken, seconds['read']).median:.2f} x a bare read"
        lines.append(f"  {name:14}{measure.median(taken):9.3f} s{more}")
    for name, seen in memory.items():
        grown = seen["grown"]
        lines.append(f"  {name:14}peak memory grew by {room.gib(grown)}, {grown / of['bytes']:.3f} x the weights")
    return "\n".join(lines)
