"""The RoPE dial and the other pictures of chapter 02.

The dial: two positions turn a query and a key, pair by pair, like hands of a clock. Python computes every number
beforehand (`Dial.frames`, with the loops of `naive.rotate` in float64); the script in the page only selects and draws, so
that a key press needs no kernel and the picture also moves where there is none.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property

import torch

from minimistral import naive
from minimistral.widgets.picture import BLUE, GREEN, GREY, ORANGE, Picture, described, figure, finish

MOST_HANDS, MOST_LAST, MOST_POSITIONS = 8, 24, 120  # what fits into the page: hands, distance, positions in the table
FARTHEST = 1_000_000  # beyond some millions float32 can no longer tell neighbouring positions apart
LARGEST = 1_000_000
INK = "#222222"


@dataclass(frozen=True)
class Dial:
    """What is shown: one query and one key of D numbers, and where they stand. Raises ValueError for what cannot be turned."""

    q: tuple[float, ...]
    k: tuple[float, ...]
    theta: float = 1e4
    last: int = 20  # positions 0 ... last
    shifts: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100, 1_000)  # to be added to both positions
    query: int = 12
    key: int = 9
    hand: int = 0  # which of hands() is drawn
    shift: int = 0  # which of shifts is added

    def __post_init__(self):
        for name in ("q", "k"):
            numbers = tuple(float(x) for x in getattr(self, name))
            object.__setattr__(self, name, numbers)
            if not numbers or len(numbers) % 2:
                raise ValueError(f"{name} has {len(numbers)} numbers; pairs are turned, so give 2, 4, 6, ...")
            if not all(abs(x) <= LARGEST for x in numbers):
                raise ValueError(f"{name} holds a number that is not finite, or beyond {LARGEST:,}; it cannot be drawn.")
        if len(self.q) != len(self.k):
            raise ValueError(f"q has {len(self.q)} numbers and k has {len(self.k)}; they must be equally long.")
        if not 1 <= self.theta <= 1e12:
            raise ValueError(f"theta is {self.theta}; expected a number from 1 to 1e12, such as 10,000.")
        if not self.shifts or min(self.shifts) < 0 or max(self.shifts) > FARTHEST:
            raise ValueError(f"shifts are {self.shifts}; expected some, each from 0 to {FARTHEST:,}.")
        # whatever else does not fit is cut to what does, and notes() says so
        object.__setattr__(self, "asked", (self.last, len(self.shifts)))
        last = min(max(self.last, 0), MOST_LAST)
        shifts = tuple(dict.fromkeys(self.shifts[:MOST_POSITIONS]))
        while len(_positions(last, shifts)) > MOST_POSITIONS:
            shifts = shifts[:-1]
        cut = {"last": last, "shifts": shifts, "query": min(max(self.query, 0), last)}
        cut["key"] = min(max(self.key, 0), cut["query"])
        cut["hand"] = min(max(self.hand, 0), len(self.hands()) - 1)
        cut["shift"] = min(max(self.shift, 0), len(shifts) - 1)
        for name, value in cut.items():
            object.__setattr__(self, name, value)

    def hands(self) -> list[int]:
        """The pairs that are drawn: all of them, or some of many, the fastest and the slowest included."""
        n = len(self.q) // 2
        shown = min(n, MOST_HANDS)
        return [round(j * (n - 1) / max(shown - 1, 1)) for j in range(shown)]

    def speed(self, pair: int) -> float:
        """Radians a step."""
        return self.theta ** (-2 * pair / len(self.q))

    def notes(self) -> list[str]:
        """What is not shown, a sentence each."""
        asked_last, asked_shifts = self.asked
        pairs, shown, said = len(self.q) // 2, self.hands(), []
        if pairs > len(shown):
            said.append(f"{pairs} hands; {len(shown)} of them can be chosen. The score counts all.")
        if asked_last > self.last:
            said.append(f"{asked_last + 1:,} positions were asked for; 0 to {self.last} are shown. The shift goes further.")
        if self.last == 0:
            said.append("With one position there is one distance, 0.")
        if asked_shifts > len(self.shifts):
            said.append(f"{asked_shifts} shifts were asked for; {len(self.shifts)} are shown.")
        still = [str(j) for j in shown if (0, 0) in ((self.q[2 * j], self.q[2 * j + 1]), (self.k[2 * j], self.k[2 * j + 1]))]
        if still:
            said.append(f"In pair {', '.join(still)} the query or the key is (0, 0): it has no direction, and its share is 0.")
        return said

    def frames(self) -> dict:
        """Every number that can be shown, as plain lists.

        at       the positions in the table; first[s] is the place of shift s's position 0 in it
        q, k     [hand][place] angle of the query's and the key's hand, radians in (-pi, pi]
        between  [hand][place of the query][distance] degrees from the key's hand to the query's, in (-180, 180]
        share    [hand][distance] that pair's part of the score; score [place of the query][distance] the whole
        """
        return self._frames

    @cached_property
    def _frames(self) -> dict:
        at = _positions(self.last, self.shifts)
        place = {position: n for n, position in enumerate(at)}
        q, k = self._turned(self.q, at), self._turned(self.k, at)
        hands = self.hands()
        seen = [[n - d for d in range(self.last + 1) if n >= d and at[n - d] == at[n] - d] for n in range(len(at))]
        return {
            "at": at,
            "first": [place[shift] for shift in self.shifts],
            "shifts": list(self.shifts),
            "last": self.last,
            "pairs": hands,
            "speed": [_short(self.speed(j)) for j in hands],
            "length": {"q": [_round(q[0, j].norm()) for j in hands], "k": [_round(k[0, j].norm()) for j in hands]},
            "q": [[_round(math.atan2(*pair.flip(0))) for pair in q[:, j]] for j in hands],
            "k": [[_round(math.atan2(*pair.flip(0))) for pair in k[:, j]] for j in hands],
            "between": [[[_round(_degrees(q[n, j], k[m, j]), 2) for m in row] for n, row in enumerate(seen)] for j in hands],
            "share": [[_round(q[self.last, j] @ k[self.last - d, j]) for d in range(self.last + 1)] for j in hands],
            "score": [[_round((q[n] * k[m]).sum()) for m in row] for n, row in enumerate(seen)],
        }

    def _turned(self, x, at) -> torch.Tensor:
        """(positions, pairs, 2) float64, by the judge's loops."""
        wide = torch.tensor(x, dtype=torch.float64)
        return torch.stack([naive.rotate(wide, position, self.theta) for position in at]).unflatten(1, (-1, 2))

    def say(self, **moved) -> str:
        """The sentence under the picture; moved: other values of query, key, hand, shift."""
        F = self.frames()
        query, key, hand, shift = (moved.get(name, getattr(self, name)) for name in ("query", "key", "hand", "shift"))
        more, apart = F["shifts"][shift], query - key
        n = F["first"][shift] + query
        return (
            f"query at {query + more:,}, key at {key + more:,}: {apart} apart. "
            f"Pair {F['pairs'][hand]}: {F['between'][hand][n][apart]:.2f}° from key to query. "
            f"Score: {F['score'][n][apart]:.3f}."
        )

    def text(self) -> str:
        """The dial in words: where it stands, the same shifted, and the score over the distance."""
        F = self.frames()
        lines = [f"RoPE dial, hands with these radians a step: {', '.join(F['speed'])}", self.say()]
        farthest = len(self.shifts) - 1
        if farthest:
            lines.append(f"both shifted by {self.shifts[farthest]:,}: {self.say(shift=farthest)}")
        curve = F["score"][F["first"][0] + self.last]
        lines.append(f"score at distance 0 to {self.last}: " + " ".join(f"{score:.2f}" for score in curve))
        return "\n".join([*lines, *self.notes()])


