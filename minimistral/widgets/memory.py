"""Chapter 10: what a 7B needs of a memory, drawn as one bar: weights, cache, workspace; and which machines that fits."""

import ctypes
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from unittest.mock import patch

import torch

from minimistral import checkpoint, doctor
from minimistral.counting import VERSIONS
from minimistral.doctor import GIB
from minimistral.quantize import planned_bytes
from minimistral.widgets.page import scripted
from minimistral.widgets.picture import BLUE, GREY, ORANGE, Picture, described, figure, finish

#: name -> MiB. GPUs as nvidia-smi reports them: less than what is printed on the box where the card corrects errors
MACHINES = {
    "GPU: RTX 4060, 8 GB": 8_188,
    "GPU: RTX 3060, 12 GB": 12_288,
    "GPU: T4, 16 GB": 15_360,
    "GPU: RTX 4060 Ti, 16 GB": 16_380,
    "GPU: L4, 24 GB": 23_034,
    "GPU: RTX 4090, 24 GB": 24_564,
    "GPU: L40S, 48 GB": 46_068,
    "GPU: A100, 80 GB": 81_920,
    "GPU: H200, 141 GB": 143_771,
    "laptop, 8 GiB": 8 * 1024,
    "laptop, 16 GiB": 16 * 1024,
    "laptop, 32 GiB": 32 * 1024,
}
NO_INT4 = ("GPU: T4, 16 GB",)  # compute capability 7.5
BITS = {16: "bfloat16 (2 bytes)", 8: "int8 (1 byte)", 4: "int4 (half a byte)"}
TOKENS = (4_096, 8_192, 16_384, 32_768, 65_536, 131_072)
BATCHES = (1, 4, 16)
CHUNKS = (64, 128, 256, 512, 1_024)
SYSTEM = 2.0  # GiB that a laptop's system and a browser keep for themselves: an assumption
COLOURS = {"weights": GREY, "cache": BLUE, "workspace": ORANGE}


@cache
def weights(version: str, bits: int) -> float:
    """GiB of the weights."""
    return round(planned_bytes(VERSIONS[version], bits) / GIB, 2)


@cache
def cached(version: str, tokens: int, batch: int, window: bool) -> float:
    """GiB of a cache with room for so many tokens in each row, bfloat16."""
    return round(batch * doctor.cache_bytes(_config(version, window), tokens) / GIB, 2)


@cache
def workspace(version: str, bits: int, tokens: int, batch: int, chunk: int, window: bool, place: str) -> float:
    """GiB beside weights and cache while `chunk` tokens of each row pass, as doctor.workspace() reckons for one row."""
    config, kind = _config(version, window), next(name for name, n in doctor.KINDS.items() if n == bits)
    one = doctor.workspace(config, kind, tokens, chunk, place)
    more = one - doctor.workspace(replace(config, n_layers=1), kind, 1, 1, place)  # without what no row adds to: CUDA, a matrix
    return round((one + (batch - 1) * more) / GIB + (SYSTEM if place == "CPU" else 0), 2)


def _config(version: str, window: bool):
    config = VERSIONS[version]
    return config if window else replace(config, sliding_window=None)


