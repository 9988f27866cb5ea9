"""Chapter 06: keys at hand, a chunk through the ring, the places of a ragged batch, and a cache that trims too early."""

import math

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from minimistral.exercises.frame import Exercise

# --- by hand --------------------------------------------------------------------------------------------------------------

keys_at_hand = Exercise(
    "keys_at_hand",
    hints=[
        "Four tokens are stored, at positions 0 to 3. So the chunk stands at positions 4, 5, 6, 7 and 8.",
        "Query 4 sees 0 to 4, and query 8 sees 3 to 8. All five together: every key that at least one of them sees, each counted once.",
        "After forty tokens the chunk stands at 40 to 44. Its first query, 40, sees 35 to 40: five old keys and itself.",
    ],
)


@keys_at_hand.reference
def _():
    return [5, 6, min(4, 6 - 1) + 5, min(40, 6 - 1) + 5]


@keys_at_hand.right
def _():
    return (5, 6, 9, 10)


@keys_at_hand.right
def _():
    def seen(i):
        return {j for j in range(i + 1) if j > i - 6}

    whole = [len(set().union(*map(seen, range(start, start + 5)))) for start in (4, 40)]
    return [len(seen(4)), len(seen(8)), *whole]


@keys_at_hand.right
def _():
    return [5.0, 6.0, 9.0, 10.0]


@keys_at_hand.mistake("Each query sees itself, too.")
def _():
    return [4, 5, 9, 10]


@keys_at_hand.mistake("The first query sees six keys only if there are six: it stands at position 4, the fifth token of the text.")
def _():
    return [6, 6, 9, 10]


@keys_at_hand.mistake("The last query has nine tokens up to itself, and sees only the last six of them.")
def _():
    return [5, 9, 9, 10]


@keys_at_hand.mistake("In the full ring lies one key that nobody in the chunk can see: the first query sees itself and W - 1 = 5 old ones.")
def _():
    return [5, 6, 9, 11]


@keys_at_hand.mistake("Only four tokens are stored the first time, so there are four old keys, not five.")
def _():
    return [5, 6, 10, 10]


@keys_at_hand.mistake("With forty tokens before it, the first query sees five old keys. With four, it sees four: the two cases differ.")
def _():
    return [5, 6, 9, 9]


@keys_at_hand.mistake("These are the chunk's own keys. Its first queries need older ones as well.")
def _():
    return [5, 6, 5, 5]


@keys_at_hand.mistake("First and last query share keys, and those between them need some too: count each key once, from 0 to 8.")
def _():
    return [5, 6, 11, 11]


@keys_at_hand.mistake("All forty are not needed: the window hides all but the last five of them even from the first query.")
def _():
    return [5, 6, 9, 45]


@keys_at_hand.mistake("That is what one query sees. Each query of the chunk has its own window; together they cover more.")
def _():
    return [5, 6, 6, 6]


# --- a chunk through the ring -----------------------------------------------------------------------------------------------


def chunk_draws():
    """(q, k, v, keys, values, position): rings that are empty, half full, just full and used again; chunks of one, of W, of more
    than W; a ring of one slot. What was never written is rubbish, and large."""
    g = torch.Generator().manual_seed(6)
    sizes = ((2, 3, 1, 0), (3, 4, 5, 4), (4, 6, 3, 2), (1, 4, 3, 9), (5, 3, 2, 0), (2, 5, 3, 23), (7, 3, 4, 5), (3, 1, 4, 2), (4, 4, 3, 6),
             (3, 5, 4, 2), (1, 6, 2, 3), (6, 4, 5, 2), (8, 5, 3, 10))  # fmt: skip
    cases = []
    for C, W, D, position in sizes:
        q, k, v = torch.randn(3, C, D, generator=g)
        keys, values = 9 * torch.randn(2, W, D, generator=g)
        stored = min(position, W)
        keys[:stored], values[:stored] = torch.randn(2, stored, D, generator=g)
        cases.append((q, k, v, keys, values, position))
    rubbish = 9 * torch.ones(3, 1)
    cases[0] = torch.ones(2, 1), torch.zeros(2, 1), torch.tensor([[2.0], [4.0]]), rubbish, rubbish, 0
    return cases


