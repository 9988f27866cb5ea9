"""Chapter 14's pictures: a prompt that two answers share, in pages and in a ring; and where heads look first."""

from dataclasses import dataclass

import torch

from minimistral.cache import RollingBuffer
from minimistral.config import MistralConfig, check_count
from minimistral.widgets.picture import BLUE, GREEN, ORANGE, Picture, figure, finish

GONE, EMPTY = "#6d3a96", "#eef0f2"


def held(window: int | None, tokens: int) -> list[int]:
    """The position in each slot of a real RollingBuffer after so many tokens, read from the keys it holds; -1: never written."""
    sizes = dict.fromkeys(("dim", "head_dim", "hidden_dim", "vocab_size"), 2)
    cache = RollingBuffer(MistralConfig(n_layers=1, n_heads=1, n_kv_heads=1, sliding_window=window, **sizes))
    labels = torch.arange(1.0, tokens + 1).view(1, 1, tokens, 1).expand(1, 1, tokens, 2)  # from 1 on: 0 is an empty slot
    step = cache.begin(tokens, torch.tensor([tokens]))
    cache.exchange(0, labels, labels, step)
    cache.finish(step)
    return [int(x) - 1 for x in cache.keys[0, 0, 0, :, 0].tolist()]


@dataclass(frozen=True)
class Shared:
    """A prompt, and two answers that go on from it: in pages of a growing cache, and in one ring after the first answer."""

    prompt: int
    answers: tuple[int, int]
    window: int
    page: int

    def pages(self) -> list[tuple[str, list[int]]]:
        """(whose, positions) of each page: the prompt's once, then each answer's own. The prompt fills its pages."""
        out, (a, b) = [], self.answers
        for whose, start, n in (("prompt", 0, self.prompt), ("A", self.prompt, a), ("B", self.prompt, b)):
            for first in range(start, start + n, self.page):
                out.append((whose, list(range(first, min(first + self.page, start + n)))))
        return out

    def list_of(self, whose: str) -> list[int]:
        """The numbers of the pages that an answer reads."""
        return [n for n, (owner, _) in enumerate(self.pages()) if owner in ("prompt", whose)]

    def ring(self) -> list[int]:
        """The position in each slot when the first answer has been written."""
        return held(self.window, self.prompt + self.answers[0])

    def needed(self) -> list[int]:
        """What the first token of the second answer wants to see of the prompt."""
        return list(range(max(0, self.prompt - self.window + 1), self.prompt))

    def lost(self) -> list[int]:
        return [position for position in self.needed() if position not in self.ring()]

    def text(self) -> str:
        numbered = [f"page {n}: {whose:6} {listed(at)}" for n, (whose, at) in enumerate(self.pages())]
        lists = [f"answer {whose} reads pages {', '.join(map(str, self.list_of(whose)))}" for whose in "AB"]
        slots = ", ".join(f"{at} ({'prompt' if at < self.prompt else 'A'})" for at in self.ring())
        return "\n".join([
            f"A cache that grows, in pages of {self.page}, with a prompt of {self.prompt} tokens and two answers:",
            *(f"  {line}" for line in (*numbered, *lists)),
            f"A ring of {self.window}, after answer A. Its slots hold: {slots}",
            f"  B wants to see positions {listed(self.needed())} of the prompt. Gone: {listed(self.lost()) or 'none'}",
        ])  # fmt: skip


def listed(at: list[int]) -> str:
    """Positions in a row, as "3 to 7"."""
    return "" if not at else f"{at[0]}" if len(at) == 1 else f"{at[0]} to {at[-1]}"