@dataclass(frozen=True)
class Planner:
    """The memory planner. The last line of a cell shows it.

    version  of the 7B; bits of its linear layers: 16, 8 or 4
    tokens   each of the `batch` rows has, fed in pieces of `chunk`; window: keep 4,096 of them (only v0.1 can) or all
    machine  one of MACHINES
    """

    version: str = "v0.1"
    bits: int = 16
    tokens: int = 16_384
    batch: int = 1
    chunk: int = 512
    window: bool = True
    machine: str = "GPU: T4, 16 GB"

    def __post_init__(self):
        choices = {"version": VERSIONS, "bits": BITS, "tokens": TOKENS, "batch": BATCHES, "chunk": CHUNKS,
                   "window": (True, False), "machine": MACHINES}  # fmt: skip
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known or isinstance(value, bool) != (name == "window"):
                raise ValueError(f"{name} is {value!r}: expected one of {', '.join(map(str, known))}.")

    @property
    def windowed(self) -> bool:
        return self.window and VERSIONS[self.version].sliding_window is not None

    def parts(self) -> dict[str, float]:
        """GiB by what they are for."""
        place = "GPU" if self.machine.startswith("GPU") else "CPU"
        return {
            "weights": weights(self.version, self.bits),
            "cache": cached(self.version, self.tokens, self.batch, self.window),
            "workspace": workspace(self.version, self.bits, self.tokens, self.batch, self.chunk, self.window, place),
        }

    def total(self) -> float:
        return round(sum(self.parts().values()), 2)

    def memory(self) -> float:
        return round(MACHINES[self.machine] / 1024, 2)

    def verdict(self) -> str:
        """In words: does it fit, and by how much."""
        if self.bits == 4 and self.machine in NO_INT4:
            return "int4 does not run on this card"
        over = round(self.total() - self.memory(), 2)
        return f"does not fit: {over:.2f} GiB too much" if over > 0 else f"fits, with {-over:.2f} GiB free"

    def fits(self) -> bool:
        return self.verdict().startswith("fits")

    def where(self) -> dict[str, bool]:
        """The same on every machine."""
        return {machine: replace(self, machine=machine).fits() for machine in MACHINES}

    def title(self) -> str:
        row = "1 row" if self.batch == 1 else f"{self.batch} rows"
        kept = "a window of 4,096" if self.windowed else "all kept"
        dtype = BITS[self.bits].split(" (")[0]
        fed = f"{row} of {self.tokens:,} tokens in chunks of {self.chunk:,}"
        return f"7B {self.version} in {dtype}, {fed}, {kept}; {self.machine}"

    def text(self) -> str:
        """The bar as a table."""
        rows = [*self.parts().items(), ("together", self.total()), ("memory", self.memory())]
        lines = [f"  {name:<10}{size:8.2f} GiB  {'#' * round(size)}".rstrip() for name, size in rows]
        fitting = "; ".join(machine for machine, fits in self.where().items() if fits) or "none of these machines"
        return "\n".join([self.title(), *lines, f"  {self.verdict()}", f"  it fits: {fitting}"])

    def frames(self) -> dict[str, list]:
        """By "version/window/bits/tokens/batch/chunk": GiB of weights, of cache, of workspace on a GPU and on a laptop; then for
        each machine 1 (fits), 0 (does not) or x (cannot run). The script in the page only chooses and draws."""
        table = {}
        for version, config in VERSIONS.items():
            windows = (True, False) if config.sliding_window else (False,)
            for window, bits, tokens, batch, chunk in product(windows, BITS, TOKENS, BATCHES, CHUNKS):
                state = Planner(version, bits, tokens, batch, chunk, window)
                gpu, laptop = state.parts(), replace(state, machine="laptop, 8 GiB").parts()
                marks = "".join("x" if bits == 4 and name in NO_INT4 else "01"[fits] for name, fits in state.where().items())
                key = f"{version}/{int(window)}/{bits}/{tokens}/{batch}/{chunk}"
                table[key] = [gpu["weights"], gpu["cache"], gpu["workspace"], laptop["workspace"], marks]
        return table

    def html(self) -> str:
        """The planner with its controls: no network, no libraries. Where scripts are taken away, the still picture remains."""
        data = {
            "frames": _frames(), "bits": BITS, "tokens": TOKENS, "batches": BATCHES, "chunks": CHUNKS, "names": list(COLOURS),
            "colours": list(COLOURS.values()), "machines": {name: round(mib / 1024, 2) for name, mib in MACHINES.items()},
            "versions": {name: config.sliding_window is not None for name, config in VERSIONS.items()}, "start": asdict(self),
        }  # fmt: skip
        return scripted("memory", "plan", data, SCRIPT, self.title(), draw(self).png)

    def __repr__(self):
        return self.text()

    def _repr_mimebundle_(self, include=None, exclude=None):
        return described({"text/html": self.html(), "image/png": draw(self).png, "text/plain": self.text()})


@cache
def _frames() -> dict[str, list]:
    return Planner().frames()


