"""Chapter 11: the ceilings as a widget, and the chapter's other pictures.

All numbers are minimistral.roofline's, worked out in Python for every place of the sliders. The script in the page looks them up
and draws.
"""

from dataclasses import dataclass
from functools import cache, partial
from math import log2

from minimistral import roofline
from minimistral.counting import VERSIONS
from minimistral.widgets.page import scripted
from minimistral.widgets.picture import BLUE, GREEN, ORANGE, Picture, described, figure, finish

MISTRAL_7B = VERSIONS["v0.1"]
K = 1_024
LENGTHS = tuple(2**n * K for n in range(8))  # 1k to 128k
WINDOWS = tuple(2**n * K for n in range(5))  # 1k to 16k
BATCHES = (1, 2, 4, 8, 16, 32, 64)
GPUS = tuple(roofline.GPUS)
MOST = 128  # times, at the right end of the scale
PARTS = ("attention alone", "whole pre-fill", "… attention at half the rate", "decode")
FACES = (BLUE, ORANGE, "#f0b27a", GREEN)
WORDS = (
    "Pre-fill takes at least {0} with full attention, {1} with the window.",
    "Decode gives at most {0} tokens a second with a full cache, {1} with the window.",
    "Weights and cache take {0} with a full cache, {1} with the window; this GPU has {2} GB.",
)
MISFIT = " (does not fit)"


@cache
def ratios(N: int, W: int, batch: int) -> tuple[float, float, float, float]:
    """At most so many times as fast with the window: attention, the whole pre-fill at equal rates and at half, decode."""
    return (
        roofline.attention_ratio(N, W),
        roofline.prefill_ratio(MISTRAL_7B, N, W),
        roofline.prefill_ratio(MISTRAL_7B, N, W, 0.5),
        roofline.decode_ratio(MISTRAL_7B, N, W, batch),
    )


@cache
def side(N: int, W: int | None, batch: int, gpu: str) -> tuple[str, str, str]:
    """With a full cache or a window: the least time of a pre-fill, the most tokens a second, gigabytes (and do they fit?)."""
    has = roofline.GPUS[gpu]
    held = roofline.held_bytes(MISTRAL_7B, N, W, batch)
    return (
        seconds(roofline.prefill_seconds(MISTRAL_7B, has.flops, N, W, batch)),
        f"{roofline.decode_tokens_per_second(MISTRAL_7B, has.bandwidth, N, W, batch):,.0f}",
        f"{held / 1e9:,.1f} GB{'' if held <= has.memory else MISFIT}",
    )


def seconds(x: float) -> str:
    """A time as the picture shows it."""
    return f"{1000 * x:.0f} ms" if x < 1 else f"{x:.1f} s" if x < 100 else f"{x / 60:.0f} min"


def times(x: float) -> str:
    """A ratio as the picture shows it."""
    return f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 100 else f"{x:.0f}"


def place(x: float) -> float:
    """Where on a scale from 1 to MOST, 0 to 1; each doubling is one step of the same width."""
    return log2(x) / log2(MOST)


