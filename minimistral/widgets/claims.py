"""Chapter 12: Table 2 as margins with their intervals, sizes that would score alike, four charts, the ledger and the slip.

All numbers are minimistral.ledger's and minimistral.evaluation's. The script of the one moving picture looks frames up and draws.
"""

import html
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from minimistral import bets, claims, course, ledger
from minimistral.evaluation import difference, interval
from minimistral.exercises.claims import CHARTS
from minimistral.widgets.page import scripted
from minimistral.widgets.picture import BLUE, GREEN, GREY, ORANGE, Picture, described, figure, finish

OURS = "Mistral 7B"
RIVALS = ("Llama 2 13B", "Llama 2 7B", "Code-Llama 7B")
FACTORS = (1, 2, 4, 8, 16)
AHEAD, BEHIND, OPEN = "ahead", "behind", "undecided"
FACES = {AHEAD: BLUE, BEHIND: ORANGE, OPEN: "#7d858c"}


# --- Table 2, to be looked at ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Margin:
    """One benchmark: Mistral's lead in points, the interval it lies in, on so many questions, and what that decides."""

    name: str
    questions: int
    lead: float
    low: float
    high: float

    @property
    def decides(self) -> str:
        return AHEAD if self.low > 0 else BEHIND if self.high < 0 else OPEN

    def __str__(self):
        return f"{self.name:11}{self.lead:+6.1f}   {self.low:+6.1f} to {self.high:+6.1f}   {self.decides}"


@cache
def margin(name: str, rival: str, factor: int = 1) -> Margin:
    """As if there were `factor` times as many questions, and the scores came out the same."""
    n = ledger.QUESTIONS[name] * factor
    ours, theirs = ledger.TABLE_2[name][OURS], ledger.TABLE_2[name][rival]
    low, high = difference(round(ours / 100 * n), n, round(theirs / 100 * n), n)
    return Margin(name, n, round(ours - theirs, 1), 100 * low, 100 * high)


def in_order(rival: str) -> list[str]:
    """The benchmarks, the largest lead first."""
    return sorted(ledger.TABLE_2, key=lambda name: -margin(name, rival).lead)


@dataclass(frozen=True)
class Margins:
    """Mistral 7B's lead over another model of Table 2, benchmark by benchmark. The last line of a cell shows it."""

    rival: str = RIVALS[0]
    factor: int = 1

    def __post_init__(self):
        for name, choices in (("rival", RIVALS), ("factor", FACTORS)):
            value = getattr(self, name)
            if value not in choices or isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}; this picture has {', '.join(map(str, choices))}.")

    def rows(self) -> list[Margin]:
        return [margin(name, self.rival, self.factor) for name in in_order(self.rival)]

    def title(self) -> str:
        many = f", were there {self.factor} times as many questions" if self.factor > 1 else ""
        return f"{OURS} against {self.rival}: points ahead{many}"

    def words(self) -> str:
        """The count, in one line."""
        names = {what: [row.name for row in self.rows() if row.decides == what] for what in FACES}
        told = [f"{OURS} ahead on {len(names[AHEAD])}", f"{self.rival} on {len(names[BEHIND])}"]
        told += [f"undecided: {', '.join(names[OPEN]) or 'none'}."]
        return "; ".join(told)

    def text(self) -> str:
        return "\n".join([self.title(), *(f"  {row}" for row in self.rows()), self.words()])

    def data(self) -> dict:
        """For the script, by rival and factor: rows of name, questions, lead, decides, and three places, 0 to 1 on the scale."""
        frames = []
        for rival in RIVALS:
            low, high = scale(rival)
            states = [Margins(rival, factor) for factor in FACTORS]
            frames.append({
                "ticks": [[f"{x:+d}" if x else "0", round((x - low) / (high - low), 4)] for x in range(low, high + 1, 10)],
                "titles": [state.title() for state in states], "words": [state.words() for state in states],
                "rows": [[[row.name, f"{row.questions:,}", f"{row.lead:+.1f}", row.decides,
                           *(round((x - low) / (high - low), 4) for x in (row.low, row.lead, row.high))] for row in state.rows()]
                         for state in states],
            })  # fmt: skip
        return {"frames": frames, "rivals": RIVALS, "factors": FACTORS, "faces": FACES,
                "start": [RIVALS.index(self.rival), FACTORS.index(self.factor)]}  # fmt: skip

    def html(self) -> str:
        """The picture with its controls: no network, no libraries. Without scripts the still picture in it remains."""
        return scripted("margins", "margins", self.data(), SCRIPT, self.title(), draw(self).png)

    def __repr__(self):
        return self.text()

    def _repr_mimebundle_(self, include=None, exclude=None):
        return described({"text/html": self.html(), "image/png": draw(self).png, "text/plain": self.text()})


