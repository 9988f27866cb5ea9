"""What this machine is, what of the course runs on it, whether a model folder is whole, and whether it fits: with the arithmetic.

    weights     what quantize.planned_bytes says, in bfloat16, 8 or 4 bits
    cache       2 * layers * key heads * slots * head size * 2 bytes; slots: the window, or the tokens where there is none
    workspace   the most that one chunk of a prompt needs beside them; see workspace()
"""

import html
import platform
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from minimistral import checkpoint, quantize, roofline, room
from minimistral.config import MistralConfig, check_count
from minimistral.counting import VERSIONS

GIB = 2**30
KINDS = {"bf16": 16, "int8": 8, "int4": 4}
CUDA_ITSELF = GIB // 2  # what a process takes on a GPU before its first tensor
PACKAGES = ("jupyterlab", "ipywidgets", "matplotlib", "mistral_common", "sentencepiece", "safetensors", "tqdm")


@dataclass(frozen=True)
class GPU:
    """What matters of a GPU; sizes in bytes."""

    name: str
    total: int  # bytes
    free: int
    capability: tuple[int, int]
    bf16: bool


@dataclass(frozen=True)
class Machine:
    """What matters of a computer; sizes in bytes."""

    system: str
    python: str
    torch: str
    threads: int
    memory: int  # that this process can still have, under its container's limit
    disk: int  # free, where models would lie
    gpu: GPU | None = None
    lacks: tuple[str, ...] = ()  # packages of the course that are not installed
    torchao: bool = True


@dataclass(frozen=True)
class Need:
    """Bytes that a model needs to run."""

    weights: int
    cache: int
    workspace: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.workspace


@dataclass(frozen=True)
class Fit:
    """One way to hold a model, and whether there is room for it."""

    place: str  # "GPU" or "CPU"
    kind: str  # "bf16", "int8" or "int4"
    need: Need
    have: int
    obstacle: str = ""  # why not, where it is not the room

    @property
    def ok(self) -> bool:
        return not self.obstacle and self.need.total <= self.have

    @property
    def verdict(self) -> str:
        if self.obstacle:
            return self.obstacle
        spare = self.have - self.need.total
        return f"fits, {room.gib(spare)} to spare" if self.ok else f"does not fit: {room.gib(-spare)} too much"


@dataclass(frozen=True)
class Folder:
    """What was found in a model folder; `error` says why it is not whole."""

    path: Path
    config: MistralConfig | None = None
    whole: checkpoint.Checkpoint | None = None
    notes: tuple[str, ...] = ()
    error: str = ""

    @property
    def version(self) -> str:
        return next((f"7B {name}" for name in VERSIONS if VERSIONS[name] == self.config), "another model")


@dataclass(frozen=True)
class Report:
    """What examine() found. As text, as a table on a page, and as data; `missing` is empty where all is well."""

    machine: Machine
    course: tuple[tuple[str, str], ...]
    folder: Folder | None
    model: str
    tokens: int
    chunk: int
    fits: tuple[Fit, ...]
    missing: tuple[str, ...]

    def tables(self) -> list[tuple[str, list[list[str]]]]:
        """Title and rows of each part; the first row of the last one is its head."""
        m = self.machine
        gpu = "none that PyTorch can use"
        if m.gpu:
            bf16 = "bfloat16" if m.gpu.bf16 else "no bfloat16: float16 is used"
            gpu = f"{m.gpu.name}, {room.gib(m.gpu.free)} of {room.gib(m.gpu.total)} free, {bf16}"
        machine = [
            ["system", f"{m.system}, Python {m.python}, PyTorch {m.torch}"],
            ["processor", f"{m.threads} threads"],
            ["memory", f"{room.gib(m.memory)} available"],
            ["GPU", gpu],
            ["disk", f"{room.gib(m.disk)} free"],
        ]
        parts = [("The machine", machine), ("The course", [list(row) for row in self.course])]
        if self.folder:
            parts.append((f"The folder {self.folder.path}", _folder_rows(self.folder)))
        head = ["", "weights", "cache", "workspace", "sum", "there is", ""]
        rows = []
        for fit in self.fits:
            sizes = (fit.need.weights, fit.need.cache, fit.need.workspace, fit.need.total, fit.have)
            rows.append([f"{fit.place} {fit.kind}", *map(room.gib, sizes), fit.verdict])
        title = f"{self.model}, {self.tokens:,} tokens in chunks of {self.chunk}: does it fit?"
        return [*parts, (title, [head, *rows])]

    def __str__(self):
        blocks = []
        for title, rows in self.tables():
            widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
            lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
            blocks.append("\n".join([title, *("  " + line for line in lines)]))
        end = "\n".join(f"Missing: {what}" for what in self.missing) or "Nothing is missing."
        return "\n\n".join([*blocks, end])

    __repr__ = __str__

    def _repr_html_(self):
        out = []
        for title, rows in self.tables():
            body = "".join("<tr>" + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                           for row in rows)  # fmt: skip
            out.append(f"<p style='margin:0.8em 0 0.2em'><b>{html.escape(title)}</b></p><table>{body}</table>")
        end = "<br>".join(f"Missing: {html.escape(what)}" for what in self.missing) or "Nothing is missing."
        return "".join([*out, f"<p>{end}</p>"])


