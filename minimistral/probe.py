"""The divergence probe: where do two ways of computing part? It names the first layer, head, query and key.

A *way* is any callable way(model, tokens) -> logits (1, T, V) that runs the model's own modules, in chunks of any size. It may
patch the library while it runs, or bring a cache of its own. Nothing that a cache says of itself is believed: each key that
attention is given is recognised by its content, as the key that way a made for some position, or as nobody's.

It keeps every attention weight of both ways, so it is for texts of some hundred tokens. Whatever calculates attention is called
more often than the way calls it: it is also asked for its weights.

Letters: T positions, S columns of one attention call, H query heads, Hkv key heads, D head size. All is counted from 0.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minimistral import masks
from minimistral import model as library
from minimistral.hybrid import cache_for


@dataclass
class Parting:
    """Where two ways part first; falsy if they do not. The last line of a cell shows it, with a picture."""

    what: str = ""
    layer: int | None = None
    head: int | None = None
    query: int | None = None  # query and key: absolute positions
    key: int | None = None
    difference: float = 0.0  # at this place; where all agrees: the largest anywhere in the logits
    logits: float = 0.0  # the largest difference in the logits
    rows: list[tuple] = field(default_factory=list, repr=False)  # (key, weight in a, weight in b), largest change first
    maps: Tensor | None = field(default=None, repr=False)  # (2, T, T): this head's weights by position, in a and in b
    labels: list[str] | None = field(default=None, repr=False)
    spread: Tensor | None = field(default=None, repr=False)  # (L, T): the largest difference in the stream after each layer
    window: int | None = field(default=None, repr=False)

    def __bool__(self):
        return bool(self.what)

    def __repr__(self):
        if not self:
            return f"They agree: the largest difference of the logits is {self.difference:.1g}."
        places = (("layer", self.layer), ("head", self.head), ("query", named(self.query, self.labels)))
        where = ", ".join(f"{name} {n}" for name, n in places if n is not None)
        end = "differ" if self.logits == float("inf") else f"differ by up to {self.logits:.2g}"
        return f"They part in {where}: {self.what}. Their logits {end}."

    def text(self) -> str:
        table = [f"  {'key':>16}  weight in a  weight in b"] if self.rows else []
        table += [f"  {named(key, self.labels):>16}  {x:11.3f}  {y:11.3f}" for key, x, y in self.rows]
        return "\n".join([repr(self), *table])

    def _repr_mimebundle_(self, include=None, exclude=None):
        from minimistral.widgets import prefill  # here, so that the library needs no matplotlib

        return prefill.parting(self)._repr_mimebundle_() if self else {"text/plain": repr(self)}


def named(position: int, labels: list[str] | None) -> str:
    """A position as one reads it, with its token's text where there is one."""
    return f"{position} ({labels[position]})" if labels else f"{position}"


def at_once(model: library.Mistral, tokens: Tensor) -> Tensor:
    """The way without a cache: all positions in one call."""
    return model(tokens)


def through(kind: Callable = cache_for, sizes: int | list[int] = 48, window="config") -> Callable:
    """The way through a cache of some kind, in chunks: sizes is one size for all, or a list that adds up to T."""
    def way(model, tokens):
        weight, T = model.output.weight, tokens.shape[1]
        chunks = [min(sizes, T - n) for n in range(0, T, sizes)] if isinstance(sizes, int) else list(sizes)
        if sum(chunks) != T or min(chunks) < 1:
            raise ValueError(f"sizes is {sizes}: expected whole numbers of at least 1 that add up to the {T} tokens.")
        options = {} if window == "config" else {"window": window}
        cache = kind(model.config, device=weight.device, dtype=weight.dtype, **options)
        return torch.cat([model(chunk, cache=cache) for chunk in tokens.split(chunks, dim=1)], dim=1)

    if isinstance(sizes, int) and sizes < 1:
        raise ValueError(f"sizes is {sizes}: expected a chunk size of at least 1, or a list of them.")
    return way


