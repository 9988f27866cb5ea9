"""Chapter 08: a real prediction being cut by temperature, top-k, top-p and min-p; and the chapter's other pictures.

The script in the page does the same few sums as `generation.probabilities`, on the same logits, so that a key press needs no
kernel. A browser test holds its numbers against Python's, id for id, at many settings.
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

from minimistral.generation import check_sampling, probabilities
from minimistral.widgets.picture import BLUE, GREY, ORANGE, Picture, described, figure, finish

SHOWN = 24  # bars
LOTS = 20  # drawn by the button
FLOOR = 1e-30  # what has less than this is never drawn; float32 ends near 1e-45
#: where the sliders stop; None: this cut is off
STOPS = {
    "temperature": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0),
    "top_k": (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 17, 20, 24, 30, 50, 100, 200, 500, None),
    "top_p": (*(n / 20 for n in range(1, 20)), 0.99, None),
    "min_p": (None, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0),
}
NAMES = {"temperature": "temperature", "top_k": "top-k", "top_p": "top-p", "min_p": "min-p"}


@dataclass(frozen=True)
class Cut:
    """One prediction and what is left of it. All V tokens, the likeliest first; of equals the lower id first."""

    prompt: str
    pieces: tuple[str, ...]
    logits: tuple[float, ...]
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self):
        if self.temperature == 0:
            raise ValueError("temperature is 0: it takes the likeliest token, and nothing is drawn; give a number above 0.")
        check_sampling(self.temperature, self.top_k, self.top_p, self.min_p, len(self.logits))

    @classmethod
    def predicted(cls, model, tokenizer, prompt: str, **settings) -> "Cut":
        """What the model expects after the prompt."""
        if tokenizer.vocab_size != model.config.vocab_size:
            raise ValueError(f"the tokenizer has {tokenizer.vocab_size} ids and the model {model.config.vocab_size}: not a pair.")
        with torch.no_grad():
            ids = torch.tensor([tokenizer.encode(prompt, bos=True)], device=model.output.weight.device)
            ranked, order = model(ids, last_only=True)[0, 0].float().cpu().sort(descending=True, stable=True)
        return cls(prompt, tuple(tokenizer.pieces(order.tolist())), tuple(ranked.tolist()), **settings)

    def settings(self) -> dict:
        return {name: getattr(self, name) for name in STOPS}

    @cached_property
    def stages(self) -> list[torch.Tensor]:
        """(V,) each: after the temperature, after top-k too, after top-p too, after min-p too. All by the library."""
        logits, stages, so_far = torch.tensor([self.logits]), [], {}
        for name, value in self.settings().items():
            so_far[name] = value
            stages.append(probabilities(logits, **so_far)[0])
        return stages

    @property
    def before(self) -> torch.Tensor:
        return self.stages[0]

    @property
    def after(self) -> torch.Tensor:
        return self.stages[-1]

    @property
    def left(self) -> int:
        """How many tokens can be drawn."""
        return int((self.after > FLOOR).sum())

    @property
    def held(self) -> float:
        """What those held together before anything was cut."""
        return self.before[self.after > FLOOR].sum().item()

    def cut_by(self, rank: int) -> str:
        """Which of the three takes this token out first; empty: none."""
        alive = [stage[rank] > FLOOR for stage in self.stages]
        names = list(NAMES.values())
        return next((names[n] for n in range(1, 4) if alive[n - 1] and not alive[n]), "")

    def title(self) -> str:
        shown = {name: "off" if value is None else f"{value:g}" for name, value in self.settings().items()}
        return ", ".join(f"{NAMES[name]} {value}" for name, value in shown.items())

    def say(self) -> str:
        """The sentence under the picture."""
        V, rest = len(self.logits), self.after[SHOWN:]
        more = f"; not shown: {int((rest > FLOOR).sum()):,} of them, {percent(rest.sum())}" if V > SHOWN else ""
        return (
            f"{self.title()}: {self.left:,} of {V:,} tokens can be drawn, which held {percent(self.held)}{more}. "
            f"{shown(self.pieces[0])}: {percent(self.before[0])} before, {percent(self.after[0])} now."
        )

    def rows(self) -> list[str]:
        lines = []
        for rank, piece in enumerate(self.pieces[:SHOWN]):
            now = f"cut by {by}" if (by := self.cut_by(rank)) else percent(self.after[rank])
            lines.append(f"{shown(piece):>14} {percent(self.before[rank]):>7} -> {now}")
        return lines

    def text(self) -> str:
        return "\n".join([f"after “…{self.prompt[-60:]}”", self.say(), *self.rows()])


def percent(share) -> str:
    """A share as the picture shows it."""
    return f"{100 * float(share):.1f} %"


def shown(piece: str) -> str:
    """A piece with what cannot be seen spelled out."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in piece)


