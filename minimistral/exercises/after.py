"""Chapter 14: what a list of windows reaches and keeps, distances with sinks, and the pattern that reaches furthest."""

import operator

import torch

from minimistral.exercises.frame import Exercise, show

# --- how far a list of windows looks back ---------------------------------------------------------------------------------

how_far = Exercise(
    "how_far",
    cases=lambda: [
        ([5],), ([1],), ([3, 3],), ([2, 7, 4],), ([None],), ([6, None, 1],), ([None, 4, None, 9],), ([1, 1, 1, 1, 1],), ([16] * 6,),
        ([4096] * 32,), ([1024, 1024, 1024, 1024, 1024, None] * 2,), ([8, 1, 8, 2, 16, 4, 3, 1],),
    ],
    tolerance=0,
    hints=[
        "A window of W looks W - 1 places back; the token itself is one of the W. Each layer adds its own.",
        "One layer with None sees everything, so the answer is None. Ask for that first, with `None in windows`.",
    ],
)  # fmt: skip


@how_far.reference
def _(windows):
    return None if None in windows else sum(W - 1 for W in windows)


@how_far.right
def _(windows):
    reach = 0
    for W in windows:
        if W is None:
            return None
        reach += W - 1
    return reach


@how_far.right
def _(windows):
    try:
        return sum(windows) - len(windows)
    except TypeError:  # a None cannot be added
        return None


@how_far.right
def _(windows):
    back = [float("inf") if W is None else W - 1 for W in windows]
    far = sum(back)
    return None if far == float("inf") else far


@how_far.mistake("Each token counts itself among its W keys, so a layer adds W - 1 places and not W.")
def _(windows):
    return None if None in windows else sum(windows)


@how_far.mistake("One is added at the end for the token itself. It is no place back: the sum of all W - 1 is the whole answer.")
def _(windows):
    return None if None in windows else sum(W - 1 for W in windows) + 1


@how_far.mistake("-1 stands for “everything” here; the task asks for None.")
def _(windows):
    return -1 if None in windows else sum(W - 1 for W in windows)


@how_far.mistake("One is taken away once for all layers. Each layer counts the token itself, so each loses one.")
def _(windows):
    return None if None in windows else sum(windows) - 1


@how_far.mistake("That is how far one layer looks, the widest. What a layer has gathered is handed on, so the layers add up.")
def _(windows):
    return None if None in windows else max(windows) - 1


@how_far.mistake("None is passed over as if it added nothing. A layer without a window sees everything: the answer is then None.")
def _(windows):
    return sum(W - 1 for W in windows if W is not None)


@how_far.mistake("A layer with None is taken for a window of 0. It sees everything: the answer is then None.")
def _(windows):
    return sum((W or 0) - 1 for W in windows)


@how_far.mistake("L (W - 1) holds where all windows are alike. Here each layer has its own.")
def _(windows):
    return None if None in windows else len(windows) * (windows[0] - 1)


@how_far.mistake("L (W - 1) with the widest window is too much: a narrow layer does not look as far.")
def _(windows):
    return None if None in windows else len(windows) * (max(windows) - 1)


@how_far.mistake("One layer without a window is enough: the others hand on what it has seen. You ask for all of them to be None.")
def _(windows):
    return None if all(W is None for W in windows) else sum(W - 1 for W in windows if W is not None)


@how_far.mistake("Infinity stands for “everything” here; the task asks for None.")
def _(windows):
    return float("inf") if None in windows else sum(W - 1 for W in windows)


@how_far.mistake("`if not W - 1` or the like: a window of 1 is taken for no window. It is one; it only adds nothing.")
def _(windows):
    return None if None in windows or 1 in windows else sum(W - 1 for W in windows)


@how_far.mistake("The first layer is left out. It looks back as the others do.")
def _(windows):
    return None if None in windows else sum(W - 1 for W in windows[1:])


@how_far.mistake("The windows are multiplied. Each layer goes on from where the one before has arrived: its places are added.")
def _(windows):
    if None in windows:
        return None
    product = 1
    for W in windows:
        product *= W
    return product - 1


# --- how many keys a list of windows keeps --------------------------------------------------------------------------------