@torch.no_grad()
def compare(model: library.Mistral, tokens: Tensor | list[int], a: Callable, b: Callable, tolerance: float = 1e-4,
            labels: list[str] | None = None) -> Parting:
    """Run both ways and find where b parts from a: the first layer, there the smallest query, there the first head.

    tokens     a list of ids, or (1, T) int64
    tolerance  absolute, and relative to what is compared. "First" means: first by more than that
    labels     the T tokens as text, to be named in the sentence
    Raises ValueError for tokens or labels that do not fit, and for a way that does not run each position through the model.
    """
    tokens = tokens if isinstance(tokens, Tensor) else torch.tensor([list(tokens)])
    if tokens.dtype != torch.int64 or tokens.ndim != 2 or len(tokens) != 1 or not tokens.numel():
        raise ValueError(f"tokens is {tokens.dtype} {tuple(tokens.shape)}; expected a list of ids, or int64 of shape (1, T).")
    if labels is not None and len(labels) != tokens.shape[1]:
        raise ValueError(f"There are {len(labels)} labels for {tokens.shape[1]} tokens; expected one for each.")
    one, two = (_Pass(model, tokens, way, name, labels) for name, way in (("a", a), ("b", b)))
    apart = (one.logits - two.logits).abs().nan_to_num(float("inf")).max().item()
    found = next(filter(None, (_layer(one, two, n, tolerance) for n in range(model.config.n_layers))), None)
    found = found or _stage(one, two, None, "logits", tolerance)
    found = Parting(difference=apart) if found is None else found
    found.logits, found.labels, found.window = apart, labels, None if found.layer is None else model.config.windows[found.layer]
    after = [one.parts[n, "onward"] - two.parts[n, "onward"] for n in range(model.config.n_layers)]
    found.spread = torch.stack(after).abs().nan_to_num(float("inf")).amax(-1)
    return found


# --- recording ------------------------------------------------------------------------------------------------------------


@dataclass
class _Look:
    """One call of attention, by n queries from position `start` on."""

    start: int
    weights: Tensor  # (H, n, S)
    keys: Tensor  # (Hkv, S, D)
    values: Tensor
    heads: Tensor  # (H, n): the head whose values were mixed