class SamplingWidget:
    """The prediction with its sliders: text/html with its own script, and picture and words for where scripts do not run.

    model, tokenizer  that belong together; the prediction is the model's own
    prompt            what it continues
    settings          where the sliders stand at first: temperature, top_k, top_p, min_p
    """

    def __init__(self, model, tokenizer, prompt: str, **settings):
        self.cut = Cut.predicted(model, tokenizer, prompt, **settings)

    def __repr__(self):
        return self.cut.text()

    def _repr_mimebundle_(self, include=None, exclude=None):
        png = draw(self.cut).png
        return described({"text/html": page(self.cut, png), "image/png": png, "text/plain": self.cut.text()})


def page(cut: Cut, png: bytes) -> str:
    """The widget as HTML that needs nothing else; png stands where scripts are taken away. The same cut gives the same bytes."""
    stops = {name: list(values) for name, values in STOPS.items()}
    stops["top_k"] = [k for k in stops["top_k"] if k is None or k <= len(cut.logits)]
    for name, value in cut.settings().items():
        if value not in stops[name]:  # None, off, stays at its end: first for min-p, last for the others
            stops[name].append(value)
            stops[name].sort(key=lambda stop: stop if stop is not None else -1 if name == "min_p" else math.inf)
    data = {
        "logits": [float(f"{x:.9g}") for x in cut.logits], "pieces": [shown(piece) for piece in cut.pieces],
        "prompt": cut.prompt[-90:], "names": NAMES, "stops": stops, "start": cut.settings(),
        "shown": min(SHOWN, len(cut.logits)), "n": LOTS, "floor": FLOOR,
    }  # fmt: skip
    whole = json.dumps(data, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")  # no piece may end the script
    name = hashlib.sha256(whole.encode()).hexdigest()[:12]
    still = f'<img alt="{html.escape(cut.say())}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    return (
        f'<div class="mm-sampling" data-name="{name}">{still}</div>'
        f"<script>{SCRIPT.replace('CUT_NAME', name).replace('CUT_DATA', whole)}</script>"
    )