# --- the widget -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ceilings:
    """What a window can win at most for a 7B in bfloat16, before anything is measured. The last line of a cell shows it.

    N tokens of text, W the window, `batch` texts at once, gpu one of minimistral.roofline.GPUS.
    """

    N: int = 16 * K
    W: int = 4 * K
    batch: int = 1
    gpu: str = "H100 SXM"

    def __post_init__(self):
        for name, choices in (("N", LENGTHS), ("W", WINDOWS), ("batch", BATCHES), ("gpu", GPUS)):
            value = getattr(self, name)
            if value not in choices or isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}; this picture has {', '.join(map(str, choices))}.")

    def ratios(self) -> tuple[float, ...]:
        return ratios(self.N, self.W, self.batch)

    def title(self) -> str:
        texts = f"{self.batch} texts at once" if self.batch > 1 else "one text"
        return f"{self.N:,} tokens, W = {self.W:,}, {texts}, {self.gpu}"

    def lines(self) -> list[str]:
        """The three sentences under the bars."""
        full, near = (side(self.N, w, self.batch, self.gpu) for w in (None, self.W))
        has = f"{roofline.GPUS[self.gpu].memory / 1e9:.0f}"
        return [words.format(a, b, has) for words, a, b in zip(WORDS, full, near, strict=True)]

    def text(self) -> str:
        bars = zip(PARTS, self.ratios(), strict=True)
        drawn = [f"  {part:30}{times(x):>6} {'#' * round(56 * place(x))}".rstrip() for part, x in bars]
        return "\n".join([f"{self.title()}: with the window, at most so many times as fast", *drawn, *self.lines()])

    def data(self) -> dict:
        """For the script. bars[N][W][batch], full[N][batch][gpu] and near[N][W][batch][gpu], all by the sliders' places."""
        def bars(N, W, batch):
            return [[times(x), round(place(x), 4)] for x in ratios(N, W, batch)]

        return {
            "bars": grid(bars, LENGTHS, WINDOWS, BATCHES),
            "full": grid(lambda N, batch, gpu: side(N, None, batch, gpu), LENGTHS, BATCHES, GPUS),
            "near": grid(side, LENGTHS, WINDOWS, BATCHES, GPUS),
            "titles": grid(lambda N, W, batch: Ceilings(N, W, batch).title().rsplit(", ", 1)[0], LENGTHS, WINDOWS, BATCHES),
            "lengths": [f"{N:,}" for N in LENGTHS], "windows": [f"{W:,}" for W in WINDOWS], "batches": BATCHES, "gpus": GPUS,
            "memory": [f"{gpu.memory / 1e9:.0f}" for gpu in roofline.GPUS.values()],
            "parts": PARTS, "faces": FACES, "words": WORDS, "ticks": [[n, place(n)] for n in (1, 2, 4, 8, 16, 32, 64, 128)],
            "start": [LENGTHS.index(self.N), WINDOWS.index(self.W), BATCHES.index(self.batch), GPUS.index(self.gpu)],
        }  # fmt: skip

    def html(self) -> str:
        """The picture with its sliders: no network, no libraries. Without scripts the still picture in it remains."""
        return scripted("ceilings", "ceilings", self.data(), SCRIPT, self.title(), draw(self).png)

    def __repr__(self):
        return self.text()

    def _repr_mimebundle_(self, include=None, exclude=None):
        return described({"text/html": self.html(), "image/png": draw(self).png, "text/plain": self.text()})


def grid(call, first, *others) -> list:
    """call(...) for every combination, as nested lists."""
    return [grid(partial(call, one), *others) if others else call(one) for one in first]


#: Looks a frame up and draws it as SVG. Colours of the page's own text, so that it is readable in the dark too.
SCRIPT = """(() => {
const data = CEILINGS_DATA, WIDE = 760, LEFT = 210, LONG = 480, TOP = 34, ROW = 34;
for (const host of document.querySelectorAll('.mm-ceilings[data-ceilings="CEILINGS_NAME"]:not([data-live])')) {
  host.dataset.live = '1';
  const slider = (name, label, values) => `<label>${label} <input type="range" class="mm-ceilings-${name}" min="0"
    max="${values.length - 1}"><output></output></label>`;
  host.innerHTML = `<style>.mm-ceilings{max-width:${WIDE}px;font:13px sans-serif}.mm-ceilings label{display:inline-flex;
    align-items:center;gap:6px;margin:2px 18px 2px 0}.mm-ceilings output{display:inline-block;min-width:4em;font-weight:bold}
    .mm-ceilings input[type=range]{width:110px}.mm-ceilings text{fill:currentColor}.mm-ceilings p{margin:2px 0;line-height:1.4}
    </style>` + slider('n', 'tokens N', data.lengths) + slider('w', 'window W', data.windows) +
    slider('b', 'texts at once', data.batches) + '<br>' + data.gpus.map((gpu, g) =>
      `<label><input type="radio" class="mm-ceilings-gpu" name="CEILINGS_NAME" value="${g}">${gpu}</label>`).join('') +
    `<svg viewBox="0 0 ${WIDE} ${TOP + 4 * ROW + 26}" width="100%" role="img"></svg><div aria-live="polite"></div>`;
  const ranges = [...host.querySelectorAll('input[type=range]')], shown = [...host.querySelectorAll('output')];
  const radios = [...host.querySelectorAll('input[type=radio]')];
  /* or JupyterLab takes arrow keys for itself */
  host.querySelectorAll('input').forEach(input => input.setAttribute('data-lm-suppress-shortcuts', 'true'));
  const svg = host.querySelector('svg'), words = host.querySelector('div[aria-live]');
  const names = [data.lengths, data.windows, data.batches];
  const now = [...data.start];
  const draw = () => {
    const [n, w, b, g] = now, bars = data.bars[n][w][b], title = `${data.titles[n][w][b]}, ${data.gpus[g]}`;
    let out = `<text x="0" y="16" font-size="15" font-weight="bold">With the window, at most so many times as fast</text>`;
    for (const [value, at] of data.ticks) {
      const x = LEFT + LONG * at, low = TOP + 4 * ROW;
      out += `<path d="M${x} ${TOP - 6}V${low}" stroke="currentColor" stroke-opacity="${value === 1 ? 0.6 : 0.15}"/>
        <text x="${x}" y="${low + 17}" font-size="12" text-anchor="middle">${value}</text>`;
    }
    bars.forEach(([times, at], k) => {
      const y = TOP + ROW * k;
      out += `<text x="${LEFT - 10}" y="${y + 18}" font-size="13" text-anchor="end">${data.parts[k]}</text>
        <rect class="mm-ceilings-bar" x="${LEFT}" y="${y + 3}" width="${Math.max(LONG * at, 1.5)}" height="22" rx="2"
        fill="${data.faces[k]}"/><text class="mm-ceilings-times" x="${LEFT + LONG * at + 7}" y="${y + 19}" font-size="14"
        font-weight="bold">${times}</text>`;
    });
    svg.innerHTML = out;
    svg.setAttribute('aria-label', title);
    const full = data.full[n][b][g], near = data.near[n][w][b][g];
    words.innerHTML = '';
    [title, ...data.words.map((line, k) => line.replace('{0}', full[k]).replace('{1}', near[k]).replace('{2}', data.memory[g]))]
      .forEach((line, k) => {
        const p = document.createElement('p');
        p.textContent = line;
        if (!k) p.style.fontWeight = 'bold';
        words.append(p);
      });
    ranges.forEach((range, k) => {
      range.value = now[k]; shown[k].textContent = names[k][now[k]]; range.setAttribute('aria-valuetext', names[k][now[k]]);
    });
    radios.forEach((radio, k) => { radio.checked = k === g; });
    host.dataset.shown = now.join('/');
  };
  ranges.forEach((range, k) => range.addEventListener('input', () => { now[k] = +range.value; draw(); }));
  radios.forEach((radio, k) => radio.addEventListener('change', () => { now[3] = k; draw(); }));
  draw();
}
})();"""


