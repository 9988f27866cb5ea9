"""Chapter 09: the learning rate drawn, a bet on the cliff settled, and heads found by what they do."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minimistral.attention import attention_of
from minimistral.masks import dense, positions
from minimistral.model import Mistral
from minimistral.widgets.picture import BLUE, GREY, ORANGE, Picture, figure, finish

# --- the learning rate ----------------------------------------------------------------------------------------------------


def rates(rate, steps: int, peak: float, warmup: int, final: float) -> Picture:
    """What rate(step, steps, peak, warmup, final) gives for each step, with its three corners marked."""
    at = list(range(steps + 1))
    values = [float(rate(step, steps, peak, warmup, final)) for step in at]
    corners = {0: "start", warmup: "peak", steps: "end"}
    made, ax = figure(7.2, 2.5)
    ax.plot(at, values, color=BLUE, lw=2)
    for step, name in corners.items():
        ax.plot(step, values[step], "o", color=ORANGE)
        right = step > steps / 2
        ax.annotate(f"{name}: {values[step]:.3g}", (step, values[step]), xytext=(-8 if right else 9, 7), fontsize=9,
                    textcoords="offset points", ha="right" if right else "left")
    ax.set(xlabel="step", ylabel="learning rate", ylim=(0, 1.25 * max(values)))
    said = ", ".join(f"{values[step]:.3g} at step {step}" for step in corners)
    return finish(made, f"The learning rate over {steps} steps: {said}.")


def losses(found: dict[float, float], before: float) -> Picture:
    """The loss after one step, against the step's length."""
    made, ax = figure(7.2, 2.5)
    ax.axhline(before, color=GREY, lw=1, ls="--")
    ax.text(list(found)[len(found) // 2], before, "before the step", fontsize=9, va="bottom", ha="center", color="#555")
    ax.plot(list(found), list(found.values()), "o-", color=BLUE, lw=2)
    ax.set(xscale="log", xlabel="learning rate", ylabel="loss after one step")
    ax.set_xticks(list(found), [f"{rate:g}" for rate in found])
    ax.minorticks_off()
    text = "\n".join(f"learning rate {rate:<5g} loss {loss:.2f}" for rate, loss in found.items())
    return finish(made, f"before the step      loss {before:.2f}\n{text}")


# --- the cliff ------------------------------------------------------------------------------------------------------------


def cliff_picture(model: Mistral, counts: dict[int, tuple[int, int]]) -> Picture:
    """One model's recall against distance, in the dress of the recorded runs: counts as reach.cliff.counts gives them."""
    from minimistral import reach

    c = model.config
    run = dict(layers=c.n_layers, window=c.sliding_window, seed=0, counts=[[d, *pair] for d, pair in counts.items()])
    return reach.picture({"experiment": "cliff", "runs": [run]})


def bet_on_cliff(bet: int | None, forgotten: int | None) -> str:
    """How a bet on the first forgotten distance went."""
    if bet is None:
        return "You named no distance."
    if forgotten is None:
        return f"You said {bet}; none of the distances asked was forgotten."
    off = bet - forgotten
    if off == 0:
        return f"You said {bet}: to the token."
    return f"You said {bet}: {abs(off)} too {'far' if off > 0 else 'near'}."


# --- heads ----------------------------------------------------------------------------------------------------------------


@dataclass
class Heads:
    """What share of its weight each head gives to the keys that a pattern names, (L, H), and what an even spread would give."""

    name: str
    scores: Tensor
    even: float

    @property
    def best(self) -> tuple[int, int]:
        """(layer, head), both counted from 0."""
        return divmod(int(self.scores.argmax()), self.scores.shape[1])

    def __str__(self):
        layer, head = self.best
        best = self.scores.max().item()
        return (f"{self.name}: layer {layer}, head {head} gives it {best:.0%} of its weight; "
                f"evenly spread it would be {self.even:.0%} ({best / self.even:.1f} times)")


def repeated(vocab_size: int, first: int, period: int, rows: int = 16, seed: int = 0) -> Tensor:
    """(rows, 2 * period) random ids from `first` on, the second half a copy of the first: only looking back can help."""
    g = torch.Generator().manual_seed(seed)
    half = torch.stack([torch.randperm(vocab_size - first, generator=g)[:period] + first for _ in range(rows)])
    return torch.cat((half, half), dim=1)


def heads(model: Mistral, ids: Tensor) -> tuple[Heads, Heads]:
    """Score every head on rows of ids: as a previous-token head, and as an induction head.

    previous   the key one place back
    induction  every visible key whose own predecessor is the query's token: what came after it before. Only queries that
               have such a key count
    Raises ValueError where nothing in the rows is repeated within the window.
    """
    B, T = ids.shape
    seen = dense(positions(T), positions(T), model.config.sliding_window)
    before = torch.zeros(T, T, dtype=torch.bool)
    before[torch.arange(1, T), torch.arange(T - 1)] = True
    follows = torch.zeros(B, T, T, dtype=torch.bool)
    follows[:, :, 1:] = ids[:, :, None] == ids[:, None, :-1]  # query i, key j: ids[j - 1] is ids[i]
    follows &= seen & ~torch.eye(T, dtype=torch.bool)
    if not follows.any():
        raise ValueError(f"No token is repeated within the window of {model.config.sliding_window}: give shorter periods.")
    found = attention_of(model, ids)
    return tuple(_scored(name, found, keys & seen, seen) for name, keys in
                 (("the token before", before.expand(B, T, T)), ("what came after it last time", follows)))


def looking(model: Mistral, ids: Tensor, places: Tensor, name: str) -> Heads:
    """Score every head by how much of its weight goes where it should: places (3, n), a row of ids (B, T), from, and to."""
    B, T = ids.shape
    row, at, to = places
    keys = torch.zeros(B, T, T, dtype=torch.bool)
    keys[row, at, to] = True
    seen = dense(positions(T), positions(T), model.config.sliding_window)
    return _scored(name, attention_of(model, ids), keys & seen, seen)


def _scored(name, found, keys, seen) -> Heads:
    """Mean weight on the marked keys (B, T, T), over the queries that have any."""
    asked = keys.any(-1)  # (B, T)
    given = (found * keys[None, :, None]).sum(-1)  # (L, B, H, T)
    share = (given * asked[None, :, None]).sum((1, 3)) / asked.sum()
    even = (keys.sum(-1) / seen.sum(-1))[asked].mean().item()
    return Heads(name, share, even)


def head_maps(*found: Heads) -> Picture:
    """A square for each head, darker with its score; the best of each pattern is framed."""
    made, axes = figure(4.2 * len(found), 3.0, ncols=len(found), squeeze=False)
    for ax, one in zip(axes[0], found, strict=True):
        shown = ax.imshow(one.scores.numpy(), cmap="Blues", vmin=0, vmax=max(one.scores.max().item(), 2 * one.even))
        layer, head = one.best
        ax.add_patch(_frame(head, layer))
        layers, H = one.scores.shape
        ax.set(title=one.name, xlabel="head", ylabel="layer", xticks=range(H), yticks=range(layers))
        made.colorbar(shown, ax=ax, shrink=0.85, label="share of its weight")
    return finish(made, "\n".join(map(str, found)))


def _frame(x, y):
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=ORANGE, lw=2.5)