SCRIPT = """(() => {
const data = CUT_DATA, W = 760, LEFT = 112, RIGHT = 110, ROW = 17, TOP = 26, V = data.logits.length;
for (const host of document.querySelectorAll('.mm-sampling[data-name="CUT_NAME"]:not([data-live])')) {
  host.dataset.live = '1';
  const names = Object.keys(data.stops), height = TOP + ROW * data.shown + 4;
  const clean = text => text.replace(/[&<>]/g, c => ({'&': '&amp;', '<': '&lt;', '>': '&gt;'})[c]);
  host.innerHTML = `<style>.mm-sampling{max-width:${W}px;font:13px sans-serif}.mm-sampling text{fill:currentColor}
    .mm-sampling .mm-sliders{display:grid;grid-template-columns:repeat(2,6.2em 1fr 3em);gap:4px 10px;align-items:center}
    .mm-sampling .mm-sliders{margin:6px 0}.mm-sampling label{display:contents}
    .mm-sampling input{width:100%;margin:0}.mm-sampling output{font-weight:bold}
    .mm-sampling .mm-said,.mm-sampling .mm-drawn{min-height:2.7em;line-height:1.35}
    .mm-sampling button{font:inherit;padding:2px 10px;margin:4px 0}</style>
    <div>what comes after “…<b>${clean(data.prompt)}</b>”?</div><div class="mm-sliders">` +
    names.map(name => `<label><span>${data.names[name]}</span><input type="range" class="mm-${name}" min="0"
      max="${data.stops[name].length - 1}"><output></output></label>`).join('') +
    `</div><svg viewBox="0 0 ${W} ${height}" width="100%" role="img"></svg>
    <div><small>filled: what is drawn from; dashed: the same before the cuts; hatched: cut away</small></div>
    <div class="mm-said" aria-live="polite"></div>
    <button type="button" class="mm-draw">draw ${data.n}</button><div class="mm-drawn" aria-live="polite"></div>`;
  const inputs = names.map(name => host.querySelector('.mm-' + name)), outputs = [...host.querySelectorAll('output')];
  const svg = host.querySelector('svg'), button = host.querySelector('.mm-draw');
  /* or JupyterLab takes the keys for itself */
  [...inputs, button].forEach(control => control.setAttribute('data-lm-suppress-shortcuts', 'true'));
  const off = value => value === null ? 'off' : String(value);
  const percent = share => (100 * share).toFixed(1) + ' %', number = n => n.toLocaleString('en');
  const sum = list => list.reduce((a, b) => a + b, 0);
  const scaled = list => { const whole = sum(list); return list.map(x => x / whole); };

  /* the same as generation.probabilities, on one row that is already ranked */
  const cut = s => {
    const before = scaled(data.logits.map(x => Math.exp((x - data.logits[0]) / s.temperature)));
    const byK = s.top_k === null ? before : scaled(before.map((x, n) => n < s.top_k ? x : 0));
    let above = 0;
    const fewest = x => { const keep = above < s.top_p; above += x; return keep ? x : 0; };
    const byP = s.top_p === null || s.top_p >= 1 ? byK : scaled(byK.map(fewest));
    const after = s.min_p === null ? byP : scaled(byP.map(x => x < s.min_p * byP[0] ? 0 : x));
    const alive = [before, byK, byP, after].map(stage => stage.map(x => x > data.floor));
    const by = before.map((_, n) => {
      const at = [1, 2, 3].find(i => alive[i - 1][n] && !alive[i][n]);
      return at ? data.names[names[at]] : '';
    });
    return {before, after, by, left: alive[3].filter(Boolean).length, held: sum(before.filter((_, n) => alive[3][n]))};
  };
  /* xorshift on 32 bits; its first numbers still look like the seed */
  const lots = (seed, n) => {
    let x = (Math.imul(seed, 2654435761) + 1) >>> 0 || 1;
    const drawn = [];
    for (let i = 0; i < n + 5; i++) {
      x = (x ^ x << 13) >>> 0; x = (x ^ x >>> 17) >>> 0; x = (x ^ x << 5) >>> 0;
      drawn.push(x / 4294967296);
    }
    return drawn.slice(5);
  };
  const draw = (now, times) => {
    const most = Math.max(now.before[0], now.after[0]), edge = [0.1, 0.2, 0.5, 1].find(x => most <= x + 1e-9);
    const X = share => (W - LEFT - RIGHT) * share / edge, high = ROW - 4;
    let out = `<defs><pattern id="CUT_NAME-cut" width="5" height="5" patternUnits="userSpaceOnUse"
      patternTransform="rotate(45)"><rect width="1.5" height="5" fill="currentColor" fill-opacity="0.6"/></pattern></defs>`;
    for (const at of [0, edge / 2, edge])
      out += `<line x1="${LEFT + X(at)}" x2="${LEFT + X(at)}" y1="20" y2="${height}" stroke="currentColor" stroke-opacity="0.25"/>
        <text x="${LEFT + X(at)}" y="14" font-size="11" text-anchor="middle">${100 * at} %</text>`;
    for (let n = 0; n < data.shown; n++) {
      const y = TOP + n * ROW, was = X(now.before[n]), is = X(now.after[n]), by = now.by[n];
      const bar = (kind, width, paint) =>
        `<rect class="${kind}" x="${LEFT}" y="${y + 2}" width="${width}" height="${high}" ${paint}/>`;
      out += `<text x="${LEFT - 6}" y="${y + 12}" font-size="12" text-anchor="end">${clean(data.pieces[n])}</text>`;
      if (by) out += bar('mm-cut', was, 'fill="url(#CUT_NAME-cut)" stroke="currentColor" stroke-opacity="0.6"');
      else out += bar('mm-kept', is, 'fill="#3f88b5"') +
        bar('mm-was', was, 'fill="none" stroke="currentColor" stroke-dasharray="3 2"');
      out += `<text x="${LEFT + Math.max(was, by ? 0 : is) + 6}" y="${y + 12}" font-size="11">` +
        (by ? 'cut by ' + by : percent(now.after[n])) +
        (times[n] ? `<tspan dx="8" style="fill:#d9701a" font-weight="bold">× ${times[n]}</tspan>` : '') + '</text>';
    }
    return out;
  };
  let seed = 0;
  const show = () => {
    const s = {};
    names.forEach((name, n) => {
      s[name] = data.stops[name][inputs[n].value];
      outputs[n].textContent = off(s[name]);
      inputs[n].setAttribute('aria-valuetext', off(s[name]));
    });
    const now = cut(s), times = data.pieces.map(() => 0), whole = sum(now.after);
    const ranks = seed ? lots(seed, data.n).map(lot => {
      let end = 0;
      const rank = now.after.findIndex(x => (end += x) > lot * whole);
      return rank < 0 ? now.left - 1 : rank;
    }) : [];
    ranks.forEach(rank => { times[rank]++; });
    svg.innerHTML = draw(now, times);
    const rest = now.after.slice(data.shown), alive = rest.filter(x => x > data.floor).length;
    const said = names.map(name => `${data.names[name]} ${off(s[name])}`).join(', ') +
      `: ${number(now.left)} of ${number(V)} tokens can be drawn, which held ${percent(now.held)}` +
      (V > data.shown ? `; not shown: ${number(alive)} of them, ${percent(sum(rest))}. ` : '. ') +
      `${data.pieces[0]}: ${percent(now.before[0])} before, ${percent(now.after[0])} now.`;
    host.querySelector('.mm-said').textContent = said;
    svg.setAttribute('aria-label', said);
    const named = times.map((n, rank) => n ? `${data.pieces[rank]} × ${n}` : '').filter(Boolean);
    host.querySelector('.mm-drawn').textContent = seed ? `seed ${seed}: ${named.join(', ')}` : '';
    host.shown = {...s, ...now, seed, ranks};
  };
  names.forEach((name, n) => {
    inputs[n].value = data.stops[name].indexOf(data.start[name]);
    inputs[n].addEventListener('input', show);
  });
  button.addEventListener('click', () => { seed++; show(); });
  show();
}
})();"""


