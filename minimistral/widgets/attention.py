"""The attention viewer: every head of every layer of a model, on a sentence one types.

Three kinds of nothing are drawn in three ways, because they mean different things: the future (grey, may never be seen),
what has fallen out of the window (hatched, can no longer be seen), and what is seen but hardly attended (pale yellow).
"""

import base64
import html
import struct
import zlib
from dataclasses import dataclass

import ipywidgets as ipw
import numpy as np

from minimistral import masks
from minimistral.widgets import picture
from minimistral.widgets.picture import HATCH, Picture, TextFallback, figure, finish
from minimistral.widgets.record import Record, record

SHOWN = 40  # tokens that fit on a page
READ = 448  # tokens that are run through the model, the last ones: more than any of its 40 shown can hear of
FUTURE, FALLEN, LOW, HIGH = map(picture.rgb, (picture.FUTURE, picture.FALLEN, picture.PALE, picture.FULL))


@dataclass
class View:
    """What is looked at: one head, and one token that looks. Only the last SHOWN tokens are shown."""

    rec: Record
    layer: int = 0
    head: int = 0
    query: int = -1

    @property
    def labels(self) -> list[str]:
        return self.rec.labels[-SHOWN:]

    def weights(self) -> np.ndarray:
        """(n, n) attention weights among the shown tokens. A row may sum to less than 1: the rest lies before them."""
        return self.rec.weights[self.layer, self.head, -SHOWN:, -SHOWN:].numpy()

    def seen(self) -> np.ndarray:
        """(n, n) bool: the mask."""
        at = masks.positions(len(self.labels))
        return masks.dense(at, at, self.rec.window).numpy()

    def row(self) -> np.ndarray:
        """The weights of the token that looks."""
        return self.weights()[self.query]

    def text(self) -> str:
        """The head's strongest look of each token, the chosen one marked."""
        chosen = self.query % len(self.labels)
        lines = [f"layer {self.layer + 1}, head {self.head + 1}: who looks hardest at whom"]
        for i, row in enumerate(self.weights()):
            j = int(row.argmax())
            lines.append(f"{'>' if i == chosen else ' '} {self.labels[i]:>12} -> {self.labels[j]} {row[j]:.2f}")
        return "\n".join(lines)


def pixels(view: View) -> np.ndarray:
    """The matrix as colours, (n, n, 3) uint8: row i looks, column j is looked at."""
    n = len(view.labels)
    i, j = np.indices((n, n))
    strength = np.sqrt(view.weights())[..., None]  # the root, so that 0.05 can be told from 0
    table = np.array(LOW) * (1 - strength) + np.array(HIGH) * strength
    table = np.where(view.seen()[..., None], table, np.where((j > i)[..., None], FUTURE, FALLEN))
    return table.round().astype(np.uint8)


def to_png(table: np.ndarray) -> bytes:
    """Colours (h, w, 3) uint8 -> a PNG of h by w pixels."""
    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = table.shape[:2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), table.reshape(height, -1)], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows.tobytes(), 1)) + part(b"IEND", b"")


def svg(view: View, cell: int = 15) -> str:
    """The matrix with its labels, the looking row framed."""
    n, left, top = len(view.labels), 92, 88
    image = base64.b64encode(to_png(pixels(view))).decode()
    chosen = view.query % n
    size = n * cell
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + size + 8}" height="{top + size + 8}" '
        'font-family="sans-serif" font-size="11">',
        '<defs><pattern id="mm-fallen" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<rect width="1.6" height="5" fill="{HATCH}"/></pattern></defs>',
        f'<image x="{left}" y="{top}" width="{size}" height="{size}" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{image}"/>',
    ]
    W = view.rec.window
    if W and W < n:  # what has fallen out of the window is the triangle below the band
        corner = f"{left},{top + W * cell} " + " ".join(
            f"{left + c * cell},{top + (W + c) * cell} {left + (c + 1) * cell},{top + (W + c) * cell}" for c in range(n - W)
        )
        corner += f" {left + (n - W) * cell},{top + size} {left},{top + size}"
        out.append(f'<polygon points="{corner}" fill="url(#mm-fallen)"/>')
    for k, label in enumerate(view.labels):
        word, bold = html.escape(label[:12]), ' font-weight="bold" fill="#b02a08"' if k == chosen else ' fill="currentColor"'
        middle = (k + 0.5) * cell
        out.append(f'<text x="{left - 5}" y="{top + middle + 4}" text-anchor="end"{bold}>{word}</text>')
        out.append(f'<text transform="translate({left + middle + 4},{top - 5}) rotate(-60)"{bold}>{word}</text>')
    out.append(
        f'<rect x="{left}" y="{top + chosen * cell}" width="{(chosen + 1) * cell}" height="{cell}" '
        'fill="none" stroke="#222" stroke-width="1.5"/></svg>'
    )
    return "".join(out)