def scale(rival: str) -> tuple[int, int]:
    """The ends of the axis in points, in tens: every interval fits."""
    rows = [margin(name, rival) for name in ledger.TABLE_2]
    return 10 * math.floor(min(row.low for row in rows) / 10), 10 * math.ceil(max(row.high for row in rows) / 10)


#: Looks a frame up and draws it as SVG. Colours of the page's own text, so that it is readable in the dark too.
SCRIPT = """(() => {
const data = MARGINS_DATA, WIDE = 760, LEFT = 165, LONG = 440, TOP = 58, ROW = 25;
for (const host of document.querySelectorAll('.mm-margins[data-margins="MARGINS_NAME"]:not([data-live])')) {
  host.dataset.live = '1';
  host.innerHTML = `<style>.mm-margins{max-width:${WIDE}px;font:13px sans-serif}.mm-margins label{display:inline-flex;
    align-items:center;gap:6px;margin:2px 18px 2px 0}.mm-margins output{display:inline-block;min-width:3em;font-weight:bold}
    .mm-margins input[type=range]{width:130px}.mm-margins text{fill:currentColor}.mm-margins p{margin:2px 0;line-height:1.4}
    </style>against ` + data.rivals.map((rival, r) =>
      `<label><input type="radio" class="mm-margins-rival" name="MARGINS_NAME" value="${r}">${rival}</label>`).join('') +
    `<br><label>questions, times <input type="range" class="mm-margins-factor" min="0" max="${data.factors.length - 1}">
    <output></output></label><svg viewBox="0 0 ${WIDE} ${TOP + 12 * ROW + 24}" width="100%" role="img"></svg>
    <p aria-live="polite"></p>`;
  const range = host.querySelector('input[type=range]'), shown = host.querySelector('output');
  const radios = [...host.querySelectorAll('input[type=radio]')];
  /* or JupyterLab takes arrow keys for itself */
  host.querySelectorAll('input').forEach(input => input.setAttribute('data-lm-suppress-shortcuts', 'true'));
  const svg = host.querySelector('svg'), words = host.querySelector('p');
  const now = [...data.start];
  const draw = () => {
    const [r, f] = now, frame = data.frames[r], low = TOP + 12 * ROW;
    let out = `<text x="0" y="17" font-size="15" font-weight="bold">${frame.titles[f]}</text>
      <text x="0" y="42" font-size="11" fill-opacity="0.7">benchmark, questions</text>`;
    for (const [value, at] of frame.ticks) {
      const x = LEFT + LONG * at;
      out += `<path d="M${x} ${TOP - 10}V${low}" stroke="currentColor" stroke-opacity="${value === '0' ? 0.75 : 0.13}"
        stroke-width="${value === '0' ? 1.5 : 1}"/>
        <text x="${x}" y="${low + 17}" font-size="12" text-anchor="middle">${value}</text>`;
    }
    frame.rows[f].forEach(([name, questions, lead, what, from, at, to], k) => {
      const y = TOP + ROW * k + 8, x = LEFT + LONG * at, face = data.faces[what], open = what === 'undecided';
      const [a, b] = [LEFT + LONG * from, LEFT + LONG * to];
      out += `<text x="0" y="${y + 5}" font-size="13">${name} <tspan font-size="11" fill-opacity="0.7">${questions}</tspan></text>
        <path class="mm-margins-row" data-what="${what}" d="M${a} ${y}H${b}M${a} ${y - 4}V${y + 4}M${b} ${y - 4}V${y + 4}"
        stroke="${face}" stroke-width="${open ? 1.6 : 3.2}" stroke-dasharray="${open ? '4 3' : 'none'}" fill="none"/>`;
      out += what === 'behind' ? `<path d="M${x} ${y - 6}L${x + 6} ${y}L${x} ${y + 6}L${x - 6} ${y}Z" fill="${face}"/>` :
        `<circle cx="${x}" cy="${y}" r="5" stroke="${face}" stroke-width="1.8"
          fill="${open ? 'var(--jp-layout-color0, white)' : face}"/>`;
      out += `<text x="${LEFT + LONG + 62}" y="${y + 5}" font-size="13" text-anchor="end" font-weight="bold">${lead}</text>
        <text x="${LEFT + LONG + 74}" y="${y + 5}" font-size="12" fill-opacity="${open ? 0.75 : 1}">${what}</text>`;
    });
    svg.innerHTML = out;
    svg.setAttribute('aria-label', frame.titles[f]);
    words.textContent = frame.words[f];
    range.value = f; shown.textContent = data.factors[f]; range.setAttribute('aria-valuetext', `${data.factors[f]} times`);
    radios.forEach((radio, k) => { radio.checked = k === r; });
    host.dataset.shown = now.join('/');
  };
  range.addEventListener('input', () => { now[1] = +range.value; draw(); });
  radios.forEach((radio, k) => radio.addEventListener('change', () => { now[0] = k; draw(); }));
  draw();
}
})();"""


