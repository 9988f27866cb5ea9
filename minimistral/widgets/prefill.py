"""Chapter 06's pictures: chunks and what they see, the lattice, the parting of two ways.

As everywhere, three kinds of nothing are drawn in three ways: the future (grey), what has fallen out of the window (hatched), and
what is seen but hardly attended (pale yellow). The probe adds a fourth, which no healthy cache has: in the window, and not seen.
"""

import textwrap
from dataclasses import dataclass

import numpy as np
import torch

from minimistral import masks
from minimistral.cache import RollingBuffer
from minimistral.config import MistralConfig
from minimistral.lattice import KINDS, named
from minimistral.widgets import picture
from minimistral.widgets.attention import FALLEN, FUTURE, HIGH, LOW
from minimistral.widgets.picture import BLUE, GREEN, GREY, HATCH, ORANGE, Picture, figure, finish

UNSEEN = picture.rgb(picture.UNSEEN)
AROUND = 9  # rows that are shown before and after the query of a parting


# --- chunks and what they see ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """One chunk: what the cache really handed to its queries."""

    start: int  # positions start ... end - 1
    end: int
    at_hand: tuple[int, ...]  # the position of each key that was handed out, by its content; -1: a slot never written
    seen: tuple[frozenset[int], ...]  # of those, what each query may see


def looks(kind: type[RollingBuffer], sizes: list[int], window: int) -> list[Look]:
    """Feed a cache of this kind with keys that carry their own position, and read from what comes out who sees what."""
    sizes_of_no_matter = dict.fromkeys(("dim", "head_dim", "hidden_dim", "vocab_size"), 2)
    config = MistralConfig(n_layers=1, n_heads=1, n_kv_heads=1, sliding_window=window, **sizes_of_no_matter)
    cache, made, start = kind(config), [], 0
    for n in sizes:
        at = torch.arange(start, start + n)
        k = (at + 1.0).view(1, 1, n, 1).expand(1, 1, n, 2)  # + 1, or position 0 would look like a slot never written
        step = cache.begin(n, torch.tensor([n]))
        keys, _ = cache.exchange(0, k, k, step)
        mask = masks.dense(at, at, window) if step.mask is None else step.mask[0, 0]
        cache.finish(step)
        hand = [int(x) - 1 for x in keys[0, 0, :, 0].tolist()]
        seen = tuple(frozenset(j for j, may in zip(hand, row, strict=True) if may) for row in mask.tolist())
        made.append(Look(start, start + n, tuple(hand), seen))
        start += n
    return made


#: what a query and a key can be to each other: the letter in the text, the colour, the words in the legend
MARKS = {
    "new": ("n", ORANGE, "this chunk"),
    "old": ("c", BLUE, "from the cache"),
    "gone": ("!", picture.UNSEEN, "needed, and gone"),
    "fallen": ("-", picture.FALLEN, "out of the window"),
    "future": (".", picture.FUTURE, "the future"),
}


def mark(look: Look, i: int, j: int, window: int) -> str:
    """Query i of the chunk and key j: one of MARKS."""
    if j in look.seen[i - look.start]:
        return "new" if j >= look.start else "old"
    return "future" if j > i else "gone" if masks.visible(i, j, window) else "fallen"


def film(chunks: list[Look], words: list[str], window: int, title: str = "") -> Picture:
    """Who sees whom, a row a query, the chunks under each other; and how many keys each chunk had at hand."""
    made, ax = figure(1.9 + 0.5 * len(words), 1.3 + 0.33 * sum(look.end - look.start for look in chunks))
    lines = _draw_looks(ax, chunks, words, window)
    ax.set_title(title)
    _legend(made, ax, [m for m in MARKS if any(m == one for _, row in lines for one in row)])
    text = [title] if title else []
    for look in chunks:
        needed = set().union(*look.seen)
        text.append(f"positions {look.start} to {look.end - 1}: {len(look.at_hand)} keys at hand, {len(needed)} of them seen")
        for i, row in lines[look.start - chunks[0].start : look.end - chunks[0].start]:
            text.append(f"{i:4} {words[i]:>8}  {' '.join(MARKS[m][0] for m in row)}")
    used = {m for _, row in lines for m in row}
    text.append("; ".join(f"{sign} {what}" for m, (sign, _, what) in MARKS.items() if m in used))
    return finish(made, "\n".join(text))