def _positions(last, shifts) -> list[int]:
    return sorted({shift + base for shift in shifts for base in range(last + 1)})


def _degrees(query, key) -> float:
    """From the key's direction to the query's, to the left positive."""
    return math.degrees(math.atan2(key[0] * query[1] - key[1] * query[0], query @ key))


def _round(x, digits=3) -> float:
    """Few digits, so that the last bits of one machine do not show; never -0.0."""
    rounded = round(float(x), digits) + 0.0
    return int(rounded) if rounded == int(rounded) else rounded


def _short(speed: float) -> str:
    return f"{speed:.4g}" if speed >= 1e-4 else f"{speed:.1e}"


def draw(dial: Dial) -> Picture:
    """The dial as a still picture."""
    F = dial.frames()
    n = F["first"][dial.shift] + dial.query
    apart, hand = dial.query - dial.key, dial.hand
    made, (left, right) = figure(7.6, 3.3, ncols=2, width_ratios=(1, 1.5))
    left.add_patch(_circle())
    longest = max(F["length"]["q"][hand], F["length"]["k"][hand]) or 1
    for name, place, (colour, width), called in (("k", n - apart, (ORANGE, 5), "key"), ("q", n, (BLUE, 2.4), "query")):
        angle, length = F[name][hand][place], F["length"][name][hand] / longest
        left.annotate("", (length * math.cos(angle), length * math.sin(angle)), (0, 0),
                      arrowprops={"arrowstyle": "-|>", "color": colour, "lw": width, "shrinkA": 0, "shrinkB": 0})  # fmt: skip
        left.plot([], [], color=colour, lw=width, label=f"{called} at {F['at'][place]:,}")
    left.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal")
    left.set_title(f"pair {F['pairs'][hand]}: {F['speed'][hand]} rad a step")
    left.axis("off")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2, fontsize=9, frameon=False)
    right.axhline(0, color=GREY, lw=0.8)
    right.plot(F["share"][hand], color=GREEN, lw=1.2, label=f"share of pair {F['pairs'][hand]}")
    right.plot(F["score"][F["first"][0] + dial.last], color=INK, lw=2, label="score, all pairs")
    right.axvline(apart, color=GREY, lw=1, ls=":")
    right.plot(apart, F["score"][n][apart], "o", color=INK, ms=7)
    right.set_xticks(range(0, dial.last + 1, 5 if dial.last > 10 else 1))
    right.set(xlabel="distance from query back to key", title=f"score {F['score'][n][apart]:.3f} at distance {apart}")
    right.legend(loc="upper right", fontsize=9, framealpha=0.9)
    return finish(made, dial.text())