class OneWriteASlot(TorchDispatchMode):
    """Refuses an assignment that writes two different things to one place: PyTorch does not say which of them stays."""

    AT = {
        "index_put": lambda to, places, new, accumulate=False: None if accumulate else (torch.ops.aten.index(to, places), new),
        "index_copy": lambda to, dim, places, new: (to.index_select(dim, places), new),
        "scatter": lambda to, dim, places, new: (to.gather(dim, places), new) if isinstance(new, torch.Tensor) else None,
    }

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        look = self.AT.get(function._schema.name.removeprefix("aten::").rstrip("_"))
        written = look(out, *args[1:]) if look and not kwargs else None  # kwargs: scatter's reduce, which has an order
        if written and not torch.equal(*(x.nan_to_num() for x in torch.broadcast_tensors(*written))):
            raise ValueError("some slot is written twice in one assignment, and PyTorch does not say which of the two stays")
        return out


chunk_step = Exercise(
    "chunk_step",
    cases=chunk_draws,
    within=OneWriteASlot,
    hints=[
        "First look, then write. Put the ring's keys and the chunk's own under each other, W + C rows, and the values likewise.",
        "Which position does each of the W + C rows belong to? For the chunk: position, position + 1, ... For slot s of the ring, as in chapter 05: "
        "position - 1 - (position - 1 - s) % W, and if that is negative, nothing has been written there.",
        "Now the mask is chapter 04's, row by row: a query at i may see a key at j if 0 <= j <= i and j > i - W. All else gets -inf.",
        "Of a chunk longer than W only the last W tokens are stored: last = positions[-W:]; keys[last % W] = k[-W:], in a copy.",
    ],
)


@chunk_step.reference
def _(q, k, v, keys, values, position):
    (C, D), W = q.shape, len(keys)
    at = torch.arange(position, position + C)
    held = position - 1 - (position - 1 - torch.arange(W)) % W  # the position in each slot; negative: none yet
    j = torch.cat((held, at))
    may = (j >= 0) & (j <= at[:, None]) & (j > at[:, None] - W)
    scores = q @ torch.cat((keys, k)).T / math.sqrt(D)
    out = scores.masked_fill(~may, float("-inf")).softmax(-1) @ torch.cat((values, v))
    keys, values, last = keys.clone(), values.clone(), at[-W:]
    keys[last % W], values[last % W] = k[-W:], v[-W:]
    return out, keys, values


@chunk_step.right
def _(q, k, v, keys, values, position):
    W, keys, values, out = len(keys), keys.clone(), values.clone(), []
    for n in range(len(q)):  # one by one, each may write first
        i = position + n
        keys[i % W], values[i % W] = k[n], v[n]
        filled = min(i + 1, W)
        out.append((keys[:filled] @ q[n] / q.shape[1] ** 0.5).softmax(0) @ values[:filled])
    return torch.stack(out), keys, values


@chunk_step.right
def _(q, k, v, keys, values, position):
    W, C = len(keys), len(q)
    old = [p % W for p in range(max(0, position - W + 1), position)]  # the W - 1 that the first query sees, oldest first
    some_k, some_v = torch.cat((keys[old], k)), torch.cat((values[old], v))
    S = len(some_k)
    band = torch.ones(C, S, dtype=torch.bool).tril(S - C).triu(S - C - W + 1)
    out = F.scaled_dot_product_attention(q[None], some_k[None], some_v[None], attn_mask=band)[0]
    slots = [(position + n) % W for n in range(C)][-W:]
    return out, keys.index_copy(0, torch.tensor(slots), k[-W:]), values.index_copy(0, torch.tensor(slots), v[-W:])


@chunk_step.right
def _(q, k, v, keys, values, position):
    W, C, D = len(keys), *q.shape
    known = {p: (keys[p % W], values[p % W]) for p in range(max(0, position - W), position)}
    known |= {position + n: (k[n], v[n]) for n in range(C)}
    out = torch.zeros(C, D)
    for n in range(C):
        seen = [known[j] for j in range(max(0, position + n - W + 1), position + n + 1)]
        powers = [torch.exp(q[n] @ key / math.sqrt(D)) for key, _ in seen]
        out[n] = sum(power * value for power, (_, value) in zip(powers, seen, strict=True)) / sum(powers)
    slots = list(zip(keys, values, strict=True))
    for p in range(position, position + C):
        slots[p % W] = known[p]
    return out, torch.stack([key for key, _ in slots]), torch.stack([value for _, value in slots])