def draw(state: Margins) -> Picture:
    """The margins as a still picture, in few colours: it goes into the page twice."""
    made, ax = figure(7.6, 4.1)
    ax.axvline(0, color="#555", lw=1.2)
    for y, row in enumerate(state.rows()):
        mark(ax, row, y)
        ax.text(1.02, y, f"{row.lead:+.1f}  {row.decides}", transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    ax.set_yticks(range(12), [f"{row.name}  {row.questions:,}" for row in state.rows()])
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.25)
    ax.set(xlim=scale(state.rival), xlabel="points; the bars are 95 % intervals")
    ax.set_title(state.title(), loc="left")
    return finish(made, state.text(), dpi=90, colours=32)


def mark(ax, row: Margin, y: float):
    """One margin: a thick bar where it is decided, a thin dashed one with a hollow dot where it is not."""
    open_ = row.decides == OPEN
    face = FACES[row.decides]
    ax.plot([row.low, row.high], [y, y], color=face, lw=1.5 if open_ else 3, ls=(0, (3, 2)) if open_ else "-")
    ax.plot([row.low, row.high], [y, y], "|", color=face, ms=7)
    ax.plot(row.lead, y, "D" if row.decides == BEHIND else "o", color=face, mfc="white" if open_ else face, ms=6.5)


def scatter(scores, true: float, n: int) -> Picture:
    """Scores (percent) that one and the same model gets in test after test, and between which limits the middle 95 % lie."""
    made, ax = figure(7.4, 2.5)
    scores = sorted(scores)
    low, high = (scores[round(q * (len(scores) - 1))] for q in (0.025, 0.975))
    ax.hist(scores, bins=40, color=GREY)
    ax.axvspan(low, high, color=BLUE, alpha=0.15, lw=0)
    ax.axvline(true, color=BLUE, lw=1.6)
    ax.set(xlabel=f"score in a test of {n:,} questions; shaded: the middle 95 %, line: what it can", ylabel="tests", yticks=[])
    text = f"{len(scores):,} tests of {n:,} questions, true rate {true:g} %: 95 % of the scores lie from {low:.1f} to {high:.1f}"
    return finish(made, text)


# --- sizes that would score alike -----------------------------------------------------------------------------------------


def alike() -> tuple[float, float, float]:
    """The size, in billions, of a Llama 2 with Mistral's MMLU: for the score, and for both ends of its interval."""
    score, n = ledger.TABLE_2["MMLU"][OURS], ledger.QUESTIONS["MMLU"]
    low, high = interval(round(score / 100 * n), n)
    return tuple(ledger.equivalent_size(x, ledger.LLAMA_MMLU) for x in (score, 100 * low, 100 * high))