def _circle():
    from matplotlib.patches import Circle

    return Circle((0, 0), 1, fill=False, edgecolor=GREY, linewidth=1)


class RopeDial:
    """The dial that moves: text/html with its own script, and its picture and words for where scripts do not run.

    What cannot be turned is said in its place; a dial never raises.
    """

    def __init__(self, q, k, theta: float = 1e4, last: int = 20, **start):
        try:
            self.dial, self.problem = Dial(tuple(q), tuple(k), theta, last, **start), None
        except (ValueError, TypeError) as error:
            self.dial, self.problem = None, f"RoPE dial: nothing to show. {error}"

    def __repr__(self):
        return self.problem or self.dial.text()

    def _repr_mimebundle_(self, include=None, exclude=None):
        if self.problem:
            return {"text/plain": self.problem}
        return described({"text/html": page(self.dial), "image/png": draw(self.dial).png, "text/plain": self.dial.text()})


def page(dial: Dial) -> str:
    """The dial as HTML that needs nothing else. The same dial gives the same bytes.

    Without data-lm-suppress-shortcuts on the sliders JupyterLab would keep the arrow keys to itself.
    """
    frames = json.dumps(dial.frames(), separators=(",", ":"))
    start = {name: getattr(dial, name) for name in ("query", "key", "shift", "hand")}
    name = "mm-dial-" + hashlib.sha256((frames + str(start)).encode()).hexdigest()[:10]
    highest = {"query": dial.last, "key": dial.last, "shift": len(dial.shifts) - 1, "hand": len(dial.hands()) - 1}
    labels = {"query": "query at", "key": "key at", "shift": "shift both by", "hand": "pair"}
    sliders = "".join(
        f'<label style="text-align:right">{labels[what]}</label>'
        f'<input type="range" class="mm-dial-{what}" aria-label="{labels[what]}" data-lm-suppress-shortcuts="true"'
        f' min="0" max="{highest[what]}" value="{start[what]}" style="width:100%;margin:0;accent-color:{colour}">'
        f'<span class="mm-dial-{what}-value"></span>'
        for what, colour in (("query", BLUE), ("key", "#c2620f"), ("shift", INK), ("hand", GREEN))
    )
    notes = "".join(f'<div style="font-style:italic">{note}</div>' for note in dial.notes())
    script = SCRIPT.replace("NAME", name).replace("FRAMES", frames)
    for word, colour in (("BLUE", BLUE), ("ORANGE", ORANGE), ("GREEN", GREEN), ("GREY", GREY), ("INK", INK)):
        script = script.replace(f'"{word}"', f'"{colour}"')
    return (
        f'<div class="mm-dial {name}" style="max-width:760px;background:#fff;color:{INK};'
        'font:13px sans-serif;border:1px solid #d5d8dc;border-radius:6px;padding:8px 10px">'
        f'<pre class="mm-dial-words" style="white-space:pre-wrap;color:{INK};background:#fff">{dial.text()}</pre>'
        '<div class="mm-dial-live" style="display:none">'
        '<canvas class="mm-dial-canvas" role="img" style="width:740px;max-width:100%;display:block"></canvas>'
        '<div style="display:grid;grid-template-columns:7em 1fr 9em;gap:5px 10px;align-items:center">' + sliders + "</div>"
        '<div class="mm-dial-said" aria-live="polite" style="margin-top:8px;line-height:1.4;min-height:1.4em"></div>'
        f"{notes}</div>"
        f"<script>{script}</script></div>"
    )


