"""Chapter 04: the window widget, and the chapter's other pictures.

The widget shows one query twice. Above: the cone, which tokens it can hear of through so many layers. Below: whom it looks
at directly in one layer, with the real attention weights of that layer, renormalised for any window; the layers under it stay
as they ran, under the model's own window. What is true is worked out here in Python (`weights`,
`first_reached`); the script in the page masks the same scores, takes the same softmax, and draws.

Three kinds of nothing are drawn in three ways: the future (grey), what is out of the window (hatched), and what is seen but
hardly attended (pale yellow).
"""

import base64
import hashlib
import html
import io
import json
import math
from dataclasses import dataclass
from functools import cached_property

import torch

from minimistral import masks
from minimistral.config import check_window
from minimistral.widgets import picture
from minimistral.widgets.picture import BLUE, FUTURE, GREEN, GREY, HATCH, ORANGE, Picture, described, figure, finish

MOST = 24  # tokens that fit side by side
FAINT = 1e-20  # smaller weights are sent as this; not larger, since a small W may leave faint ones alone, and they share all
LOW, HIGH = picture.rgb(picture.PALE), picture.rgb(picture.FULL)


# --- the widget -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What one pass of a model over n tokens leaves to look at: the last line of a cell shows it.

    labels    the n tokens as text
    scores    [layer][head][query] -> scores of the keys 0 ... query, in hundredths; up to a constant in each row, which
              softmax does not see
    window, layers, query: where the sliders of the cone stand
    layer, head: whose weights are shown below, both counted from 1; head 0 is the average of all
    """

    labels: tuple[str, ...]
    scores: tuple
    window: int
    layers: int
    query: int
    layer: int = 1
    head: int = 0
    note: str = ""

    def __post_init__(self):
        n = len(self.labels)
        L, H = len(self.scores), len(self.scores[0])
        limits = {"window": (1, n), "layers": (1, L), "query": (0, n - 1), "layer": (1, L), "head": (0, H)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ValueError(f"{name} is {value!r}; for these {n} tokens expected a whole number from {least} to {most}.")

    def weights(self) -> list[float]:
        """What the query gives to each of the n tokens, in that layer: masked, then softmax again. They sum to 1."""
        heads = self.scores[self.layer - 1]
        rows = [heads[self.head - 1]] if self.head else heads
        total = [0.0] * len(self.labels)
        for row in rows:
            seen = {j: row[self.query][j] / 100 for j in range(self.query + 1) if masks.visible(self.query, j, self.window)}
            most = max(seen.values())
            powers = {j: math.exp(score - most) for j, score in seen.items()}
            whole = sum(powers.values())
            for j, power in powers.items():
                total[j] += power / whole / len(rows)
        return total

    @cached_property
    def reached(self) -> list:
        """[window - 1][steps][query] -> the first token that a query can hear of through so many layers."""
        n = len(self.labels)
        return [first_reached(n, window, len(self.scores)) for window in range(1, n + 1)]

    def cone(self) -> list[int]:
        """The first token that the query can hear of, through 0, 1, ... layers."""
        return [row[self.query] for row in self.reached[self.window - 1][: self.layers + 1]]

    def name(self, j: int) -> str:
        return f"“{self.labels[j]}” ({j})"

    def which(self) -> str:
        return f"layer {self.layer}, {f'head {self.head}' if self.head else 'average of the heads'}"

    def say(self) -> str:
        """The state in two sentences: the text twin of the picture."""
        w, q, n = self.weights(), self.query, len(self.labels)
        order = sorted(range(n), key=lambda j: (-round(w[j] * 1e6), j))
        top = ", ".join(f"{self.name(j)} {percent(w[j])}" for j in order[:3] if round(w[j] * 1e6))
        sees, first = min(q + 1, self.window), self.cone()[-1]
        return (
            f"W = {self.window}: {self.name(q)} sees {sees} of {n} tokens; {q + 1 - sees} are out of the window, "
            f"{n - 1 - q} are the future. In {self.which()}, it looks most at {top}. "
            f"Through {self.layers} layer{'s' * (self.layers > 1)} it can hear of {q + 1 - first}, from {self.name(first)} on."
        )

    def text(self) -> str:
        """The picture in words: each token, what the query sees of it directly, and after how many layers it hears of it."""
        w, lines = self.weights(), [self.say()]
        for j, label in enumerate(self.labels):
            if j > self.query:
                direct = "the future"
            elif not masks.visible(self.query, j, self.window):
                direct = "out of the window"
            else:
                direct = f"seen, {percent(w[j])}"
            steps = next((k for k, first in enumerate(self.cone()) if first <= j <= self.query), None)
            if j >= self.query:
                through = "itself" if j == self.query else ""
            else:
                through = "out of reach" if steps is None else f"through {steps} layer{'s' * (steps > 1)}"
            lines.append(f"  {j:2} {label:>10}  {direct:18} {through}".rstrip())
        return "\n".join([*lines, *([self.note] if self.note else [])])

    def page(self) -> str:
        """The picture with its sliders: no network, no libraries. Where scripts are taken away, the still picture remains."""
        start = {name: getattr(self, name) for name in ("window", "query", "layers", "layer", "head")}
        data = {"labels": self.labels, "scores": self.scores, "reached": self.reached, "start": start, "note": self.note}
        whole = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        name = hashlib.sha256(whole.encode()).hexdigest()[:12]
        still = base64.b64encode(self._still.png).decode()
        return (
            f'<div class="mm-window" data-window="{name}">'
            f'<img alt="{html.escape(self.say())}" src="data:image/png;base64,{still}"></div>'
            f"<script>{SCRIPT.replace('WINDOW_NAME', name).replace('WINDOW_DATA', whole)}</script>"
        )

    @cached_property
    def _still(self) -> Picture:
        return draw(self)

    def __repr__(self):
        return self.text()

    def _repr_mimebundle_(self, include=None, exclude=None):
        return described({"text/html": self.page(), "image/png": self._still.png, "text/plain": self.text()})


def explore(model, tokenizer, sentence: str, window=0, layers=0, query=-1, layer=0, head=0) -> Seen:
    """The widget on a sentence of one's own. window 0: all of it; layers 0: all; query -1: the last token; layer 0: the topmost.

    Values are cut to fit.

    Raises ValueError for an empty sentence. Of a long one the last 24 tokens are kept, and a note says so.
    """
    from minimistral.widgets.record import record

    total = len(tokenizer.encode(sentence, bos=True))
    rec = record(model, tokenizer, sentence, last=MOST)
    n, (L, H) = len(rec.labels), rec.weights.shape[:2]
    logs = (100 * rec.weights.double().clamp(min=FAINT).log()).round().long().tolist()
    scores = tuple(tuple(tuple(tuple(row[: i + 1]) for i, row in enumerate(head)) for head in layer) for layer in logs)
    note = f"{total} tokens; the last {n} are shown, and the model has read only these." if n < total else ""
    return Seen(
        tuple(rec.labels), scores, min(window or n, n), min(layers or L, L), query % n if query < 0 else min(query, n - 1),
        min(layer or L, L), min(head, H), note,
    )  # fmt: skip


def first_reached(n: int, window: int, layers: int) -> list[list[int]]:
    """[steps][query] -> the first of n tokens that the query can hear of through 0, 1, ... layers: powers of the mask."""
    at = masks.positions(n)
    mask = masks.dense(at, at, window).double()
    reach, found = torch.eye(n, dtype=torch.float64), []
    for _ in range(layers + 1):
        found.append((reach > 0).long().argmax(dim=1).tolist())  # the first that is True
        reach = ((mask @ reach) > 0).double()
    return found


def percent(share: float) -> str:
    """A share as the picture shows it."""
    return "under 1 %" if share < 0.005 else f"{math.floor(100 * share + 0.5)} %"


def tint(weight: float) -> str:
    """From pale yellow to dark red, by the root of a weight, so that 0.05 can be told from 0."""
    strength = math.sqrt(weight)
    return "#" + "".join(f"{round(a + (b - a) * strength):02x}" for a, b in zip(LOW, HIGH, strict=True))


#: Masks the scores, takes the softmax again, and draws. Colours of the page's own text, so that it is readable in the dark too.
SCRIPT = """(() => {
const data = WINDOW_DATA, N = data.labels.length, L = data.scores.length, H = data.scores[0].length;
const WIDE = 760, LEFT = 84, SLOT = (WIDE - LEFT - 6) / N, STEP = 32, GROUND = 30 + STEP * L, CELLS = GROUND + 166;
const X = j => LEFT + (j + 0.5) * SLOT, Y = k => GROUND - STEP * k;
for (const host of document.querySelectorAll('.mm-window[data-window="WINDOW_NAME"]:not([data-live])')) {
  host.dataset.live = '1';
  const slider = (name, label, min, max) => `<label class="mm-window-${name}-label">${label}</label>
    <input type="range" class="mm-window-${name}" aria-label="${label}" min="${min}" max="${max}"
    data-lm-suppress-shortcuts="true"><output></output>`;
  host.innerHTML = `<style>.mm-window{max-width:${WIDE}px;font:13px sans-serif}.mm-window-sliders{display:grid;
    grid-template-columns:6em 1fr 8em 6em 1fr 8em;gap:3px 8px;align-items:center}.mm-window label{text-align:right}
    .mm-window-head-label{grid-column:4}
    .mm-window input{width:100%;margin:0}.mm-window output{font-weight:bold;white-space:nowrap;overflow:hidden}
    .mm-window text{fill:currentColor;text-anchor:middle;font-size:11px}</style><div class="mm-window-sliders">` +
    slider('window', 'window W', 1, N) + slider('query', 'who looks', 0, N - 1) +
    slider('layers', 'cone: layers', 1, L) + slider('layer', 'bars: layer', 1, L) + slider('head', 'bars: head', 0, H) +
    `</div><svg viewBox="0 0 ${WIDE} ${CELLS + 116}" width="100%" role="img"></svg>
    <div class="mm-window-said" aria-live="polite" style="line-height:1.4;min-height:4.2em"></div><div><i></i></div>`;
  const find = name => host.querySelector('.mm-window-' + name), svg = host.querySelector('svg'), said = find('said');
  host.querySelector('i').textContent = data.note;
  const names = ['window', 'query', 'layers', 'layer', 'head'], inputs = names.map(find), shown = host.querySelectorAll('output');
  const escaped = text => text.replace(/[&<>"]/g, c => '&#' + c.charCodeAt(0) + ';');
  const percent = share => share < 0.005 ? 'under 1 %' : Math.floor(100 * share + 0.5) + ' %';
  const tint = w => 'rgb(' + [[255, 176], [244, 42], [214, 8]].map(([a, b]) => Math.round(a + (b - a) * Math.sqrt(w))) + ')';
  const name = j => '“' + data.labels[j] + '” (' + j + ')';
  const weights = s => {
    const heads = data.scores[s.layer - 1], rows = s.head ? [heads[s.head - 1]] : heads, total = Array(N).fill(0);
    for (const row of rows) {
      const first = Math.max(0, s.query - s.window + 1), seen = row[s.query].slice(first, s.query + 1).map(x => x / 100);
      const most = Math.max(...seen), powers = seen.map(x => Math.exp(x - most)), whole = powers.reduce((a, b) => a + b, 0);
      powers.forEach((power, n) => { total[first + n] += power / whole / rows.length; });
    }
    return total;
  };
  const text = (x, y, words, more) => `<text x="${x}" y="${y}" ${more || ''}>${words}</text>`;
  const left = 'style="text-anchor:start"', pattern = 'mm-out-WINDOW_NAME';
  const hatched = `fill="url(#${pattern})" stroke="#8a97a4"`, later = 'fill="currentColor" fill-opacity="0.14"';
  const show = () => {
    const s = {};
    names.forEach((what, n) => { s[what] = +inputs[n].value; });
    const q = s.query, w = weights(s), cone = data.reached[s.window - 1].slice(0, s.layers + 1).map(row => row[q]);
    const out = j => j <= q - s.window, first = cone[s.layers];
    let lines = '', strong = '', nodes = '', cells = '';
    for (let k = 0; k <= s.layers; k++) {  /* k layers above the tokens; the query stands at the top */
      const from = cone[s.layers - k];
      nodes += text(0, Y(k) + 4, k ? 'after layer ' + k : 'the tokens', left);
      for (let j = 0; j < N; j++) {
        const at = `cx="${X(j)}" cy="${Y(k)}"`;
        if (k === s.layers && j !== q) continue;
        if (j > q) nodes += `<circle class="later" ${at} r="4" fill="currentColor" fill-opacity="0.2"/>`;
        else if (j < from)
          nodes += `<circle class="out" ${at} r="5" fill="none" stroke="#8a97a4" stroke-dasharray="2 2"/>`;
        else nodes += `<circle class="in" ${at} r="${j === q && k === s.layers ? 9 : 6}" fill="#2a6f97"/>`;
        if (k && j >= from && j <= q)
          for (let i = Math.max(0, j - s.window + 1); i <= j; i++) {
            if (k < s.layers) lines += `M${X(j)} ${Y(k)}L${X(i)} ${Y(k - 1)}`;
            else strong += `<path d="M${X(j)} ${Y(k)}L${X(i)} ${Y(k - 1)}" stroke="#e07a1f" stroke-width="2"/>`;
          }
      }
    }
    for (let j = 0; j < N; j++) {
      const x = X(j) - SLOT * 0.44, wide = SLOT * 0.88;
      const bold = j === q ? 'font-weight="bold"' : j > q || j < first ? 'opacity="0.55"' : '';
      for (const y of [GROUND + 14, CELLS + 32])  /* the names stand under the cone, and again under the bars */
        cells += `<text transform="translate(${X(j) + 4},${y}) rotate(-55)" style="text-anchor:end" ${bold}>` +
          escaped(data.labels[j].slice(0, 12)) + '</text>';
      if (j > q) cells += `<rect class="later" x="${x}" y="${CELLS}" width="${wide}" height="20" ${later}/>`;
      else if (out(j)) cells += `<rect class="out" x="${x}" y="${CELLS}" width="${wide}" height="20" ${hatched}/>`;
      else {
        const high = 66 * w[j];
        cells += `<rect class="bar" x="${x}" y="${CELLS - high}" width="${wide}" height="${high}" fill="${tint(w[j])}"/>
          <rect class="in" x="${x}" y="${CELLS}" width="${wide}" height="20" fill="${tint(w[j])}" stroke="#b02a08"/>` +
          text(X(j), CELLS - high - 4, w[j] < 0.005 ? '' : Math.floor(100 * w[j] + 0.5));
      }
    }
    const which = 'layer ' + s.layer + ', ' + (s.head ? 'head ' + s.head : 'average of the heads');
    const key = (x, look, words) => `<rect x="${x}" y="${CELLS + 98}" width="16" height="14" ${look}/>` +
      text(x + 22, CELLS + 109, words, left);
    const filled = colour => `fill="${colour}" stroke="#b02a08"`;
    for (let k = s.layers + 1; k <= L; k++) nodes += text(0, Y(k) + 4, 'after layer ' + k, left + ' opacity="0.3"');
    svg.innerHTML = `<defs><pattern id="${pattern}" width="5" height="5" patternUnits="userSpaceOnUse"
      patternTransform="rotate(45)"><rect width="1.8" height="5" fill="#8a97a4"/></pattern></defs>
      <path d="${lines}" stroke="#2a6f97" stroke-opacity="0.4" fill="none"/>${strong}${nodes}${cells}` +
      text(0, 12, 'The cone: what it can hear of', left + ' font-weight="bold"') +
      text(0, CELLS - 84, 'Seen directly, ' + which + ': % of its attention', left + ' font-weight="bold"') +
      key(LEFT, filled(tint(0.5)), 'attended') + key(LEFT + 100, filled(tint(0)), 'seen, hardly attended') +
      key(LEFT + 270, hatched, 'out of the window') + key(LEFT + 420, later, 'the future');
    const order = w.map((_, j) => j).sort((a, b) => Math.round(w[b] * 1e6) - Math.round(w[a] * 1e6) || a - b);
    const top = order.slice(0, 3).filter(j => Math.round(w[j] * 1e6)).map(j => name(j) + ' ' + percent(w[j])).join(', ');
    const sees = Math.min(q + 1, s.window);
    said.textContent = `W = ${s.window}: ${name(q)} sees ${sees} of ${N} tokens; ${q + 1 - sees} are out of the window, ` +
      `${N - 1 - q} are the future. In ${which}, it looks most at ${top}. Through ${s.layers} layer${s.layers > 1 ? 's' : ''} ` +
      `it can hear of ${q + 1 - first}, from ${name(first)} on.`;
    svg.setAttribute('aria-label', said.textContent);
    [s.window + ' of ' + N, data.labels[q] + ' (' + q + ')', s.layers, s.layer, s.head || 'average'].forEach((words, n) => {
      shown[n].textContent = words; });
    host.dataset.shown = names.map(what => s[what]).join('/');
  };
  names.forEach((what, n) => { inputs[n].value = data.start[what]; inputs[n].addEventListener('input', show); });
  show();
}
})();"""


def draw(seen: Seen) -> Picture:
    """The same as a still picture, in few colours: it goes into the page twice."""
    from PIL import Image

    n, q, w, cone = len(seen.labels), seen.query, seen.weights(), seen.cone()
    made, (top, below) = figure(8.0, 4.9, nrows=2, sharex=True, height_ratios=(1.5, 1))
    for k in range(seen.layers + 1):
        first = cone[seen.layers - k]
        for j in range(n) if k < seen.layers else (q,):
            inside = first <= j <= q
            style = {"ms": 9 if k == seen.layers and inside else 6, "zorder": 3}
            if j > q:
                top.plot(j, k, "o", color=FUTURE, **style)
            elif not inside:
                top.plot(j, k, "o", markerfacecolor="white", markeredgecolor=HATCH, markeredgewidth=0.8, **style)
            else:
                top.plot(j, k, "o", color=BLUE, **style)
                for i in range(max(0, j - seen.window + 1), j + 1 if k else 0):
                    if k == seen.layers:
                        top.plot([j, i], [k, k - 1], color=ORANGE, lw=1.6)
                    else:
                        top.plot([j, i], [k, k - 1], color=BLUE, lw=0.6, alpha=0.3)
    top.set_yticks(range(seen.layers + 1), ["the tokens", *(f"after layer {k}" for k in range(1, seen.layers + 1))])
    layers = f"{seen.layers} layer{'s' * (seen.layers > 1)}"
    top.set_title(f"the cone of {seen.name(q)}: W = {seen.window}, {layers}", loc="left")
    for j in range(n):
        if j > q:
            below.bar(j, 0.1, bottom=-0.1, color=FUTURE, width=0.88)
        elif not masks.visible(q, j, seen.window):
            below.bar(j, 0.1, bottom=-0.1, color="white", edgecolor=HATCH, hatch="//////", width=0.88)
        else:
            below.bar(j, 0.1, bottom=-0.1, color=tint(w[j]), edgecolor=tint(1), width=0.88)
            below.bar(j, w[j], color=tint(w[j]), width=0.88)
            if w[j] >= 0.005:
                below.text(j, w[j] + 0.02, f"{math.floor(100 * w[j] + 0.5)}", ha="center", fontsize=8)
    below.set_title(f"seen directly, {seen.which()}: % of its attention", loc="left")
    below.set(ylim=(-0.12, max(w) + 0.16), yticks=[])
    below.set_xticks(range(n), [label[:12] for label in seen.labels], rotation=55, ha="right", fontsize=8)
    for ax in (top, below):
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.tick_params(length=0)
    picture, small = finish(made, seen.text(), dpi=90), io.BytesIO()
    Image.open(io.BytesIO(picture.png)).convert("RGB").quantize(48).save(small, "png", optimize=True)
    return Picture(small.getvalue(), picture.text)


# --- still pictures -------------------------------------------------------------------------------------------------------


def mask(T: int, window: int | None) -> Picture:
    """The mask as a picture: seen, the future, out of the window."""
    from matplotlib.patches import Rectangle

    check_window(window)
    made, ax = figure(5.6, 3.4)
    for i in range(T):
        for j in range(T):
            seen = masks.visible(i, j, window)
            look = {"facecolor": ORANGE} if seen else {"facecolor": FUTURE} if j > i else {
                "facecolor": "white", "edgecolor": HATCH, "hatch": "//////", "linewidth": 0.5}  # fmt: skip
            ax.add_patch(Rectangle((j + 0.04, i + 0.04), 0.92, 0.92, **look))
    ax.set(xlim=(-0.1, T + 0.1), ylim=(T + 0.1, -0.1), aspect="equal", xlabel="key", ylabel="query")
    ax.set(xticks=[t + 0.5 for t in range(T)], yticks=[t + 0.5 for t in range(T)])
    ax.set_xticklabels(range(T))
    ax.set_yticklabels(range(T))
    ax.tick_params(length=0)
    for colour, what in ((ORANGE, "seen"), (FUTURE, "the future")):
        ax.plot([], [], "s", color=colour, ms=10, label=what)
    ax.bar(-9, 0, color="white", edgecolor=HATCH, hatch="//////", label="out of the window")
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, handleheight=1.2, handlelength=1.2)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return finish(made, f"{masks.table(T, window)}\nx seen, . the future, - out of the window")


def blocks(block_mask) -> Picture:
    """A FlexAttention BlockMask: the blocks that are skipped, calculated with the rule, calculated without asking."""
    from matplotlib.patches import Patch, Rectangle

    grid = [  # the skipped ones told apart, as in the picture of the mask
        ["+#"[kind - 1] if kind else ".-"[column < row] for column, kind in enumerate(kinds)]
        for row, kinds in enumerate(block_kinds(block_mask))
    ]
    n = len(grid)
    looks = {
        ".": {"facecolor": FUTURE}, "-": {"facecolor": "white", "edgecolor": HATCH, "hatch": "//////", "linewidth": 0.5},
        "+": {"facecolor": "#f2b279"}, "#": {"facecolor": ORANGE},
    }  # fmt: skip
    names = {
        ".": "skipped: the future", "-": "skipped: out of the window", "+": "partial: the rule is asked for each pair",
        "#": "full: all pairs, nobody asked",
    }  # fmt: skip
    counts = {mark: sum(row.count(mark) for row in grid) for mark in names}
    made, ax = figure(6.4, 3.2)
    for row, marks in enumerate(grid):
        for column, mark in enumerate(marks):
            ax.add_patch(Rectangle((column + 0.05, row + 0.05), 0.9, 0.9, **looks[mark]))
    ticks = range(0, n, 4)
    ax.set(xlim=(-0.1, n + 0.1), ylim=(n + 0.1, -0.1), aspect="equal", xlabel="block of keys", ylabel="block of queries")
    ax.set_xticks([t + 0.5 for t in ticks], ticks)
    ax.set_yticks([t + 0.5 for t in ticks], ticks)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    short = {".": names["."], "-": names["-"], "+": "partial", "#": "full"}
    handles = [Patch(**looks[mark], label=f"{counts[mark]} {short[mark]}") for mark in names]
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, handleheight=1.2, handlelength=1.2)
    lines = [" ".join(row) for row in grid]
    return finish(made, "\n".join([*lines, *(f"{mark} {counts[mark]} {name}" for mark, name in names.items())]))


def block_kinds(block_mask) -> list[list[int]]:
    """[query block][key block] -> 0 skipped, 1 partial, 2 full, as the BlockMask lists them."""
    rows, columns = block_mask.kv_indices.shape[-2:]
    grid = [[0] * columns for _ in range(rows)]
    partial = 1, block_mask.kv_num_blocks, block_mask.kv_indices
    full = 2, block_mask.full_kv_num_blocks, block_mask.full_kv_indices
    for kind, counts, indices in (partial, full):
        if counts is None:
            continue
        for row in range(rows):
            for column in indices[0, 0, row, : counts[0, 0, row]].tolist():
                grid[row][column] = kind
    return grid


def fading(influence, window: int, n_layers: int, marks: tuple[int, ...] = ()) -> Picture:
    """How strongly the last position depends on the token d places back, on a logarithmic scale, and what share lies within."""
    values = influence.tolist()
    reach, last = n_layers * (window - 1), max(d for d, x in enumerate(values) if x)
    share = (influence.cumsum(0) / influence.sum()).tolist()
    made, ax = figure(7.4, 3.3)
    ax.semilogy(range(last + 1), values[: last + 1], color=BLUE, lw=1.3)
    top = max(values)
    for at, what, colour in ((window - 1, f"W - 1 = {window - 1}", ORANGE), (reach, f"L(W - 1) = {reach}", GREEN)):
        ax.axvline(at, color=colour, ls="--", lw=1.2)
        side = -1 if at > len(values) / 2 else 1  # beside its line, on the side where there is room
        ax.annotate(what, (at, top * 8), (5 * side, 0), textcoords="offset points", color=colour, fontsize=9,
                    ha="right" if side < 0 else "left")  # fmt: skip
    zero = len(values) - 1 - last
    if zero > 0:
        ax.axvspan(last + 1, len(values), color="#eef0f2")
        ax.text((last + len(values)) / 2, math.sqrt(top * min(x for x in values if x)), "exactly 0", rotation=90, ha="center",
                va="center", color="#5d666e", fontsize=9)  # fmt: skip
    ax.set(xlabel="how many places back", ylabel="gradient", xlim=(-3, len(values)), ylim=(None, top * 60))
    small = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    ax.yaxis.set_major_formatter(lambda y, _: "10" + f"{math.log10(y):.0f}".translate(small))
    lines = [f"within {d:3} places back: {100 * share[d]:3.0f} % of the whole gradient" for d in marks]
    lines += [f"farthest place with any gradient: {last}", f"places behind it, all exactly 0: {zero}"]
    return finish(made, "\n".join(lines))


def two_losses(right, wrong, window: int, stop: int, width: int = 32) -> Picture:
    """The loss at each position under two rules, in steps of `width`; the words give the means before and after the window."""
    made, ax = figure(7.4, 3.0)
    middles = [start + width / 2 for start in range(0, stop - width + 1, width)]
    lines = []
    for values, colour, name in ((wrong, ORANGE, "window ignored"), (right, BLUE, "window kept")):
        means = [values[start : start + width].mean().item() for start in range(0, stop - width + 1, width)]
        ax.plot(middles, means, "o-", color=colour, ms=4)
        ax.annotate(name, (middles[-1], means[-1]), (8, 0), textcoords="offset points", color=colour, va="center")
    ax.axvline(window, color=GREY, ls="--", lw=1.2)
    ax.text(window + 4, ax.get_ylim()[1] * 0.92, f"W = {window}", color="#5d666e", fontsize=9)
    ax.set(xlabel="position in the text", ylabel="loss", xlim=(0, stop * 1.22), ylim=(0, None))
    ax.set_xticks(range(0, stop + 2, window))
    edges = (0, window, 2 * window, 4 * window, stop)
    for start, end in zip(edges, edges[1:], strict=False):
        if end > start:
            a, b = right[start:end].mean().item(), wrong[start:end].mean().item()
            lines.append(f"positions {start:3} to {end - 1:3}: loss {a:.1f} with the window, {b:.1f} without")
    return finish(made, "\n".join(lines))


def price(pairs: dict[str, int], seconds: dict[str, float]) -> Picture:
    """What had to be calculated, and how long it took, side by side."""
    made, axes = figure(7.4, 0.7 + 0.6 * len(pairs), ncols=2, sharey=True)
    names = list(pairs)
    for ax, values, form, title in (
        (axes[0], [pairs[name] / 1e6 for name in names], "{:.2f}", "pairs that are seen, millions"),
        (axes[1], [1000 * seconds[name] for name in names], "{:.0f}", "milliseconds"),
    ):
        bars = ax.barh(range(len(names)), values, color=[BLUE, *[ORANGE] * (len(names) - 1)], height=0.6)
        ax.bar_label(bars, [form.format(value) for value in values], padding=4)
        ax.set(xlim=(0, max(values) * 1.25), xticks=[])
        ax.set_title(title, loc="left")
        ax.spines["bottom"].set_visible(False)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    wide = max(map(len, names))
    return finish(made, "\n".join(f"{n:>{wide}}: {pairs[n]:11,} pairs, {1000 * seconds[n]:7.0f} ms" for n in names))