def equivalent() -> Picture:
    """Left: how a size that would score alike is read off, on MMLU. Right: the four sizes of the paper's Figure 5."""
    made, (left, right) = figure(9.4, 3.5, ncols=2, width_ratios=(1.35, 1))
    score, (size, small, large) = ledger.TABLE_2["MMLU"][OURS], alike()
    sizes, scores = zip(*sorted(ledger.LLAMA_MMLU.items()), strict=True)
    left.plot(sizes, scores, "o-", color=GREY, ms=6, zorder=2)
    for x, y in zip(sizes, scores, strict=True):
        left.annotate(f"{x}B: {y}", (x, y), (6, -12), textcoords="offset points", fontsize=9, color="#555")
    left.axvspan(small, large, color=ORANGE, alpha=0.15, lw=0)
    left.plot([7, size, size], [score, score, 40], color=ORANGE, lw=1.4, ls="--", zorder=1)
    left.plot(7, score, "D", color=BLUE, ms=8, zorder=3)
    left.annotate(f"{OURS}: {score}", (7, score), (0, 9), textcoords="offset points", color=BLUE, fontweight="bold")
    left.text(size * 1.04, 41, f"{size:.0f}B", color=ORANGE, fontweight="bold")
    left.set_xscale("log")
    left.set_xticks(sizes, [f"{x}B" for x in sizes])
    left.minorticks_off()
    left.set(xlim=(6, 95), ylim=(40, 72), xlabel="parameters of Llama 2 (log axis)", ylabel="MMLU, percent")
    left.set_title("Read across, then down", loc="left")
    names = sorted(ledger.EQUIVALENT, key=ledger.EQUIVALENT.get)
    bars = right.barh(range(4), [ledger.EQUIVALENT[name] for name in names], color=ORANGE, height=0.6)
    right.bar_label(bars, [f"{ledger.EQUIVALENT[name]}B = {ledger.EQUIVALENT[name] / 7:.1f} × 7" for name in names], padding=4)
    right.axvline(7, color=BLUE, lw=2)
    right.text(7.6, 3.53, "Mistral: 7", color=BLUE, fontsize=9)
    right.set_yticks(range(4), names)
    right.set(xlim=(0, 60), ylim=(-0.5, 3.8), xlabel="Llama 2 that would score alike, billions")
    right.set_title("The paper's four panels", loc="left")
    told = [f"Llama 2 on MMLU: {', '.join(f'{x}B {y}' for x, y in ledger.LLAMA_MMLU.items())}",
            f"{OURS} {score}: a Llama 2 of {size:.0f}B; for the score's interval {small:.0f}B to {large:.0f}B; "
            f"the paper has {ledger.EQUIVALENT['MMLU']}B",
            *(f"  {name:13} {ledger.EQUIVALENT[name]}B, {ledger.EQUIVALENT[name] / 7:.1f} times 7B" for name in reversed(names))]
    return finish(made, "\n".join(told))


# --- four charts ----------------------------------------------------------------------------------------------------------


def charts() -> Picture:
    """The four charts of the exercise."""
    made, axes = figure(10, 3.1, ncols=4)
    for ax, (letter, (what, more, less, how, base)) in zip(axes, CHARTS.items(), strict=True):
        names = ("Llama 2, alike", "Mistral 7B") if how == "circles" else ("Llama 2 13B", "Mistral 7B")
        values = (more, less) if how == "circles" else (less, more)
        (circles if how == "circles" else columns)(ax, values, base, how == "log bars")
        ax.set_xticks((0, 1), names, fontsize=8.5)
        ax.set_title(f"{letter}  {what}", loc="left")
    told = [f"{letter}  {what}: {less:g} and {more:g}. {drawn(how, base)}"
            for letter, (what, more, less, how, base) in CHARTS.items()]  # fmt: skip
    return finish(made, "\n".join(told))


def drawn(how: str, base: float) -> str:
    """In words, what kind of picture it is."""
    if how == "circles":
        return "Two circles; these are their diameters."
    steps = ", and each step of it is ten times the one before" if how == "log bars" else ""
    return f"Two bars; the axis begins at {base:g}{steps}."


def columns(ax, values, base, log):
    """Two bars on an axis that begins at `base`, on a log scale if asked for."""
    ax.bar((0, 1), [v - base for v in values], bottom=base, color=(GREY, BLUE), width=0.6)
    for x, v in enumerate(values):
        ax.text(x, v, f"{v:g}", ha="center", va="bottom", fontweight="bold")
    if log:
        ax.set_yscale("log")
        ax.set_yticks((1, 10, 100), ("1", "10", "100"))
        ax.minorticks_off()
    top = 100 if log else 82 if base else 60
    ax.set(ylim=(base, top), xlim=(-0.6, 1.6))
    if base and not log:
        ax.set_yticks((80, 81, 82))


def circles(ax, values, *_):
    """Two circles whose diameters are the values."""
    from matplotlib.patches import Circle

    unit, spots = 1 / max(values), (0.0, 1.0)
    for x, v, face in zip(spots, values, (GREY, BLUE), strict=True):
        ax.add_patch(Circle((x, 0), 0.56 * v * unit, facecolor=face, clip_on=False))
        ax.text(x, 0.56 * v * unit + 0.06, f"{v:g}", ha="center", va="bottom", fontweight="bold")
    ax.set(xlim=(-0.6, 1.6), ylim=(-0.95, 0.95), aspect="equal", yticks=[])
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(length=0)