kept = Exercise(
    "kept",
    cases=lambda: [
        ([4], 3), ([4], 9), ([5], 5), ([None], 7), ([3, None], 10), ([1, 1, 1], 6), ([16, 16, 16, None], 128), ([8, 2, None, 5, None], 4),
        ([4096] * 32, 32_768), ([4096, 4096, 4096, None] * 8, 32_768), ([2, 30, 7], 0), ([2, 30, 7], 5),
    ],
    tolerance=0,
    hints=[
        "A layer with a window keeps at most W keys; of a shorter text only as many as there are tokens: min(W, tokens).",
        "A layer with None keeps all tokens. `sum(tokens if W is None else … for W in windows)`.",
    ],
)  # fmt: skip


@kept.reference
def _(windows, tokens):
    return sum(tokens if W is None else min(W, tokens) for W in windows)


@kept.right
def _(windows, tokens):
    return sum(min(W or tokens, tokens) for W in windows)


@kept.right
def _(windows, tokens):
    total = 0
    for W in windows:
        if W is None or W > tokens:
            W = tokens
        total += W
    return total


@kept.right
def _(windows, tokens):
    held = [range(tokens) if W is None else range(max(0, tokens - W), tokens) for W in windows]
    return sum(map(len, held))


@kept.mistake("A window is counted full even where the text is shorter. There are never more keys than tokens: min(W, tokens).")
def _(windows, tokens):
    return sum(tokens if W is None else W for W in windows)


@kept.mistake("A layer without a window keeps everything: all the tokens, and not nothing.")
def _(windows, tokens):
    return sum(min(W, tokens) for W in windows if W is not None)


@kept.mistake("A layer sees W - 1 places back, but it keeps W keys: its own is one of them.")
def _(windows, tokens):
    return sum(tokens if W is None else min(W - 1, tokens) for W in windows)


@kept.mistake("max instead of min: a ring keeps what is *less*, its W slots or the tokens there are.")
def _(windows, tokens):
    return sum(tokens if W is None else max(W, tokens) for W in windows)


@kept.mistake("That is the number of keys of one layer. Each layer has a cache of its own: add them up.")
def _(windows, tokens):
    return max(tokens if W is None else min(W, tokens) for W in windows)


@kept.mistake("One layer without a window makes *that one* grow. The others keep their rings.")
def _(windows, tokens):
    return len(windows) * tokens if None in windows else sum(min(W, tokens) for W in windows)


@kept.mistake("The sum is limited, where each layer is: min(W, tokens) belongs inside the sum.")
def _(windows, tokens):
    return min(sum(tokens if W is None else W for W in windows), tokens)


@kept.mistake("Keys and values are counted here. Keys are asked for; there are as many values again.")
def _(windows, tokens):
    return 2 * sum(tokens if W is None else min(W, tokens) for W in windows)


@kept.mistake("It is divided by the number of layers. Asked for are all keys of all layers together.")
def _(windows, tokens):
    return sum(tokens if W is None else min(W, tokens) for W in windows) / len(windows)


@kept.mistake("tokens % W is the slot that is written next. A ring that has turned is full: it keeps W keys.")
def _(windows, tokens):
    return sum(tokens if W is None else tokens % W for W in windows)


@kept.mistake("Only the first layer is counted. Each layer has a cache of its own: add them up.")
def _(windows, tokens):
    return tokens if windows[0] is None else min(windows[0], tokens)


@kept.mistake("“Everything” is a number here: a layer without a window keeps as many keys as there are tokens.")
def _(windows, tokens):
    return None if None in windows else sum(min(W, tokens) for W in windows)


@kept.mistake("“Everything” is a number here: a layer without a window keeps as many keys as there are tokens.")
def _(windows, tokens):
    return sum(INF if W is None else min(W, tokens) for W in windows)


@kept.mistake("This is the share that is kept. Asked for is the number of keys, not divided by anything.")
def _(windows, tokens):
    return sum(min(W or tokens, tokens) for W in windows) / max(1, len(windows) * tokens)


@kept.mistake("One key too few in each ring that is not full: after 3 tokens there are 3 keys.")
def _(windows, tokens):
    return sum(tokens if W is None else min(W, max(0, tokens - 1)) for W in windows)


# --- distances with sinks -------------------------------------------------------------------------------------------------

SEEN = "Whom a query sees: the last W tokens, itself among them, and the first `sinks` of the text; never one that comes after it."

