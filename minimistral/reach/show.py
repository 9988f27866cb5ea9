"""What was seen, from the raw counts: in words (verdict) and drawn (picture)."""

from collections import defaultdict
from dataclasses import replace
from itertools import cycle

from minimistral.config import Window
from minimistral.counting import VERSIONS
from minimistral.doctor import cache_bytes
from minimistral.reach import cliff, stories
from minimistral.reach.runs import label, listed, recorded
from minimistral.widgets.picture import BLUE, GREEN, GREY, ORANGE, Picture, figure, finish

SURE = 0.95
W_7B, TOKENS_7B = 4096, 32_768
COLOURS = (ORANGE, BLUE, GREEN, "#5b3a8c")
MARKERS = ("o", "s", "^", "D")
Shape = tuple[int, Window]


def shapes(record: dict) -> list[Shape]:
    """The (layers, window) of a record, full attention last."""
    there = {(r["layers"], r["window"]) for r in record["runs"]}
    return sorted(there, key=lambda s: (s[1] is None, str(s[1]) if isinstance(s[1], tuple) else s[1] or 0, s[0]))


def pooled(record: dict, shape: Shape, alive: int | None = None, seed: int | None = None) -> dict[int, tuple[int, int]]:
    """{distance: (right, of)} over all seeds, or one; alive: how many facts, where the record is of stories."""
    found = defaultdict(lambda: (0, 0))
    for run in record["runs"]:
        if (run["layers"], run["window"]) == shape and seed in (None, run["seed"]):
            for row in run["counts"]:
                if record["experiment"] == "stories":
                    k, d, right, _, of = row
                    if k != alive:
                        continue
                else:
                    d, right, of = row
                found[d] = (found[d][0] + right, found[d][1] + of)
    return dict(sorted(found.items()))


def seeds(record: dict, shape: Shape) -> list[int]:
    """The seeds that a shape was trained with."""
    return sorted({r["seed"] for r in record["runs"] if (r["layers"], r["window"]) == shape})


def reach(shape: Shape) -> int:
    """L (W - 1), of a shape with one window for all layers."""
    layers, window = shape
    return layers * (window - 1)


def sure_to(counts: dict, bound: float = SURE) -> int:
    """The farthest distance asked up to which recall is never below the bound; 0: not even at the nearest."""
    farthest = 0
    for d, (right, of) in counts.items():
        if right / of < bound:
            break
        farthest = d
    return farthest


def guess(alive: int) -> float:
    """How often one is right who knows which animals were told, and nothing of whose they are. One alive: by a blind guess."""
    return stories.CHANCE if alive == 1 else max(1 / alive, stories.CHANCE)


def half_way(counts: dict, alive: int) -> int:
    """The farthest distance at which recall is at least half-way between guess() and 1; 0: there is none."""
    bound = (1 + guess(alive)) / 2
    return max((d for d, (right, of) in counts.items() if right / of >= bound), default=0)


def share(counts: dict, keep) -> float | None:
    """Recall over all distances that keep(d) keeps; None where there are none."""
    kept = [pair for d, pair in counts.items() if keep(d)]
    return sum(right for right, _ in kept) / sum(of for _, of in kept) if kept else None


# --- in words -------------------------------------------------------------------------------------------------------------


def verdict(record: dict) -> str:
    """What the counts say, and nothing else."""
    if not record["runs"]:
        return f"{record['experiment']}: not recorded yet."
    return {"cliff": _of_cliff, "hybrid": _of_hybrid, "stories": _of_stories}[record["experiment"]](record)


def _of_cliff(record: dict) -> str:
    lines = [f"{'':22}seeds  L(W-1)  1.5 W  recall >= {SURE} up to  recall beyond L(W-1)"]
    holds = True
    for shape in shapes(record):
        far, each = reach(shape), [sure_to(pooled(record, shape, seed=s)) for s in seeds(record, shape)]
        beyond = share(pooled(record, shape), lambda d, far=far: d > far)
        holds &= min(each) >= far - 1 and max(each) <= far and beyond is not None and beyond < 2 * cliff.CHANCE
        to = ", ".join(map(str, sorted(set(each))))
        said = "not asked" if beyond is None else f"{beyond:.3f}"
        lines.append(f"{label(*shape):22}{len(each):5}{far:8}{1.5 * shape[1]:7g}  {to:>20}  {said:>20}")
    lines.append(f"A blind guess is right 1 time in {len(cliff.ANIMALS)}: {cliff.CHANCE:.3f}.")
    if holds:
        lines.append("Each model recalls up to L(W-1), or one token less, and guesses beyond: that reach can be learned.")
    else:
        lines.append("Not each model recalls up to one token before L(W-1) and guesses beyond.")
    return "\n".join(lines)