@chunk_step.right
def _(q, k, v, keys, values, position):
    C, W = len(q), len(keys)
    age = (position - 1 - torch.arange(W)) % W  # 0 for the newest
    row, column = torch.arange(C)[:, None], torch.arange(C)[None]
    old = (age < position) & (row + 1 + age < W)
    new = (column <= row) & (row - column < W)
    scores = torch.cat((q @ keys.mT, q @ k.mT), dim=1) * q.shape[1] ** -0.5
    weights = torch.where(torch.cat((old, new), dim=1), scores, -torch.inf).softmax(1)
    out = weights[:, :W] @ values + weights[:, W:] @ v
    new_keys, new_values = keys.clone(), values.clone()
    for n in range(C):
        new_keys[(position + n) % W], new_values[(position + n) % W] = k[n], v[n]
    return out, new_keys, new_values


def _chunk(q, k, v, keys, values, position, may=None, held=None, store=None, scale=None, dim=-1):
    """The reference with one of its parts replaced: most mistakes are just that."""
    (C, D), W = q.shape, len(keys)
    at = torch.arange(position, position + C)
    held = position - 1 - (position - 1 - torch.arange(W)) % W if held is None else held(W)
    j = torch.cat((held, at))
    may = (j >= 0) & (j <= at[:, None]) & (j > at[:, None] - W) if may is None else may(at[:, None], j, W)
    scores = q @ torch.cat((keys, k)).T / (math.sqrt(D) if scale is None else scale)
    out = scores.masked_fill(~may, float("-inf")).softmax(dim).nan_to_num(0) @ torch.cat((values, v))
    if store is None:
        keys, values, last = keys.clone(), values.clone(), at[-W:]
        keys[last % W], values[last % W] = k[-W:], v[-W:]
    else:
        keys, values = store(W, at)
    return out, keys, values


TOO_EARLY = "Keys are gone before the chunk has looked: written over, or trimmed away. Its first queries need W - 1 old ones. Look first, then write."


@chunk_step.mistake(TOO_EARLY)
def _(q, k, v, keys, values, position):
    W, C, D = len(keys), *q.shape
    keys, values = keys.clone(), values.clone()
    at = torch.arange(position, position + C)
    keys[at[-W:] % W], values[at[-W:] % W] = k[-W:], v[-W:]
    last = position + C - 1
    held = last - (last - torch.arange(W)) % W
    may = (held >= 0) & (held <= at[:, None]) & (held > at[:, None] - W)
    return (q @ keys.T / math.sqrt(D)).masked_fill(~may, float("-inf")).softmax(-1) @ values, keys, values


@chunk_step.mistake("The chunk is written before it looks, and the mask still says what the slots held before: the first queries take the future for "
                    "the past. Look first.")
def _(q, k, v, keys, values, position):
    W, C = len(keys), len(q)
    new_keys, new_values = keys.clone(), values.clone()
    at = torch.arange(position, position + C)
    new_keys[at[-W:] % W], new_values[at[-W:] % W] = k[-W:], v[-W:]
    out, _, _ = _chunk(q, k, v, new_keys, new_values, position)
    return out, new_keys, new_values


@chunk_step.mistake(TOO_EARLY)
def _(q, k, v, keys, values, position):
    C = len(q)
    return _chunk(q, k, v, keys, values, position,
                  may=lambda i, j, W: (j >= 0) & (j <= i) & (j > i - W) & (j >= position + C - W))


@chunk_step.mistake("The window is missing: later queries of the chunk see keys that lie W or more places before them. A key at j must satisfy j > i - W.")
def _(q, k, v, keys, values, position):
    return _chunk(q, k, v, keys, values, position, may=lambda i, j, W: (j >= 0) & (j <= i))


@chunk_step.mistake("W + 1 keys are seen. A full ring holds one key that even the first query cannot see any more: j > i - W, not j >= i - W.")
def _(q, k, v, keys, values, position):
    return _chunk(q, k, v, keys, values, position, may=lambda i, j, W: (j >= 0) & (j <= i) & (j >= i - W))


@chunk_step.mistake("At hand are the W - 1 + C keys that the chunk needs, and only the future is hidden. The first query may see all that lies before it; "
                    "each later one has a key less: j > i - W.")
def _(q, k, v, keys, values, position):
    return _chunk(q, k, v, keys, values, position, may=lambda i, j, W: (j >= 0) & (j <= i) & (j > position - W))


@chunk_step.mistake("W - 1 keys are seen. W counts the token itself: it and the W - 1 before it.")
def _(q, k, v, keys, values, position):
    return _chunk(q, k, v, keys, values, position,
                  may=lambda i, j, W: (j >= 0) & (j <= i) & (j > i - max(W - 1, 1)))


@chunk_step.mistake("Inside the chunk the queries see the future. Causality holds there as everywhere: j <= i.")
def _(q, k, v, keys, values, position):
    return _chunk(q, k, v, keys, values, position, may=lambda i, j, W: (j >= 0) & (j > i - W))