cache_distances = Exercise(
    "cache_distances",
    cases=lambda: [
        (1, 1, 0), (2, 1, 1), (7, 3, 2), (5, 2, 0), (6, 8, 3), (8, 1, 3), (4, 2, 9), (12, 4, 1), (20, 5, 6), (33, 10, 4),
    ],
    allowed=["minimistral.sinks"],  # whom a query sees was the task of chapter 04; how far is this one's
    hints=[
        "One query at a time. Which positions does it see? Write them in order, the oldest first; the last one is the query's own.",
        "In that list, neighbours are 1 apart, whatever lies between them in the text. So the last is at distance 0, the one before at 1, ….",
        "With a loop: seen = [j for j in range(i + 1) if j > i - window or j < sinks]; then out[i, seen[n]] = len(seen) - 1 - n. "
        "Start from torch.full((T, T), -1).",
    ],
)  # fmt: skip


@cache_distances.reference
def _(T, window, sinks):
    out = torch.full((T, T), -1)
    for i in range(T):
        seen = [j for j in range(i + 1) if j > i - window or j < sinks]
        for place, j in enumerate(reversed(seen)):
            out[i, j] = place
    return out


@cache_distances.right
def _(T, window, sinks):
    at = torch.arange(T)
    i, j = at[:, None], at[None]
    seen = (j <= i) & ((j > i - window) | (j < sinks))
    behind = seen.flip(1).cumsum(1).flip(1) - 1  # how many seen keys stand at j or after it, but one
    return torch.where(seen, behind, -1)


@cache_distances.right
def _(T, window, sinks):
    at = torch.arange(T)
    out = at[:, None] - at
    out[(out < 0) | ((out >= window) & (at >= sinks))] = -1
    for i in range(T):
        gap = max(0, i - window + 1 - sinks)  # keys between the sinks and the window, which nobody sees
        out[i, : min(sinks, i + 1)] -= gap if i - window + 1 > sinks else 0
    return out


@cache_distances.right
def _(T, window, sinks):
    rows = []
    for i in range(T):
        row, place = [-1] * T, 0
        for j in range(i, -1, -1):
            if i - j < window or j < sinks:
                row[j] = place
                place += 1
        rows.append(row)
    return torch.tensor(rows)


def dense(T, window, sinks):
    """(T, T) bool, for the mistakes below."""
    at = torch.arange(T)
    return (at <= at[:, None]) & ((at > at[:, None] - window) | (at < sinks))


def ranked(seen):
    """Of each key that a query sees: how many seen ones stand between it and the query's own, it counted; else -1."""
    return torch.where(seen, seen.flip(1).cumsum(1).flip(1) - 1, -1)


@cache_distances.mistake("These are distances in the text. Counted in the cache there is no gap between the sinks and the window.")
def _(T, window, sinks):
    at = torch.arange(T)
    return torch.where(dense(T, window, sinks), at[:, None] - at, -1)


@cache_distances.mistake("The places are counted from the oldest key on. A distance is counted back from the query, which is at 0.")
def _(T, window, sinks):
    seen = dense(T, window, sinks)
    return torch.where(seen, seen.cumsum(1) - 1, -1)


@cache_distances.mistake("The distances begin at 1. A query is at distance 0 from its own key.")
def _(T, window, sinks):
    seen = dense(T, window, sinks)
    return torch.where(seen, ranked(seen) + 1, -1)


@cache_distances.mistake("The window is one too wide: the token itself is one of the W.")
def _(T, window, sinks):
    return ranked(dense(T, window + 1, sinks))


@cache_distances.mistake("The window is one too narrow: position i sees i - W + 1 up to i.")
def _(T, window, sinks):
    seen = dense(T, window - 1, sinks)
    return ranked(seen | torch.eye(T, dtype=torch.bool))


@cache_distances.mistake("The sinks are missing. " + SEEN)
def _(T, window, sinks):
    return ranked(dense(T, window, 0))


@cache_distances.mistake("One sink too many: the first `sinks` positions are 0 to sinks - 1.")
def _(T, window, sinks):
    return ranked(dense(T, window, sinks + 1))


@cache_distances.mistake("Sinks are seen before they are there. Position 0 must not see position 1, sink or not.")
def _(T, window, sinks):
    at = torch.arange(T)
    seen = ((at <= at[:, None]) & (at > at[:, None] - window)) | (at < sinks)
    return ranked(seen)


@cache_distances.mistake("What is not seen has 0 here, and 0 is the query's own key. The task asks for -1 there.")
def _(T, window, sinks):
    seen = dense(T, window, sinks)
    return torch.where(seen, ranked(seen), 0)


