"""Chapter 03: who shares whose keys, drawn from what the code really does; and the chapter's other pictures.

The map is never calculated from h // group. Key heads are given their own number as their value, one position long, and sent
through attend(): softmax over one key is 1, so what comes out of query head h is the number of the key head it used.
"""

import io
from dataclasses import asdict, dataclass, replace
from functools import cache

import torch

from minimistral.attention import attend
from minimistral.cache import RollingBuffer
from minimistral.counting import VERSIONS
from minimistral.widgets.page import scripted
from minimistral.widgets.picture import BLUE, GREY, GROUPS, ORANGE, Picture, described, figure, finish

RULES = {"group": "h // group", "mod": "h mod n_kv_heads"}
STOPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # of the slider for query heads
MOST = 64  # query heads that can still be told apart
TOKENS = 32_768
MISTRAL_7B = VERSIONS["v0.1"]


@cache
def used(n_heads: int, n_kv_heads: int, rule: str = "group") -> tuple[int, ...]:
    """Which key head each query head reads, as attend() answers it.

    "group" is attend() as it stands. "mod" is the mistake: keys and values repeated as a block, 0 1 2 0 1 2, before attend().
    """
    labels = torch.arange(n_kv_heads, dtype=torch.float32).view(1, n_kv_heads, 1, 1)
    if rule == "mod":
        labels = labels.repeat(1, n_heads // n_kv_heads, 1, 1)
    q = torch.zeros(1, n_heads, 1, 1)
    return tuple(attend(q, torch.zeros_like(labels), labels).flatten().long().tolist())


@cache
def cache_bytes(n_kv_heads: int, tokens: int = TOKENS) -> int:
    """Bytes of the 7B's cache in bfloat16 with so many key heads: a real cache's, on a device without memory."""
    config = replace(MISTRAL_7B, n_heads=n_kv_heads, n_kv_heads=n_kv_heads, sliding_window=tokens)  # room for so many
    return RollingBuffer(config, device="meta", dtype=torch.bfloat16).n_bytes()


def count(n: int, what: str) -> str:
    """"1 key head", "8 key heads"."""
    return f"{n} {what}{'s' * (n > 1)}"


def gib(n_bytes: int) -> str:
    """Bytes as the map shows them."""
    return f"{n_bytes / 2**30:g} GiB"


# --- the map --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadMap:
    """The head-sharing map: how many query heads, how many key heads, and the rule. The last line of a cell shows it."""

    n_heads: int = 32
    n_kv_heads: int = 8
    rule: str = "group"

    def __post_init__(self):
        for name, value, most in (("n_heads", self.n_heads, MOST), ("n_kv_heads", self.n_kv_heads, self.n_heads)):
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                raise ValueError(f"{name} is {value!r}: this map draws whole numbers from 1 to {most}.")
        if self.n_heads % self.n_kv_heads:
            fit = ", ".join(map(str, divisors(self.n_heads)))
            raise ValueError(f"{self.n_kv_heads} key heads cannot be shared evenly by {self.n_heads} query heads; {fit} can.")
        if self.rule not in RULES:
            raise ValueError(f"rule is {self.rule!r}: expected one of {', '.join(RULES)}.")

    def used(self) -> tuple[int, ...]:
        return used(self.n_heads, self.n_kv_heads, self.rule)

    def title(self) -> str:
        group = self.n_heads // self.n_kv_heads
        return f"{count(self.n_heads, 'query head')}, {count(self.n_kv_heads, 'key head')}, group {group}: {RULES[self.rule]}"

    def text(self) -> str:
        """Each key head and the query heads that read it."""
        readers: dict[int, list[int]] = {}
        for h, kv in enumerate(self.used()):
            readers.setdefault(kv, []).append(h)
        lines = [f"  key head {kv:2} <- query heads {' '.join(map(str, hs))}" for kv, hs in sorted(readers.items())]
        size = f"  32k tokens of a 7B with so many key heads: {gib(cache_bytes(self.n_kv_heads))}"
        return "\n".join([self.title(), *lines, size])

    def frames(self) -> dict[str, dict]:
        """Every picture the sliders can reach, by "n_heads/n_kv_heads/rule". The script in the page only chooses and draws."""
        table = {}
        for n_heads in self.stops():
            for n_kv_heads in divisors(n_heads):
                for rule in RULES:
                    state = HeadMap(n_heads, n_kv_heads, rule)
                    size = cache_bytes(n_kv_heads)
                    table[f"{n_heads}/{n_kv_heads}/{rule}"] = {
                        "used": state.used(), "title": state.title(), "gib": gib(size), "share": size / cache_bytes(32),
                    }  # fmt: skip
        return table

    def stops(self) -> list[int]:
        return sorted({*STOPS, self.n_heads})

    def html(self) -> str:
        """The map with its sliders: no network, no libraries. Where scripts are taken away, the still picture in it remains."""
        data = {
            "frames": self.frames(), "stops": self.stops(), "divisors": {n: divisors(n) for n in self.stops()},
            "rules": RULES, "colours": GROUPS, "start": asdict(self),
        }  # fmt: skip
        return scripted("sharing", "map", data, SCRIPT, self.title(), draw(self).png)

    def __repr__(self):
        return self.text()

    def _repr_mimebundle_(self, include=None, exclude=None):
        return described({"text/html": self.html(), "image/png": draw(self).png, "text/plain": self.text()})


def divisors(n: int) -> list[int]:
    """All whole numbers that divide n."""
    return [d for d in range(1, n + 1) if n % d == 0]


#: Draws a frame of the table as SVG. Colours of the page's own text, so that it is readable in the dark too.
SCRIPT = """(() => {
const data = MAP_DATA, W = 760, LEFT = 62;
for (const host of document.querySelectorAll('.mm-sharing[data-map="MAP_NAME"]:not([data-live])')) {
  host.dataset.live = '1';
  host.innerHTML = `<style>.mm-sharing{max-width:${W}px;font:13px sans-serif}.mm-sharing label{display:inline-flex;
    align-items:center;gap:6px;margin:2px 22px 2px 0}.mm-sharing output{display:inline-block;width:1.6em;font-weight:bold}
    .mm-sharing input[type=range]{width:190px}.mm-sharing text{fill:currentColor;text-anchor:middle}</style>
    <label>query heads <input type="range" class="mm-heads" min="0" max="${data.stops.length - 1}"><output></output></label>
    <label>key heads <input type="range" class="mm-kv" min="0"><output></output></label><br>` +
    Object.entries(data.rules).map(([id, words]) =>
      `<label><input type="radio" class="mm-rule" value="${id}">${words}</label>`).join('') +
    `<svg class="mm-map" viewBox="0 0 ${W} 226" width="100%" role="img"></svg>`;
  const [heads, kv] = host.querySelectorAll('input[type=range]'), [nHeads, nKv] = host.querySelectorAll('output');
  /* or JupyterLab takes arrow keys for itself */
  host.querySelectorAll('input').forEach(input => input.setAttribute('data-lm-suppress-shortcuts', 'true'));
  const rules = [...host.querySelectorAll('.mm-rule')], svg = host.querySelector('svg');
  let now = {...data.start};
  const mid = (i, n) => LEFT + (i + 0.5) * (W - LEFT) / n;
  const box = (i, n, y, colour) => {
    const slot = (W - LEFT) / n, w = Math.min(slot * 0.86, 46), every = slot < 18 ? 2 : 1;
    return `<rect x="${mid(i, n) - w / 2}" y="${y}" width="${w}" height="26" rx="4" fill="${colour}"/>` +
      (i % every ? '' : `<text x="${mid(i, n)}" y="${y + 18}" style="fill:white" font-size="${slot < 30 ? 10 : 13}">${i}</text>`);
  };
  const draw = () => {
    const frame = data.frames[`${now.n_heads}/${now.n_kv_heads}/${now.rule}`], H = now.n_heads, K = now.n_kv_heads;
    const colour = k => data.colours[k % data.colours.length];
    let out = `<text x="0" y="14" style="text-anchor:start" font-weight="bold" font-size="14">${frame.title}</text>`;
    frame.used.forEach((k, h) => {
      out += `<line x1="${mid(h, H)}" y1="58" x2="${mid(k, K)}" y2="146" stroke="${colour(k)}" stroke-width="2"/>`; });
    for (const [y, name] of [[51, 'query'], [161, 'key']])
      out += `<text x="0" y="${y}" style="text-anchor:start" font-size="12">${name}</text>`;
    frame.used.forEach((k, h) => { out += box(h, H, 34, colour(k)); });
    for (let k = 0; k < K; k++) out += box(k, K, 144, colour(k));
    const full = W - 250;
    out += `<text x="0" y="206" style="text-anchor:start" font-size="12">32k tokens of a 7B</text>
      <rect x="130" y="192" width="${full}" height="20" fill="none" stroke="currentColor" stroke-opacity="0.35"/>
      <rect x="130" y="192" width="${full * Math.min(frame.share, 1)}" height="20" fill="#2a6f97"/>
      <text x="${140 + full}" y="207" style="text-anchor:start" font-size="13" font-weight="bold">${frame.gib}</text>`;
    svg.innerHTML = out;
    svg.setAttribute('aria-label', frame.title);
    nHeads.textContent = H; nKv.textContent = K;
    host.dataset.shown = `${H}/${K}/${now.rule}`;
  };
  const follow = () => {  /* the sliders' places follow the state */
    const fit = data.divisors[now.n_heads];
    heads.value = data.stops.indexOf(now.n_heads);
    kv.max = fit.length - 1;
    kv.value = fit.indexOf(now.n_kv_heads);
    rules.forEach(rule => { rule.checked = rule.value === now.rule; });
    draw();
  };
  heads.addEventListener('input', () => {
    now.n_heads = data.stops[heads.value];
    now.n_kv_heads = data.divisors[now.n_heads].filter(d => d <= now.n_kv_heads).pop();
    follow();
  });
  kv.addEventListener('input', () => { now.n_kv_heads = data.divisors[now.n_heads][kv.value]; draw(); });
  rules.forEach(rule => rule.addEventListener('change', () => { now.rule = rule.value; follow(); }));
  follow();
}
})();"""


def draw_map(ax, state: HeadMap):
    """One map on one axes: query heads above, key heads below."""
    def place(i, n):
        return (i + 0.5) / n

    for h, kv in enumerate(state.used()):
        ax.plot([place(h, state.n_heads), place(kv, state.n_kv_heads)], [1, 0], color=colour(kv), lw=1.4, zorder=1)
        box(ax, place(h, state.n_heads), 1, h, colour(kv), state.n_heads)
    for kv in range(state.n_kv_heads):
        box(ax, place(kv, state.n_kv_heads), 0, kv, colour(kv), state.n_kv_heads)
    for y, name in enumerate(("key", "query")):
        ax.text(-0.08, y, name, va="center", fontsize=9, color="#444")
    ax.set(xlim=(-0.08, 1.01), ylim=(-0.22, 1.22))
    ax.set_title(state.title(), loc="left")
    ax.axis("off")


def colour(kv: int) -> str:
    """A key head's colour; its query heads have the same."""
    return GROUPS[kv % len(GROUPS)]


def box(ax, x, y, number, face, n):
    """A head's number in a rounded box; smaller where there are many."""
    style = {"boxstyle": "round,pad=0.3", "facecolor": face, "edgecolor": "none"}
    words = {"ha": "center", "va": "center", "color": "white", "fontsize": 9 if n <= 16 else 7 if n <= 40 else 5}
    ax.text(x, y, f"{number:2}" if n > 9 else number, bbox=style, zorder=2, **words)


def draw(state: HeadMap) -> Picture:
    """The map as a still picture, in few colours: it goes into the page twice."""
    from PIL import Image

    made, ax = figure(8.6, 2.5)
    draw_map(ax, state)
    picture, small = finish(made, state.text(), dpi=90), io.BytesIO()
    Image.open(io.BytesIO(picture.png)).convert("RGB").quantize(32).save(small, "png", optimize=True)
    return Picture(small.getvalue(), picture.text)


def side_by_side(n_heads: int, n_kv_heads: int) -> Picture:
    """Both rules under each other: the right one and the mistake."""
    states = [HeadMap(n_heads, n_kv_heads, rule) for rule in RULES]
    made, axes = figure(7.6, 4.4, nrows=2)
    for ax, state in zip(axes, states, strict=True):
        draw_map(ax, state)
    rows = [f"{'query head':>17}: {' '.join(map(str, range(n_heads)))}"]
    rows += [f"{RULES[state.rule]:>17}: {' '.join(map(str, state.used()))}" for state in states]
    return finish(made, "\n".join(["which key head does each query head read?", *rows]))


# --- the other pictures of the chapter ----------------------------------------------------------------------------------


def work(T: int = 6) -> Picture:
    """Which keys are calculated in each of T steps: all of them again, or only the new one."""
    made, axes = figure(7.4, 2.9, ncols=2)
    counts = []
    for ax, kept in zip(axes, (False, True), strict=True):
        new = 0
        for step in range(T):
            for token in range(step + 1):
                fresh = token == step or not kept
                new += fresh
                face = ORANGE if token == step else "#f5c99b" if fresh else "#cfdde6"
                ax.add_patch(square(token, step, face))
        ax.set(xlim=(-0.1, T), ylim=(T, -0.1), aspect="equal", xlabel="token whose key is needed", ylabel="step")
        ax.set(xticks=[t + 0.45 for t in range(T)], yticks=[t + 0.45 for t in range(T)])
        ax.set_xticklabels(range(1, T + 1))
        ax.set_yticklabels(range(1, T + 1))
        ax.tick_params(length=0)
        ax.set_title(f"{'kept' if kept else 'calculated again'}: {new} keys", loc="left")
        counts.append(new)
    for face, what in ((ORANGE, "new token"), ("#f5c99b", "calculated again"), ("#cfdde6", "kept")):
        axes[1].plot([], [], "s", color=face, ms=9, label=what)
    axes[1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=9)
    again = [" ".join("n" if j == i else "a" if j < i else "." for j in range(T)) for i in range(T)]
    kept = [" ".join("n" if j == i else "k" if j < i else "." for j in range(T)) for i in range(T)]
    lines = [f"calculated again: {counts[0]} keys".ljust(2 * T + 20) + f"kept: {counts[1]} keys"]
    lines += [a.ljust(2 * T + 20) + b for a, b in zip(again, kept, strict=True)]
    return finish(made, "\n".join([*lines, "n new token, a calculated again, k kept"]))


def square(x, y, face):
    """One cell of a head's numbers."""
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 0.9, 0.9, facecolor=face)