#: Draws a frame of the table as SVG, and the same as a table of numbers below it. Colours of text are the page's own.
SCRIPT = """(() => {
const data = PLAN_DATA, W = 760, H = 78;
for (const host of document.querySelectorAll('.mm-memory[data-plan="PLAN_NAME"]:not([data-live])')) {
  host.dataset.live = '1';
  const options = (kind, table) => `<select class="mm-${kind}" aria-label="${kind}" data-lm-suppress-shortcuts="true">` +
    Object.entries(table).map(([value, words]) => `<option value="${value}">${words}</option>`).join('') + '</select>';
  const slider = (kind, words, stops) => `<label>${words} <input type="range" class="mm-${kind}" min="0"
    max="${stops.length - 1}"><output></output></label>`;
  const same = names => Object.fromEntries(names.map(name => [name, name]));
  host.innerHTML = `<style>.mm-memory{max-width:${W}px;font:13px sans-serif}.mm-memory label{display:inline-flex;
    align-items:center;gap:6px;margin:3px 14px 3px 0}.mm-memory output{display:inline-block;width:3.9em;font-weight:bold}
    .mm-memory input[type=range]{width:110px}.mm-memory text{fill:currentColor}.mm-memory select{font:inherit;padding:2px}
    .mm-memory table.mm-twin{border-collapse:collapse;margin:4px 0}.mm-memory table.mm-twin td{padding:1px 16px 1px 0;
    text-align:left;background:none;font-size:13px}.mm-memory table.mm-twin td+td{text-align:right}.mm-memory p{margin:4px 0}
    .mm-memory .mm-verdict{font-size:14px;font-weight:bold}.mm-memory i{display:inline-block;width:10px;height:10px;
    margin-right:6px}</style>
    <label>7B ${options('version', same(Object.keys(data.versions)))}</label><label>weights ${options('bits', data.bits)}</label>
    <label>machine ${options('machine', same(Object.keys(data.machines)))}</label>
    <label><input type="checkbox" class="mm-window">window of 4,096</label><br>
    ${slider('tokens', 'tokens a row', data.tokens)}${slider('batch', 'rows', data.batches)}
    ${slider('chunk', 'chunk', data.chunks)}
    <div aria-live="polite"><p class="mm-verdict"></p><svg viewBox="0 0 ${W} ${H}" width="100%" role="img"></svg>
    <table class="mm-twin"></table></div><p class="mm-where"></p>`;
  const find = css => host.querySelector(css), svg = find('svg');
  host.querySelectorAll('input').forEach(input => input.setAttribute('data-lm-suppress-shortcuts', 'true'));
  const [version, bits, machine, win] = ['version', 'bits', 'machine', 'window'].map(kind => find('.mm-' + kind));
  const sliders = [['tokens', data.tokens], ['batch', data.batches], ['chunk', data.chunks]].map(([kind, stops]) =>
    ({kind, stops, input: find('.mm-' + kind), output: find(`.mm-${kind} + output`)}));
  const draw = () => {
    const can = data.versions[version.value], at = sliders.map(one => one.stops[one.input.value]);
    win.disabled = !can;
    const key = [version.value, can && win.checked ? 1 : 0, bits.value, ...at].join('/');
    const [weights, cache, gpu, laptop, marks] = data.frames[key];
    const sizes = [weights, cache, machine.value.startsWith('GPU') ? gpu : laptop], memory = data.machines[machine.value];
    const total = sizes.reduce((sum, n) => sum + n, 0), scale = (W - 20) / Math.max(total, memory), over = total - memory;
    const all = Object.keys(data.machines), mark = marks[all.indexOf(machine.value)];
    const verdict = mark === 'x' ? 'int4 does not run on this card'
      : mark === '1' ? `fits, with ${Math.abs(over).toFixed(2)} GiB free` : `does not fit: ${over.toFixed(2)} GiB too much`;
    let from = 10, bars = '', words = '';
    sizes.forEach((size, n) => {
      const wide = size * scale;
      bars += `<rect class="mm-part" x="${from}" y="10" width="${wide}" height="34" fill="${data.colours[n]}"/>`;
      if (wide > 110) words += `<text x="${from + wide / 2}" y="32" text-anchor="middle" font-size="13"
        style="fill:white;paint-order:stroke;stroke:#333;stroke-width:3px">${data.names[n]} ${size.toFixed(2)}</text>`;
      from += wide;
    });
    const end = 10 + memory * scale, left = end > W / 2;
    if (over > 0) bars += `<rect class="mm-over" x="${end}" y="10" width="${over * scale}" height="34"
      fill="url(#PLAN_NAME-o)"/>`;
    svg.innerHTML = `<defs><pattern id="PLAN_NAME-o" width="8" height="8" patternUnits="userSpaceOnUse"
      patternTransform="rotate(45)"><rect width="3" height="8" fill="#c1121f"/></pattern></defs>${bars}${words}
      <rect x="10" y="4" width="${memory * scale}" height="46" fill="none" stroke="currentColor" stroke-width="2"/>
      <text x="${left ? end : 10}" y="68" text-anchor="${left ? 'end' : 'start'}" font-size="13">the frame is the memory:
      ${memory.toFixed(2)} GiB</text>`;
    svg.setAttribute('aria-label', `${machine.value}: ${verdict}`);
    find('.mm-verdict').textContent = `${machine.value}: ${verdict}`;
    find('.mm-twin').innerHTML = [...data.names.map((name, n) => [name, sizes[n], data.colours[n]]), ['together', total],
      ['memory', memory]].map(([name, n, colour]) => `<tr><td><i style="background:${colour || 'none'}"></i>${name}</td>
      <td>${n.toFixed(2)} GiB</td></tr>`).join('');
    const fitting = all.filter((_, n) => marks[n] === '1');
    find('.mm-where').textContent = 'it fits: ' + (fitting.join('; ') || 'none of these machines');
    sliders.forEach((one, n) => { one.output.textContent = at[n].toLocaleString('en'); });
    host.dataset.shown = [key, machine.value].join('/');
  };
  version.value = data.start.version; bits.value = data.start.bits; machine.value = data.start.machine;
  sliders.forEach(one => { one.input.value = one.stops.indexOf(data.start[one.kind]); });
  win.checked = data.start.window;
  [version, bits, machine, win, ...sliders.map(one => one.input)].forEach(input => input.addEventListener('input', draw));
  draw();
}
})();"""