@cache_distances.mistake("Rows and columns are swapped: row i is the query, column j the key.")
def _(T, window, sinks):
    return ranked(dense(T, window, sinks)).T


@cache_distances.mistake("Every sink has the same distance here. They lie side by side: each has its own place, the first the farthest.")
def _(T, window, sinks):
    at = torch.arange(T)
    apart = (at[:, None] - at).clamp(max=window)
    return torch.where(dense(T, window, sinks), apart, -1)


@cache_distances.mistake("Every sink has the same distance here. They lie side by side: each has its own place, the first the farthest.")
def _(T, window, sinks):
    at = torch.arange(T)
    apart = (at[:, None] - at).clamp(max=window + sinks - 1)
    return torch.where(dense(T, window, sinks), apart, -1)


@cache_distances.mistake("A sink is always window + sinks - 1 - j away here. Early in the text there is no gap yet, or a smaller one: it is nearer.")
def _(T, window, sinks):
    at = torch.arange(T)
    back = at[:, None] - at
    apart = torch.where(back < window, back, window + sinks - 1 - at)
    return torch.where(dense(T, window, sinks), apart, -1)


@cache_distances.mistake("A sink that is still in the window is counted twice: once as a sink, once in the window. It has one place.")
def _(T, window, sinks):
    out = torch.full((T, T), -1)
    for i in range(T):
        seen = [*range(min(sinks, i + 1)), *range(max(0, i - window + 1), i + 1)]
        for place, j in enumerate(reversed(seen)):
            out[i, j] = place
    return out


@cache_distances.mistake("A key that comes after the query has a number of its own below 0. What is not seen is -1, wherever it lies.")
def _(T, window, sinks):
    at = torch.arange(T)
    back = at[:, None] - at
    return torch.where(back < 0, back, ranked(dense(T, window, sinks)))


@cache_distances.mistake("The sinks are part of the window's W here. They come on top of it.")
def _(T, window, sinks):
    return ranked(dense(T, max(1, window - sinks), sinks))


@cache_distances.mistake("bool says who is seen. Asked for is how far: int64, with -1 where nothing is seen.")
def _(T, window, sinks):
    return dense(T, window, sinks)


# --- the pattern that reaches furthest ------------------------------------------------------------------------------------

INF = float("inf")


def far(windows) -> float:
    """How many tokens back a pattern reaches; infinite where a layer sees all."""
    return INF if None in windows else sum(windows) - len(windows)


def slots_of(windows, tokens: int) -> int:
    """How many keys all layers together keep after so many tokens."""
    return sum(tokens if W is None else min(W, tokens) for W in windows)


def best(slots: int, layers: int, tokens: int) -> tuple[float, float]:
    """The farthest reach that fits, and of the lists with that reach the widest narrowest window; infinite: None."""
    if slots >= layers * tokens:
        return INF, INF
    if slots >= tokens + layers - 1:
        return INF, (slots - tokens) // (layers - 1)
    return slots - layers, slots // layers


FLOATS = "/ makes floats. A window is a whole number: divide with //, and give what is left over to some of the layers."


def strange(entry) -> tuple[str, str] | None:
    """As fault(), of one entry: what is wrong with its type."""
    try:
        if entry is not None:
            operator.index(entry)
        return None
    except TypeError:
        think = "Each entry is a whole number, or None, and nothing else: no text, no list."
        if isinstance(entry, float):
            think = "A layer that sees everything has None, not infinity." if entry == INF else FLOATS
        return f"an entry is no whole number and not None: {float(entry) if isinstance(entry, float) else show(entry)}", think