def shared(prompt: int = 8, answers: tuple[int, int] = (6, 3), window: int = 8, page: int = 4) -> Picture:
    """What two answers can share of one prompt, in pages and in a ring."""
    for name, value in (("prompt", prompt), ("window", window), ("page", page)):
        check_count(name, value)
    if not isinstance(answers, list | tuple) or len(answers) != 2:
        raise ValueError(f"answers is {answers!r}; expected how many tokens A and B write: (6, 3).")
    for n in answers:
        check_count("an answer", n)
    if prompt % page:
        raise ValueError(f"prompt is {prompt} and page {page}; expected a prompt of whole pages.")
    state = Shared(prompt, answers, window, page)
    made, (top, low) = figure(9.6, 4.4, nrows=2)
    colours, x, places = {"prompt": BLUE, "A": ORANGE, "B": GREEN}, 0.0, {}
    for n, (whose, at) in enumerate(state.pages()):
        for k in range(page):
            _square(top, x + k, 0, at[k] if k < len(at) else None, colours[whose])
        top.text(x + page / 2, -0.28, f"page {n}", ha="center", fontsize=9)
        places.setdefault(whose, []).append(x)
        x += page + 0.5
    for whose, starts in places.items():
        name = "the prompt, once" if whose == "prompt" else f"answer {whose}"
        top.text(starts[0], 1.2, name, color=colours[whose], fontsize=10, fontweight="bold")
    for row, whose in enumerate("AB"):
        pages = ", ".join(map(str, state.list_of(whose)))
        top.text(0, -0.95 - 0.6 * row, f"{whose} reads pages {pages}", color=colours[whose], fontsize=10)
    top.set_title(f"A cache that grows, in pages of {page}: two lists of pages, and both begin with the prompt's", loc="left")
    _frame(top, x, -1.8, 1.7)
    for slot, at in enumerate(state.ring()):
        _square(low, slot, 0, at, BLUE if at < prompt else ORANGE)
        low.text(slot + 0.5, -0.28, f"{slot}", ha="center", fontsize=9)
    low.text(0, 1.2, "the slots, after answer A", fontsize=10)
    left = window + 3.0
    for k, at in enumerate(state.needed()):
        _square(low, left + k, 0, at, GONE if at in state.lost() else BLUE, hatch="////" if at in state.lost() else None)
        if at in state.lost():
            low.text(left + k + 0.5, -0.3, "gone", ha="center", fontsize=9, color=GONE)
    low.text(left, 1.2, "what B wants to see of the prompt", fontsize=10, color=GREEN, fontweight="bold")
    low.set_title(f"A ring of {window}: the answer is written over the prompt", loc="left")
    _frame(low, max(x, left + len(state.needed())), -0.8, 1.7)
    return finish(made, state.text())


def _square(ax, x, y, number, colour, hatch=None):
    from matplotlib.patches import Rectangle

    face = EMPTY if number is None else "white" if hatch else colour
    ax.add_patch(Rectangle((x + 0.04, y), 0.92, 0.92, facecolor=face, edgecolor=colour, hatch=hatch, lw=1.2))
    if number is not None:
        style = {"color": colour, "bbox": {"fc": "white", "ec": "none", "pad": 1}} if hatch else {"color": "white"}
        ax.text(x + 0.5, y + 0.44, f"{number}", ha="center", va="center", fontsize=9.5, **style)


def _frame(ax, right, low, high):
    ax.set(xlim=(-0.2, right), ylim=(low, high))
    ax.axis("off")


def first_looks(shares, even: float) -> Picture:
    """The share (n_layers, H) that each head gives to position 0, as colours; `even`: what a head gives that attends alike."""
    made, ax = figure(8.2, 1.2 + 0.42 * len(shares))
    image = ax.imshow(shares.numpy(), cmap="Oranges", vmin=0, vmax=max(0.3, float(shares.max())), aspect="auto")
    for layer, row in enumerate(shares.tolist()):
        for head, share in enumerate(row):
            weight = "bold" if share > 2 * even else "normal"
            ax.text(head, layer, f"{share:.0%}", ha="center", va="center", fontsize=9, fontweight=weight)
    ax.set_xticks(range(shares.shape[1]), [f"head {n}" for n in range(shares.shape[1])], fontsize=9)
    ax.set_yticks(range(len(shares)), [f"layer {n}" for n in range(len(shares))], fontsize=9)
    ax.tick_params(length=0)
    ax.set_title(f"Attention to position 0. An even share would be {even:.0%}; bold: more than twice that", loc="left")
    made.colorbar(image, ax=ax, format=lambda x, _: f"{x:.0%}")
    lines = [f"layer {n}: " + " ".join(f"{share:4.0%}" for share in row) for n, row in enumerate(shares.tolist())]
    count = int((shares > 2 * even).sum())
    lines.append(f"an even share: {even:.0%}; heads with more than twice that: {count} of {shares.numel()}")
    return finish(made, "\n".join(lines))