@chunk_step.mistake("Slots that were never written are looked at: as long as fewer than W tokens have come, some hold rubbish.")
def _(q, k, v, keys, values, position):
    return _chunk(q, k, v, keys, values, position, may=lambda i, j, W: (j <= i) & (j > i - W))


@chunk_step.mistake("The queries are numbered from 0. The chunk's first token stands at position, not at 0.")
def _(q, k, v, keys, values, position):
    return _chunk(q, k, v, keys, values, position,
                  may=lambda i, j, W: (j >= 0) & ((j < position) | (j <= i)) & (j > i - position - W))


@chunk_step.mistake("It takes slot 0 for the oldest. Once the ring has been used again, the oldest lies in the middle: in slot position mod W.")
def _(q, k, v, keys, values, position):
    return _chunk(q, k, v, keys, values, position,
                  held=lambda W: torch.arange(W) + max(0, position - W) - (torch.arange(W) >= position) * 1000)


@chunk_step.mistake("It takes the slot for the position. That holds only until the ring has been filled once.")
def _(q, k, v, keys, values, position):
    return _chunk(q, k, v, keys, values, position, held=lambda W: torch.where(torch.arange(W) < position, torch.arange(W), -1))


@chunk_step.mistake("The chunk sees only itself: what is stored was not used.")
def _(q, k, v, keys, values, position):
    return _chunk(q, k, v, keys, values, position, may=lambda i, j, W: (j >= position) & (j <= i) & (j > i - W))


@chunk_step.mistake("The results are right, but nothing was written: the ring that comes back is the old one.")
def _(q, k, v, keys, values, position):
    return _chunk(q, k, v, keys, values, position, store=lambda W, at: (keys.clone(), values.clone()))


@chunk_step.mistake("Of a chunk longer than W the first W tokens are kept. It must be the last W: the next chunk will look for those.")
def _(q, k, v, keys, values, position):
    def store(W, at):
        new_keys, new_values = keys.clone(), values.clone()
        new_keys[at[:W] % W], new_values[at[:W] % W] = k[:W], v[:W]
        return new_keys, new_values

    return _chunk(q, k, v, keys, values, position, store=store)


@chunk_step.mistake("Some slot is written twice in one assignment, and PyTorch does not say which of the two stays: on many cores it may be either. "
                    "Of a chunk longer than W write only the last W.")
def _(q, k, v, keys, values, position):
    def store(W, at):
        new_keys, new_values = keys.clone(), values.clone()
        new_keys[at % W], new_values[at % W] = k, v
        return new_keys, new_values

    return _chunk(q, k, v, keys, values, position, store=store)


@chunk_step.mistake("Of a chunk longer than W the last W tokens are kept, but in the slots of the first W. The first that is kept stands at "
                    "position + C - W.")
def _(q, k, v, keys, values, position):
    def store(W, at):
        new_keys, new_values = keys.clone(), values.clone()
        new_keys[at[:W] % W], new_values[at[:W] % W] = k[-W:], v[-W:]
        return new_keys, new_values

    return _chunk(q, k, v, keys, values, position, store=store)


@chunk_step.mistake("Slots to which nothing is written stay as they are, rubbish too: here they come back as zeros. Begin with keys.clone().")
def _(q, k, v, keys, values, position):
    def store(W, at):
        old = torch.arange(max(0, position - W), position) % W
        new = []
        for before, brought in ((keys, k), (values, v)):
            slots = torch.zeros_like(before)
            slots[old] = before[old]
            slots[at[-W:] % W] = brought[-W:]
            new.append(slots)
        return new

    return _chunk(q, k, v, keys, values, position, store=store)


@chunk_step.mistake("The slots are counted from the chunk's beginning. A token's slot is its position mod W.")
def _(q, k, v, keys, values, position):
    def store(W, at):
        new_keys, new_values = keys.clone(), values.clone()
        slots = (at[-W:] - position) % W
        new_keys[slots], new_values[slots] = k[-W:], v[-W:]
        return new_keys, new_values

    return _chunk(q, k, v, keys, values, position, store=store)


@chunk_step.mistake("The last W are kept, but in order, oldest first. In a ring each token lies in slot position mod W.")
def _(q, k, v, keys, values, position):
    def store(W, at):
        old = [p % W for p in range(max(0, position - W), position)]
        both = torch.cat((keys[old], k))[-W:], torch.cat((values[old], v))[-W:]
        rest = W - len(both[0])
        return tuple(torch.cat((x, y[W - rest :])) for x, y in zip(both, (keys, values), strict=True))

    return _chunk(q, k, v, keys, values, position, store=store)