# --- the ledger -----------------------------------------------------------------------------------------------------------

#: claim -> (chapters that show it, tests that hold it); what no test can hold is read in a document
HELD = {
    "parameters": ("07", ("test_ledger", "test_counting")),
    "beats-13b": ("12", ("test_ledger", "test_claims_widget")),
    "near-code-llama": ("12", ("test_ledger",)),
    "apache": ("", ()),
    "gqa-window": ("07", ("test_ledger", "test_config")),
    "twice-at-16k": ("11", ("test_ledger", "test_roofline")),
    "span-131k": ("09", ("test_ledger", "test_reach")),
    "cache-8x": ("05", ("test_ledger", "test_cache_cost")),
    "per-parameter": ("12", ("test_ledger", "test_claims_widget")),
    "dangerous": ("12b", ("test_moderation",)),
    "self-reflection": ("12b", ("test_moderation",)),
}
APPENDIX = "12b"  # has no number of its own on the map
MARKS = {True: "✓", False: "✗"}


class Ledger:
    """Claims with their numbers, said and found, the verdict that follows, and what holds it. All claims, or these."""

    def __init__(self, *ids: str):
        self.rows = [row for row in ledger.rows() if not ids or row.claim.id in ids]
        for id in ids:
            claims.find(id)

    def __repr__(self):
        told = []
        for row in self.rows:
            told += [f"{row.claim.text}  {row.verdict.upper()}  ({where(row)})"]
            told += [f"  {MARKS[line.holds]} {line.what}: {line.said} | {line.found}" for line in row.lines]
        return "\n".join(told)

    def _repr_mimebundle_(self, include=None, exclude=None):
        body = "".join(map(_ledger_row, self.rows))
        head = "".join(f"<th>{name}</th>" for name in ("claim", "", "said", "found", "verdict", "held by"))
        style = "<style>.mm-ledger td,.mm-ledger th{text-align:left!important;vertical-align:top;padding:3px 10px 3px 0}" \
                ".mm-ledger{border-collapse:collapse}.mm-ledger .first td{border-top:1px solid #8886}</style>"
        return {"text/html": f"{style}<table class='mm-ledger'><tr>{head}</tr>{body}</table>", "text/plain": repr(self)}


def where(row: ledger.Row) -> str:
    """How a verdict was found, and which chapter and tests hold it."""
    chapter, tests = HELD[row.claim.id]
    held = ", ".join([*([place(chapter)] if chapter else []), *(f"tests/{test}.py" for test in tests)])
    return f"{row.how}; {held}" if held else f"{row.how}, no test"


def _ledger_row(row: ledger.Row) -> str:
    chapter, tests = HELD[row.claim.id]
    links = [f"<a href='../tests/{test}.py'>{test}</a>" for test in tests]
    if chapter:
        links.insert(0, f"<a href='{page(chapter)}'>{place(chapter)}</a>")
    held = "<br>".join([html.escape(row.how), *links])
    out = []
    for n, line in enumerate(row.lines):
        cells = [f"<td>{html.escape(text)}</td>" for text in (f"{MARKS[line.holds]} {line.what}", line.said, line.found)]
        if not n:
            many = f"rowspan='{len(row.lines)}'"
            cells.insert(0, f"<td {many} style='max-width:15em'>{html.escape(row.claim.text)}</td>")
            cells.append(f"<td {many}><b>{row.verdict}</b></td><td {many}><small>{held}</small></td>")
        out.append(f"<tr{'' if n else ' class=first'}>{''.join(cells)}</tr>")
    return "".join(out)


def place(chapter: str) -> str:
    """A chapter as one reads it."""
    return f"{'notebook' if chapter == APPENDIX else 'chapter'} {chapter}"


def page(chapter: str) -> str:
    """The notebook's file of a chapter, as a link from another one."""
    if chapter == APPENDIX:
        return "12b_evaluation_and_guardrails.ipynb"
    return next(Path(one.file).name for one in course.CHAPTERS if f"{one.number:02d}" == chapter)


# --- the slip settled -----------------------------------------------------------------------------------------------------

