"""Chapters 05 and 06: the rolling buffer as it runs, and the other pictures of chapter 05.

The scrubber draws no formula. For every window and chunk size that the page offers, the small model reads the prompt through
a real RollingBuffer, and each frame is read out of that cache: a pass without a cache tells which key belongs to which
position, and the keys lying in the slots are looked up among those. The script in the page only selects a frame and draws it.
"""

import functools
import hashlib
import html
import json
import math
import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minimistral import masks
from minimistral.cache import RollingBuffer
from minimistral.model import Mistral
from minimistral.widgets.picture import BLUE, GREEN, GREY, ORANGE, Picture, described, figure, finish

PROMPT = "Once upon a time there was a fox who had a red ball"
WINDOWS, CHUNK_SIZES = (2, 3, 4, 5, 8), (1, 2, 3, 5)
MOST_TOKENS, MOST_WINDOW, MOST_CHOICES = 24, 12, 6
PAIR = 1  # whose RoPE angle is shown: of the small model's 8 pairs, the one that turns by 18 degrees a step
STRANGER = -1  # a key that no position has in a pass without a cache
RED = "#c1121f"
QUIET = 'data-lm-suppress-shortcuts="true"'  # or JupyterLab takes the keys for itself


# --- the real thing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """What the cache held at one moment. Positions are recognised by their keys, in all layers; None: an empty slot."""

    phase: str  # "empty": nothing yet; "comes": before a chunk is stored; "stored": after it
    chunk: tuple[int, int]  # its first position, and its last one + 1
    next: int  # the position that the next token will take
    held: tuple[int | None, ...]
    degrees: tuple[int | None, ...]  # how far RoPE has turned pair PAIR of each slot's key, 0 to 359
    takes: tuple[tuple[int, int], ...]  # (slot, position) of what this chunk stores
    seen: tuple[int, ...]  # positions whose keys the cache hands to the chunk's queries, if any of these may see them
    lost: tuple[int, ...]  # positions that a query of the chunk needs and that are gone once the chunk is stored


