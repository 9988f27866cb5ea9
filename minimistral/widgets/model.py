"""Chapter 07: a layer as a drawing, its gate, where parameters and operations go, and what each layer would say next."""

import torch
from torch import Tensor

from minimistral.config import MistralConfig
from minimistral.tokenizer import Tokenizer
from minimistral.widgets.picture import BLUE, GREEN, GREY, ORANGE, Picture, figure, finish

#: the parts of counting.parameters and counting.flops, by what they belong to
KINDS = {
    "attention": ("wq", "wk", "wv", "wo", "attention, matrices", "attention, pairs"),
    "feed forward": ("w1", "w2", "w3", "feed forward"),
    "around the stack": ("embeddings", "output"),
    "norms": ("norms",),
}
COLOURS = dict(zip(KINDS, (ORANGE, BLUE, GREY, GREEN), strict=True))


def block(config: MistralConfig) -> Picture:
    """One layer: the residual stream as a thick line, and the two halves that read it and add to it."""
    from matplotlib.patches import FancyBboxPatch

    c = config
    made, ax = figure(8.2, 3.0)

    def box(left, width, words, colour):
        shape = {"boxstyle": "round,pad=0,rounding_size=0.12", "facecolor": colour, "edgecolor": "none"}
        ax.add_patch(FancyBboxPatch((left, 1.0), width, 0.9, **shape))
        ax.text(left + width / 2, 1.45, words, ha="center", va="center", fontsize=9.5, color="white", linespacing=1.35)

    def arrow(*corners, width=1.8):
        ax.plot(*zip(*corners, strict=True), color=GREY, lw=width, solid_joinstyle="miter")
        (x0, y0), (x1, y1) = corners[-2:]
        near = x1 - (x1 - x0) * 0.01, y1 - (y1 - y0) * 0.01
        ax.annotate("", (x1, y1), near, arrowprops={"arrowstyle": "-|>", "color": GREY, "lw": width})

    arrow((-0.3, 0), (10.7, 0), width=5)
    ax.text(-0.3, -0.3, f"residual stream: {c.dim:,} numbers for each token", color="#555", va="top", fontsize=9)
    ax.text(10.7, -0.3, "to the next layer", color="#555", va="top", ha="right", fontsize=9)
    attends = f"attention\n{c.n_heads} heads on {c.n_kv_heads}\nlooks at others"
    thinks = f"feed-forward\n{c.dim:,} → {c.hidden_dim:,} → {c.dim:,}\neach token alone"
    for left, half, colour, width in ((0.0, attends, ORANGE, 1.9), (4.8, thinks, BLUE, 2.75)):
        plus = left + width + 2.4
        arrow((left + 0.55, 0.08), (left + 0.55, 1.0))
        box(left, 1.1, "RMSNorm", GREEN)
        arrow((left + 1.1, 1.45), (left + 1.6, 1.45))
        box(left + 1.6, width, half, colour)
        arrow((left + 1.6 + width, 1.45), (plus, 1.45), (plus, 0.24))
        ax.text(plus, 0, "+", ha="center", va="center", fontsize=14, fontweight="bold",
                bbox={"boxstyle": "circle,pad=0.12", "facecolor": "white", "edgecolor": "#555", "linewidth": 1.5})  # fmt: skip
    ax.set(xlim=(-0.4, 10.9), ylim=(-0.7, 2.05))
    ax.axis("off")
    lines = [
        f"x = x + attention(RMSNorm(x))        looks at others: {c.n_heads} query heads on {c.n_kv_heads} key heads",
        f"x = x + feed_forward(RMSNorm(x))     each token alone: {c.dim:,} -> {c.hidden_dim:,} -> {c.dim:,}",
    ]
    return finish(made, "\n".join(lines))


def gates() -> Picture:
    """silu beside relu and sigmoid."""
    z = torch.linspace(-6, 6, 241)
    silu = torch.nn.functional.silu
    curves = {"silu": (silu, BLUE, 2.6), "relu": (torch.relu, GREY, 1.6), "sigmoid": (torch.sigmoid, ORANGE, 1.6)}
    made, ax = figure(5.4, 2.9)
    ax.axhline(0, color="#ddd", lw=0.8)
    for name, (curve, colour, width) in curves.items():
        ax.plot(z, curve(z), color=colour, lw=width, label=name, ls="--" if name == "relu" else "-")
    ax.set(xlabel="z", ylim=(-0.6, 4), xticks=range(-6, 7, 2))
    ax.legend(frameon=False, loc="upper left")
    at = torch.tensor([-6.0, -2.0, -1.0, 0.0, 1.0, 2.0, 6.0])
    lines = ["z       " + "".join(f"{x:7.0f}" for x in at.tolist())]
    lines += [f"{name:8}" + "".join(f"{x:7.2f}" for x in curve(at).tolist()) for name, (curve, _, _) in curves.items()]
    return finish(made, "\n".join(lines))


def kind(part: str) -> str:
    """What a part of counting.parameters or counting.flops belongs to: one of KINDS."""
    return next(name for name, parts in KINDS.items() if part in parts)