def times(lengths, again, kept) -> Picture:
    """Milliseconds for one new token after so many others, by two ways of getting it."""
    made, ax = figure(7.0, 3.2)
    for values, face, name in ((again, ORANGE, "everything again"), (kept, BLUE, "with the cache")):
        ax.plot(lengths, values, "o-", color=face, ms=5)
        ax.annotate(name, (lengths[-1], values[-1]), (8, 0), textcoords="offset points", color=face, va="center")
    ax.set(xlabel="tokens so far", ylabel="ms for the next one", xlim=(0, lengths[-1] * 1.3), ylim=(0, max(again) * 1.1))
    ax.set_xticks(lengths)
    each = zip(lengths, again, kept, strict=True)
    rows = [f"after {n:5} tokens: again {a:7.1f} ms, with the cache {k:5.1f} ms" for n, a, k in each]
    return finish(made, "\n".join(rows))


def byte_bars(sizes: dict[str, int], limit: tuple[str, int] = ("a laptop's whole memory", 16 * 2**30)) -> Picture:
    """Named numbers of bytes as bars, with a line at a limit."""
    made, ax = figure(7.4, 0.75 + 0.5 * len(sizes))
    names, values = list(sizes), [size / 2**30 for size in sizes.values()]
    bars = ax.barh(range(len(sizes)), values, color=[GREY if "weights" in name else BLUE for name in names], height=0.6)
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    ax.bar_label(bars, [f"{value:.4g} GiB" for value in values], padding=5, bbox=behind)
    ax.set_yticks(range(len(sizes)), names)
    ax.invert_yaxis()
    name, most = limit
    ax.axvline(most / 2**30, color=ORANGE, ls="--", lw=1.3)
    ax.set(xlim=(0, max(*values, most / 2**30) * 1.22), xlabel=f"GiB; dashed: {name}, {gib(most)}")
    wide = max(map(len, names))
    lines = [f"{n:>{wide}}  {value:7.4g} GiB  {'#' * max(1, round(value * 2))}" for n, value in zip(names, values, strict=True)]
    return finish(made, "\n".join([*lines, f"{name}: {gib(most)}"]))