class Honest:
    """The keys that a pass without a cache makes: the yardstick by which those in a cache are recognised."""

    def __init__(self, model: Mistral, tokens: Tensor):
        self.keys, self.unturned = [], []
        hooks = [block.attention.register_forward_pre_hook(self._note) for block in model.layers]
        try:
            model(tokens)
        finally:
            for hook in hooks:
                hook.remove()

    def _note(self, attention, given):
        x, (cos, sin), *_ = given
        self.keys.append(attention.project(x, (cos, sin))[1][0])  # (Hkv, T, D)
        self.unturned.append(attention.project(x, (torch.ones_like(cos), torch.zeros_like(sin)))[1][0])

    def positions(self, keys: Tensor, layers: slice = slice(None)) -> list[int | None]:
        """The position of each key of keys (layers, Hkv, S, D): None where it is all zeros, STRANGER where it is nobody's."""
        known = torch.stack(self.keys[layers]).movedim(2, 0).flatten(1)  # (T, layers * Hkv * D)
        found = []
        for key in keys.movedim(2, 0).flatten(1):
            (same,) = ((known - key).abs().amax(1) < 1e-3).nonzero(as_tuple=True)
            found.append(None if not key.any() else same.item() if len(same) == 1 else STRANGER)
        return found

    def degrees(self, keys: Tensor, held: list[int | None]) -> list[int | None]:
        """How far RoPE has turned pair PAIR of each key, measured against the same key before it was turned."""
        unturned = torch.stack(self.unturned)
        measured = []
        for slot, position in enumerate(held):
            if position is None or position == STRANGER:
                measured.append(None)
                continue
            a, b = unturned[:, :, position, 2 * PAIR :][..., :2].double(), keys[:, :, slot, 2 * PAIR :][..., :2].double()
            cross = (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum()
            measured.append(round(math.degrees(math.atan2(cross, (a * b).sum()))) % 360)
        return measured


@torch.no_grad()
def run(model: Mistral, tokens: list[int], chunk_size: int, kind: type[RollingBuffer] = RollingBuffer) -> list[Frame]:
    """Feed the tokens, chunk by chunk, to a cache of that kind; return what it held before and after each chunk."""
    ids, W = torch.tensor([tokens]), model.config.sliding_window
    honest, cache = Honest(model, ids), kind(model.config)
    last, handed = model.config.n_layers - 1, []
    exchange = cache.exchange

    def watched(layer, k, v, step):
        keys, values = exchange(layer, k, v, step)
        if layer == last:
            handed.append((honest.positions(keys, slice(last, None)), step))
        return keys, values

    def look():
        held = honest.positions(cache.keys[:, 0])
        return tuple(held), tuple(honest.degrees(cache.keys[:, 0], held)), cache.keys.clone(), cache.position.item()

    cache.exchange = watched
    held, degrees, before, start = look()
    frames = [Frame("empty", (0, 0), 0, held, degrees, (), (), ())]
    for chunk in ids.split(chunk_size, dim=1):
        model(chunk, cache=cache)
        held_after, degrees_after, after, end = look()
        changed = (before != after).flatten(0, 2).any(-1).any(0).nonzero().flatten().tolist()
        takes = tuple((slot, held_after[slot]) for slot in changed)
        needed = {p for i in range(start, end) for p in range(end) if masks.visible(i, p, W)}
        shared = takes, seen(*handed.pop(), W), tuple(sorted(needed - set(held_after)))
        frames.append(Frame("comes", (start, end), start, held, degrees, *shared))
        frames.append(Frame("stored", (start, end), end, held_after, degrees_after, *shared))
        held, degrees, before, start = held_after, degrees_after, after, end
    return frames


def seen(positions, step, window) -> tuple[int, ...]:
    """Which of the keys handed out some query of the chunk may see."""
    mask = step.mask
    if mask is None:  # the plain causal window over the chunk alone
        mask = masks.dense(step.positions, step.positions, window)[:, None]
    shown = mask.flatten(0, -2).any(0)
    return tuple(sorted(p for p, may in zip(positions, shown.tolist(), strict=True) if may and p is not None))


@functools.cache
def _tiny():
    from minimistral import load_tiny

    return load_tiny()


@functools.cache
def narrow(window: int) -> Mistral:
    """The small model, its window replaced by another."""
    model = _tiny()[0]
    with torch.device("meta"):
        made = Mistral(replace(model.config, sliding_window=window))
    made.load_state_dict(model.state_dict(), assign=True)
    return made


@functools.cache
def frames(tokens: tuple[int, ...], window: int, chunk_size: int) -> tuple[Frame, ...]:
    """run() of the small model in a ring of this window, kept: every frame of one run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for so few tokens more of them only wait for each other
    try:
        return tuple(run(narrow(window), list(tokens), chunk_size))
    finally:
        torch.set_num_threads(threads)


# --- in words -------------------------------------------------------------------------------------------------------------


def listed(numbers) -> str:
    """[4, 5, 6, 9] -> "4 to 6 and 9"."""
    runs = []
    for n in numbers:
        if runs and runs[-1][-1] == n - 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    said = [f"{r[0]} to {r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs]
    return " and ".join(", ".join(said).rsplit(", ", 1)) or "none"


def many(numbers, what: str) -> str:
    """"slot 3", "slots 3 and 4"."""
    numbers = list(numbers)
    return f"{what}{'s' * (len(numbers) > 1)} {listed(numbers)}"


def say(frame: Frame, words: list[str], window: int) -> str:
    """One frame in a sentence or two."""
    first, chunk, T, n = frame.chunk[0], range(*frame.chunk), len(words), frame.next
    after = f"Next: position {n}, slot {n} mod {window} = {n % window}." if n < T else "That was the whole text."
    if frame.phase == "empty":
        return f"{many(range(window), 'Slot')} {'is' if window == 1 else 'are'} empty. {after}"
    if frame.phase == "stored":
        gone = "" if len(frame.takes) == len(chunk) else f", only the last {len(frame.takes)} of them"
        slots = many(sorted(slot for slot, _ in frame.takes), "slot")
        return f"{many(chunk, 'Position')} {'is' if len(chunk) == 1 else 'are'} stored{gone}, in {slots}. {after}"
    if len(chunk) == 1:
        (slot, _), *_ = frame.takes or ((first % window, first),)
        there = frame.held[slot]
        comes = f"Position {first}, “{words[first]}”, comes and takes slot {slot}"
        if there is None:
            return f"{comes}, which is empty."
        return f"{comes} from position {there}. It sees {listed(frame.seen)}, so nobody needs {there} any more."
    users = [f"{p}, needed by {listed(i for i in chunk if masks.visible(i, p, window))}" for p in frame.lost]
    return (
        f"{many(chunk, 'Position')} come at once. They look before they are stored, at {listed(frame.seen)}: "
        f"{len(frame.seen)} keys. Stored first, they would destroy {'; '.join(users) or 'nothing that they need'}."
    )


def line(frame: Frame, words: list[str]) -> str:
    """What each slot holds, in one line."""
    def one(slot, p):
        if p is None or p == STRANGER:
            return f"slot {slot}: {'empty' if p is None else 'a stranger'}"
        return f"slot {slot}: {p} “{words[p]}”, age {frame.next - 1 - p}, {frame.degrees[slot]}°"

    return " | ".join(one(slot, p) for slot, p in enumerate(frame.held))


# --- the scrubber -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RingScrubber:
    """Step, play or scrub through a prompt as the rolling buffer takes it in. The last line of a cell shows it.

    prompt              read by the small trained model; of more than MOST_TOKENS tokens only the first are shown
    window, chunk_size  how it starts; windows and chunk_sizes, to choose from on the page, take them in
    frame               where it starts: 0 is the empty ring; then two frames a chunk, one before it is stored and one after

    Raises ValueError for a window, chunk size or frame that cannot be shown.
    """

    prompt: str = PROMPT
    window: int = 4
    chunk_size: int = 1
    windows: tuple[int, ...] = WINDOWS
    chunk_sizes: tuple[int, ...] = CHUNK_SIZES
    frame: int = 0

    def __post_init__(self):
        for name, most in (("window", MOST_WINDOW), ("chunk_size", MOST_TOKENS)):
            choices = [getattr(self, name), *getattr(self, f"{name}s")]
            for value in choices:
                if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                    raise ValueError(f"{name} is {value!r}: the scrubber shows whole numbers from 1 to {most}.")
            choices = sorted(set(choices))
            if len(choices) > MOST_CHOICES:
                raise ValueError(f"{len(choices)} choices of {name} were given; there is room for {MOST_CHOICES}.")
            object.__setattr__(self, f"{name}s", tuple(choices))
        if not isinstance(self.prompt, str) or not self.tokens():
            raise ValueError(f"prompt is {self.prompt!r}: give a text of at least one token.")
        if not isinstance(self.frame, int) or not 0 <= self.frame < len(self.frames()):
            raise ValueError(f"frame is {self.frame!r}: this run has the frames 0 to {len(self.frames()) - 1}.")

    def tokens(self) -> tuple[int, ...]:
        return tuple(_tiny()[1].encode(self.prompt)[:MOST_TOKENS])

    def words(self) -> list[str]:
        return [piece.replace("▁", "") or "␣" for piece in _tiny()[1].pieces(self.tokens())]

    def frames(self, window: int | None = None, chunk_size: int | None = None) -> tuple[Frame, ...]:
        return frames(self.tokens(), window or self.window, chunk_size or self.chunk_size)

    def notes(self) -> list[str]:
        n = len(_tiny()[1].encode(self.prompt))
        return [f"The prompt has {n} tokens; the first {MOST_TOKENS} are shown."] if n > MOST_TOKENS else []

    def rows(self) -> list["Row"]:
        """The state after each chunk, as film() draws it."""
        words = self.words()
        made = []
        for frame in self.frames():
            if frame.phase == "stored":
                cells = [None if p is None else ("?", p) if p == STRANGER else (words[p], p) for p in frame.held]
                made.append(Row(listed(range(*frame.chunk)), cells, {slot for slot, _ in frame.takes}, frame.lost))
        return made

    def title(self) -> str:
        return f"{len(self.words())} tokens, {self.chunk_size} at a time, go into a RollingBuffer with W = {self.window}"

    def text(self) -> str:
        """The whole run in words: what each slot held after each chunk."""
        last = self.frames()[-1]
        turned = sorted((p, d) for p, d in zip(last.held, last.degrees, strict=True) if d is not None)
        hands = ", ".join(f"{p}: {degrees}°" for p, degrees in turned)
        lines = [self.title(), *_table(self.rows()), f"RoPE's turn of the keys still there (pair {PAIR}), by position: {hands}"]
        return "\n".join([*lines, *self.notes()])

    def table(self) -> dict:
        """Every frame that the page can show, by "window/chunk size"; a frame is a list, in the order that the script expects."""
        words, made = self.words(), {}
        for window in self.windows:
            for chunk_size in self.chunk_sizes:
                made[f"{window}/{chunk_size}"] = [
                    [f.phase, f.chunk, f.next, f.held, f.degrees, f.takes, f.seen, f.lost, say(f, words, window)]
                    for f in self.frames(window, chunk_size)
                ]
        return made

    def html(self) -> str:
        """The scrubber as HTML that needs nothing else: no network, no libraries. The same scrubber gives the same bytes."""
        start = {"window": self.window, "chunk": self.chunk_size, "frame": self.frame}
        data = {"words": self.words(), "runs": self.table(), "start": start, "pair": PAIR, "stranger": STRANGER}
        whole = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")
        name = "mm-ring-" + hashlib.sha256(whole.encode()).hexdigest()[:10]
        script = re.sub(r"\n\s*", " ", SCRIPT).replace("NAME", name).replace("DATA", whole)
        return (
            f'<div class="mm-ring {name}" role="group" aria-label="the rolling buffer, step by step" {QUIET}>'
            f'<pre class="mm-ring-words">{html.escape(self.text())}</pre>'
            f'<div class="mm-ring-live" style="display:none">{self._controls()}'
            '<svg class="mm-ring-svg" role="img" width="100%"></svg>'
            '<div class="mm-ring-said" aria-live="polite"></div><div class="mm-ring-line"></div>'
            + "".join(f"<div><i>{html.escape(note)}</i></div>" for note in self.notes())
            + f"</div><style>{STYLE.replace(chr(10), '')}</style><script>{script}</script></div>"
        )

    def _controls(self) -> str:
        def choice(what, label, values, now):
            options = "".join(f'<option value="{n}"{" selected" * (n == now)}>{n}</option>' for n in values)
            return f'<label>{label} <select class="mm-ring-{what}" {QUIET}>{options}</select></label>'

        def button(what, label, sign):
            return f'<button type="button" class="mm-ring-{what}" aria-label="{label}" title="{label}" {QUIET}>{sign}</button>'

        return (
            f'<div class="mm-ring-row">{choice("window", "slots, W", self.windows, self.window)}'
            f"{choice('chunk', 'tokens at once', self.chunk_sizes, self.chunk_size)}"
            f"{button('back', 'one step back', '◀')}{button('play', 'play', '▶ play')}{button('step', 'one step on', '▶')}"
            f'<input type="range" class="mm-ring-at" aria-label="frame" {QUIET} min="0" value="0"></div>'
        )

    def __repr__(self):
        return self.text()

    def _repr_mimebundle_(self, include=None, exclude=None):
        return described({"text/html": self.html(), "image/png": film(self.rows(), self.title()).png, "text/plain": self.text()})


STYLE = f"""
.mm-ring{{max-width:760px;font:13px sans-serif;outline-offset:3px}}
.mm-ring-row{{display:flex;flex-wrap:wrap;align-items:center;gap:6px 12px;margin:4px 0}}
.mm-ring label{{display:inline-flex;align-items:center;gap:5px}}
.mm-ring button{{font:13px sans-serif;min-width:34px;padding:3px 8px;cursor:pointer}}
.mm-ring input[type=range]{{flex:1 1 150px;accent-color:{ORANGE}}}
.mm-ring text{{fill:currentColor;text-anchor:middle}}
.mm-ring .mm-ring-said{{line-height:1.45;min-height:4.4em;font-size:14px}}
.mm-ring .mm-ring-line{{line-height:1.45;font-size:12px;opacity:0.85}}
@media (prefers-reduced-motion:no-preference){{.mm-ring .lost{{animation:mm-ring-glow 0.9s ease-in-out 3 alternate}}}}
@keyframes mm-ring-glow{{from{{stroke-opacity:1}}to{{stroke-opacity:0.25}}}}
"""

# It selects a frame and draws it; what is true stays in run(). Words in the page's own colour, to be readable in the dark too.
SCRIPT = (
    """
for (const root of document.querySelectorAll(".NAME:not([data-alive])")) {
  root.dataset.alive = "yes";
  const D = DATA;
  const find = what => root.querySelector(".mm-ring-" + what);
  const at = find("at"), size = find("window"), chunk = find("chunk"), play = find("play"), svg = find("svg");
  const words = D.words, T = words.length;
  let k = D.start.frame, timer = null;
  root.tabIndex = 0;
  const run = () => D.runs[size.value + "/" + chunk.value];
  const read = n => {
    const [phase, span, next, held, degrees, takes, seen, lost, said] = run()[n];
    return {phase, span, next, held, degrees, takes, seen, lost, said};
  };
  const safe = text => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");
  const short = (word, most) => safe(word.length > most ? word.slice(0, most - 1) + "…" : word);
  const note = (text, x, y, more) => `<text x="${x}" y="${y}" ${more || ""}>${text}</text>`;

  const ring = f => {
    const W = f.held.length, X = 206, Y = 198, R = W > 8 ? 130 : W > 1 ? 122 : 0;
    const r = Math.min(46, W > 1 ? Math.PI * R / W * 0.9 : 60), small = r < 40;
    const comes = f.phase === "comes", fresh = f.phase === "stored";
    let out = "";
    if (W > 1) {  /* the write pointer */
      const turn = 2 * Math.PI * (f.next % W) / W, x = Math.sin(turn), y = -Math.cos(turn), far = R - r - 6;
      if (f.next < T) out += `<line x1="${X + 25 * x}" y1="${Y + 25 * y}" x2="${X + (far - 9) * x}" y2="${Y + (far - 9) * y}"
        stroke="ORANGE" stroke-width="4"/><polygon class="mm-ring-pointer" data-slot="${f.next % W}" fill="ORANGE"
        points="${X + far * x},${Y + far * y} ${X + (far - 14) * x - 8 * y},${Y + (far - 14) * y + 8 * x}
        ${X + (far - 14) * x + 8 * y},${Y + (far - 14) * y - 8 * x}"/>`;
      out += note("next", X, Y - 4, 'font-size="11"') +
        note(f.next < T ? f.next : "–", X, Y + 13, 'font-size="16" font-weight="bold"');
    }
    f.held.forEach((p, slot) => {
      const turn = 2 * Math.PI * slot / W, ux = Math.sin(turn), uy = -Math.cos(turn), x = X + R * ux, y = Y + R * uy;
      const taken = f.takes.find(one => one[0] === slot), dies = comes && taken && p !== null && f.lost.includes(p);
      const look = dies ? `class="lost" fill="url(#NAME-lost)" stroke="RED" stroke-width="5"`
        : p === null ? `fill="none" stroke="currentColor" stroke-opacity="0.5" stroke-dasharray="3 4"`
        : fresh && taken ? `fill="ORANGE" fill-opacity="0.2" stroke="ORANGE" stroke-width="3.5"`
        : comes && taken ? `fill="BLUE" fill-opacity="0.16" stroke="ORANGE" stroke-width="3" stroke-dasharray="6 4"`
        : `fill="BLUE" fill-opacity="0.16" stroke="BLUE" stroke-width="2"`;
      out += `<g class="mm-ring-slot" data-slot="${slot}" data-position="${p}" data-lost="${dies ? 1 : 0}">
        <circle cx="${x}" cy="${y}" r="${r}" ${look}/>`;
      if (p === null) out += note("empty", x, y + 4, 'font-size="11" opacity="0.7"');
      else if (p === D.stranger) out += note("?", x, y + 6, 'font-size="20"');
      else {
        const hand = f.degrees[slot] * Math.PI / 180, c = Math.cos(hand), s = -Math.sin(hand);
        out += `<line x1="${x + (r - 11) * c}" y1="${y + (r - 11) * s}" x2="${x + (r + 3) * c}" y2="${y + (r + 3) * s}"
          stroke="GREEN" stroke-width="4" stroke-linecap="round"/>` +
          note(short(words[p], small ? 6 : 8), x, y - (small ? 9 : 12), `font-size="${small ? 10 : 12}"`) +
          note(p, x, y + (small ? 6 : 8), `font-size="${small ? 15 : 19}" font-weight="bold"`) +
          note("age " + (f.next - 1 - p), x, y + (small ? 18 : 24), `font-size="${small ? 9 : 11}"`);
      }
      const far = R + r + (W > 1 ? 18 : 14);
      if (comes && taken)
        out += note("← " + taken[1], X + far * ux, Y + far * uy + 5, 'font-size="15" font-weight="bold"');
      else out += note("slot " + slot, X + (far + 1) * ux, Y + far * uy + 4, 'font-size="11" opacity="0.75"');
      out += "</g>";
    });
    return out;
  };

  const text = f => {
    const left = 426, wide = 50, high = 40, per = 6;
    let out = note("the text", left, 14, 'font-weight="bold" style="text-anchor:start"');
    for (let p = 0; p < T; p++) {
      const x = left + (p % per) * (wide + 5), y = 24 + Math.floor(p / per) * (high + 12);
      const now = p >= f.span[0] && p < f.span[1] && f.phase !== "empty", here = f.held.includes(p);
      const dies = f.phase === "comes" && f.lost.includes(p), future = p >= f.next && !now;
      const state = dies ? "lost" : future ? "future" : now && f.phase === "comes" ? "comes"
        : here ? (now ? "fresh" : "held") : "gone";
      const look = {lost: `class="lost" fill="url(#NAME-lost)" stroke="RED" stroke-width="4"`,
        future: `fill="none" stroke="currentColor" stroke-opacity="0.45" stroke-dasharray="3 4"`,
        comes: `fill="none" stroke="ORANGE" stroke-width="3" stroke-dasharray="6 4"`,
        fresh: `fill="ORANGE" fill-opacity="0.2" stroke="ORANGE" stroke-width="3"`,
        held: `fill="BLUE" fill-opacity="0.16" stroke="BLUE" stroke-width="2"`,
        gone: `fill="url(#NAME-gone)" stroke="GREY" stroke-width="1"`}[state];
      const faint = state === "gone" || state === "future" ? 'opacity="0.65"' : "";
      out += `<g class="mm-ring-token" data-position="${p}" data-state="${state}"><rect x="${x}" y="${y}" width="${wide}"
        height="${high}" rx="5" ${look}/>` + note(short(words[p], 8), x + wide / 2, y + 16, 'font-size="11" ' + faint) +
        note(p, x + wide / 2, y + 33, 'font-size="14" font-weight="bold" ' + faint);
      if (f.phase === "comes" && f.seen.includes(p))
        out += `<rect class="mm-ring-seen" x="${x + 4}" y="${y + high + 3}" width="${wide - 8}" height="4" rx="2"
          fill="currentColor"/>`;
      out += "</g>";
    }
    return out;
  };

  const legend = () => {
    const top = 24 + Math.ceil(T / 6) * 52 + 12;
    const entries = [
      [`fill="BLUE" fill-opacity="0.16" stroke="BLUE" stroke-width="2"`, "in the ring"],
      [`fill="url(#NAME-gone)" stroke="GREY"`, "fallen out"],
      [`fill="none" stroke="currentColor" stroke-opacity="0.45" stroke-dasharray="3 4"`, "future"],
      [`fill="none" stroke="ORANGE" stroke-width="3" stroke-dasharray="6 4"`, "comes, or is replaced"],
      [`fill="ORANGE" fill-opacity="0.2" stroke="ORANGE" stroke-width="3"`, "just stored"],
      [`fill="url(#NAME-lost)" stroke="RED" stroke-width="4"`, "lost, if stored first"],
    ];
    let out = "";
    entries.forEach(([look, words], n) => {
      const x = 426 + (n % 2) * 160, y = top + Math.floor(n / 2) * 23;
      out += `<rect x="${x + 2}" y="${y}" width="20" height="14" rx="3" ${look}/>` +
        note(words, x + 30, y + 12, 'font-size="12" style="text-anchor:start"');
    });
    const y = top + 73;
    return out + `<rect x="428" y="${y + 3}" width="20" height="4" rx="2" fill="currentColor"/>` +
      note("looked at now", 456, y + 9, 'font-size="12" style="text-anchor:start"') +
      `<line x1="592" y1="${y + 11}" x2="600" y2="${y - 3}" stroke="GREEN" stroke-width="4" stroke-linecap="round"/>` +
      note("RoPE's turn, pair " + D.pair, 616, y + 9, 'font-size="12" style="text-anchor:start"') +
      `<line x1="427" y1="${y + 29}" x2="440" y2="${y + 29}" stroke="ORANGE" stroke-width="4"/>
      <polygon fill="ORANGE" points="450,${y + 29} 438,${y + 22} 438,${y + 36}"/>` +
      note("slot of the next token", 456, y + 33, 'font-size="12" style="text-anchor:start"');
  };

  const stripes = (id, colour, width) => `<pattern id="NAME-${id}" width="7" height="7" patternUnits="userSpaceOnUse"
    patternTransform="rotate(45)"><line x1="0" y1="0" x2="0" y2="7" stroke="${colour}" stroke-width="${width}"
    stroke-opacity="0.45"/></pattern>`;

  const show = () => {
    at.max = run().length - 1;
    k = Math.max(0, Math.min(k, run().length - 1));
    at.value = k;
    const f = read(k), high = Math.max(395, 24 + Math.ceil(T / 6) * 52 + 100);
    svg.setAttribute("viewBox", `0 0 760 ${high}`);
    svg.innerHTML = `<defs>${stripes("gone", "GREY", 3)}${stripes("lost", "RED", 3)}</defs>` + ring(f) + text(f) + legend();
    find("said").textContent = f.said;
    const holds = (p, slot) => "slot " + slot + ": " + (p === null ? "empty" : p === D.stranger ? "a stranger"
      : p + " “" + words[p] + "”, age " + (f.next - 1 - p) + ", " + f.degrees[slot] + "°");
    find("line").textContent = f.held.map(holds).join(" | ");
    svg.setAttribute("aria-label", f.said);
    at.setAttribute("aria-valuetext", "frame " + k + " of " + (run().length - 1));
    root.dataset.shown = size.value + "/" + chunk.value + "/" + k;
  };

  const stop = () => {
    clearInterval(timer); timer = null;
    play.textContent = "▶ play"; play.setAttribute("aria-label", "play");
  };
  const toggle = () => {
    if (timer) return stop();
    if (k === run().length - 1) k = -1;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const tick = () => {
      if (!root.isConnected || k >= run().length - 1) return stop();
      k += 1; show();
    };
    timer = setInterval(tick, still ? 2000 : 1100);
    play.textContent = "⏸ pause"; play.setAttribute("aria-label", "pause");
    tick();
  };
  const go = n => { stop(); k = n; show(); };
  /* who points and clicks gets the keys of the ring back; who tabs to a button or a choice stays there */
  const home = () => root.focus({preventScroll: true});
  for (const [what, does] of [["back", () => go(k - 1)], ["step", () => go(k + 1)], ["play", toggle]])
    find(what).addEventListener("click", event => { does(); if (event.detail) home(); });
  at.addEventListener("input", () => go(+at.value));
  for (const chooser of [size, chunk]) {
    let typed = false;
    chooser.addEventListener("keydown", () => { typed = true; });
    chooser.addEventListener("pointerdown", () => { typed = false; });
    chooser.addEventListener("blur", () => { typed = false; });
    chooser.addEventListener("change", () => {  /* stay at the same place of the text */
      const place = shown;
      const n = run().findIndex(one => one[2] >= place);
      go(n < 0 ? run().length - 1 : n);
      if (!typed) home();
    });
  }
  let shown = 0;
  const remember = () => { shown = read(k).next; };
  new MutationObserver(remember).observe(root, {attributeFilter: ["data-shown"]});
  root.addEventListener("keydown", event => {
    if (event.target === size || event.target === chunk) return;
    const moves = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1};
    if (event.key === " " && event.target.tagName !== "BUTTON") toggle();
    else if (event.key in moves) go(k + moves[event.key]);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(run().length - 1);
    else return;
    event.preventDefault();
  });
  find("words").style.display = "none";
  find("live").style.display = "block";
  show(); remember();
}
""".replace("ORANGE", ORANGE).replace("BLUE", BLUE).replace("GREEN", GREEN).replace("GREY", GREY).replace("RED", RED)
)


# --- still pictures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of a film: what came, what each slot holds then, as (word, position) or None, which are new, what was lost."""

    came: str
    cells: list
    new: set
    lost: tuple = ()