def draw(state: Planner) -> Picture:
    """The bar as a still picture, in few colours: it goes into the page twice."""
    made, ax = figure(8.2, 2.1)
    at, memory = 0.0, state.memory()
    for name, size in state.parts().items():
        ax.barh(0, size, left=at, color=COLOURS[name], height=0.7, label=f"{name} {size:.2f} GiB")
        at += size
    if at > memory:
        ax.barh(0, at - memory, left=memory, color="none", edgecolor="#c1121f", hatch="///", height=0.7, label="too much")
    ax.plot([0, memory, memory, 0, 0], [-0.5, -0.5, 0.5, 0.5, -0.5], color="black", lw=1.5)
    most = max(at, memory)
    ax.set(xlim=(-0.01 * most, 1.02 * most), ylim=(-0.6, 0.6), yticks=[], xlabel="GiB; the frame is the memory")
    ax.spines["left"].set_visible(False)
    ax.set_title(f"{state.title()}\n{state.verdict()}", loc="left", fontsize=9)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.55), ncols=4, frameon=False, fontsize=9)
    return finish(made, state.text(), dpi=90, colours=32)


# --- memory while a model is loaded -----------------------------------------------------------------------------------------


def watch(folder, **options):
    """mm.load(folder, **options), watched: -> (model, tokenizer, read, held), before each tensor and at the end: the bytes read
    so far, and what the device holds more than at first: a GPU as PyTorch counts it, a CPU as the system counts this process."""
    import psutil

    process, right = psutil.Process(), checkpoint.read_tensor
    read, held = [], []
    with suppress(OSError, AttributeError):  # what this process freed and kept would be taken again, and not be seen
        ctypes.CDLL("libc.so.6").malloc_trim(0)

    def holds(device):
        return torch.cuda.memory_allocated(device) if device.type == "cuda" else process.memory_info().rss

    def noted(native, place, config, format, device, *rest):
        held.append(holds(device))
        read.append(place.nbytes + (read[-1] if read else 0))
        return right(native, place, config, format, device, *rest)

    with patch.object(checkpoint, "read_tensor", noted):
        model, tokenizer = checkpoint.load(folder, **options)
    held.append(holds(model.output.weight.device))
    return model, tokenizer, [0, *read], [size - held[0] for size in held]


def filling(read: list[int], held: list[int]) -> Picture:
    """Bytes held over bytes read, tensor by tensor; and what a loader would hold that first reads everything into a copy."""
    unit, name = (GIB, "GiB") if read[-1] >= GIB else (2**20, "MiB")
    x, y = [n / unit for n in read], [n / unit for n in held]
    made, ax = figure(7.0, 3.2)
    ax.plot(x, [2 * n for n in x], color=ORANGE, lw=1.5, ls="--")
    ax.annotate("with a second copy", (x[-1], 2 * x[-1]), (8, 0), textcoords="offset points", color=ORANGE, va="center")
    ax.plot(x, y, color=BLUE, lw=2.5)
    ax.annotate("held", (x[-1], y[-1]), (8, 0), textcoords="offset points", color=BLUE, va="center")
    ax.set(xlabel=f"{name} of weights read", ylabel=f"{name} more than before", xlim=(0, x[-1] * 1.4), ylim=(0, None))
    at = [round(n * (len(x) - 1) / 4) for n in range(1, 5)]
    rows = [f"after {x[n]:7.2f} {name} read: {y[n]:7.2f} {name} held" for n in at]
    return finish(made, "\n".join([*rows, f"held at the end: {y[-1] / x[-1]:.2f} times what was read; with a second copy 2.00"]))