# It selects numbers from the table and draws them; what is true stays in Dial.frames.
SCRIPT = """
for (const root of document.querySelectorAll(".NAME:not([data-alive])")) {
  root.dataset.alive = "yes";
  const F = FRAMES;
  const find = what => root.querySelector(".mm-dial-" + what);
  const inputs = {query: find("query"), key: find("key"), shift: find("shift"), hand: find("hand")};
  const canvas = find("canvas"), pen = canvas.getContext("2d"), wide = 740, high = 300;
  const dots = Math.max(window.devicePixelRatio || 1, 1);
  canvas.width = wide * dots; canvas.height = high * dots;
  pen.scale(dots, dots);
  const number = n => n.toLocaleString("en");

  const line = (points, colour, width, dash) => {
    pen.beginPath(); pen.setLineDash(dash || []); pen.strokeStyle = colour; pen.lineWidth = width;
    points.forEach(([x, y], n) => n ? pen.lineTo(x, y) : pen.moveTo(x, y));
    pen.stroke(); pen.setLineDash([]);
  };
  const words = (text, x, y, colour, align, weight) => {
    pen.font = (weight || "normal") + " 13px sans-serif"; pen.textAlign = align || "left"; pen.fillStyle = colour;
    pen.fillText(text, x, y);
  };
  const dot = (x, y, radius, colour) => {
    pen.beginPath(); pen.fillStyle = colour; pen.arc(x, y, radius, 0, 7); pen.fill();
  };

  const circle = (s) => {
    const x = 150, y = 152, R = 104;
    pen.beginPath(); pen.strokeStyle = "GREY"; pen.lineWidth = 1; pen.arc(x, y, R, 0, 7); pen.stroke();
    for (let b = 0; b <= F.last; b++) {
      const angle = F.q[s.hand][F.first[s.shift] + b];
      if (F.length.q[s.hand]) dot(x + R * Math.cos(angle), y - R * Math.sin(angle), 2.2, "GREY");
    }
    const both = F.length.q[s.hand] * F.length.k[s.hand];
    const from = F.k[s.hand][s.place - s.apart], turn = s.between * Math.PI / 180;
    if (both) {
      pen.beginPath(); pen.strokeStyle = "GREEN"; pen.lineWidth = 3;
      pen.arc(x, y, 34, -from, -from - turn, turn > 0); pen.stroke();
    }
    const longest = Math.max(F.length.q[s.hand], F.length.k[s.hand]) || 1;
    const arrows = [  // the key's below and wider, so that it can be seen when both point the same way
      [from, F.length.k[s.hand], "ORANGE", 9], [F.q[s.hand][s.place], F.length.q[s.hand], "BLUE", 4],
    ];
    for (const [angle, length, colour, width] of arrows) {
      const far = R * length / longest, c = Math.cos(angle), t = Math.sin(angle);
      line([[x, y], [x + far * c, y - far * t]], colour, width);
      dot(x + far * c, y - far * t, width > 4 ? 9 : 6, colour);
    }
    dot(x, y, 4, "INK");
    words("pair " + F.pairs[s.hand] + ": " + F.speed[s.hand] + " rad a step", x, 22, "INK", "center", "bold");
    words("query", x - 70, 288, "BLUE", "center", "bold");
    words(s.between.toFixed(2) + "°", x, 288, "GREEN", "center", "bold");
    words("key", x + 70, 288, "ORANGE", "center", "bold");
  };

  const all = F.score[F.first[0] + F.last].concat(...F.share);
  const low = Math.min(0, ...all), top = Math.max(0.1, ...all), span = (top - low) * 1.1;
  let step = Math.pow(10, Math.floor(Math.log10(span / 3)));
  step *= span / step > 12 ? 5 : span / step > 6 ? 2 : 1;

  const plot = (s) => {
    const left = 330, right = 725, above = 34, below = 246;
    const X = d => left + (right - left) * (F.last ? d / F.last : 0.5);
    const Y = v => below - (below - above) * (v - low + span * 0.045) / span;
    for (let v = Math.ceil(low / step) * step; v <= top + 1e-9; v += step) {
      line([[left, Y(v)], [right, Y(v)]], Math.abs(v) < 1e-9 ? "GREY" : "#e6e8ea", 1);
      words(String(+v.toPrecision(3)), left - 8, Y(v) + 4, "INK", "right");
    }
    for (let d = 0; d <= F.last; d += F.last > 10 ? 5 : 1) words(String(d), X(d), below + 18, "INK", "center");
    words("distance from query back to key", (left + right) / 2, 288, "INK", "center");
    const total = F.score[F.first[0] + F.last], share = F.share[s.hand];
    line([[X(s.apart), above], [X(s.apart), below]], "GREY", 1, [3, 3]);
    line(share.map((v, d) => [X(d), Y(v)]), "GREEN", 1.5);
    line(total.map((v, d) => [X(d), Y(v)]), "INK", 2.5);
    dot(X(s.apart), Y(share[s.apart]), 4, "GREEN");
    dot(X(s.apart), Y(s.score), 7, "INK");
    words("score, all pairs", left, 22, "INK", "left", "bold");
    words("share of pair " + F.pairs[s.hand], left + 130, 22, "GREEN", "left", "bold");
  };

  const show = () => {
    const s = {};
    for (const what in inputs) s[what] = +inputs[what].value;
    s.apart = s.query - s.key;
    s.place = F.first[s.shift] + s.query;
    s.between = F.between[s.hand][s.place][s.apart];
    s.score = F.score[s.place][s.apart];
    const more = F.shifts[s.shift];
    find("query-value").textContent = number(s.query + more);
    find("key-value").textContent = number(s.key + more);
    find("shift-value").textContent = number(more);
    find("hand-value").textContent = F.pairs[s.hand] + " (" + F.speed[s.hand] + " rad)";
    const said = "query at " + number(s.query + more) + ", key at " + number(s.key + more) + ": " + s.apart + " apart. Pair "
      + F.pairs[s.hand] + ": " + s.between.toFixed(2) + "° from key to query. Score: " + s.score.toFixed(3) + ".";
    find("said").textContent = said;
    canvas.setAttribute("aria-label", said);
    pen.clearRect(0, 0, wide, high);
    circle(s); plot(s);
  };
  const push = (one, other) => inputs[one].addEventListener("input", () => {  // a key in the query's future moves the query
    if (+inputs.key.value > +inputs.query.value) inputs[other].value = inputs[one].value;
  });
  push("query", "key"); push("key", "query");
  for (const what in inputs) inputs[what].addEventListener("input", show);
  find("words").style.display = "none";
  find("live").style.display = "block";
  show();
}
"""