def draw(state: Ceilings) -> Picture:
    """The ceilings as a still picture, in few colours: it goes into the page twice."""
    made, ax = figure(7.6, 2.5)
    values = state.ratios()
    ax.barh(range(4), [place(x) for x in values], color=FACES, height=0.62)
    for row, x in enumerate(values):
        ax.text(place(x) + 0.01, row, times(x), va="center", fontweight="bold")
    ticks = (1, 2, 4, 8, 16, 32, 64, 128)
    ax.set_xticks([place(n) for n in ticks], ticks)
    ax.set_yticks(range(4), PARTS)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.05), xlabel="with the window, at most so many times as fast")
    ax.set_title(state.title(), loc="left")
    return finish(made, state.text(), dpi=90, colours=32)


# --- where it pays --------------------------------------------------------------------------------------------------------


def over_length(W: int = 4 * K, batch: int = 32) -> Picture:
    """The ceilings of a 7B from 1k to 128k tokens."""
    made, ax = figure(7.4, 3.7)
    curves = {
        "attention alone": ([roofline.attention_ratio(N, W) for N in LENGTHS], BLUE, "-"),
        f"decode, {batch} texts": ([roofline.decode_ratio(MISTRAL_7B, N, W, batch) for N in LENGTHS], GREEN, "-"),
        "pre-fill, attention at half rate": ([roofline.prefill_ratio(MISTRAL_7B, N, W, 0.5) for N in LENGTHS], ORANGE, "--"),
        "pre-fill": ([roofline.prefill_ratio(MISTRAL_7B, N, W) for N in LENGTHS], ORANGE, "-"),
        "decode, one text": ([roofline.decode_ratio(MISTRAL_7B, N, W, 1) for N in LENGTHS], GREEN, "--"),
    }
    _curves(ax, LENGTHS, curves, [f"{N // K}k" for N in LENGTHS])
    ax.set(xlabel=f"tokens N, window W = {W:,}", ylabel="at most so many times as fast")
    return finish(made, _columns("tokens", [f"{N:,}" for N in LENGTHS], curves))


def over_batch(W: int = 4 * K, lengths=(8 * K, 16 * K, 32 * K, 128 * K)) -> Picture:
    """The ceiling of decode for a 7B, for 1 to 64 texts at once."""
    made, ax = figure(7.4, 3.3)
    faces = ("#9fc3d6", "#5d97b8", BLUE, "#143c54")
    curves = {
        f"{N:,} tokens": ([roofline.decode_ratio(MISTRAL_7B, N, W, batch) for batch in BATCHES], face, "-")
        for N, face in zip(lengths, faces, strict=True)
    }
    _curves(ax, BATCHES, curves, BATCHES)
    ax.set(xlabel=f"texts at once, window W = {W:,}", ylabel="decode: at most so many times as fast")
    return finish(made, _columns("texts", list(map(str, BATCHES)), curves))