def fault(windows, slots: int, layers: int, tokens: int) -> tuple[str, str] | None:
    """What a pattern lacks: (in one clause, what to think of), or None. Any pattern with the properties is right."""
    if hasattr(windows, "tolist"):  # a tensor, or an array
        windows = windows.tolist()
    if not isinstance(windows, list | tuple):
        several = f"{layers} windows" if layers > 1 else "1 window"
        return f"expected a list of {several}, got {show(windows)}", "Return a list: a window, or None, for each layer."
    if len(windows) != layers:
        several = f"{layers} windows" if layers > 1 else "1 window"
        return f"expected {several}, got {show(windows)}", "One entry for each layer, no more and no fewer."
    if found := next(filter(None, map(strange, windows)), None):
        return found
    windows = [None if W is None else operator.index(W) for W in windows]
    if any(W is not None and W < 1 for W in windows):
        return f"a window is below 1: {show(windows)}", "The narrowest window is 1: a layer that sees only the token itself."
    if (taken := slots_of(windows, tokens)) > slots:
        return (f"{show(windows)} keeps {taken} keys after {tokens} tokens, and there are {slots} slots",
                "Count what is kept: None keeps all tokens, a window min(W, tokens).")  # fmt: skip
    reach, narrowest = best(slots, layers, tokens)
    if far(windows) < reach:
        more = "everything" if reach == INF else f"{reach} places back"
        return (f"a list that fits reaches {more}, and {show(windows)} reaches {far(windows)}",
                "Something reaches further. Does one None fit, with windows of 1 in the other layers? If not, are all slots used?")
    width = min(INF if W is None else W for W in windows)
    if width < narrowest:
        wider = "None" if narrowest == INF else narrowest
        return (f"it reaches as far as can be, but its narrowest window could be {wider}: {show(windows)}",
                "Fits, and reaches furthest. Now share the slots: the narrowest window as wide as it can be.")
    return None


class ByProperties(Exercise):
    """Several patterns are right, so each is judged by what must hold of it."""

    def _complain(self, case, value):
        found = fault(value, *case)
        return found and found[0]

    def _likely(self):
        if self._failed and not self._failed[0][1].trouble and (self._complaint or "").startswith("an entry is no"):
            return fault(self._failed[0][1].value, *self._failed[0][0])[1]  # before a mistake that gives the same numbers
        said = super()._likely()
        if said.startswith("not one of the mistakes") and self._failed and not self._failed[0][1].trouble:
            (case, outcome) = self._failed[0]
            return fault(outcome.value, *case)[1]
        return said


pattern = ByProperties(
    "pattern",
    cases=lambda: [
        (3, 1, 5), (5, 2, 9), (7, 3, 6), (9, 3, 6), (4, 4, 7), (12, 2, 6), (8, 1, 8), (9, 1, 8), (20, 3, 6), (3, 2, 1), (23, 4, 20), (22, 4, 20), (40, 5, 12), (60, 5, 12),
        (59, 5, 12), (1_000, 7, 4_096), (176, 4, 128), (260_000, 32, 32_768),
    ],
    hints=[
        "Three situations: all layers may be None; one may; none may. Begin with one layer, then two, and try small numbers.",
        "A None keeps `tokens` keys, and each of the other layers at least 1. So the first None fits from tokens + layers - 1 slots on.",
        "Without a None the reach is the slots used, less the layers: so use all of them. Share them with divmod: some layers get one more.",
    ],
)  # fmt: skip


