"""Chapter 11: the window as two kinds of triangles, step by step, 16 against 7.

Which pair lies in which triangle is asked of the library (window.pieces), which pairs are seen of the rule (masks.visible);
nothing here knows it better. Python makes every frame, the script in the page selects one and draws it.

Letters: o own block, b the block before, s and u the two halves of a square that only full attention needs; in capitals where
the step is about them. "-" out of the window, "." the future.
"""

import io
from dataclasses import dataclass

from minimistral import masks
from minimistral.widgets.page import scripted
from minimistral.widgets.picture import FUTURE, HATCH, Picture, described, figure, finish
from minimistral.window import pieces

W = 4  # a window that can be counted with the eye
REAL = 4_096
BLOCKS = (2, 3, 4, 5, 6, 8)
STEPS = ("full attention", "squares cut", "the window", "first call", "upside down", "backwards", "merged")
COLOURS = {"o": "#2a6f97", "b": "#e07a1f", "s": "#7d8f69", "u": "#b5a642"}


def kinds(n: int) -> list[list[str]]:
    """[query][key] -> o or b, as window.pieces() deals the pairs out; s or u for those that only full attention needs; "."."""
    T = n * W
    grid = [["." if j > i else "s" if i % W >= j % W else "u" for j in range(T)] for i in range(T)]
    own = {"lower": "o", "upper": "b"}
    cut = pieces(T, W) if n > 1 else []
    for piece in cut:
        for copy in range(piece.queries.n):
            for r in range(piece.queries.length):
                for c in range(piece.keys.length):
                    if c <= r if piece.shape == "lower" else c >= r:
                        grid[piece.queries.first + copy * W + r][piece.keys.first + copy * W + c] = own[piece.shape]
    return grid


@dataclass(frozen=True)
class Triangles:
    """One step of the story: n blocks of 4 tokens, and where the story stands. The last line of a cell shows it."""

    n: int = 4
    step: int = 0

    def __post_init__(self):
        if self.n not in BLOCKS or isinstance(self.n, bool):
            raise ValueError(f"n is {self.n!r}: this picture has {', '.join(map(str, BLOCKS))} blocks.")
        if not isinstance(self.step, int) or isinstance(self.step, bool) or not 0 <= self.step < len(STEPS):
            raise ValueError(f"step is {self.step!r}: expected a whole number from 0 to {len(STEPS) - 1}.")

    @property
    def query(self) -> int:
        """The query that the last step looks at: the second of the second block."""
        return W + 1

    def grid(self) -> list[str]:
        """A line a query, a letter a key."""
        rows = []
        for i, row in enumerate(kinds(self.n)):
            marks = [self._mark(i, j, kind) for j, kind in enumerate(row)]
            rows.append("".join(marks))
        return rows

    def _mark(self, i: int, j: int, kind: str) -> str:
        if kind == "." or self.step >= 2 and kind in "su":
            return "." if kind == "." else "-"
        if self.step == 0:  # nothing is cut yet: the triangles on the diagonal, and whole squares
            return "O" if kind == "o" else "S"
        if self.step == 1:
            return "O" if kind == "o" else "S" if i % W >= j % W else "U"
        meant = {2: True, 3: kind == "o", 4: kind == "b", 5: kind == "b", 6: i == self.query}[self.step]
        return kind.upper() if meant else kind

    def title(self) -> str:
        n = self.n
        return (
            f"Full causal attention: {n} triangles and {n * (n - 1) // 2} square{'s' * (n > 2)}",
            f"Each square is two triangles: {n} + {n * (n - 1)} = {n * n} triangles",
            f"The window: {n} + {n - 1} = {2 * n - 1} triangles instead of {n * n}",
            f"First call of the kernel: {n} triangles, o",
            f"The other {count(n - 1)}, b, upside down",
            "Read backwards, b is as the kernel wants it",
            f"Query {self.query} merges its two results",
        )[self.step]

    def words(self) -> str:
        n, T = self.n, self.n * W
        full, near = masks.count(T), masks.count(T, W)
        real = masks.count(n * REAL) / masks.count(n * REAL, REAL)
        own = [j for j in range(T) if masks.visible(self.query, j, W) and j >= W]
        before = [j for j in range(W) if masks.visible(self.query, j, W)]
        return (
            f"{T} tokens in {n} blocks of {W}, as many as the window has. {full} pairs of a query and a key.",
            f"A causal kernel works through all {n * n}. (A half with the diagonal is a little larger than one without.)",
            f"Its own block up to itself, o, and of the block before what is still in the window, b: {near} of {full} pairs. "
            f"With blocks of {REAL:,} that is {real:.3f} times fewer, and {n * n}/{2 * n - 1} is {n * n / (2 * n - 1):.3f}.",
            f"To the kernel these are {n} short texts side by side, each causal for itself. No score is calculated in vain.",
            "The first query of a block sees the most of the block before, the last one nothing. So each is only "
            f"W - 1 = {W - 1} high.",
            f"Queries {listed(self.rows())} and keys {listed(self.columns())}, in this order: the same pairs, and now the "
            "first query sees one key and each next one more.",
            f"o gave it the softmax over keys {listed(own)}, b over keys {listed(before)}. Merged by log-sum-exp: over all "
            f"{W} of its keys.",
        )[self.step]

    def rows(self) -> list[int]:
        """The queries of the first triangle b, backwards."""
        return list(range(W, 2 * W - 1))[::-1]

    def columns(self) -> list[int]:
        return list(range(1, W))[::-1]

    def turned(self) -> list[str]:
        """The first triangle b with both orders reversed, a line a query; nothing before that step."""
        if self.step != 5:
            return []
        return ["".join("B" if masks.visible(i, j, W) else "." for j in self.columns()) for i in self.rows()]

    def text(self) -> str:
        lines = [self.title(), self.words(), *("  " + " ".join(row) for row in self.grid())]
        if self.step == 5:
            head = "  backwards:  key " + " ".join(map(str, self.columns()))
            lines += [head, *(f"    query {i:7} " + " ".join(row) for i, row in zip(self.rows(), self.turned(), strict=True))]
        return "\n".join(lines)

    def frames(self) -> dict[str, dict]:
        """Every picture that the sliders can reach, by "n/step"."""
        states = [Triangles(n, step) for n in BLOCKS for step in range(len(STEPS))]
        return {
            f"{s.n}/{s.step}": {
                "grid": s.grid(), "title": s.title(), "words": s.words(), "turned": s.turned(), "rows": s.rows(),
                "columns": s.columns(),
            }
            for s in states
        }  # fmt: skip

    def html(self) -> str:
        """The picture with its sliders: no network, no libraries. Without scripts the still picture in it remains."""
        data = {
            "frames": self.frames(), "blocks": BLOCKS, "steps": STEPS, "colours": COLOURS, "w": W,
            "start": {"n": self.n, "step": self.step},
        }  # fmt: skip
        return scripted("triangles", "triangles", data, SCRIPT, f"{self.title()}. {self.words()}", draw(self).png)

    def __repr__(self):
        return self.text()

    def _repr_mimebundle_(self, include=None, exclude=None):
        return described({"text/html": self.html(), "image/png": draw(self).png, "text/plain": self.text()})