@chunk_step.mistake("The ring has grown: the chunk was appended to it. It has W slots, and keeps them.")
def _(q, k, v, keys, values, position):
    return _chunk(q, k, v, keys, values, position, store=lambda W, at: (torch.cat((keys, k)), torch.cat((values, v))))


@chunk_step.mistake("The keys are written and the values are not: new keys now stand beside old values.")
def _(q, k, v, keys, values, position):
    def store(W, at):
        new_keys = keys.clone()
        new_keys[at[-W:] % W] = k[-W:]
        return new_keys, values.clone()

    return _chunk(q, k, v, keys, values, position, store=store)


@chunk_step.mistake("It writes into the keys and values it was given. The library does that too; here the check wants copies: keys.clone().")
def _(q, k, v, keys, values, position):
    def store(W, at):
        keys[at[-W:] % W], values[at[-W:] % W] = k[-W:], v[-W:]
        return keys, values

    return _chunk(q, k, v, keys, values, position, store=store)


@chunk_step.mistake("The scores are not divided by the square root of D.")
def _(q, k, v, keys, values, position):
    return _chunk(q, k, v, keys, values, position, scale=1)


@chunk_step.mistake("The softmax runs down the columns. Each query shares out 1 among its keys: along the last dimension.")
def _(q, k, v, keys, values, position):
    return _chunk(q, k, v, keys, values, position, dim=0)


@chunk_step.mistake("Nothing is weighed: this is the plain average of the values in the window.")
def _(q, k, v, keys, values, position):
    return _chunk(0 * q, k, v, keys, values, position)


# --- the places of a ragged batch -------------------------------------------------------------------------------------------


def ragged_cases():
    """(positions, lengths, W): one row, rows that sit out, rows that wrap, rows longer than W; no two rows alike."""
    return [
        ([0], [1], 3),
        ([3], [2], 4),
        ([0, 0], [2, 0], 3),
        ([5, 2, 0], [3, 1, 0], 4),
        ([2, 7], [5, 3], 3),
        ([0, 4, 9, 1], [6, 0, 4, 2], 5),
        ([1, 6, 3], [4, 9, 1], 1),
        ([4_095, 5_000, 17], [2, 1, 3], 4_096),
        ([8, 3, 0, 12, 6], [7, 2, 0, 1, 11], 6),
    ]


places = Exercise(
    "places",
    cases=ragged_cases,
    hints=[
        "Every row stands somewhere else, and each is a ring of its own: take one row at a time. Column c of a row is the token at position + c.",
        "Padding stands behind the real tokens: in a row of length n the columns 0 to n - 1 are real, and no other is stored.",
        "Of more than W real tokens, the earlier ones would be overwritten by the later ones in the same chunk. Which columns are left?",
    ],
)


@places.reference
def _(positions, lengths, W):
    after = [position + n for position, n in zip(positions, lengths, strict=True)]
    writes = []
    for position, n in zip(positions, lengths, strict=True):
        writes.append([(c, (position + c) % W) for c in range(max(0, n - W), n)])
    return after, writes


@places.right
def _(positions, lengths, W):
    after, writes = [], []
    for row in range(len(positions)):
        taken = {}
        for c in range(lengths[row]):
            taken[(positions[row] + c) % W] = c  # the last one stays
        writes.append(sorted((c, slot) for slot, c in taken.items()))
        after.append(positions[row] + lengths[row])
    return after, writes


@places.right
def _(positions, lengths, W):
    ends = (torch.tensor(positions) + torch.tensor(lengths)).tolist()
    rows = [[[p - start, p % W] for p in range(start, end) if p + W >= end] for start, end in zip(positions, ends, strict=True)]
    return ends, rows


@places.right
def _(positions, lengths, W):
    columns = torch.arange(max(lengths))
    real = (columns < torch.tensor(lengths)[:, None]) & (columns >= torch.tensor(lengths)[:, None] - W)
    slots = (torch.tensor(positions)[:, None] + columns) % W
    writes = [[(c, slots[row, c].item()) for c in real[row].nonzero().flatten().tolist()] for row in range(len(positions))]
    return tuple(p + n for p, n in zip(positions, lengths, strict=True)), writes