@pattern.reference
def _(slots, layers, tokens):
    if slots >= layers * tokens:
        return [None] * layers
    if slots >= tokens + layers - 1:
        return [(slots - tokens) // (layers - 1)] * (layers - 1) + [None]
    each, more = divmod(slots, layers)
    return [each + 1] * more + [each] * (layers - more)


@pattern.right
def _(slots, layers, tokens):
    if slots >= layers * tokens:
        return [None for _ in range(layers)]
    out = [1] * layers
    full = slots - tokens >= layers - 1
    if full:
        out[0], slots = None, slots - tokens
    free = slots - (layers - full)
    for n in range(free):
        out[full + n % (layers - full)] += 1
    return out


@pattern.right
def _(slots, layers, tokens):
    if slots < tokens + layers - 1:
        return tuple(slots * (n + 1) // layers - slots * n // layers for n in range(layers))
    out, left = [None], slots - tokens
    for rest in range(layers - 1, 0, -1):
        W = left // rest
        out.append(W if W < tokens else None)
        left -= min(W, tokens)
    return out[::-1]


@pattern.right
def _(slots, layers, tokens):
    fits = slots - tokens >= layers - 1 or slots >= layers * tokens
    rest = layers - fits
    if not rest:
        return [None]
    base, over = divmod(slots - fits * tokens, rest)
    windows = [base + (n < over) for n in range(rest)]
    return [None if fits and W >= tokens else W for W in windows] + [None] * fits


@pattern.mistake("Shared evenly, without a None. One layer that sees everything reaches further than any windows, where it fits.")
def _(slots, layers, tokens):
    each, more = divmod(slots, layers)
    return [each + 1] * more + [each] * (layers - more)


@pattern.mistake("Some slots are left over, and each of them is one more place of reach. What the division leaves goes to some of the layers.")
def _(slots, layers, tokens):
    if slots >= layers * tokens:
        return [None] * layers
    if slots >= tokens + layers - 1:
        return [None] + [(slots - tokens) // (layers - 1)] * (layers - 1)
    return [slots // layers] * layers


@pattern.mistake("One layer gets all, the others 1. It reaches as far as can be, but the slots can be shared so that no layer is so narrow.")
def _(slots, layers, tokens):
    if slots >= layers * tokens:
        return [None] * layers
    if slots >= tokens + layers - 1:
        return [None] + [1] * (layers - 1)
    return [slots - layers + 1] + [1] * (layers - 1)


@pattern.mistake("The None is there, and what it leaves is not shared out: the other windows can be wider than 1.")
def _(slots, layers, tokens):
    if slots >= layers * tokens:
        return [None] * layers
    if slots >= tokens + layers - 1:
        return [None] + [1] * (layers - 1)
    each, more = divmod(slots, layers)
    return [each + 1] * more + [each] * (layers - more)


@pattern.mistake("A None that does not fit: it keeps all the tokens, and each of the other layers keeps at least 1.")
def _(slots, layers, tokens):
    if layers == 1 or slots >= layers * tokens:
        return [None] * layers
    return [None] + [max(1, (slots - tokens) // (layers - 1))] * (layers - 1)


@pattern.mistake("A None needs `tokens` slots, and the other layers need 1 each: it fits from tokens + layers - 1 on, and not from tokens on.")
def _(slots, layers, tokens):
    if slots >= layers * tokens:
        return [None] * layers
    if slots >= tokens:
        return [None] + [max(1, (slots - tokens) // (layers - 1))] * (layers - 1)
    each, more = divmod(slots, layers)
    return [each + 1] * more + [each] * (layers - more)


@pattern.mistake("A None fits with exactly tokens + layers - 1 slots, too: >= and not >.")
def _(slots, layers, tokens):
    if slots >= layers * tokens:
        return [None] * layers
    if slots > tokens + layers - 1:
        return [None] + [(slots - tokens) // (layers - 1)] * (layers - 1)
    each, more = divmod(slots, layers)
    return [each + 1] * more + [each] * (layers - more)


@pattern.mistake("All may be None from layers * tokens slots on, with more of them as well: >= and not ==.")
def _(slots, layers, tokens):
    if slots == layers * tokens:
        return [None] * layers
    if slots >= tokens + layers - 1:
        return [None] + [(slots - tokens) // max(1, layers - 1)] * (layers - 1)
    each, more = divmod(slots, layers)
    return [each + 1] * more + [each] * (layers - more)


@pattern.mistake("As many None as fit, and the rest with 1. One is enough to see everything; after that the narrowest window counts.")
def _(slots, layers, tokens):
    n = min(layers, max(0, (slots - layers) // max(1, tokens - 1)))
    if n:
        return [None] * n + [1] * (layers - n)
    each, more = divmod(slots, layers)
    return [each + 1] * more + [each] * (layers - more)


@pattern.mistake("Where all layers may be None, none needs to be narrower: slots for layers * tokens are enough for that.")
def _(slots, layers, tokens):
    if slots >= tokens + layers - 1:
        return [None] + [min(tokens - 1, (slots - tokens) // max(1, layers - 1)) or 1] * (layers - 1)
    each, more = divmod(slots, layers)
    return [each + 1] * more + [each] * (layers - more)


@pattern.mistake("A layer may see W - 1 places back and keeps W keys. You count W - 1 slots for it, so too many are taken.")
def _(slots, layers, tokens):
    if slots >= layers * tokens:
        return [None] * layers
    if slots >= tokens + layers - 1:
        return [None] + [(slots - tokens) // (layers - 1)] * (layers - 1)
    each, more = divmod(slots, layers)
    return [each + 2] * more + [each + 1] * (layers - more)


@pattern.mistake(FLOATS)
def _(slots, layers, tokens):
    if slots >= layers * tokens:
        return [None] * layers
    if slots >= tokens + layers - 1:
        return [None] + [(slots - tokens) / (layers - 1)] * (layers - 1)
    return [slots / layers] * layers


@pattern.mistake("The tokens are taken for the budget. The slots are it: after `tokens` tokens all layers together keep at most `slots` keys.")
def _(slots, layers, tokens):
    each, more = divmod(tokens, layers)
    return [max(1, each + 1)] * more + [max(1, each)] * (layers - more)