def orders(kinds: dict[str, type[RollingBuffer]], words: list[str], window: int, before: int) -> Picture:
    """One chunk, the rest of `words`, after `before` tokens, by several caches side by side."""
    made, axes = figure(1.5 + 3.5 * len(kinds), 2.9, ncols=len(kinds))
    text = []
    for ax, (name, kind) in zip(axes, kinds.items(), strict=True):
        look = looks(kind, [before, len(words) - before], window)[-1:]
        lines = _draw_looks(ax, look, words, window)
        ax.set_title(name)
        text += [name] + [f"{i:4} {words[i]:>8}  {' '.join(MARKS[m][0] for m in row)}" for i, row in lines]
    _legend(made, axes[0], list(MARKS))
    return finish(made, "\n".join([*text, "; ".join(f"{sign} {what}" for sign, _, what in MARKS.values())]))


def _draw_looks(ax, chunks, words, window) -> list[tuple[int, list[str]]]:
    """Draw the rows, and return them: (query, its marks)."""
    first, lines = chunks[0].start, []
    for look in chunks:
        for i in range(look.start, look.end):
            row = [mark(look, i, j, window) for j in range(len(words))]
            lines.append((i, row))
            for j, m in enumerate(row):
                ax.add_patch(_square(j, i - first, MARKS[m][1], hatch="////" if m == "fallen" else None))
                if m in ("new", "old", "gone"):
                    ax.text(j, i - first, "✗" if m == "gone" else "", ha="center", va="center", color="white", fontsize=11)
        if look.start > first:
            ax.axhline(look.start - first - 0.5, color="#222", lw=1.2)
    ax.set(xlim=(-0.55, len(words) - 0.45), ylim=(len(lines) - 0.45, -0.55))
    ax.set_xticks(range(len(words)), [f"{j}\n{word}" for j, word in enumerate(words)], fontsize=8)
    ax.set_yticks(range(len(lines)), [f"{words[i]}  {i}" for i, _ in lines], fontsize=8)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return lines


def _legend(made, ax, used):
    for m in used:
        ax.plot([], [], "s", color=MARKS[m][1], ms=9, label=MARKS[m][2])
    made.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(used), fontsize=8.5, frameon=False)


# --- what a chunk size costs ----------------------------------------------------------------------------------------------


def costs(sizes: list[int], seconds: list[float], peaks: list[int], window: int) -> Picture:
    """Time and peak memory of one pre-fill, by chunk size. The last size is the whole prompt: drawn apart, it needs no table."""
    made, axes = figure(8.4, 3.2, ncols=2)
    mib = [n / 2**20 for n in peaks]
    units = (("ms for the whole prompt", [1000 * x for x in seconds], BLUE), ("MiB at the peak", mib, ORANGE))
    for ax, (name, values, colour) in zip(axes, units, strict=True):
        ax.plot(sizes[:-1], values[:-1], "o-", color=colour, ms=5)
        ax.plot(sizes[-1], values[-1], "s", color=colour, mfc="none", mew=1.8, ms=8, label="all at once")
        ax.legend(frameon=False, fontsize=8)
        ax.axvline(window, color=GREY, ls="--", lw=1)
        ax.set(xscale="log", title=name, xlabel=f"chunk size; dashed: W = {window}", ylim=(0, max(values) * 1.1))
        ax.set_xticks(sizes, [f"{n:,}" for n in sizes], fontsize=8)
        ax.minorticks_off()
    lines = zip(sizes, seconds, mib, strict=True)
    rows = [
        f"{f'chunks of {n:5,}' if n < sizes[-1] else f'all {n:,} at once'}: {1000 * time:8.0f} ms, {most:6.2f} MiB at the peak"
        for n, time, most in lines
    ]
    return finish(made, "\n".join(rows))


# --- the parting of two ways ----------------------------------------------------------------------------------------------