def examine(folder=None, tokens: int = 4096, chunk: int = 512, machine: Machine | None = None) -> Report:
    """Look at this machine (or one that is given), and at a model folder if there is one.

    tokens  how many a growing cache is to hold, where the model has no window
    chunk   how many tokens of a prompt are fed at a time
    """
    for name, value in (("tokens", tokens), ("chunk", chunk)):
        check_count(name, value)
    machine = machine or look(folder or ".")
    found = read_folder(folder) if folder is not None else None
    config = found.config if found and found.config else VERSIONS["v0.1"]
    model = found.version if found and found.config else "7B v0.1"
    fitting = tuple(fits(config, machine, tokens, chunk))
    missing = [f"the package {name}: pip install {name.replace('_', '-')}" for name in machine.lacks]
    if found and found.error:
        missing.append(found.error)
    elif found and not any(fit.ok for fit in fitting):
        missing.append(f"memory: {model} fits neither the GPU nor the CPU, in no dtype")
    return Report(machine, _course(machine), found, model, tokens, chunk, fitting, tuple(missing))


def fits(config: MistralConfig, machine: Machine, tokens: int = 4096, chunk: int = 512) -> list[Fit]:
    """Each way to hold a model on a machine: on its GPU, if it has one, and on its CPU, in bf16, int8 and int4."""
    found = []
    gpu = machine.gpu
    for place, have in [*([("GPU", gpu.free)] if gpu else []), ("CPU", machine.memory)]:
        for kind in KINDS:
            obstacle = "" if kind == "bf16" or machine.torchao else "needs torchao: pip install 'minimistral[quantize]'"
            if gpu and place == "GPU" and kind == "int4" and gpu.capability < (8, 0):
                obstacle = "needs compute capability 8.0"
            found.append(Fit(place, kind, need(config, kind, tokens, chunk, place), have, obstacle))
    return found


def need(config: MistralConfig, kind: str = "bf16", tokens: int = 4096, chunk: int = 512, place: str = "CPU") -> Need:
    """What a model needs to read `tokens` tokens, `chunk` at a time, and to go on from there: one sequence."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}.")
    weights = quantize.planned_bytes(config, KINDS[kind])
    return Need(weights, cache_bytes(config, tokens), workspace(config, kind, tokens, chunk, place))


def cache_bytes(config: MistralConfig, tokens: int) -> int:
    """Bytes of a RollingBuffer for one sequence: of the window's slots; or without one, of slots that doubled up to `tokens`."""
    layer = replace(config, n_layers=1, sliding_window=None)
    return sum(roofline.cache_bytes(layer, _slots(window, tokens), None) for window in config.windows)