def draw(cut: Cut) -> Picture:
    """The same as a still picture, in few colours: it goes into the page twice."""
    from PIL import Image

    n = min(SHOWN, len(cut.logits))
    made, ax = figure(7.6, 5.4)
    for rank in range(n):
        before, after, by = cut.before[rank].item(), cut.after[rank].item(), cut.cut_by(rank)
        if by:
            ax.barh(rank, before, facecolor="white", edgecolor=GREY, hatch="////", height=0.75)
        else:
            ax.barh(rank, after, color=BLUE, height=0.75)
            ax.barh(rank, before, facecolor="none", edgecolor="black", linestyle="--", height=0.75)
        ax.text(max(before, 0 if by else after), rank, f"  cut by {by}" if by else f"  {percent(after)}", va="center", fontsize=8)
    ax.set_yticks(range(n), [shown(piece) for piece in cut.pieces[:n]], fontsize=9)
    ax.invert_yaxis()
    ax.margins(x=0.12, y=0.01)
    ax.xaxis.set_major_formatter(lambda x, _: f"{100 * x:g} %")
    ax.set_title(cut.title())
    picture, small = finish(made, cut.text(), dpi=90), io.BytesIO()
    Image.open(io.BytesIO(picture.png)).convert("RGB").quantize(32).save(small, "png", optimize=True)
    return Picture(small.getvalue(), picture.text)