def parting(found) -> Picture:
    """A probe.Parting: the head's weights in both ways and their difference, around the query; and how far it spread."""
    if found.maps is None:
        made, ax = figure(8.2, 3)
        _spread(ax, found, 108)
        return finish(_said(made, found, 108), found.text())
    rows, columns = shown(found)
    wide = len(columns) > 30
    made, axes = figure(8.2, 8.9, nrows=4) if wide else figure(9.6, 6, nrows=2, ncols=2)
    _said(made, found, 108 if wide else 126)
    a, b, change, spread = axes.ravel()
    for ax, name, weights in ((a, "a", found.maps[0]), (b, "b", found.maps[1])):
        ax.imshow(colours(weights.numpy(), found.window)[np.ix_(rows, columns)], **_place(rows, columns))
        _hatch(ax, rows, columns, found.window)
        ax.set_title(f"{name}: layer {found.layer}, head {found.head}")
    difference = (found.maps[1] - found.maps[0]).nan_to_num(1).numpy()[np.ix_(rows, columns)]
    most = np.abs(difference).max() or 1
    change.imshow(difference, cmap="PuOr_r", vmin=-most, vmax=most, **_place(rows, columns))
    change.set_title(f"b − a: orange more, violet less, by up to {most:.2g}")
    for ax in (a, b, change):
        ax.set(xlabel="key, by position", ylabel="query")
        ax.yaxis.get_major_locator().set_params(integer=True)
        ax.axhline(found.query, color="#222", lw=0.6, ls=":")
        if found.key is not None:
            ax.plot(found.key, found.query, "o", mfc="none", mec="#d00000", ms=12, mew=2)
    names = ("attended", "seen, hardly attended", "out of the window", "the future", "in the window, not seen")
    for colour, what in zip((HIGH, LOW, FALLEN, FUTURE, UNSEEN), names, strict=True):
        b.plot([], [], "s", color=[c / 255 for c in colour], markeredgecolor="#777", label=what)
    made.legend(*b.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    _spread(spread, found, 108 if wide else 54)
    return finish(made, found.text())


def _said(made, found, width: int):
    """The sentence above the picture: where a page shows the picture, it does not show the text."""
    made.suptitle(textwrap.fill(repr(found), width), x=0.01, ha="left", fontsize=9.5)
    return made


def shown(found) -> tuple[np.ndarray, np.ndarray]:
    """The queries around the parting one, and the keys that any of them sees in either way."""
    T = found.maps.shape[-1]
    rows = np.arange(max(0, found.query - AROUND), min(T, found.query + AROUND + 1))
    seen = (found.maps[:, rows] != 0).any(0).any(0).nonzero().flatten().tolist()
    seen.append(found.query if found.key is None else found.key)
    return rows, np.arange(min(seen), max(seen) + 1)


def colours(weights: np.ndarray, window: int | None) -> np.ndarray:
    """(T, T) weights as colours (T, T, 3) uint8. A weight where none may be is shown as what it is: attended."""
    strength = np.sqrt(np.nan_to_num(weights, nan=0.0).clip(0, 1))[..., None]  # the root, so that 0.05 can be told from 0
    table = np.array(LOW) * (1 - strength) + np.array(HIGH) * strength
    i, j = np.indices(weights.shape)
    unseen = np.where((j > i)[..., None], FUTURE, np.where(masks.visible(i, j, window)[..., None], UNSEEN, FALLEN))
    return np.where((weights == 0)[..., None], unseen, table).round().astype(np.uint8)


def _place(rows, columns) -> dict:
    box = (columns[0] - 0.5, columns[-1] + 0.5, rows[-1] + 0.5, rows[0] - 0.5)
    return {"extent": box, "interpolation": "nearest", "aspect": "auto"}


def _hatch(ax, rows, columns, window):
    """Hatching over what has fallen out of the window."""
    for i in rows:
        if window and (last := i - window) >= columns[0]:
            edges = (i - 0.5, i + 0.5), columns[0] - 0.5, last + 0.5
            ax.fill_betweenx(*edges, facecolor="none", edgecolor=HATCH, hatch="////", lw=0)


def _spread(ax, found, width: int):
    """The largest difference in the residual stream after each layer, by position: how far the parting has spread."""
    spread = np.log10(found.spread.numpy().clip(1e-7, 1e3))
    ax.imshow(spread, cmap="Reds", vmin=-6, vmax=1, aspect="auto", interpolation="nearest")
    ax.set(xlabel="position", ylabel="layer", yticks=range(len(spread)))
    title = "largest difference in the residual stream after each layer: white none, darkest 10 or more"
    ax.set_title(textwrap.fill(title, width))


# --- the lattice ----------------------------------------------------------------------------------------------------------


def grid(result) -> Picture:
    """A lattice.Result: a square for each W and T, and each kind and feeding; green where all its cells agree with the judge."""
    counts, columns = result.counts(), result.columns()
    made, ax = figure(1.6 + 0.82 * len(columns), 1.2 + 0.27 * len(counts))
    for y, row in enumerate(counts.values()):
        for x, column in enumerate(columns):
            if column in row:
                bad, n = row[column]
                ax.add_patch(_square(x, y, "#b3261e" if bad else GREEN))
                ax.text(x, y, f"✗ {bad} of {n}" if bad else n, ha="center", va="center", fontsize=7.5, color="white")
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(counts) - 0.5, -0.5))
    ax.set_yticks(range(len(counts)), [f"W {named(W)}, T {T}" for W, T in counts], fontsize=8)
    ax.set_xticks(range(len(columns)), [f"{KINDS[kind]}\n{feeding}" for kind, feeding in columns], fontsize=8)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel(repr(result).split(":")[0].rstrip("."))
    return finish(made, f"{result!r}\n{result.table()}")


def _square(x, y, face, hatch=None):
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, facecolor=face, edgecolor=HATCH, hatch=hatch, lw=0)