def _table(rows: list[Row]) -> list[str]:
    """Rows as lines of text; * marks what is new."""
    size = len(rows[0].cells)
    cells = [["." if c is None else f"{c[0]} {c[1]}{'*' * (s in row.new)}" for s, c in enumerate(row.cells)] for row in rows]
    first = max(len("position"), *(len(row.came) for row in rows))
    widths = [max(len(f"slot {s}"), *(len(line[s]) for line in cells)) for s in range(size)]
    lines = ["  ".join(["position".ljust(first), *(f"slot {s}".ljust(w) for s, w in enumerate(widths))]).rstrip()]
    for row, line in zip(rows, cells, strict=True):
        lost = f"  lost if stored first: {listed(row.lost)}" if row.lost else ""
        said = "  ".join([row.came.ljust(first), *(c.ljust(w) for c, w in zip(line, widths, strict=True))])
        lines.append((said + lost).rstrip())
    return lines


def film(rows: list[Row], title: str) -> Picture:
    """What the slots hold after each chunk, a row a chunk."""
    n, size, lossy = len(rows), len(rows[0].cells), any(row.lost for row in rows)
    made, ax = figure(min(1.3 + 1.05 * size + 2.2 * lossy, 9), 0.75 + 0.36 * n)
    for y, row in enumerate(rows):
        ax.text(-0.15, y, row.came, ha="right", va="center", fontsize=9)
        for slot, cell in enumerate(row.cells):
            face, edge = ("#f9dfc7", ORANGE) if slot in row.new else ("#dbe7ef", "#dbe7ef") if cell else ("white", "#c9ced3")
            ax.add_patch(_box(slot, y, face, edge))
            if cell:
                ax.text(slot + 0.44, y, f"{cell[0][:9]} {cell[1]}", ha="center", va="center", fontsize=9)
        if row.lost:
            ax.text(size + 0.05, y, f"lost if stored first: {listed(row.lost)}", va="center", fontsize=9, color=RED)
    for slot in range(size):
        ax.text(slot + 0.44, -0.85, f"slot {slot}", ha="center", va="center", fontsize=9, color="#5d666e")
    ax.text(-0.15, -0.85, "position", ha="right", va="center", fontsize=9, color="#5d666e")
    ax.set(xlim=(-0.95, size + 0.1 + 2.2 * lossy), ylim=(n - 0.4, -1.3))
    ax.set_title(title)
    ax.axis("off")
    return finish(made, "\n".join([title, *_table(rows)]), dpi=100)