# --- still pictures -------------------------------------------------------------------------------------------------------


def clocks(D: int, theta: float, position: int) -> Picture:
    """One clock a pair: where its hand stands at a position, and where it stood at the positions before."""
    speeds = [theta ** (-2 * j / D) for j in range(D // 2)]
    made, axes = figure(7.6, 2.5, ncols=len(speeds))
    lines = []
    for j, (ax, speed) in enumerate(zip(axes, speeds, strict=True)):
        ax.add_patch(_circle())
        for p in range(position):
            ax.plot(math.cos(p * speed), math.sin(p * speed), "o", color=ORANGE, ms=4, alpha=0.25 + 0.5 * p / position)
        x, y = math.cos(position * speed), math.sin(position * speed)
        ax.plot([0, x], [0, y], color=BLUE, lw=2.5, marker="o", ms=6, markevery=[1])
        ax.set(xlim=(-1.2, 1.2), ylim=(-1.6, 1.6), aspect="equal")
        ax.text(0, 1.25, f"pair {j}: {_short(speed)} rad a step", ha="center", va="bottom", fontsize=9)
        ax.axis("off")
        turns = position * speed / (2 * math.pi)
        ax.text(0, -1.25, f"{turns:.3f} turns", ha="center", va="top", fontsize=9, color="#5d666e")
        lines.append(f"pair {j}: {_short(speed)} rad a step, {turns:.3f} turns at position {position}")
    return finish(made, "\n".join(lines))


def wavelengths(D: int, thetas: tuple[float, ...], context: int) -> Picture:
    """Positions for one full turn of each hand, for several thetas, against the length of a text."""
    made, ax = figure(7.4, 3.1)
    lines = []
    for theta, colour in zip(thetas, (BLUE, ORANGE), strict=True):
        turn = [2 * math.pi * theta ** (2 * j / D) for j in range(D // 2)]
        slow = sum(one > context for one in turn)
        ax.semilogy(turn, "o-", ms=3, lw=1, color=colour)
        ax.text(len(turn), turn[-1], f"{turn[-1]:,.0f}", va="center", color=colour)
        ax.plot([], [], "o-", ms=3, lw=1, color=colour, label=f"theta = {theta:,.0f}: {slow} of {len(turn)} above the line")
        lines.append(
            f"theta = {theta:,.0f}: one turn takes {turn[0]:.2f} positions (fastest) to {turn[-1]:,.0f} (slowest); "
            f"{slow} of {len(turn)} hands do not get round within {context:,}"
        )
    ax.axhline(context, color=GREY, lw=1, ls="--")
    ax.text(0, context * 1.3, f"the line: a text of {context:,} tokens", color="#5d666e", fontsize=9)
    ax.margins(x=0.04, y=0.1)
    ax.set(xlabel="pair", ylabel="positions for one turn")
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.legend(frameon=False, loc="lower right")
    return finish(made, "\n".join(lines))


def errors(at, by_name: dict, above: float = 0.1) -> Picture:
    """The error of a score at each position, one curve a dtype, on a logarithmic scale. The words give powers of ten."""
    made, ax = figure(7.4, 3.4)
    lines, floor = [], 1e-8
    for (name, error), colour in zip(by_name.items(), (ORANGE, GREEN, BLUE), strict=False):
        power = math.ceil(math.log10(max(error.max().item(), floor)))
        first = next((position for position, e in zip(at.tolist(), error.tolist(), strict=True) if e > above), None)
        ax.semilogy(at, error.clamp(min=floor), color=colour, lw=1)
        short = f"above {above:g} at {first:,}" if first is not None else f"never above {above:g}"
        ax.plot([], [], color=colour, lw=3, label=f"{name}: {short}")
        when = f"above {above:g} for the first time at position {first:,}" if first is not None else f"never above {above:g}"
        lines.append(f"{name}: worst error between {10.0 ** (power - 1):g} and {10.0**power:g}, {when}")
    ax.set(xlabel="position of the query", ylabel="error of the score")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.margins(x=0.01)
    made.legend(loc="outside upper left", frameon=False, ncols=3)
    return finish(made, "\n".join(lines))


def where_they_part(difference, labels: list[str], threshold: float) -> Picture:
    """The largest difference of two models' logits at each position, a bar each; below the threshold they count as equal."""
    made, ax = figure(7.4, 2.7)
    values = difference.tolist()
    ax.bar(range(len(values)), values, color=[ORANGE if x > threshold else BLUE for x in values])
    ax.set_xticks(range(len(values)), [f"{n} {label}" for n, label in enumerate(labels)], rotation=50, ha="right", fontsize=9)
    ax.set(ylabel="largest difference\nof the logits")
    for n, x in enumerate(values):
        if x <= threshold:
            ax.text(n, max(values) * 0.02, "equal", color=BLUE, rotation=90, ha="center", va="bottom", fontsize=9)
    equal = [str(n) for n, x in enumerate(values) if x <= threshold]
    other = [str(n) for n, x in enumerate(values) if x > threshold]
    return finish(made, f"equal at position {', '.join(equal) or 'none'}; different at position {', '.join(other) or 'none'}")