def strip(view: View) -> str:
    """The sentence itself, each token shaded by how much the chosen one looks at it."""
    chosen = view.query % len(view.labels)
    row, words = view.row(), []
    for j, label in enumerate(view.labels):
        share = f"{row[j]:.0%}" if view.seen()[chosen, j] else ("later" if j > chosen else "out")
        frame = "outline:2px solid #222;" if j == chosen else ""
        ink = "white" if row[j] > 0.35 else "#222"
        colour = "rgb({},{},{})".format(*pixels(view)[chosen, j])
        words.append(
            f"<span style='display:inline-block;text-align:center;margin:2px;padding:1px 4px;border-radius:3px;{frame}"
            f"background:{colour};color:{ink}'>{html.escape(label)}<br><small>{share}</small></span>"
        )
    return "<div style='line-height:1.15;max-width:760px'>" + "".join(words) + "</div>"


def draw(view: View) -> Picture:
    """The same as a still picture."""
    made, ax = figure(7.4, 6.6)
    n = len(view.labels)
    ax.imshow(pixels(view), interpolation="nearest")
    ax.set_xticks(range(n), [label[:12] for label in view.labels], rotation=90, fontsize=8)
    ax.set_yticks(range(n), [label[:12] for label in view.labels], fontsize=8)
    ax.set(xlabel="is looked at", ylabel="looks", title=f"layer {view.layer + 1}, head {view.head + 1}")
    names = ("attended", "seen, hardly attended", "out of the window", "the future")
    for colour, what in zip((HIGH, LOW, FALLEN, FUTURE), names, strict=True):
        ax.plot([], [], "s", color=[c / 255 for c in colour], markeredgecolor="#777", label=what)
    ax.legend(loc="upper right", fontsize=8, framealpha=0.9)
    return finish(made, view.text())


class AttentionViewer(TextFallback, ipw.VBox):
    """Type a sentence; choose layer, head and the token that looks."""

    def __init__(self, model, tokenizer, sentence: str, layer: int = 0, head: int = 0):
        self.model, self.tokenizer = model, tokenizer
        config = model.config
        wide = ipw.Layout(width="420px")
        self.sentence = ipw.Text(sentence, description="sentence", continuous_update=False, layout=ipw.Layout(width="760px"))
        self.layer = ipw.IntSlider(layer + 1, 1, config.n_layers, description="layer", layout=wide)
        self.head = ipw.IntSlider(head + 1, 1, config.n_heads, description="head", layout=wide)
        self.query = ipw.IntSlider(0, 0, 0, description="who looks", readout=False, layout=wide)
        self.note, self.words, self.matrix = ipw.HTML(), ipw.HTML(), ipw.HTML()
        self.matrix.add_class("mm-attention-matrix")
        self.sentence.add_class("mm-attention-sentence")
        for name, control in (("layer", self.layer), ("head", self.head), ("query", self.query)):
            control.add_class(f"mm-attention-{name}")
            control.observe(self._redraw, "value")
        self.sentence.observe(self._read, "value")
        super().__init__([self.sentence, self.layer, self.head, self.query, self.note, self.words, self.matrix])
        self.view = None
        self._read()

    def text(self):
        return self.view.text() if self.view else "nothing to show yet"

    def png(self):
        return draw(self.view).png if self.view else None

    def _read(self, _=None):
        text = self.sentence.value
        if not text.strip():
            self.note.value = "<i>Type a sentence: an empty one has nobody to look.</i>"
            return
        total = len(self.tokenizer.encode(text, bos=True))
        self.view = View(record(self.model, self.tokenizer, text, last=READ))
        shown = len(self.view.labels)
        said = f"{total:,} tokens" + (f"; the last {shown} are shown" if shown < total else "")
        self.note.value = f"<i>{said}. Pale yellow: seen, hardly attended. Grey: the future. Hatched: out of the window.</i>"
        with self.query.hold_trait_notifications():
            self.query.max = shown - 1
            self.query.value = shown - 1
        self._redraw()

    def _redraw(self, _=None):
        if self.view is None:
            return
        self.view.layer, self.view.head, self.view.query = self.layer.value - 1, self.head.value - 1, self.query.value
        self.words.value, self.matrix.value = strip(self.view), svg(self.view)