# --- the other pictures of the chapter ------------------------------------------------------------------------------------

ORDINARY, BYTE, CONTROL = ("#cfe0ec", "#e3edf4"), "#f6d4b0", "#bfe0c8"


class Pieces:
    """Ids as coloured pieces, each over its number. rows: (name, tokenizer, ids) each. The last line of a cell shows it.

    Ordinary pieces are blue, single bytes orange, control ids green.
    """

    def __init__(self, rows):
        self.rows = [(name, list(ids), tokenizer.pieces(ids), tokenizer.sp) for name, tokenizer, ids in rows]

    def __repr__(self):
        lines = []
        for name, ids, pieces, _ in self.rows:
            count = f"{len(ids)} id{'s' * (len(ids) != 1)}"
            lines.append(f"{name} ({count}): " + " | ".join(f"{shown(p)} {i}" for p, i in zip(pieces, ids, strict=True)))
        return "\n".join(lines)

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self.html(), "text/plain": repr(self)}

    def html(self) -> str:
        out = []
        for name, ids, pieces, sp in self.rows:
            spans = []
            for n, (piece, token) in enumerate(zip(pieces, ids, strict=True)):
                colour = CONTROL if sp.is_control(token) else BYTE if sp.is_byte(token) else ORDINARY[n % 2]
                spans.append(
                    '<span style="display:inline-block;text-align:center;margin:1px;padding:1px 5px;border-radius:3px;'
                    f'background:{colour};color:#1c2329">{html.escape(shown(piece))}<br><small>{token}</small></span>'
                )
            out.append(
                f'<div style="margin:5px 0 1px;white-space:pre-wrap"><b>{html.escape(name)}</b> {len(ids)}</div>'
                f'<div style="line-height:1.15">{"".join(spans)}</div>'
            )
        return f'<div dir="ltr" style="max-width:860px;font:13px sans-serif">{"".join(out)}</div>'


def pieces(tokenizer, *texts: str) -> Pieces:
    """Texts as one tokenizer cuts them."""
    return Pieces([(repr(text), tokenizer, tokenizer.encode(text)) for text in texts])


def beside(tokenizers: dict, *texts: str) -> Pieces:
    """Texts as several tokenizers cut them, name by name."""
    return Pieces([(f"{text!r}, {name}", t, t.encode(text)) for text in texts for name, t in tokenizers.items()])


def lengths(sizes, counts, characters: int) -> Picture:
    """How many ids the same text takes with vocabularies of several sizes."""
    made, ax = figure(6.6, 2.9)
    ax.plot(sizes, counts, "o-", color=BLUE)
    for size, count in zip(sizes, counts, strict=True):
        ax.annotate(f"{count}", (size, count), (7, 5), textcoords="offset points", color=BLUE)
    ax.axhline(characters, color=ORANGE, ls="--", lw=1)
    ax.text(sizes[-1], characters, f"its {characters} characters", ha="right", va="bottom", color=ORANGE, fontsize=9)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    ax.set(xlabel="size of the vocabulary", ylabel="ids for one story", ylim=(0, characters * 1.15))
    return finish(made, "\n".join(f"vocabulary of {size:5,}: {count} ids" for size, count in zip(sizes, counts, strict=True)))