def _placed(positions, lengths, W, column=None, slot=None, end=None, first=None):
    """The reference with one of its parts replaced."""
    T = max(lengths)
    after, writes = [], []
    for position, n in zip(positions, lengths, strict=True):
        after.append(position + n if end is None else end(position, n, T))
        there = range(max(0, n - W), n) if column is None else column(n, T)
        writes.append([(c, (position + c) % W if slot is None else slot(position, n, c)) for c in there])
    return after, writes


@places.mistake("Padding is stored too. In a row of length n only the columns 0 to n - 1 are real.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, column=lambda n, T: range(max(0, T - W), T))


@places.mistake("The right tokens are stored, but padding moves the position on. Each row moves by its own length.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, end=lambda position, n, T: position + T)


@places.mistake("Padding is stored, and moves the position on. Each row has its own length.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, column=lambda n, T: range(max(0, T - W), T), end=lambda position, n, T: position + T)


@places.mistake("Some slot is written twice in one chunk. Of more than W tokens only the last W are stored.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, column=lambda n, T: range(n))


@places.mistake("Of more than W tokens the first W are stored. The ring must hold the last W.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, column=lambda n, T: range(min(n, W)))


@places.mistake("The slot is counted from the column. It is the token's position mod W, and the first column stands at position.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, slot=lambda position, n, c: c % W)


@places.mistake("All rows are written where the first one stands. Each row has a position of its own.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, slot=lambda position, n, c: (positions[0] + c) % W)


@places.mistake("All rows are written where the longest one stands. Each row has a position of its own.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, slot=lambda position, n, c: (max(positions) + c) % W)


@places.mistake("The slots are one too far: the token in column 0 stands at position itself, the one that is free next.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, slot=lambda position, n, c: (position + c + 1) % W)


@places.mistake("The slots are one too early: the token in column 0 stands at position itself.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, slot=lambda position, n, c: (position + c - 1) % W)


@places.mistake("The columns are counted among those that are stored. Where the first ones of a long chunk are left out, the next one keeps its own number.")
def _(positions, lengths, W):
    after, writes = _placed(positions, lengths, W)
    return after, [[(c, slot) for c, (_, slot) in enumerate(row)] for row in writes]


@places.mistake("The tokens are right, but their slots are counted among those that are stored: the token in column c stands at position + c.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, slot=lambda position, n, c: (position + c - max(0, n - W)) % W)


@places.mistake("The last W columns are taken of the whole chunk, padding and all. In each row count back from its own length.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, column=lambda n, T: range(max(0, T - W), n))


@places.mistake("W - 1 tokens are stored. The ring has W slots, and the last W tokens fill them.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, column=lambda n, T: range(max(0, n - W + 1), n))


@places.mistake("The position moves on by the tokens that are stored. It moves by all the real ones: those that are not stored have been read, too.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, end=lambda position, n, T: position + min(n, W))


@places.mistake("Some columns are negative: in a row of fewer than W tokens n - W lies below 0, where the columns begin.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, column=lambda n, T: range(n - W, n))


@places.mistake("The pairs are the wrong way round: (column, slot) is asked for.")
def _(positions, lengths, W):
    after, writes = _placed(positions, lengths, W)
    return after, [[(slot, c) for c, slot in row] for row in writes]


@places.mistake("A row that sits out is left out. It has a place in the lists all the same: its old position, and an empty list.")
def _(positions, lengths, W):
    after, writes = _placed(positions, lengths, W)
    there = [row for row, n in enumerate(lengths) if n]
    return [after[row] for row in there], [writes[row] for row in there]


@places.mistake("The positions came back unchanged: each row moves on by the number of its real tokens.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, end=lambda position, n, T: position)


@places.mistake("The position has been wrapped. It is absolute: RoPE and the window need it whole; only the slot wraps.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, end=lambda position, n, T: (position + n) % W)


@places.mistake("The position stays on the last token. It is where the *next* token will stand.")
def _(positions, lengths, W):
    return _placed(positions, lengths, W, end=lambda position, n, T: position + n - 1)


@places.mistake("The padding stands in front here. Rows are padded on the right: the real tokens come first.")
def _(positions, lengths, W):
    T = max(lengths)
    after, writes = _placed(positions, lengths, W)
    return after, [[(c + T - n, slot) for c, slot in row] for row, n in zip(writes, lengths, strict=True)]


# --- a cache that trims too early -------------------------------------------------------------------------------------------


def trimmed_draws():
    """(q, k, v, keys, values, W): n = min(position, W) tokens are stored, oldest first. One token first, then chunks."""
    g = torch.Generator().manual_seed(7)
    sizes = ((2, 3, 1, 0), (1, 4, 3, 4), (3, 4, 5, 4), (5, 3, 2, 0), (4, 6, 3, 2), (7, 3, 4, 3), (3, 1, 4, 1), (2, 5, 3, 5), (4, 4, 5, 4),
             (6, 9, 4, 9), (1, 6, 2, 3), (2, 7, 3, 4))  # fmt: skip
    cases = [
        (*torch.randn(3, C, D, generator=g), *torch.randn(2, n, D, generator=g), W)
        for C, W, D, n in sizes
    ]
    empty = torch.zeros(0, 1)
    cases[0] = torch.ones(2, 1), torch.zeros(2, 1), torch.tensor([[2.0], [4.0]]), empty, empty, 3
    return cases


def broken_step(q, k, v, keys, values, W):
    """It was published in this order. The exercise is to mend it."""
    keys, values = torch.cat((keys, k))[-W:], torch.cat((values, v))[-W:]
    S, (C, D) = len(keys), q.shape
    future = torch.ones(C, S).triu(S - C + 1).bool()  # the last query sees the last key
    scores = (q @ keys.T / math.sqrt(D)).masked_fill(future, float("-inf"))
    return scores.softmax(-1) @ values, keys, values


trimmed_step = Exercise(
    "trimmed_step",
    cases=trimmed_draws,
    hints=[
        "The first bug is the order. When may keys be thrown away: before the chunk has looked, or after?",
        "With nothing trimmed, row S - C + r of the keys belongs to query r. Who sees a key that lies W or more places before it? Nobody may.",
        "hidden = (j > i) | (j <= i - W), with j = torch.arange(S) and i = torch.arange(S - C, S)[:, None]. Trim what you return.",
    ],
)


@trimmed_step.reference
def _(q, k, v, keys, values, W):
    keys, values = torch.cat((keys, k)), torch.cat((values, v))  # nothing is thrown away yet
    S, (C, D) = len(keys), q.shape
    i, j = torch.arange(S - C, S)[:, None], torch.arange(S)
    hidden = (j > i) | (j <= i - W)  # trimming used to hide what is too old; now the mask must
    scores = (q @ keys.T / math.sqrt(D)).masked_fill(hidden, float("-inf"))
    return scores.softmax(-1) @ values, keys[-W:], values[-W:]


@trimmed_step.right
def _(q, k, v, keys, values, W):
    out = []
    for n in range(len(q)):  # one by one, where trimming first is right
        keys, values = torch.cat((keys, k[n : n + 1]))[-W:], torch.cat((values, v[n : n + 1]))[-W:]
        out.append((keys @ q[n] / math.sqrt(len(q[n]))).softmax(0) @ values)
    return torch.stack(out), keys, values


@trimmed_step.right
def _(q, k, v, keys, values, W):
    keys, values = torch.cat((keys, k)), torch.cat((values, v))
    S, C = len(keys), len(q)
    band = torch.ones(C, S, dtype=torch.bool).tril(S - C).triu(S - C - W + 1)
    out = F.scaled_dot_product_attention(q[None], keys[None], values[None], attn_mask=band)[0]
    return out, keys[max(0, S - W) :], values[max(0, S - W) :]


@trimmed_step.right
def _(q, k, v, keys, values, W):
    every_k, every_v = [*keys, *k], [*values, *v]
    old, out = len(keys), []
    for n in range(len(q)):
        seen = slice(max(0, old + n - W + 1), old + n + 1)
        scores = torch.stack([key @ q[n] for key in every_k[seen]]) / q.shape[1] ** 0.5
        out.append((scores.softmax(0)[:, None] * torch.stack(every_v[seen])).sum(0))
    return torch.stack(out), torch.stack(every_k[-W:]), torch.stack(every_v[-W:])


trimmed_step.mistake("It is as it was. Begin with the order: what is trimmed before the chunk looks can be seen by nobody.")(broken_step)


def _joined(q, k, v, keys, values, W, hidden, kept=None, scale=None, dim=-1):
    keys, values = torch.cat((keys, k)), torch.cat((values, v))
    S, (C, D) = len(keys), q.shape
    hide = hidden(torch.arange(S - C, S)[:, None], torch.arange(S))
    out = (q @ keys.T / (scale or math.sqrt(D))).masked_fill(hide, float("-inf")).softmax(dim).nan_to_num(0) @ values
    return (out, keys[-W:], values[-W:]) if kept is None else (out, *kept(keys, values))


@trimmed_step.mistake("The order is mended, and now the other bug shows: nothing hides the keys that are too old. Trimming did it by accident; the mask "
                      "must do it on purpose.")
def _(q, k, v, keys, values, W):
    return _joined(q, k, v, keys, values, W, lambda i, j: j > i)


@trimmed_step.mistake("The NaN is painted over, and the missing keys are still missing. A row without keys is a sign that they were thrown away too early.")
def _(q, k, v, keys, values, W):
    out, keys, values = broken_step(q, k, v, keys, values, W)
    return out.nan_to_num(0), keys, values


@trimmed_step.mistake("It is trimmed to W - 1 + C, and one key too many is seen: the mask lets the first query see W + 1 keys. j <= i - W is hidden.")
def _(q, k, v, keys, values, W):
    return _joined(q, k, v, keys, values, W, lambda i, j: (j > i) | (j < i - W))


@trimmed_step.mistake("Trimmed to the W - 1 + C keys that the chunk needs, which is right, but only the future is hidden: the first query may see all "
                      "before it, each later one has a key less.")
def _(q, k, v, keys, values, W):
    return _joined(q, k, v, keys, values, W, lambda i, j: (j > i) | (j <= i[0] - W))


@trimmed_step.mistake("The scores are not divided by the square root of D.")
def _(q, k, v, keys, values, W):
    return _joined(q, k, v, keys, values, W, lambda i, j: (j > i) | (j <= i - W), scale=1)


@trimmed_step.mistake("The softmax runs down the columns. Each query shares out 1 among its keys: along the last dimension.")
def _(q, k, v, keys, values, W):
    return _joined(q, k, v, keys, values, W, lambda i, j: (j > i) | (j <= i - W), dim=0)


@trimmed_step.mistake("W + 1 are kept, one too many: [-W:] is the last W.")
def _(q, k, v, keys, values, W):
    return _joined(q, k, v, keys, values, W, lambda i, j: (j > i) | (j <= i - W), lambda keys, values: (keys[-W - 1 :], values[-W - 1 :]))


@trimmed_step.mistake("The keys are trimmed and the values are not: there must be one value for each key.")
def _(q, k, v, keys, values, W):
    return _joined(q, k, v, keys, values, W, lambda i, j: (j > i) | (j <= i - W), lambda keys, values: (keys[-W:], values))


@trimmed_step.mistake("W - 1 keys are seen. W counts the token itself: hidden is what lies W or more places before it, j <= i - W.")
def _(q, k, v, keys, values, W):
    return _joined(q, k, v, keys, values, W, lambda i, j: (j > i) | (j <= i - max(W - 1, 1)))


@trimmed_step.mistake("The results are right, but nothing is trimmed any more: the cache grows without end. Return the last W.")
def _(q, k, v, keys, values, W):
    return _joined(q, k, v, keys, values, W, lambda i, j: (j > i) | (j <= i - W), lambda keys, values: (keys, values))


@trimmed_step.mistake("W - 1 are kept. That is enough for the next chunk, true; but the last W are asked for, and for W = 1 [-W + 1:] keeps everything.")
def _(q, k, v, keys, values, W):
    return _joined(q, k, v, keys, values, W, lambda i, j: (j > i) | (j <= i - W), lambda keys, values: (keys[-W + 1 :], values[-W + 1 :]))


@trimmed_step.mistake("Only the chunk is kept. A short chunk leaves older keys that the next one still needs: keep the last W of all.")
def _(q, k, v, keys, values, W):
    return _joined(q, k, v, keys, values, W, lambda i, j: (j > i) | (j <= i - W), lambda keys, values: (k[-W:], v[-W:]))


@trimmed_step.mistake("The old keys come back: what this chunk brought is not stored.")
def _(q, k, v, old_keys, old_values, W):
    return _joined(q, k, v, old_keys, old_values, W, lambda i, j: (j > i) | (j <= i - W), lambda *_: (old_keys, old_values))


@trimmed_step.mistake("The mask begins at key 0, as if nothing were stored: query r stands at S - C + r, not at r.")
def _(q, k, v, keys, values, W):
    return _joined(q, k, v, keys, values, W, lambda i, j: (j > i - i[0]) | (j <= i - i[0] - W))


@trimmed_step.mistake("Inside the chunk the queries see the future.")
def _(q, k, v, keys, values, W):
    return _joined(q, k, v, keys, values, W, lambda i, j: j <= i - W)


@trimmed_step.mistake("The chunk sees only itself: what is stored is not looked at.")
def _(q, k, v, keys, values, W):
    return _joined(q, k, v, keys, values, W, lambda i, j: (j > i) | (j <= i - W) | (j < i[0]))
