"""The equivalence lattice: every way of feeding a sequence must give the same logits, for all small sizes.

A cell is one way: a window, a number of tokens, a cache or none, the sizes of the chunks, how many query heads share how many key
heads, one sequence or a ragged batch. The judge is `naive.logits`, one sequence at a time, in plain loops.

>>> run(cells(windows=[2], heads=[(2, 1)], every=4, some=3), progress=False)
120 cells, 0 differ.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from minimistral import naive
from minimistral.config import MistralConfig, Window, check_window
from minimistral.hybrid import cache_for
from minimistral.model import Mistral

WINDOWS = (1, 2, 3, 5, 8, None)
#: a window for each layer; the model has as many layers
MIXED = ((1, None), (None, 3), (8, 2), (5, None, 4), (None, 7, None, 6))
KINDS = {"none": "no cache", "growing": "growing cache", "ring": "ring"}
FEEDINGS = ("one shot", "one by one", "chunks")
HEADS = ((2, 2), (6, 2), (4, 1))  # query heads, key heads: 1, 3 and 4 that share one
VOCABULARY = 24

Chunk = tuple[Tensor, Tensor]  # tokens (B, n), right-padded, and (B,): how many of each row are real, perhaps 0


@dataclass(frozen=True)
class Cell:
    """One way to feed a sequence of T tokens to a model with this window and these heads."""

    window: Window
    T: int
    kind: str  # "none": without a cache, every chunk recomputes all before it. "growing", "ring": caches
    sizes: tuple[int, ...]  # of the chunks; they add up to T
    heads: tuple[int, int]
    ragged: bool

    @property
    def feeding(self) -> str:
        return "one shot" if len(self.sizes) == 1 else "one by one" if max(self.sizes) == 1 else "chunks"

    def rows(self) -> list[tuple[int, int]]:
        """(start, end) of each row: it is fed while the chunks pass from start to end, and sits the others out."""
        if not self.ragged:
            return [(0, self.T)]
        return [(0, self.T), (0, self.T // 2), (self.T // 2, self.T)]  # whole; ends early, or never comes; begins late

    def __str__(self):
        batch = "ragged batch" if self.ragged else "batch of one"
        heads = "{} on {} heads".format(*self.heads)
        return f"W {named(self.window)}, T {self.T}, {KINDS[self.kind]}, chunks {list(self.sizes)}, {heads}, {batch}"


def named(window: Window) -> str:
    """A window as one reads it: 3, none, or 3/none/8 for three layers."""
    return "/".join(str(each or "none") for each in (window if isinstance(window, tuple) else [window]))


def lengths(window: Window) -> list[int]:
    """T < W, = W, W + 1, 2W, 3W + 1, without repetition; without a window some lengths of its own.

    Of several W all these of the largest, and of the smallest the first three.
    """
    widths = [each for each in (window if isinstance(window, tuple) else [window]) if each is not None]
    if not widths:
        return [1, 4, 8, 13]
    W, least = max(widths), min(widths)
    return sorted({W - 1, W, W + 1, 2 * W, 3 * W + 1, least - 1, least, least + 1} - {0})


def splits(T: int, every: int, some: int) -> list[tuple[int, ...]]:
    """Ways to cut T tokens into chunks: all 2^(T-1) of them if T <= every, else one shot, one by one, and some random ones."""
    def cut(borders):
        borders = [0, *borders, T]
        return tuple(b - a for a, b in zip(borders, borders[1:], strict=False))

    inner = range(1, T)
    if T <= every:
        return [cut(n for n in inner if bits >> (n - 1) & 1) for bits in range(2 ** (T - 1))]
    pick, found = random.Random(T), {(T,): None, (1,) * T: None}
    while len(found) < some + 2:
        share = pick.random()
        found[cut(n for n in inner if pick.random() < share)] = None
    return list(found)


def cells(windows: Iterable[Window] = WINDOWS, kinds: Iterable[str] = tuple(KINDS),
          heads: Iterable[tuple[int, int]] = HEADS, ragged: Iterable[bool] = (False, True), every: int = 8,
          some: int = 12) -> list[Cell]:
    """The lattice, or a part of it. A ring needs a window: without one there is no ring.

    every   up to this many tokens, all splits       some  random splits of more

    Raises ValueError for a window that no layer can have, or a kind that is none.
    """
    windows = [tuple(window) if isinstance(window, list) else window for window in windows]
    for window in windows:
        for each in window if isinstance(window, tuple) and window else [window]:
            check_window(each)
    if isinstance(kinds, str) or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds is {kinds!r}; expected a list of some of {', '.join(map(repr, KINDS))}.")
    return [
        Cell(window, T, kind, sizes, pair, one)
        for window in windows
        for T in lengths(window)
        for sizes in splits(T, every, some)
        for kind in kinds
        for pair in heads
        for one in ragged
        if not (kind == "ring" and window is None)
    ]


# --- subjects: what is on trial -------------------------------------------------------------------------------------------


def through(cache: Callable = cache_for) -> Callable:
    """A subject (model, kind, chunks) -> the logits (B, n, V) of each chunk, which feeds a cache of this class.

    Anything that is called like this can be on trial. What it returns at padding is not looked at. "none" recomputes.
    """
    if not callable(cache):
        raise ValueError(f"cache is {cache!r}: expected the class itself, such as RollingBuffer or exam.A, not its name.")

    @torch.inference_mode()
    def subject(model: Mistral, kind: str, chunks: list[Chunk]) -> list[Tensor]:
        if kind == "none":
            return list(_recomputed(model, chunks))
        kept = cache(model.config, batch_size=len(chunks[0][0]), window="config" if kind == "ring" else None)
        return [model(tokens, cache=kept, lengths=real) for tokens, real in chunks]

    return subject


def _recomputed(model: Mistral, chunks: list[Chunk]) -> Iterator[Tensor]:
    B = len(chunks[0][0])
    texts: list[list[int]] = [[] for _ in range(B)]
    for tokens, real in chunks:
        before = [len(text) for text in texts]
        for text, row, n in zip(texts, tokens.tolist(), real.tolist(), strict=True):
            text += row[:n]
        longest = max(map(len, texts)) or 1
        whole = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
        logits = model(whole, lengths=torch.tensor([max(1, len(text)) for text in texts]))
        out = logits.new_zeros(*tokens.shape, logits.shape[-1])
        for row, start in enumerate(before):
            part = logits[row, start : len(texts[row])]
            out[row, : len(part)] = part
        yield out


# --- running --------------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What a run found. The last line of a cell shows it as a grid."""

    cells: list[Cell]
    differences: list[float]  # the largest of each cell's logits from the judge's; inf where they are no numbers, or an error
    tolerance: float
    error: str = ""  # what the subject raised in the first red cell, if it did

    @property
    def red(self) -> list[tuple[Cell, float]]:
        pairs = zip(self.cells, self.differences, strict=True)
        return [(cell, difference) for cell, difference in pairs if not difference <= self.tolerance]

    def __repr__(self):
        said = f"{len(self.cells):,} cells, {len(self.red):,} differ"
        whats = [f"by {difference:.2g}" for _, difference in self.red[:3]]
        if self.error:
            whats[0] = f"it raises {self.error}"
        first = "".join(f"\n  {cell}: {what}" for (cell, _), what in zip(self.red[:3], whats, strict=True))
        return f"{said}: first {first.strip()}" if first else f"{said}."

    def counts(self) -> dict[tuple, dict[tuple, tuple[int, int]]]:
        """{(W, T): {(kind, feeding): (differing, all)}}"""
        table: dict = {}
        for cell, difference in zip(self.cells, self.differences, strict=True):
            row = table.setdefault((cell.window, cell.T), {})
            bad, n = row.get((cell.kind, cell.feeding), (0, 0))
            row[cell.kind, cell.feeding] = bad + (not difference <= self.tolerance), n + 1
        return table

    def columns(self) -> list[tuple[str, str]]:
        """(kind, feeding), those that occur."""
        there = {(cell.kind, cell.feeding) for cell in self.cells}
        return [(kind, feeding) for kind in KINDS for feeding in FEEDINGS if (kind, feeding) in there]

    def table(self) -> str:
        """A line for each W and T: how many cells of each kind and feeding, and how many of them differ."""
        columns = self.columns()
        first = {kind: feeding for kind, feeding in reversed(columns)}
        wide = max(4, *(len(named(W)) for W, _ in self.counts()))
        kinds = [KINDS[kind] if feeding == first[kind] else "" for kind, feeding in columns]
        lines = [" " * (wide + 4) + "".join(f"  {kind:<12}" for kind in kinds)]
        lines += [f"{'W':>{wide}}   T" + "".join(f"  {feeding:<12}" for _, feeding in columns)]
        for (W, T), row in self.counts().items():
            pairs = [row.get(column, (0, "")) for column in columns]
            lines.append(f"{named(W):>{wide}}{T:>4}" + "".join(f"  {f'✗ {bad} of {n}' if bad else n:<12}" for bad, n in pairs))
        return "\n".join(line.rstrip() for line in lines)

    def _repr_mimebundle_(self, include=None, exclude=None):
        from minimistral.widgets import prefill  # here, so that the library needs no matplotlib

        return prefill.grid(self)._repr_mimebundle_()