def _box(x, y, face, edge):
    from matplotlib.patches import Rectangle

    return Rectangle((x + 0.02, y - 0.41), 0.84, 0.82, facecolor=face, edgecolor=edge, linewidth=1.2)


def by_hand(words: list[str], window: int) -> Picture:
    """Words written one by one into the judge's ring, naive.rolling_buffer."""
    from minimistral import naive

    items, rows = list(enumerate(words)), []
    for n in range(1, len(items) + 1):
        slots = naive.rolling_buffer(items[:n], window)
        cells = [item and (item[1], item[0]) for item in slots]
        rows.append(Row(str(n - 1), cells, {slot for slot, item in enumerate(slots) if item == items[n - 1]}))
    return film(rows, f"{len(words)} tokens, {window} slots")


def parting(by_name: dict[str, Tensor], window: int, threshold: float = 1e-3) -> Picture:
    """The largest difference of the logits at each position, one curve a name; below the threshold they count as equal."""
    made, ax = figure(7.4, 3.0)
    lines, longest = [], 0
    for (name, difference), colour in zip(by_name.items(), (ORANGE, BLUE, GREEN), strict=False):
        off = (difference > threshold).nonzero().flatten().tolist()
        longest = max(longest, len(difference))
        ax.semilogy(difference.clamp(min=threshold / 30), color=colour, lw=1.4, label=name)
        if not off:
            lines.append(f"{name}: equal everywhere")
        elif off[-1] == len(difference) - 1:
            lines.append(f"{name}: equal up to position {off[0] - 1}, different from {off[0]} on")
        else:
            lines.append(f"{name}: different from position {off[0]} to {off[-1]}, equal again from {off[-1] + 1} on")
    ax.axhspan(threshold / 40, threshold, color=GREY, alpha=0.2, lw=0)
    ax.text(longest - 1, threshold * 0.8, "equal", ha="right", va="top", fontsize=9, color="#5d666e")
    ax.axvline(window, color=GREY, lw=1, ls="--")
    ax.set(xlabel=f"position; dashed: W = {window}", ylabel="largest difference\nof the logits", ylim=(threshold / 40, None))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.margins(x=0.01)
    made.legend(loc="outside upper left", frameon=False, ncols=2)
    return finish(made, "\n".join(lines))