def _of_hybrid(record: dict) -> str:
    N = TOKENS_7B
    lines = [f"{'windows':22}seeds  recall >= {SURE} up to  least recall anywhere  keys kept of {N:,}, all layers"]
    for shape in shapes(record):
        layers, windows = shape
        each = [sure_to(pooled(record, shape, seed=s)) for s in seeds(record, shape)]
        end = max(pooled(record, shape))
        to = ", ".join(f"{far} of {end}" if far < end else f"all {end}" for far in sorted(set(each)))
        least = min(right / of for s in seeds(record, shape) for right, of in pooled(record, shape, seed=s).values())
        kept = sum(min(window or N, N) for window in windows) / (layers * N)
        lines.append(f"{listed(windows):22}{len(each):5}  {to:>19}  {least:>21.3f}  {kept:>29.2%}")
    return "\n".join(lines)


def _of_stories(record: dict) -> str:
    lines = ["Farthest distance asked at which recall is half-way from a guess to 1, all seeds together;",
             f"in brackets, up to where it is never below {SURE}",
             f"{'facts alive':24}" + "".join(f"{k:>10}" for k in stories.ALIVE) + "  L(W-1)  1.5 W  seeds"]
    for shape in shapes(record):
        every = [pooled(record, shape, k) for k in stories.ALIVE]
        cells = [f"{half_way(c, k) or '-'} ({sure_to(c) or '-'})" for k, c in zip(stories.ALIVE, every, strict=True)]
        ends = f"{reach(shape):8}{1.5 * shape[1]:7g}" if shape[1] else f"{'-':>8}{'-':>7}"
        lines.append(f"{label(*shape):24}" + "".join(f"{cell:>10}" for cell in cells) + ends + f"{len(seeds(record, shape)):7}")
    return "\n".join([*lines, "", *conclusions(record)])


def conclusions(record: dict) -> list[str]:
    """Sentences about stories, each of them decided by the counts."""
    said = [_conclusion(record, shape) for shape in shapes(record)]
    far = [row for shape in shapes(record) if shape[1] for row in _rows(record, shape) if row[1] > reach(shape)]
    shares = [f"{sum(r[2] for r in rows) / sum(r[4] for r in rows):.2f} with {k}"
              for k in stories.ALIVE if (rows := [row for row in far if row[0] == k])]
    if shares:
        said.append(f"Beyond L(W-1) recall is {', '.join(shares)} alive; a blind guess is {stories.CHANCE:.2f}.")
    steps = sorted({run["steps"] for run in record["runs"]})
    trained = " to ".join(map(str, sorted({steps[0], steps[-1]})))
    said.append(f"So it was after {trained} steps of training; longer training may reach further.")
    return said


def _conclusion(record: dict, shape: Shape) -> str:
    """How far a shape looks where several facts compete."""
    layers, window = shape
    name = f"{layers} layer{'s' * (layers > 1)}, " + (f"W = {window}" if window else "full attention")
    ends = sorted({half_way(pooled(record, shape, k), k) for k in stories.ALIVE[1:]})
    if not ends[-1]:
        near = [row for row in _rows(record, shape) if row[0] > 1 and row[1] < (window or 16)]
        right, told, of = (sum(row[n] for row in near) for n in (2, 3, 4))
        return (f"{name}: it does not learn whose is which. Asked for one of 2 to 8 facts, less than {window or 16} tokens "
                f"back, it names an animal that was told in {told / of:.0%}, and the right one in {right / of:.0%}.")
    to = f"{ends[0] or 'nowhere'} to {ends[-1]}" if len(ends) > 1 else str(ends[0])
    if window is None:
        farthest = max(row[1] for row in _rows(record, shape))
        return f"{name}: 2 to 8 facts are told apart up to {to} tokens back; the farthest asked for is {farthest}."
    crossed = "crosses the window" if ends[0] >= window else "crosses it in part" if ends[-1] >= window else "stays within it"
    against = "more than" if ends[0] > 1.5 * window else "less than" if ends[-1] < 1.5 * window else "about"
    alone = half_way(pooled(record, shape, 1), 1)
    return (f"{name}: one fact alone is known up to {alone} tokens back, of the L(W-1) = {reach(shape)} possible. With 2 to 8 "
            f"alive, whose is which is known up to {to}: it {crossed}, and that is {against} 1.5 W = {1.5 * window:g}.")


def _rows(record: dict, shape: Shape) -> list:
    return [row for run in record["runs"] if (run["layers"], run["window"]) == shape for row in run["counts"]]


# --- drawn ----------------------------------------------------------------------------------------------------------------


def picture(record: dict, windows=None) -> Picture:
    """Recall against distance. cliff: a panel for each window, a line for each depth. stories: a panel for each depth and
    window, a line for each number of facts alive, and thin dashes for full attention. hybrid: a line for each pattern and
    each seed, beside the recorded cliff of windows alone, and what such patterns cost a 7B. The text twin is verdict()."""
    if not record["runs"]:
        raise ValueError("The record holds no runs: there is nothing to draw.")
    return {"cliff": _draw_cliff, "hybrid": _draw_hybrid, "stories": _draw_stories}[record["experiment"]](record, windows)


