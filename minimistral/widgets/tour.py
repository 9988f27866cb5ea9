"""The pictures of chapter 00: what happens between a prompt and the next word, from the model's own numbers."""

import re
from collections.abc import Iterable

from minimistral.model import Mistral
from minimistral.tokenizer import Tokenizer
from minimistral.widgets.picture import BLUE, GREY, ORANGE, Picture, figure, finish
from minimistral.widgets.record import Record


def tell(pieces: str | Iterable[str], width: int = 96):
    """Print text as it comes, breaking lines at spaces."""
    column, words = 0, re.split(r"(?= )", pieces) if isinstance(pieces, str) else pieces
    for word in words:
        if column + len(word) > width and word.startswith(" "):
            word, column = "\n" + word[1:], -1
        print(word, end="", flush=True)
        column += len(word)
    print()


def layers(model: Mistral) -> Picture:
    """The stack as boxes, with this model's sizes."""
    c = model.config
    made, ax = figure(7.2, 2.3)
    boxes = [
        ("ids", "numbers", GREY),
        ("embedding", f"a row of {c.dim}\nfor each id", BLUE),
        (f"layer 1 … {c.n_layers}", "attention: look around\nfeed-forward: think", ORANGE),
        ("output", f"{c.vocab_size:,} logits,\none for each id", BLUE),
        ("choose", "the next id", GREY),
    ]
    for n, (name, what, colour) in enumerate(boxes):
        ax.text(n, 0.16, name, ha="center", va="bottom", fontweight="bold", color=colour)
        ax.text(n, 0.0, what, ha="center", va="top", fontsize=9)
        if n:
            ax.annotate("", (n - 0.36, 0.1), (n - 0.62, 0.1), arrowprops={"arrowstyle": "->", "color": GREY, "lw": 1.4})
    ax.annotate(
        "", (0, -0.42), (4, -0.42), arrowprops={"arrowstyle": "->", "color": GREY, "connectionstyle": "arc3,rad=-0.08"}
    )
    ax.text(2, -0.72, "and again, with the new id at the end", ha="center", va="top", fontsize=9, color="#555")
    ax.set(xlim=(-0.5, 4.5), ylim=(-0.95, 0.45))
    ax.axis("off")
    steps = " -> ".join(name for name, _, _ in boxes)
    return finish(made, f"{steps} -> and again. {c.n_layers} layers, width {c.dim}, {c.vocab_size:,} ids")


def stream(rec: Record) -> Picture:
    """The residual stream of the last position: one row before the first layer, one after each."""
    rows = rec.residual[:, -1]
    made, ax = figure(7.2, 2.4)
    ax.imshow(rows, aspect="auto", cmap="RdBu_r", vmin=-rows.std() * 3, vmax=rows.std() * 3, interpolation="nearest")
    names = ["embedding"] + [f"layer {n}" for n in range(1, len(rows))]
    ax.set_yticks(range(len(rows)), names)
    ax.set_xlabel(f"the {rows.shape[1]} numbers that stand for “{rec.labels[-1]}”; red above zero, blue below")
    lengths = [f"{row.norm():.1f}" for row in rows]
    return finish(made, "length of the stream at the last token: " + ", ".join(map(" ".join, zip(names, lengths, strict=True))))


def scores(rec: Record, tokenizer: Tokenizer) -> Picture:
    """Every logit of the last position, in the order of the ids, with the highest named."""
    last = rec.logits[-1]
    best = last.topk(3)
    made, ax = figure(7.2, 2.4)
    ax.plot(last, color=GREY, lw=0.6)
    words = [tokenizer.pieces([token])[0].replace("▁", "") for token in best.indices.tolist()]
    named = ", ".join(f"{word} {value:.1f}" for word, value in zip(words, best.values.tolist(), strict=True))
    ax.plot(best.indices, best.values, "o", color=ORANGE, ms=5)
    ax.annotate(words[0], (best.indices[0], best.values[0]), (6, 2), textcoords="offset points", color=ORANGE)
    ax.set(xlabel=f"id, 0 to {len(last) - 1}", ylabel="logit", title=f"highest: {named}")
    ax.margins(y=0.15)
    return finish(made, f"{len(last):,} logits; the highest: {named}")


def choices(rec: Record, tokenizer: Tokenizer, k: int = 8) -> Picture:
    """The likeliest next tokens and their probabilities."""
    best = rec.logits[-1].softmax(-1).topk(k)
    words = [tokenizer.pieces([token])[0].replace("▁", "") for token in best.indices.tolist()]
    made, ax = figure(7.2, 2.6)
    bars = ax.barh(range(k), best.values, color=[ORANGE] + [BLUE] * (k - 1))
    ax.bar_label(bars, [f"{p:.1%}" for p in best.values.tolist()], padding=4, fontsize=9)
    ax.set_yticks(range(k), words)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.08), xlabel="probability of being the next token")
    lines = (f"{p:6.1%}  {word}" for word, p in zip(words, best.values.tolist(), strict=True))
    return finish(made, "\n".join(lines))