def workspace(config: MistralConfig, kind: str = "bf16", tokens: int = 4096, chunk: int = 512, place: str = "CPU") -> int:
    """An upper bound of what one chunk of C tokens needs beside weights and cache, S keys being in sight:

    vectors   of each token: eight as wide as the model, four as wide as the feed-forward; and the logits of one
    keys      and values of one layer, the chunk's beside the cache's; and the mask, C * S
    scores    H * C * S, on a GPU: three times in float32 (as numbers, masked, as weights), and the keys and values once for
              every query head. (What a masked product there may take; a CPU's kernel holds a few rows at a time.)
    a matrix  the largest one, turned back from int8
    growing   a cache without a window is copied into one of twice the size: half of it more
    CUDA      itself, 0.5 GiB
    """
    C = min(chunk, tokens)
    S = min(tokens, max(window or tokens for window in config.windows) + C)
    on_gpu = place == "GPU"
    vectors = C * (8 * config.dim + 4 * config.hidden_dim) * 2 + config.vocab_size * 4
    keys = 2 * S * config.n_kv_heads * config.head_dim * 2 * (1 + config.group * on_gpu) + 3 * C * S
    scores = 3 * config.n_heads * C * S * 4 * on_gpu
    largest = max(config.hidden_dim, config.vocab_size, config.n_heads * config.head_dim) * config.dim
    matrix = largest * 2 * (kind == "int8")
    one = replace(config, n_layers=1, sliding_window=None)
    growing = config.windows.count(None) * cache_bytes(one, tokens) // 2
    return vectors + keys + scores + matrix + growing + CUDA_ITSELF * on_gpu


def look(folder=".") -> Machine:
    """This machine, and the disk on which `folder` lies or would lie."""
    import psutil

    memory, gpu = room.memory(), None
    if torch.cuda.is_available():
        gpu = GPU(torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1], room.memory("cuda") or 0,
                  torch.cuda.get_device_capability(), torch.cuda.is_bf16_supported(including_emulation=False))  # fmt: skip
    return Machine(
        system=platform.platform(terse=True),
        python=platform.python_version(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        memory=psutil.virtual_memory().available if memory is None else memory,
        disk=room.disk(folder),
        gpu=gpu,
        lacks=tuple(name for name in PACKAGES if find_spec(name) is None),
        torchao=find_spec("torchao") is not None,
    )


def read_folder(folder) -> Folder:
    """Whether a folder holds a whole model: all that load() would refuse, from the files' headers."""
    path, config, error, whole = Path(folder), None, "", None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            config = MistralConfig.from_file(path / checkpoint.CONFIGS[checkpoint.find_format(path)])
            caught.clear()  # inspect() says it again
            whole = checkpoint.inspect(path)
        except ValueError as problem:
            error = " ".join(str(problem).split())
    notes = tuple(str(warning.message) for warning in caught)
    return Folder(path, config, whole, notes, error)


def _folder_rows(folder: Folder) -> list[list[str]]:
    rows = [["note", note] for note in folder.notes]
    if c := folder.config:
        rows.insert(0, ["model", f"{folder.version}: {c.n_layers} layers, {c.n_heads} heads on {c.n_kv_heads}, {_windows(c)}"])
    if folder.whole:
        files = f"{len(folder.whole.files)} file" + "s" * (len(folder.whole.files) > 1)
        rows.append(["whole", f"yes: {folder.whole.nbytes:,} bytes of weights in {files}, {folder.whole.format} format"])
    else:
        rows.append(["whole", f"no: {folder.error}"])
    return rows


def _windows(config: MistralConfig) -> str:
    """"window 4,096"; or, where the layers' windows differ, "window 4,096 in 3 layers, no window in 1"."""
    said = [(f"window {window:,}" if window else "no window", n) for window, n in Counter(config.windows).items()]
    if not config.is_mixed:
        return said[0][0]
    (first, n), *others = said
    return ", ".join([f"{first} in {n} layer{'s' * (n > 1)}", *(f"{window} in {n}" for window, n in others)])


def _course(machine: Machine) -> tuple[tuple[str, str], ...]:
    lacking = f"lacks {', '.join(machine.lacks)}" if machine.lacks else ""
    best = next((fit for fit in fits(VERSIONS["v0.1"], machine) if fit.ok), None)
    load = "the 7B a layer at a time (minimistral.offload), or a small folder of its layout"
    if best:
        load = f"the 7B in {best.kind} on the {best.place}" + ", slowly" * (best.place == "CPU")
    speed = "measured on your GPU" if machine.gpu else "measured on your CPU; a GPU's figures as recorded"
    return (
        ("chapters 00 to 09, 12 to 14", lacking or "run here; a GPU is not needed"),
        ("chapter 10, load the 7B", lacking or load),
        ("chapter 11, the 16k speed-up", lacking or speed),
    )


def _slots(window: int | None, tokens: int) -> int:
    if window:
        return window
    slots = 64
    while slots < tokens:
        slots *= 2
    return slots