def growth(tokens: list[int], by_name: dict[str, list[int]], window: int) -> Picture:
    """Bytes of a cache after so many tokens, one curve a name; tokens are multiples of the window."""
    made, ax = figure(7.0, 3.0)
    lines = ["tokens".ljust(16) + "".join(f"{f'{n // window} W':>12}" for n in tokens)]
    for (name, sizes), colour in zip(by_name.items(), (ORANGE, BLUE), strict=False):
        ax.plot(tokens, [size / 2**20 for size in sizes], "o-", color=colour, ms=5)
        ax.annotate(name, (tokens[-1], sizes[-1] / 2**20), (8, 0), textcoords="offset points", color=colour, va="center")
        lines.append(name.ljust(16) + "".join(f"{size:12,}" for size in sizes))
    ax.set(xlabel="tokens read", ylabel="MiB held", xlim=(0, tokens[-1] * 1.3), ylim=(0, None))
    ax.set_xticks(tokens, [f"{n // window} W" for n in tokens])
    return finish(made, "\n".join(lines))


def speeds(by_name: dict[str, float]) -> Picture:
    """Tokens a second as bars."""
    made, ax = figure(7.0, 0.7 + 0.45 * len(by_name))
    names, values = list(by_name), list(by_name.values())
    bars = ax.barh(range(len(names)), values, color=[BLUE if "ring" in name else ORANGE for name in names], height=0.65)
    ax.bar_label(bars, [f"{value:,.0f}" for value in values], padding=5)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xlabel="tokens a second", xlim=(0, max(values) * 1.15))
    return finish(made, "\n".join(f"{name:26}{value:8,.0f} tokens a second" for name, value in by_name.items()))