def listed(numbers) -> str:
    """Numbers with commas."""
    return ", ".join(map(str, numbers))


def count(n: int) -> str:
    """A small number as a word."""
    return "one" if n == 1 else str(n)


#: Draws a frame as SVG. Colours of the page's own text, so that it is readable in the dark too.
SCRIPT = """(() => {
const data = TRIANGLES_DATA, SIDE = 400, LEFT = 34, TOP = 44, WIDE = 760;
for (const host of document.querySelectorAll('.mm-triangles[data-triangles="TRIANGLES_NAME"]:not([data-live])')) {
  host.dataset.live = '1';
  host.innerHTML = `<style>.mm-triangles{max-width:${WIDE}px;font:13px sans-serif}.mm-triangles label{display:inline-flex;
    align-items:center;gap:6px;margin:2px 22px 2px 0}.mm-triangles output{display:inline-block;min-width:7.5em;font-weight:bold}
    .mm-triangles input[type=range]{width:190px}.mm-triangles text{fill:currentColor}
    .mm-triangles p{margin:4px 0;min-height:3.2em;line-height:1.4}</style>
    <label>step <input type="range" class="mm-triangles-step" min="0" max="${data.steps.length - 1}"><output></output></label>
    <label>blocks <input type="range" class="mm-triangles-n" min="0" max="${data.blocks.length - 1}"><output></output></label>
    <svg viewBox="0 0 ${WIDE} ${SIDE + TOP + 6}" width="100%" role="img"></svg><p aria-live="polite"></p>`;
  const [step, blocks] = host.querySelectorAll('input'), [nameOf, many] = host.querySelectorAll('output');
  /* or JupyterLab takes arrow keys for itself */
  host.querySelectorAll('input').forEach(input => input.setAttribute('data-lm-suppress-shortcuts', 'true'));
  const svg = host.querySelector('svg'), words = host.querySelector('p');
  let now = {...data.start};
  const cell = (x, y, size, mark) => {
    const place = `x="${x}" y="${y}" width="${size * 0.92}" height="${size * 0.92}" data-mark="${mark}"`;
    if (mark === '.') return `<rect ${place} fill="#8a97a4" fill-opacity="0.18"/>`;
    if (mark === '-') return `<rect ${place} fill="none" stroke="#8a97a4" stroke-opacity="0.55"/>` +
      `<path d="M${x} ${y + size * 0.92}L${x + size * 0.92} ${y}" stroke="#8a97a4" stroke-opacity="0.8"/>`;
    const small = mark.toLowerCase();
    return `<rect ${place} fill="${data.colours[small]}" fill-opacity="${small === mark ? 0.25 : 1}"/>`;
  };
  const say = (x, y, text, more = '') => `<text x="${x}" y="${y}" ${more}>${text}</text>`;
  const draw = () => {
    const frame = data.frames[`${now.n}/${now.step}`], T = frame.grid.length, size = SIDE / T, block = size * data.w;
    let out = say(0, 14, frame.title, 'font-size="15" font-weight="bold"') + say(LEFT, 36, 'key 0, 1, 2 ...', 'font-size="12"') +
      say(LEFT - 10, TOP, 'query 0, 1, 2 ...', `font-size="12" text-anchor="end" transform="rotate(-90 ${LEFT - 10} ${TOP})"`);
    frame.grid.forEach((row, i) => [...row].forEach((mark, j) => { out += cell(LEFT + j * size, TOP + i * size, size, mark); }));
    for (let b = 0; b <= now.n; b++) {
      const at = b * block - size * 0.04;
      out += `<path d="M${LEFT + at} ${TOP}v${SIDE}M${LEFT} ${TOP + at}h${SIDE}" stroke="currentColor" stroke-opacity="0.45"
        fill="none"/>`;
    }
    const x = LEFT + SIDE + 36, seen = new Set(frame.grid.join('').toLowerCase());
    const legend = [['o', 'o: own block'], ['b', 'b: the block before'], ['s', now.step ? 'half of a square' : 'whole squares'],
      ['u', 'the other half'], ['-', 'out of the window'], ['.', 'the future']].filter(([mark]) => seen.has(mark));
    legend.forEach(([mark, text], k) => {
      const y = TOP + 24 * k;
      out += cell(x, y, 16, 'obsu'.includes(mark) ? mark.toUpperCase() : mark).replace('data-mark', 'data-legend') +
        say(x + 24, y + 12, text, 'font-size="13"');
    });
    const y = TOP + 24 * legend.length + 60;
    if (frame.turned.length) out += say(x, y - 30, 'the first b, backwards', 'font-size="13" font-weight="bold"');
    frame.turned.forEach((row, r) => {
      out += say(x + 44, y + 30 * r + 30, `query ${frame.rows[r]}`, 'font-size="12" text-anchor="end"');
      [...row].forEach((mark, c) => {
        if (!r) out += say(x + 66 + 30 * c, y + 4, frame.columns[c], 'font-size="12" text-anchor="middle"');
        out += cell(x + 52 + 30 * c, y + 30 * r + 12, 30, mark).replace('data-mark', 'data-turned');
      });
    });
    svg.innerHTML = out;
    svg.setAttribute('aria-label', frame.title);
    words.textContent = frame.words;
    step.value = now.step; blocks.value = data.blocks.indexOf(now.n);
    step.setAttribute('aria-valuetext', data.steps[now.step]); blocks.setAttribute('aria-valuetext', now.n);
    nameOf.textContent = data.steps[now.step]; many.textContent = now.n;
    host.dataset.shown = `${now.n}/${now.step}`;
  };
  step.addEventListener('input', () => { now.step = +step.value; draw(); });
  blocks.addEventListener('input', () => { now.n = data.blocks[blocks.value]; draw(); });
  draw();
}
})();"""