def quotable(N: int = 16 * K, W: int = 4 * K):
    """What may be quoted of the speed of a 7B: what was recorded, or that nothing was, beside what is possible at most."""
    from minimistral import bench
    from minimistral.bench import Line, Table

    most, records, lines = f"{roofline.attention_ratio(N, W):.3f}", bench.recorded("attention"), []
    for record in records:
        for line in bench.table(record).lines:
            if "auto against causal" in line.what:
                what = f"attention operator, {line.what.split(',')[0]}; {bench.report.where(record['machine'])}"
                lines.append(Line(what, line.measured, most))
    if not any("gpu" in record["machine"] for record in records):
        lines.append(Line("attention operator, GPU", bench.report.NOT_YET, most))
    whole = [roofline.prefill_ratio(MISTRAL_7B, N, W, rate) for rate in (1.0, 0.5)]
    computed = (
        ("prefill", "whole pre-fill, GPU", f"{whole[0]:.2f}; attention at half the rate {whole[1]:.2f}"),
        ("decode", "decode, one text, GPU", f"{roofline.decode_ratio(MISTRAL_7B, N, W):.2f}"),
        ("decode", "decode, 32 texts, GPU", f"{roofline.decode_ratio(MISTRAL_7B, N, W, 32):.2f}"),
    )
    for kind, what, ratio in computed:
        there = any("gpu" in record["machine"] for record in bench.recorded(kind))
        lines.append(Line(what, "see “Recorded”" if there else bench.report.NOT_YET, ratio))
    notes = [
        "At most: computed from pairs, operations and bytes; nothing was run. Baseline: the fastest full causal kernel, same "
        "dtype and sizes."
    ]
    for record in records:
        ran = "{date}: {rounds} rounds, {heads} query heads on {kv_heads}, D = {D}, {device}"
        notes.append(ran.format(**(record["machine"] | record["setting"])))
    title = f"Mistral 7B v0.1, {N:,} tokens, W = {W:,}: how many times as fast as full attention"
    return Table(title, lines, tuple(notes), columns=("what", "measured", "at most"))


def _curves(ax, places, curves, names):
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    lowest = float("-inf")
    for name, (values, face, dashes) in sorted(curves.items(), key=lambda curve: curve[1][0][-1]):
        ax.plot(places, values, dashes, color=face, marker="o", ms=4)
        at = max(log2(values[-1]), lowest + 0.33)  # names that would lie on each other
        ax.annotate(name, (places[-1] * 1.08, 2**at), color=face, va="center", fontsize=9, annotation_clip=False)
        lowest = at
    ax.axhline(2, color="#888", lw=0.8, ls=":")
    ax.set_xticks(places, names)
    top = max(max(values) for values, *_ in curves.values())
    ticks = [n for n in (1, 2, 4, 8, 16, 32) if n <= 2 * top]
    ax.set_yticks(ticks, ticks)
    ax.minorticks_off()
    ax.set_xlim(places[0] * 0.85, places[-1] * 1.2)


def _columns(head: str, rows: list[str], curves: dict) -> str:
    """The curves as a table: a line a place."""
    names = list(curves)
    lines = ["  ".join([f"{head:>8}", *names])]
    for n, row in enumerate(rows):
        lines.append("  ".join([f"{row:>8}", *(f"{times(curves[name][0][n]):>{len(name)}}" for name in names)]))
    return "\n".join(lines)


def race(seconds: dict[str, list[float]], base: str, ceiling: float) -> Picture:
    """Contenders' median seconds as bars, longest first, and how many times as fast as `base` each is."""
    from statistics import median

    made, ax = figure(7.4, 0.9 + 0.5 * len(seconds))
    order = sorted(seconds, key=lambda name: -median(seconds[name]))
    values = [median(seconds[name]) for name in order]
    gains = [median(a / b for a, b in zip(seconds[base], seconds[name], strict=True)) for name in order]
    faces = [ORANGE if gain < 0.98 else BLUE if gain > 1.02 else "#9aa1a8" for gain in gains]
    bars = ax.barh(range(len(order)), values, color=faces, height=0.6)
    ax.bar_label(bars, [f"{value:.3f} s, {gain:.2f} times" for value, gain in zip(values, gains, strict=True)], padding=5)
    ax.set_yticks(range(len(order)), order)
    ax.invert_yaxis()
    ax.set(xlim=(0, max(values) * 1.35), xlabel=f"seconds; times as fast as “{base}”, by pairs at most {ceiling:.2f}")
    wide = max(map(len, order))
    lines = [f"{name:>{wide}}  {value:.3f} s  {gain:.2f} times" for name, value, gain in zip(order, values, gains, strict=True)]
    return finish(made, "\n".join([*lines, f"times as fast as {base}; by pairs at most {ceiling:.2f}"]))