def _draw_cliff(record: dict, windows) -> Picture:
    windows = windows or sorted({w for _, w in shapes(record)})
    drawn = [s for s in shapes(record) if s[1] in windows]
    far = max(map(reach, drawn))
    fig, axes = figure(9.6, 0.7 + 3.4 * len(windows), nrows=len(windows), squeeze=False, sharex=True)
    for axis, window in zip(axes[:, 0], windows, strict=True):
        _cliff_panel(axis, record, window, sorted(layers for layers, w in drawn if w == window), far + max(8, far // 6))
    axes[-1, 0].set_xlabel("tokens back, from the question to the fact")
    return finish(fig, verdict(record), dpi=120)


def _cliff_panel(axis, record, window, depths, end):
    hop, before = window - 1, 0
    styles = dict(zip((1, 2, 4), zip(COLOURS, MARKERS, strict=True), strict=False))
    for layers in depths:
        colour, marker = styles.get(layers, (COLOURS[3], MARKERS[3]))
        far, counts = layers * hop, {d: pair for d, pair in pooled(record, (layers, window)).items() if d <= end}
        recall = {d: right / of for d, (right, of) in counts.items()}
        own = [d for d in recall if d >= before]  # the ground that this depth adds
        axis.fill_between(own, [recall[d] for d in own], cliff.CHANCE, color=colour, alpha=0.16, lw=0, zorder=1)
        for seed in seeds(record, (layers, window)):
            one = {d: right / of for d, (right, of) in pooled(record, (layers, window), seed=seed).items() if d <= end}
            axis.plot(*_points(one), color=colour, lw=0.7, alpha=0.5, zorder=2)
        axis.plot(*_points(recall), color=colour, lw=2.4, marker=marker, ms=4.5, markevery=3, zorder=9 - layers)
        axis.plot([far, far], [0, 1.05], color=colour, lw=1.1, ls=(0, (4, 2)), zorder=3)
        axis.text(far + end / 80 + 0.6, 0.75, f"{layers} layer{'s' * (layers > 1)}\n{layers} × {hop} = {far}", color=colour,
                  fontsize=10.5, fontweight="bold", va="center", linespacing=1.35, zorder=10)
        before = far
    axis.axhline(cliff.CHANCE, color=GREY, lw=1, zorder=0)
    axis.text(1.5, cliff.CHANCE + 0.02, f"a blind guess: 1 in {len(cliff.ANIMALS)}", color="#555", fontsize=8.5)
    axis.plot([1.5 * window] * 2, [0, 0.32], color="#444", lw=1.2, ls=":", zorder=3)
    axis.text(1.5 * window, 0.34, f"estimated:\n1.5 W = {1.5 * window:g}", color="#444", fontsize=8.5, ha="center")
    _hops(axis, hop, max(depths))
    axis.set(xlim=(0, end), ylim=(0, 1.36), yticks=[0, 0.5, 1], yticklabels=["never", "half", "always"], ylabel="recalled")
    axis.set_title(f"W = {window}: each layer looks {hop} tokens further back, and not one more", loc="left", fontweight="bold")


def _draw_hybrid(record: dict, _) -> Picture:
    patterns = shapes(record)
    layers, W = patterns[0][0], cliff.narrow(patterns[0][1])
    fig, (left, right) = figure(9.6, 3.7, ncols=2, gridspec_kw={"width_ratios": (2.7, 1)})
    alone = pooled(recorded("cliff"), (layers, W))
    left.plot(*_points({d: right / of for d, (right, of) in alone.items()}), color=BLUE, lw=2, marker="o", ms=3.5, markevery=4,
              label=f"{layers} windows of {W}")  # fmt: skip
    looks = zip(cycle((ORANGE, GREEN, "#5b3a8c", GREY)), cycle(MARKERS[1:]), strict=False)
    for turn, ((_, windows), (colour, marker)) in enumerate(zip(patterns, looks, strict=False)):
        name = listed(windows)
        for n, seed in enumerate(seeds(record, (layers, windows))):
            recall = {d: right / of for d, (right, of) in pooled(record, (layers, windows), seed=seed).items()}
            dashes = (6 * turn, (6, 6 * len(patterns) - 6)) if len(patterns) > 1 else "-"  # by turns, so that all are seen
            style = dict(color=colour, lw=1.8, ls=dashes, marker=marker, ms=4, markevery=(4 * n + 2 * turn, 12))
            left.plot(*_points(recall), **style, label="" if n else name)
    left.axhline(cliff.CHANCE, color=GREY, lw=1, zorder=0)
    left.text(1.5, cliff.CHANCE + 0.02, f"a blind guess: 1 in {len(cliff.ANIMALS)}", color="#555", fontsize=8.5)
    left.set(ylim=(0, 1.08), yticks=[0, 0.5, 1], yticklabels=["never", "half", "always"], ylabel="recalled",
             xlabel="tokens back, from the question to the fact")  # fmt: skip
    left.set_title("One layer that sees all, and the cliff is gone", loc="left", fontweight="bold")
    left.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(0, 0.42))
    costs = {"32 rings": W_7B, "8 of 32 grow": (W_7B, W_7B, W_7B, None) * 8, "32 grow": None}
    sizes = [cache_bytes(replace(VERSIONS["v0.1"], sliding_window=windows), TOKENS_7B) / 2**30 for windows in costs.values()]
    bars = right.bar(range(len(costs)), sizes, color=(BLUE, ORANGE, GREY), width=0.6)
    right.bar_label(bars, [f"{size:.2g} GiB" for size in sizes], fontsize=9.5, padding=2)
    right.set_xticks(range(len(costs)), costs, fontsize=9)
    right.set(ylim=(0, max(sizes) * 1.15), yticks=[])
    right.set_title("A 7B's cache at 32k", loc="left", fontweight="bold")
    told = [f"  {name:14}{size:6.3f} GiB" for name, size in zip(costs, sizes, strict=True)]
    told.insert(0, f"A 7B's cache after {TOKENS_7B:,} tokens, W = {W_7B:,}, bfloat16:")
    return finish(fig, "\n".join([verdict(record), *told]), dpi=120)


def _points(recall: dict) -> tuple[list, list]:
    return list(recall), list(recall.values())


def _hops(axis, hop, n):
    """An arc for each layer, above the curves: the last one looks back from the question."""
    from matplotlib.patches import FancyArrowPatch

    bend = -0.22 * 15 / max(15, hop)
    for layer in range(n):
        axis.add_patch(FancyArrowPatch((layer * hop, 1.07), ((layer + 1) * hop, 1.07), arrowstyle="-|>", mutation_scale=9, lw=1.2,
                                       color="#444", connectionstyle=f"arc3,rad={bend}", shrinkA=1, shrinkB=1))
        axis.text((layer + 0.5) * hop, 1.085, f"layer {n - layer}", ha="center", fontsize=8.5, color="#444")


def _draw_stories(record: dict, windows) -> Picture:
    every = [s for s in shapes(record) if s[1] is not None and (not windows or s[1] in windows)]
    if not every:
        raise ValueError("There is no run with a window in this record (or none of these windows): nothing to draw.")
    fig, axes = figure(9.6, 1 + 2.5 * len(every), nrows=len(every), squeeze=False, sharex=True)
    end = max(min(2 * reach(s), reach(s) + 25) for s in every)
    for axis, shape in zip(axes[:, 0], every, strict=True):
        _stories_panel(axis, record, shape, end)
    axes[0, 0].legend(title="facts alive", fontsize=9, title_fontsize=9, frameon=False, ncol=4, loc="upper right")
    axes[-1, 0].set_xlabel("tokens back, from the question to the fact (dashed: the same depth with full attention)")
    return finish(fig, verdict(record), dpi=110)


def _stories_panel(axis, record, shape, end):
    layers, window = shape
    far, estimate = reach(shape), 1.5 * window
    axis.axvspan(far + 0.5, end, color=GREY, alpha=0.16, lw=0)
    for k, colour, marker in zip(stories.ALIVE, COLOURS, MARKERS, strict=True):
        bold, thin = dict(lw=1.9, marker=marker, ms=4, label=f"{k}"), dict(lw=0.9, alpha=0.6, ls="--")
        for of, style in (((layers, None), thin), (shape, bold)):
            axis.plot(*_points({d: a / b for d, (a, b) in pooled(record, of, k).items() if d <= end}), color=colour, **style)
    for x in (window - 1, estimate):
        axis.plot([x, x], [0, 1.04], color="#444", lw=1.1, ls=":")
    axis.text(window - 1, 1.07, f"W−1 = {window - 1}", fontsize=8.5, color="#444", ha="right")
    axis.text(estimate, 1.07, f"1.5 W = {estimate:g}", fontsize=8.5, color="#444", ha="left" if estimate > far else "center")
    axis.text(max(far, estimate) + 0.8, 0.8 if far < window else 0.9, f"beyond L(W−1) = {far}", fontsize=9,
              fontweight="bold", color="#444")
    axis.set(xlim=(0, end), ylim=(0, 1.16), yticks=[0, 0.5, 1], yticklabels=["never", "half", "always"], ylabel="right")
    axis.set_title(f"{layers} layer{'s' * (layers > 1)}, W = {window}", loc="left", fontweight="bold")