def run(lattice: Iterable[Cell], subject: Callable | None = None, tolerance: float = 1e-4, progress: bool = True) -> Result:
    """Try every cell on a subject (our own cache, unless another is given) and compare with the judge.

    A subject that raises an error differs; the lattice goes on, and the result says the first error.
    """
    lattice, subject = list(lattice), subject or through()
    if not lattice:
        raise ValueError("The lattice has no cells: nothing would be tried.")
    bar = lattice
    if progress:
        from tqdm.auto import tqdm

        bar = tqdm(lattice, unit="cell", leave=False)
    found = [_difference(cell, subject) for cell in bar]
    first = next((error for difference, error in found if not difference <= tolerance), "")
    return Result(lattice, [difference for difference, _ in found], tolerance, first)


def _difference(cell: Cell, subject: Callable) -> tuple[float, str]:
    """The largest difference of any logit; and what the subject raised, or ""."""
    model, texts, judged = _judged(cell.window, cell.heads)
    chunks, wanted = [], []
    start = 0
    for size in cell.sizes:
        tokens, real, expected = torch.zeros(len(cell.rows()), size, dtype=torch.int64), [], []
        for row, (begin, end) in enumerate(cell.rows()):
            first, last = (min(max(n, begin), end) - begin for n in (start, start + size))
            tokens[row, : last - first] = texts[row, first:last]
            real.append(last - first)
            expected.append(judged[row, first:last])
        chunks.append((tokens, torch.tensor(real)))
        wanted.append(expected)
        start += size
    try:
        got = subject(model, cell.kind, chunks)
        apart = [
            (logits[row, : len(rows[row])] - rows[row]).abs()
            for logits, rows in zip(got, wanted, strict=True)
            for row in range(len(rows))
        ]
        return torch.cat([x.flatten() for x in apart]).nan_to_num(float("inf")).max().item(), ""
    except Exception as error:
        return float("inf"), " ".join(f"{type(error).__name__}: {error}".split())[:160]


@lru_cache(maxsize=64)
def _judged(window: Window, heads: tuple[int, int]) -> tuple[Mistral, Tensor, Tensor]:
    """A small random model, three texts (3, T) of the longest T, and the judge's logits (3, T, V); shorter texts begin alike."""
    n_layers = len(window) if isinstance(window, tuple) else 2
    config = MistralConfig(dim=10, n_layers=n_layers, n_heads=heads[0], n_kv_heads=heads[1], head_dim=4, hidden_dim=12,
                           vocab_size=VOCABULARY, rope_theta=100.0, sliding_window=window)
    model, generator = Mistral(config).requires_grad_(False), torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # so large that a wrong key, order or angle shows in every logit
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    texts = torch.randint(VOCABULARY, (3, lengths(window)[-1]), generator=generator)
    return model, texts, torch.stack([naive.logits(model.state_dict(), config, text.tolist()) for text in texts])