def bars(parts: dict[str, int], what: str = "parameters", unit: int = 10**9, letter: str = "billion") -> Picture:
    """What counting.parameters or counting.flops gives, a bar for each part, coloured by what it belongs to."""
    total = sum(parts.values())
    made, ax = figure(7.6, 0.9 + 0.32 * len(parts))
    names = list(parts)
    sizes, colours = [parts[name] / unit for name in names], [COLOURS[kind(name)] for name in names]
    drawn = ax.barh(range(len(names)), sizes, color=colours, height=0.72)
    labels = [
        f"{parts[name] / unit:.2f} {letter}, {parts[name] / total:.1%}" if parts[name] > unit / 100 else f"{parts[name]:,}"
        for name in names
    ]
    ax.bar_label(drawn, labels, padding=5, fontsize=9)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xlim=(0, max(parts.values()) / unit * 1.8), xticks=[])
    ax.set_title(f"{total:,} {what}", loc="left")
    ax.spines["bottom"].set_visible(False)
    shares = dict.fromkeys((kind(name) for name in names), 0)
    for name in names:
        shares[kind(name)] += parts[name]
    for name in shares:
        ax.barh(0, 0, color=COLOURS[name], label=name)
    ax.legend(frameon=False, loc="upper right", fontsize=9)
    wide = max(map(len, names))
    lines = [f"{name:<{wide}} {parts[name]:21,}  {parts[name] / total:6.1%}" for name in names]
    lines += [f"{'all':<{wide}} {total:21,}", "; ".join(f"{name} {n / total:.1%}" for name, n in shares.items())]
    return finish(made, "\n".join(lines))


def shares(lengths: list[int], curves: dict[str, list[float]]) -> Picture:
    """The share of attention's pairs in the operations of a pre-fill, over its length; a curve for each model."""
    made, ax = figure(7.0, 3.4)
    ax.axhline(0.5, color="#ccc", lw=1, ls=":")
    for (name, values), colour, mark in zip(curves.items(), (ORANGE, BLUE, GREEN), "os^", strict=False):
        ax.plot(lengths, values, color=colour, lw=2, marker=mark, ms=5, label=name)
    ax.set_xscale("log", base=2)
    ax.set_xticks(lengths, [f"{n // 1024}k" for n in lengths])
    ax.minorticks_off()
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    ax.set(ylim=(0, 1), xlabel="tokens read")
    ax.set_title("share of attention's pairs in all operations", loc="left")
    ax.legend(frameon=False, loc="upper left")
    wide = max(map(len, curves))
    lines = [f"{'tokens read':<{wide}}" + "".join(f"{n // 1024:>6}k" for n in lengths)]
    lines += [f"{name:<{wide}}" + "".join(f"{value:7.1%}" for value in values) for name, values in curves.items()]
    return finish(made, "\n".join(lines))


def words(tokenizer: Tokenizer, ids) -> list[str]:
    """Token ids as short texts that can be drawn; a dot where nothing would be seen."""
    return [piece.replace("▁", " ").strip() or "·" for piece in tokenizer.pieces(list(ids))]


def lens(views: Tensor, labels: list[str], tokenizer: Tokenizer) -> Picture:
    """The likeliest next token at every position after every layer: views (L + 1, T, V) are logits, labels the T tokens."""
    best = views.float().softmax(-1).max(-1)
    depth, T = best.indices.shape
    table = [words(tokenizer, row) for row in best.indices.tolist()]
    names = ["embedding", *(f"layer {n}" for n in range(1, depth))]
    made, ax = figure(1.2 + 0.82 * T, 0.9 + 0.36 * depth)
    ax.imshow(best.values.numpy(), cmap="Blues", vmin=0, vmax=1.35, aspect="auto")
    for n in range(depth):
        for t in range(T):
            ax.text(t, n, table[n][t][:10], ha="center", va="center", fontsize=8.5,
                    color="white" if best.values[n, t] > 0.9 else "black")  # fmt: skip
    ax.set_xticks(range(T), labels, fontweight="bold")
    ax.xaxis.tick_top()
    ax.set_yticks(range(depth), names)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("the likeliest next token; the darker, the more probable")
    wide = [max(map(len, (label, *(row[t] for row in table)))) + 2 for t, label in enumerate(labels)]
    lines = [" " * 10 + "".join(f"{label:>{w}}" for label, w in zip(labels, wide, strict=True))]
    for name, row in zip(names, table, strict=True):
        lines.append(f"{name:10}" + "".join(f"{word:>{w}}" for word, w in zip(row, wide, strict=True)))
    return finish(made, "\n".join(lines))


def votes(contributions: Tensor, word: str) -> Picture:
    """How far the embedding, and each layer's attention and feed-forward, lift one token's logit above the mean of all logits.

    contributions (1 + 2 L,): the embedding's, then each layer's two; they add up to the logit minus the mean.
    """
    values = contributions.tolist()
    layers = range(1, len(values) // 2 + 1)
    made, ax = figure(7.4, 2.7)
    for start, name, colour, shift in ((1, "attention", ORANGE, -0.2), (2, "feed forward", BLUE, 0.2)):
        ax.bar([n + shift for n in layers], values[start::2], width=0.36, color=colour, label=name)
    ax.bar(0, values[0], width=0.36, color=GREY, label="embedding")
    ax.axhline(0, color="#555", lw=0.8)
    ax.set_xticks([0, *layers], ["embedding", *(f"layer {n}" for n in layers)])
    ax.tick_params(axis="x", length=0)
    ax.set_title(f"who lifts “{word}” {sum(values):.1f} above the mean logit", loc="left")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    lines = [f"who lifts “{word}” {sum(values):.1f} above the mean logit", f"embedding {values[0]:6.1f}"]
    pairs = zip(layers, values[1::2], values[2::2], strict=True)
    lines += [f"layer {n}   {a:6.1f} by attention, {f:6.1f} by the feed-forward" for n, a, f in pairs]
    return finish(made, "\n".join(lines))