def draw(state: Triangles) -> Picture:
    """The step as a still picture, in few colours: it goes into the page twice."""
    from matplotlib.patches import Rectangle
    from PIL import Image

    made, ax = figure(5.2, 4.8)
    T = state.n * W
    for i, row in enumerate(state.grid()):
        for j, mark in enumerate(row):
            look = {"facecolor": COLOURS.get(mark.lower(), FUTURE if mark == "." else "white"), "edgecolor": "none"}
            if mark == "-":
                look |= {"hatch": "///", "edgecolor": HATCH, "linewidth": 0}
            ax.add_patch(Rectangle((j, i), 0.92, 0.92, alpha=0.28 if mark in COLOURS else 1, **look))
    for b in range(state.n + 1):
        ax.plot([b * W - 0.04] * 2, [0, T], color="#555", lw=0.8)
        ax.plot([0, T], [b * W - 0.04] * 2, color="#555", lw=0.8)
    ax.set(xlim=(-0.1, T), ylim=(T, -0.1), aspect="equal", xlabel="key", ylabel="query")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(state.title(), loc="left", fontsize=10)
    for spine in ax.spines.values():
        spine.set_visible(False)
    picture, small = finish(made, state.text(), dpi=80), io.BytesIO()
    Image.open(io.BytesIO(picture.png)).convert("RGB").quantize(24).save(small, "png", optimize=True)
    return Picture(small.getvalue(), picture.text)