#: How a slip may look: for whoever has none. Made up.
EXAMPLE = {
    "parameters": {"verdict": "true", "sure": 90},
    "beats-13b": {"verdict": "true", "sure": 70},
    "near-code-llama": {"verdict": "imprecise", "sure": 50},
    "apache": {"verdict": "true", "sure": 95},
    "gqa-window": {"verdict": "true", "sure": 85},
    "twice-at-16k": {"verdict": "imprecise", "sure": 60},
    "span-131k": {"verdict": "true", "sure": 80},
    "cache-8x": {"verdict": "imprecise", "sure": 40},
    "per-parameter": {"verdict": "wrong", "sure": 65},
    "dangerous": {"verdict": "imprecise", "sure": 45},
    "self-reflection": {"verdict": "true", "sure": 85},
}  # fmt: skip
YOURS, MADE_UP = "Your slip", "You placed no bets. An EXAMPLE, made up, to show how it would look"


def slip() -> tuple[dict, str]:
    """The learner's bets or, where there are none, the example; and which of the two it is."""
    own = bets.load()
    return (own, YOURS) if own else (EXAMPLE, MADE_UP)


class Settled:
    """Every claim with its verdict and, where one was placed, the bet."""

    def __init__(self):
        self.slip, self.whose = slip()

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Claim, verdict, bet, how it went."""
        out = []
        for claim in claims.CLAIMS:
            bet = self.slip.get(claim.id)
            went = "" if bet is None else "right" if bet["verdict"] == claim.verdict else "lost"
            out.append((claim.text, claim.verdict, f"{bet['verdict']}, {bet['sure']} %" if bet else "no bet", went))
        return out

    def __repr__(self):
        lines = [f"  {went or '-':6}{verdict:10} bet: {bet:16} {text}" for text, verdict, bet, went in self.rows()]
        return "\n".join([f"{self.whose}:", *lines])

    def _repr_mimebundle_(self, include=None, exclude=None):
        faces = {"right": (BLUE, "✓ right"), "lost": (ORANGE, "✗ lost"), "": (GREY, "–")}
        body = "".join(
            f"<tr><td>{html.escape(text)}</td><td><b>{verdict}</b></td><td>{bet}</td>"
            f"<td style='color:{faces[went][0]};font-weight:bold'>{faces[went][1]}</td></tr>"
            for text, verdict, bet, went in self.rows()
        )
        head = "<tr><th>claim</th><th>verdict</th><th>bet</th><th></th></tr>"
        style = "<style>.mm-settled td,.mm-settled th{text-align:left!important;padding:3px 12px 3px 0}</style>"
        whole = f"{style}<p><b>{self.whose}</b></p><table class='mm-settled'>{head}{body}</table>"
        return {"text/html": whole, "text/plain": repr(self)}


def calibration() -> Picture:
    """How sure the bets were, and how often right: in groups, each with its interval; single bets above and below."""
    bet, whose = slip()
    found = bets.calibration(bet)
    made, ax = figure(6.6, 4.3)
    ax.plot([33, 100], [33, 100], color=GREY, lw=1.2, ls="--")
    ax.text(101, 91, "as sure\nas right", color="#666", fontsize=9, va="center")
    for y, what in ((106, "right"), (-6, "lost")):
        ax.text(101, y, what, color="#666", fontsize=9, va="center")
    for id, one in bet.items():
        right = one["verdict"] == claims.find(id).verdict
        ax.plot(one["sure"], 106 if right else -6, "o" if right else "x", color=BLUE if right else ORANGE, ms=6, clip_on=False)
    told = [f"{whose}: {found.right} of {found.n} right, Brier score {found.brier:.2f} (always 33 % sure: 0.22)"]
    for group in found.groups:
        low, high = interval(group.right, group.n)
        share, sure = group.right / group.n, 100 * group.sure
        ax.plot([sure, sure], [100 * low, 100 * high], color=GREEN, lw=2)
        ax.plot(sure, 100 * share, "s", color=GREEN, ms=8)
        ax.annotate(f"{group.name}\n{group.right} of {group.n}", (sure, 100 * share), (9, 0), textcoords="offset points",
                    fontsize=9, va="center", bbox={"fc": "white", "ec": "none", "pad": 1})  # fmt: skip
        rate = f"{group.right} of {group.n} right = {share:.0%} (95 %: {low:.0%} to {high:.0%})"
        told.append(f"  {group.name:12} {sure:3.0f} % sure, {rate}")
    ax.set(xlim=(30, 110), ylim=(-11, 112), yticks=range(0, 101, 25), xticks=range(40, 101, 10))
    ax.set(xlabel="how sure, percent", ylabel="how often right, percent")
    ax.set_title(whose, loc="left", fontsize=10, color="black" if whose == YOURS else ORANGE)
    return finish(made, "\n".join(told))