class _Pass:
    """What one way really computed, by layer and by absolute position."""

    def __init__(self, model, tokens: Tensor, way, name: str, labels):
        if not callable(way):
            raise ValueError(f"{name} is {way!r}; expected a way: a callable (model, tokens) -> logits, such as probe.at_once.")
        self.config, self.T, self.name, self.labels = model.config, tokens.shape[1], name, labels
        self.parts: dict[tuple, Tensor] = {}  # (layer, what) -> (T, ...), NaN where the way did not pass
        self.looks: dict[int, list] = {n: [] for n in range(model.config.n_layers)}  # every call of attention
        self.start, self.fed, self.caches = 0, Counter(), []
        self.passed = torch.zeros(model.config.n_layers, self.T, dtype=torch.bool)
        with self._watching(model):
            logits = way(model, tokens)
        expected = (1, self.T, self.config.vocab_size)
        if not isinstance(logits, Tensor) or logits.shape != expected:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"Way {name} returned {got}; expected the logits of every position, {expected}.")
        if not self.passed.all():
            layer, position = (~self.passed).nonzero()[0].tolist()
            raise ValueError(f"Way {name} did not run position {position} through layer {layer} of this model; "
                             "a way calls the model that it is given, with all tokens.")
        self.logits = self.parts[None, "logits"] = logits[0].float().cpu()

    def keep(self, layer, what: str, x: Tensor):
        """x (1, n, ...) or, by heads, (1, heads, n, D): the chunk that runs now, put where it belongs."""
        x = (x[0].transpose(0, 1) if x.ndim == 4 else x[0]).detach().float().cpu()
        whole = self.parts.setdefault((layer, what), torch.full((self.T, *x.shape[1:]), float("nan")))
        whole[self.start : self.start + len(x)] = x

    def watched(self, attend, layer: int):
        """attend, or what the way put in its place, recorded. It is asked itself for its weights: it mixes values linearly, so
        values of 1 in one column and 0 elsewhere come back as the weights of that column."""
        def recorded(q, k, v, *args, **kwargs):
            S, D = k.shape[2:]

            def ask(values):
                return attend(q, k, values, *args, **kwargs)[0].float().cpu()

            out, weights = attend(q, k, v, *args, **kwargs), []
            for first in range(0, S, D):
                ones, width = torch.zeros_like(v), min(D, S - first)
                ones[:, :, range(first, first + width), range(width)] = 1
                weights.append(ask(ones)[..., :width])
            shared = torch.arange(v.shape[1]) * self.config.n_kv_heads // v.shape[1]
            heads = ask(shared.to(v)[:, None, None].expand_as(v))[..., 0]
            keys, values = (x[0].float().cpu().clone() for x in (k, v))
            self.looks[layer].append(_Look(self.start, torch.cat(weights, dim=-1), keys, values, heads))
            self.keep(layer, "mixed", out)
            return out

        return recorded

    @contextmanager
    def _watching(self, model):
        """Hooks on the model's own modules. attend and attend_masked are wrapped where the model looks them up, each time a
        layer's attention begins and until it ends: so the wrap lies around whatever the way has put there."""
        undo: list = []
        hooks = [hook for layer, block in enumerate(model.layers) for hook in self._hooks(layer, block, undo)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            while undo:  # only if it was interrupted
                undo.pop()()

    def _hooks(self, layer, block, undo):
        def patch(owner, name, new):
            def back():
                if vars(owner).get(name) is new:  # else the way has undone its own patch, and ours with it
                    delattr(owner, name) if old is None else setattr(owner, name, old)

            old = vars(owner).get(name)
            undo.append(back)
            setattr(owner, name, new)

        def enter(module, args, kwargs):
            x, cache = args[0], kwargs.get("cache", args[2] if len(args) > 2 else None)
            self.caches.append(cache)  # kept alive, so that no two have the same id
            self.start = self.fed[layer, id(cache)] if cache is not None else 0
            self.fed[layer, id(cache)] += x.shape[1]
            if len(x) != 1 or self.start + x.shape[1] > self.T:
                raise ValueError(f"Way {self.name} ran {x.shape[1]} tokens in {len(x)} rows, from position {self.start} on; "
                                 f"expected one row of {self.T} tokens in all.")
            self.passed[layer, self.start : self.start + x.shape[1]] = True
            self.keep(layer, "into", x)

        def open_up(module, args, kwargs):
            plain = module.project

            def project(*args, **kwargs):
                made = plain(*args, **kwargs)
                for what, x in zip(("query", "key", "value"), made, strict=True):
                    self.keep(layer, what, x)
                return made

            patch(module, "project", project)
            for name in ("attend", "attend_masked"):
                patch(library, name, self.watched(getattr(library, name), layer))
            self.keep(layer, "normed", args[0])

        def close(module, args, out):
            while undo:
                undo.pop()()
            if out is not None:
                self.keep(layer, "out", out)

        return (
            block.register_forward_pre_hook(enter, with_kwargs=True),
            block.register_forward_hook(lambda module, args, out: self.keep(layer, "onward", out)),
            block.attention.register_forward_pre_hook(open_up, with_kwargs=True),
            block.attention.register_forward_hook(close, always_call=True),
        )


# --- comparing ------------------------------------------------------------------------------------------------------------

BEFORE, AFTER = "the parts before attention differ: ", "the parts after attention differ: "
STAGES = {  # in the order in which a layer computes them
    "into": BEFORE + "the residual stream into layer {layer} at position {query}",
    "normed": BEFORE + "the norm in front of attention, at position {query}",
    "query": BEFORE + "the query of position {query} is made differently{turned}",
    "key": BEFORE + "the key of position {query} is made differently{turned}",
    "value": BEFORE + "the value of position {query} is made differently",
    "mixed": "what attention returns differs",  # more of it: _attention
    "out": AFTER + "wo, at position {query}",
    "onward": AFTER + "the norm or the feed-forward after it, at position {query}",
    "logits": "logits only: all layers agree, the last norm or the output matrix does not, at position {query}",
}


def _same(x: Tensor, y: Tensor, tolerance: float) -> Tensor:
    return torch.isclose(y, x, rtol=tolerance, atol=tolerance, equal_nan=True)


def _size(x: Tensor) -> float:
    return x.abs().nan_to_num(float("inf")).max().item()


def _layer(one: _Pass, two: _Pass, layer: int, tolerance: float) -> Parting | None:
    """The first difference in one layer: at the smallest position; there, what is computed first."""
    found = [_stage(one, two, layer, what, tolerance) for what in STAGES if what != "logits"]
    found = [_attention(one, two, part, tolerance) if part and part.what == STAGES["mixed"] else part for part in found]
    return min(filter(None, found), key=lambda part: part.query or 0, default=None)


def _stage(one: _Pass, two: _Pass, layer, what: str, tolerance: float) -> Parting | None:
    x, y = one.parts.get((layer, what)), two.parts.get((layer, what))
    if x is None or y is None or (same := _same(x, y, tolerance).flatten(1)).all():
        return None
    query = (~same.all(1)).nonzero()[0].item()
    part = Parting(STAGES[what], layer, query=query, difference=_size(x[query] - y[query]))
    turned = ""
    if x.ndim == 3:  # by heads
        part.head = (~_same(x[query], y[query], tolerance).all(1)).nonzero()[0].item() * (one.config.n_heads // x.shape[1])
        part.key = query if what in ("key", "value") else None
        long, wide = (z[query].unflatten(-1, (-1, 2)).norm(dim=-1) for z in (x, y))
        turned = ", the same but turned by another angle" if _same(long, wide, 10 * tolerance).all() else ""
    part.what = part.what.format(layer=layer, query=named(query, one.labels), turned=turned)
    return part


def _attention(one: _Pass, two: _Pass, part: Parting, tolerance: float) -> Parting:
    """Attention returned something else: it saw other keys, or weighed them otherwise, or mixed other values."""
    maps = torch.stack([_by_position(run, one, part.layer, 10 * tolerance) for run in (one, two)])  # (2, H, T, T + 1)
    apart = ~_same(maps[0], maps[1], tolerance).all(-1)
    first = apart.T.nonzero()[0].tolist() if apart.any() else (one.T, 0)
    weighed = first[0] <= part.query
    if weighed:
        part.query, part.head = first
    x, y = maps[:, part.head, part.query]
    change = (x - y).abs().nan_to_num(float("inf"))
    part.key, part.what = (_weighed if weighed else _valued)(one, two, part, x, y, change, tolerance)
    if weighed:
        part.difference = change[one.T if part.key is None else part.key].item()
    part.maps = maps[:, part.head, :, : one.T]
    order = [j for j in change[: one.T].argsort(descending=True, stable=True).tolist() if j != part.key and (x[j] or y[j])]
    named_first = [] if part.key is None else [part.key]
    part.rows = [(j, x[j].item(), y[j].item()) for j in (named_first + order)[:6]]
    return part


def _by_position(run: _Pass, one: _Pass, layer: int, near: float) -> Tensor:
    """Weights by the position whose key a column holds: (H, T, T + 1). The last place: columns with no token's key."""
    out = torch.zeros(run.config.n_heads, run.T, run.T + 1)
    for look in run.looks[layer]:
        here = out[:, look.start : look.start + look.weights.shape[1]].zero_()
        for h in range(len(out)):
            here[h].index_add_(1, _owners(look, one, layer, h, near), look.weights[h])
    return out


def _owners(look: _Look, one: _Pass, layer: int, head: int, near: float) -> Tensor:
    """Whose key each column is that a query head has before it: (S,) positions, T where it is nobody's."""
    made = one.parts[layer, "key"]
    return _nearest(look.keys[head * len(look.keys) // one.config.n_heads], made[:, head // one.config.group], near)


def _nearest(x: Tensor, known: Tensor, near: float) -> Tensor:
    apart = torch.cdist(x, known, compute_mode="donot_use_mm_for_euclid_dist").nan_to_num(float("inf"))
    found = apart.argmin(1)
    return torch.where(torch.isclose(x, known[found], rtol=near, atol=near).all(1), found, len(known))


def _weighed(one, two, part, x, y, change, tolerance) -> tuple[int | None, str]:
    """The key, and in words how it is weighed. x, y (T + 1,): weights by position, the last place nobody's."""
    T, W, i = one.T, one.config.windows[part.layer], part.query
    for name, row, other in (("b", y, x), ("a", x, y)):
        if row.isnan().any() or not row.any():
            return other[:T].argmax().item(), f"{name} sees no key, or one that is not a number: its softmax has no value"
    strange = ""
    if change[T] > tolerance:
        name, run = ("b", two) if y[T] > x[T] else ("a", one)
        strange = f"{name} gives {max(x[T], y[T]):.2g} to what is not any token's key: {_stranger(run, one, part, tolerance)}"
    lost = ((x[:T] > 0) != (y[:T] > 0)) & (change[:T] > tolerance)
    if strange and not lost.any():
        return None, strange
    key = (change[:T] * lost if lost.any() else change[:T]).argmax().item()
    if not lost.any():
        why, who = _why(one, two, part, key, tolerance), named(key, one.labels)
        return key, f"the same keys, other weights ({why}): key {who} gets {x[key]:.2g} in a, {y[key]:.2g} in b"
    said = []
    for sees, blind, row, other in (("a", "b", x, y), ("b", "a", y, x)):
        only = [j for j in lost.nonzero().flatten().tolist() if row[j] > other[j]]
        if not only:
            continue
        most = max(only, key=lambda j: row[j].item())
        name = f"key {named(most, one.labels)}"
        more = f" (and {len(only) - 1} more, {row[only].sum():.2g} together)" if only[1:] else ""
        if masks.visible(i, most, W):
            words = f"{blind} does not see {name}, to which {sees} gives {row[most]:.2g}{more}"
        else:
            where = "the future" if most > i else "outside the window"
            words = f"{sees} sees {name}, which is {where}, and gives it {row[most]:.2g}{more}"
        said.insert(0 if most == key else 1, words)
    return key, "; ".join([*said, strange] if strange else said)


def _look(run: _Pass, part: Parting) -> tuple[_Look, int]:
    """The last call of attention in which the query took part, and its row there."""
    looks = ((look, part.query - look.start) for look in reversed(run.looks[part.layer]))
    return next((look, row) for look, row in looks if 0 <= row < look.weights.shape[1])


def _why(one, two, part, key, tolerance) -> str:
    for name, run in (("b", two), ("a", one)):
        look, row = _look(run, part)
        seen = look.weights[part.head, row] > 0
        held = ((_owners(look, one, part.layer, part.head, 10 * tolerance) == key) & seen).sum().item()
        if held > 1:
            return f"{name} holds that key {held} times"
    return _heads(one, two, part) or "the scores differ"


def _heads(one, two, part) -> str:
    """Says so if the two read different key heads."""
    heads = [look.heads[part.head, row].item() for look, row in (_look(run, part) for run in (one, two))]
    return "" if abs(heads[0] - heads[1]) < 0.5 else f"a reads key head {heads[0]:.0f}, b reads key head {heads[1]:.0f}"


def _stranger(run: _Pass, one: _Pass, part: Parting, tolerance: float) -> str:
    """What the heaviest column holds whose key is no token's."""
    look, row = _look(run, part)
    nobody = _owners(look, one, part.layer, part.head, 10 * tolerance) == one.T
    column = (look.weights[part.head, row] * nobody).argmax()
    key, made = look.keys[part.head * len(look.keys) // one.config.n_heads, column][None], one.parts[part.layer, "key"]
    if not key.any():
        return "a slot that was never written"
    for head in range(made.shape[1]):
        if (position := _nearest(key, made[:, head], 10 * tolerance).item()) < one.T:
            return f"key head {head}'s key of position {named(position, one.labels)}"
    key, made = (z.unflatten(-1, (-1, 2)).norm(dim=-1) for z in (key, made[:, part.head // one.config.group]))
    if _nearest(key, made, 10 * tolerance).item() < one.T:
        return "a key turned by another angle than its token's position"
    return "it was changed after it was made, or never made"


def _valued(one, two, part, x, y, change, tolerance) -> tuple[int | None, str]:
    """The same keys with the same weights: the key whose value differs."""
    made = one.parts[part.layer, "value"][:, part.head // one.config.group]
    for name, run in (("b", two), ("a", one)):
        look, row = _look(run, part)
        weights, values = look.weights[part.head, row], look.values[part.head * len(look.values) // one.config.n_heads]
        if (~values.isfinite().all(1) & (weights == 0)).any():
            return None, f"{name} sees the same keys, but a slot to which it gives 0 holds inf or NaN, and 0 times that is NaN"
        owners = _owners(look, one, part.layer, part.head, 10 * tolerance)
        off = (values - torch.cat((made, made[:1]))[owners]).abs().nan_to_num(float("inf")).amax(1)
        wrong = off * weights * (owners < one.T)
        if wrong.max() > tolerance:
            key = owners[wrong.argmax()].item()
            return key, f"the value of key {named(key, one.labels)} differs: {name} holds another"
    why = _heads(one, two, part) or "what is mixed from them does not"
    return None, f"the keys seen, their weights and the values at hand agree; {why}"
