"""Chapter 05: the rolling buffer by hand, what a slot holds, the slots in order, and one step of decode with W slots."""

import math
from collections import deque

import torch
import torch.nn.functional as F

from minimistral.exercises.frame import Exercise

# --- by hand --------------------------------------------------------------------------------------------------------------

slots_by_hand = Exercise(
    "slots_by_hand",
    hints=[
        "Thirteen tokens stand at positions 0 to 12. Only the last five of them can still be there.",
        "Those five are the positions 8, 9, 10, 11 and 12. Each sits where its own position says: divide by 5, keep the remainder.",
        "10 divided by 5 leaves 0, so slot 0 holds position 10. And 8 divided by 5 leaves 3.",
    ],
)


@slots_by_hand.reference
def _():
    return [10, 11, 12, 8, 9]


@slots_by_hand.right
def _():
    return (10, 11, 12, 8, 9)


@slots_by_hand.right
def _():
    slots = [None] * 5
    for position in range(13):
        slots[position % 5] = position
    return slots


@slots_by_hand.right
def _():
    return [10.0, 11.0, 12.0, 8.0, 9.0]


@slots_by_hand.mistake("These are the right five, put in order. But nobody moves up in a ring: each stays in the slot of its own position.")
def _():
    return [8, 9, 10, 11, 12]


@slots_by_hand.mistake("You counted from 1. The first token stands at position 0, so the thirteenth stands at position 12.")
def _():
    return [10, 11, 12, 13, 9]


@slots_by_hand.mistake("You counted from 1, and began with slot 0. The first token stands at position 0, and 0 mod 5 is slot 0.")
def _():
    return [11, 12, 13, 9, 10]


@slots_by_hand.mistake("These are the right five, each one slot too early: 0 mod 5 is 0, so position 0 took slot 0, and 5 and 10 after it.")
def _():
    return [11, 12, 8, 9, 10]


FOUR = "These are four. This ring has five slots, 0 to 4, and after thirteen tokens each of them holds one."


@slots_by_hand.mistake(FOUR)
def _():
    return [12, 9, 10, 11]


@slots_by_hand.mistake(FOUR)
def _():
    return [9, 10, 11, 12]


@slots_by_hand.mistake(FOUR)
def _():
    return [10, 11, 12, 9]


@slots_by_hand.mistake(FOUR)
def _():
    return [10, 11, 8, 9]


@slots_by_hand.mistake("Slots 3 and 4 were used again too, by positions 8 and 9: they were overwritten before 10 came.")
def _():
    return [10, 11, 12, 3, 4]


@slots_by_hand.mistake("One token is missing: thirteen tokens are the positions 0 to 12, both counted.")
def _():
    return [10, 11, 7, 8, 9]


@slots_by_hand.mistake("One token too many: thirteen tokens end at position 12.")
def _():
    return [10, 11, 12, 13, 14]


@slots_by_hand.mistake("These are the first five. The ring keeps the last five.")
def _():
    return [0, 1, 2, 3, 4]


@slots_by_hand.mistake("All thirteen cannot be there: the ring has five slots, and a new token overwrites an old one.")
def _():
    return list(range(13))


@slots_by_hand.mistake("These are the newest first. A slot is not a place in a queue: position 10 sits in slot 10 mod 5.")
def _():
    return [12, 11, 10, 9, 8]


@slots_by_hand.mistake("These are the slots that the last five tokens went to. Asked for is the other way round: who sits in slot 0, in slot 1, ...?")
def _():
    return [3, 4, 0, 1, 2]


# --- what a slot holds ----------------------------------------------------------------------------------------------------


def slot_cases():
    """(slot, position, size): full rings and rings that are not, the last slot and the first, position 0, a ring of one slot, and
    the puzzle's own sizes."""
    small = [(0, 3, 2), (0, 0, 1), (0, 1, 1), (0, 5, 1), (0, 0, 3), (1, 1, 3), (1, 2, 3), (0, 2, 3), (2, 2, 3)]
    full = [(2, 7, 4), (3, 7, 4), (0, 8, 4), (3, 8, 4), (0, 9, 4), (1, 9, 4), (5, 6, 6), (4, 23, 5)]
    return [*small, *full, (904, 5_000, 4_096), (904, 5_001, 4_096), (905, 5_001, 4_096)]


held = Exercise(
    "held",
    cases=slot_cases,
    hints=[
        "Take size 4 and position 7, so 0 to 6 have been written. Which of those go to slot 2? 2 and 6. Which of them lies there now?",
        "A loop is enough: go back from position - 1, one by one, until one has that slot. What if none has?",
        "Without a loop: how many steps must position - 1 go back to a number that leaves slot? (position - 1 - slot) % size.",
    ],
)


@held.reference
def _(slot, position, size):
    last = position - 1
    latest = last - (last - slot) % size
    return latest if latest >= 0 else None


@held.right
def _(slot, position, size):
    for p in reversed(range(position)):
        if p % size == slot:
            return p
    return None


@held.right
def _(slot, position, size):
    return max((p for p in range(position) if p % size == slot), default=None)


@held.right
def _(slot, position, size):
    latest = None
    while slot < position:
        latest, slot = slot, slot + size
    return latest


@held.right
def _(slot, position, size):
    laps, rest = divmod(position, size)
    if slot < rest:  # already written in this lap
        return laps * size + slot
    return (laps - 1) * size + slot if laps else None


@held.right
def _(slot, position, size):
    ring = [None] * size
    for p in range(position):
        ring[p % size] = p
    return ring[slot]


@held.right
def _(slot, position, size):
    if slot >= position:
        return None
    return slot + (position - 1 - slot) // size * size


@held.mistake("This is the lap that is being written now, for every slot. The slots that it has not come to yet still hold the lap before.")
def _(slot, position, size):
    latest = position // size * size + slot
    return latest if latest < position or position >= size else None


@held.mistake("It looks into the future: position itself has not been written yet. The latest is at most position - 1.")
def _(slot, position, size):
    latest = position - (position - slot) % size
    return latest if latest >= 0 else None


@held.mistake("A slot that nothing has been written to holds no position: there it must be None, not a negative number.")
def _(slot, position, size):
    last = position - 1
    return last - (last - slot) % size


@held.mistake("Where nothing has been written, return None: -1 could be mistaken for a position, and in Python keys[-1] is the last key.")
def _(slot, position, size):
    return max((p for p in range(position) if p % size == slot), default=-1)


@held.mistake("It is right where something has been written; where nothing has been, it gives the slot's own number. math.fmod keeps the sign of a "
              "negative number; Python's % does not.")
def _(slot, position, size):
    last = position - 1
    latest = int(last - math.fmod(last - slot, size))
    return latest if latest >= 0 else None


@held.mistake("It looks back size - 1 places. The oldest in a full ring was written size places back, at position - size.")
def _(slot, position, size):
    for p in range(position - 1, max(-1, position - size), -1):
        if p % size == slot:
            return p
    return None


ONE = "A ring of one slot is no exception: there slot 0 holds position - 1, and None while nothing has come."


@held.mistake(ONE)
def _(slot, position, size):
    if size == 1:
        return slot
    return max((p for p in range(position) if p % size == slot), default=None)


@held.mistake(ONE)
def _(slot, position, size):
    if size == 1:
        return position - 1
    return max((p for p in range(position) if p % size == slot), default=None)


@held.mistake(ONE)
def _(slot, position, size):
    if size == 1:
        return None
    return max((p for p in range(position) if p % size == slot), default=None)


@held.mistake("This is the first one that was written there. It has been overwritten since: asked for is the latest.")
def _(slot, position, size):
    return slot if slot < position else None


@held.mistake("This is the slot's own number, also where nothing has been written.")
def _(slot, position, size):
    return slot


@held.mistake("Position 0 is a position: what tests for truth takes 0 for nothing. Compare with None, or with >= 0.")
def _(slot, position, size):
    return max((p for p in range(position) if p % size == slot), default=None) or None


@held.mistake("This is the one before the latest: it has just been overwritten.")
def _(slot, position, size):
    last = position - 1
    latest = last - (last - slot) % size
    return latest - size if latest >= size else latest if latest >= 0 else None


@held.mistake("This is the age, how long ago it was written. Asked for is the position.")
def _(slot, position, size):
    last = position - 1
    age = (last - slot) % size
    return age if age <= last else None


@held.mistake("The last token written is missing: the positions before position are 0 to position - 1, both counted.")
def _(slot, position, size):
    return max((p for p in range(position - 1) if p % size == slot), default=None)


@held.mistake("This is the next one that will be written there. Asked for is the latest that has been.")
def _(slot, position, size):
    return position + (slot - position) % size


@held.mistake("It answers as if the ring were full from the beginning: (position - size) + slot is right only where slot 0 is the oldest.")
def _(slot, position, size):
    latest = position - size + slot
    return latest if latest >= 0 else None


# --- in order -------------------------------------------------------------------------------------------------------------


def rings_of_words():
    """(slots, position): rings that are empty, partly filled, just full, used again, and just full again; words, so that they cannot
    be sorted. In the first one the slot order, its reverse, and each turn of the ring are different."""
    return [
        (["the", "mat", "sat", "on"], 6),
        ([None], 0),
        (["so"], 1),
        (["then"], 4),
        (["sat", "cat"], 3),
        ([None] * 3, 0),
        (["the", None, None, None], 1),
        (["the", "cat", "sat", None, None, None, None], 3),
        (["on", "the", "cat", "sat"], 4),
        (["mat", "on", "the", "cat", "on"], 6),
        (["red", "ball", "and", "a", "fox"], 10),
        (["and", "the", "dog", "on", "the", "mat"], 9),
        (["b", "c", "d", "e", "f", "g", "h", "a"], 15),
        ([0, 1, None], 2),
        ([9, 0, 1, 2, 3, 4, 5, 6, 7, 8], 31),
    ]


in_order = Exercise(
    "in_order",
    cases=rings_of_words,
    hints=[
        "W = 4 and position 7: the ring holds 4, 5, 6, 3. Who is the oldest, and in which slot? In the one that position 7 will take.",
        "Walk through the positions, not through the slots: the oldest that is still there, up to position - 1. Each tells you its slot.",
        "The oldest still there is position - W, or 0 while the ring is not full yet: max(0, position - W).",
    ],
)


@in_order.reference
def _(slots, position):
    W = len(slots)
    return [slots[p % W] for p in range(max(0, position - W), position)]


@in_order.right
def _(slots, position):
    if position <= len(slots):
        return slots[:position]
    oldest = position % len(slots)
    return slots[oldest:] + slots[:oldest]


@in_order.right
def _(slots, position):
    ring = deque(slots)
    ring.rotate(-position)
    return [item for item in ring if item is not None]


@in_order.right
def _(slots, position):
    def age(slot):
        return (position - 1 - slot) % len(slots)

    order = sorted(range(len(slots)), key=age, reverse=True)
    return [slots[slot] for slot in order if age(slot) < position]


@in_order.right
def _(slots, position):
    found = []
    for back in range(1, min(position, len(slots)) + 1):
        found.insert(0, slots[(position - back) % len(slots)])
    return found


@in_order.mistake("This is the order of the slots, not of the ages. Once the ring has been used again, the oldest is in the middle: in slot position "
                  "mod W. (slots[position:] alone is empty as soon as position has passed W.)")
def _(slots, position):
    return slots[: min(position, len(slots))]


@in_order.mistake("While the ring is not full, the empty slots come along. Only what is there should come out.")
def _(slots, position):
    oldest = position % len(slots)
    return slots[oldest:] + slots[:oldest]


@in_order.mistake("These are the slots as they are, in their own order and with the empty ones. The oldest is in the slot that position will take next.")
def _(slots, position):
    return list(slots)


BACK = "These are the slots backwards. That is the newest first while the ring is filled for the first time, and no order at all afterwards."


@in_order.mistake(BACK)
def _(slots, position):
    return slots[::-1]


@in_order.mistake(BACK)
def _(slots, position):
    return [item for item in reversed(slots) if item is not None]


@in_order.mistake("This is the newest first. Oldest first was asked for.")
def _(slots, position):
    W = len(slots)
    return [slots[p % W] for p in reversed(range(max(0, position - W), position))]


@in_order.mistake("The oldest is left out: with W slots there are W items, the positions position - W to position - 1.")
def _(slots, position):
    W = len(slots)
    return [slots[p % W] for p in range(max(0, position - W + 1), position)]


@in_order.mistake("The newest comes first, and then the others in order: it began one slot too early. The oldest is in the slot of position, not of "
                  "position - 1.")
def _(slots, position):
    W = len(slots)
    if position <= W:
        return slots[:position]
    newest = (position - 1) % W
    return slots[newest:] + slots[:newest]


@in_order.mistake("It began one slot too late: the oldest comes last. The oldest is in the slot that position will take next.")
def _(slots, position):
    W = len(slots)
    if position <= W:
        return slots[:position]
    second = (position + 1) % W
    return slots[second:] + slots[:second]


@in_order.mistake("The newest comes first, and then the others in order: it began one slot too early. The oldest is in the slot of position, not of "
                  "position - 1.")
def _(slots, position):
    start = (position - 1) % len(slots)
    return [item for item in slots[start:] + slots[:start] if item is not None]


@in_order.mistake("The newest comes first, and then the others in order: it began one slot too early. The oldest is in the slot of position, not of "
                  "position - 1.")
def _(slots, position):
    if position < len(slots):
        return slots[:position]
    start = (position - 1) % len(slots)
    return slots[start:] + slots[:start]


@in_order.mistake("It began one slot too late: the oldest comes last. The oldest is in the slot that position will take next.")
def _(slots, position):
    start = (position + 1) % len(slots)
    return [item for item in slots[start:] + slots[:start] if item is not None]


@in_order.mistake("It began one slot too late: the oldest comes last. The oldest is in the slot that position will take next.")
def _(slots, position):
    if position < len(slots):
        return slots[:position]
    start = (position + 1) % len(slots)
    return slots[start:] + slots[:start]


@in_order.mistake("It turns the ring the wrong way round.")
def _(slots, position):
    start = -position % len(slots)
    return [item for item in slots[start:] + slots[:start] if item is not None]


@in_order.mistake("It turns the ring the wrong way round.")
def _(slots, position):
    if position < len(slots):
        return slots[:position]
    start = -position % len(slots)
    return slots[start:] + slots[:start]


@in_order.mistake("It turns the ring the wrong way round.")
def _(slots, position):
    W = len(slots)
    if position <= W:
        return slots[:position]
    return slots[-(position % W) :] + slots[: -(position % W)] if position % W else list(slots)


@in_order.mistake("Empty slots are sorted out by their truth, and 0 goes with them. An empty slot holds None.")
def _(slots, position):
    oldest = position % len(slots)
    return [item for item in slots[oldest:] + slots[:oldest] if item]


@in_order.mistake("It reads on to position itself, which has not been written yet: the range ends before position.")
def _(slots, position):
    W = len(slots)
    return [slots[p % W] for p in range(max(0, position - W), position + 1)]


@in_order.mistake("These are the positions. Asked for is what lies there: slots[position mod W].")
def _(slots, position):
    return list(range(max(0, position - len(slots)), position))


# --- one step of decode with W slots ------------------------------------------------------------------------------------------


def ring_draws():
    """(q, k, v, keys, values, position): the first token, a ring not yet full, just full, used again, and of one slot. What was never
    written is large, and its keys point where q points: it takes all the weight if it is looked at. In one case the tokens' own
    scores are near -40, so that a mask of -100 is not enough."""
    g = torch.Generator().manual_seed(5)
    cases = []
    for W, D, position in ((3, 2, 0), (4, 5, 2), (5, 3, 4), (6, 4, 6), (2, 6, 7), (7, 3, 12), (1, 4, 9), (9, 2, 3), (8, 5, 24)):
        q, k, v = torch.randn(3, D, generator=g)
        keys, values = 1e3 * q.expand(W, D), 1e3 * torch.randn(W, D, generator=g)
        keys, stored = keys.clone(), min(position, W)
        keys[:stored], values[:stored] = torch.randn(2, stored, D, generator=g)
        if (W, position) == (4, 2):  # scores of 100, so that -100 added to them is about nothing
            keys[stored:] = 100 * math.sqrt(D) * q / (q @ q)
        if (W, position) == (9, 3):
            far = -40 * math.sqrt(D) * q / (q @ q)
            k, keys[:stored], values[stored:] = far + k / 9, far + keys[:stored] / 9, 1e30
        cases.append((q, k, v, keys, values, position))
    q, k, v, keys, values, position = cases[0]
    cases[0] = torch.ones(2), torch.zeros(2), torch.tensor([1.0, 2.0]), 1e3 * torch.ones(3, 2), 9 * torch.ones(3, 2), 0
    return cases


ring_step = Exercise(
    "ring_step",
    cases=ring_draws,
    hints=[
        "Write first: slot = position % W, in copies of keys and values. Then look: the token has to see itself.",
        "How many slots hold a token by now? position + 1 of them, but never more than W.",
        "They are always the first ones: keys[:n] with n = min(position + 1, W). Their order does not matter.",
    ],
)


@ring_step.reference
def _(q, k, v, keys, values, position):
    W, D = keys.shape
    keys, values = keys.clone(), values.clone()
    keys[position % W], values[position % W] = k, v  # over the one that nobody can see any more
    n = min(position + 1, W)  # slots that hold a token
    weights = (keys[:n] @ q / math.sqrt(D)).softmax(0)
    return weights @ values[:n], keys, values


@ring_step.right
def _(q, k, v, keys, values, position):
    W, D = keys.shape
    mine = (torch.arange(W) == position % W)[:, None]
    keys, values = torch.where(mine, k, keys), torch.where(mine, v, values)
    scores = keys @ q / D**0.5
    scores = scores.masked_fill(torch.arange(W) > position, float("-inf"))
    return scores.softmax(-1) @ values, keys, values


@ring_step.right
def _(q, k, v, keys, values, position):
    W, D = len(keys), len(q)
    keys, values = list(keys), list(values)
    keys[position % W], values[position % W] = k, v
    out, total = torch.zeros(D), 0.0
    for p in range(max(0, position - W + 1), position + 1):  # oldest first
        power = torch.exp(q @ keys[p % W] / D**0.5)
        out, total = out + power * values[p % W], total + power
    return out / total, torch.stack(keys), torch.stack(values)


@ring_step.right
def _(q, k, v, keys, values, position):
    keys, values, slot = keys.clone(), values.clone(), position % keys.shape[0]
    keys[slot] = k
    values[slot] = v
    n = min(position + 1, len(keys))
    out = F.scaled_dot_product_attention(q[None], keys[:n], values[:n])
    return out[0], keys, values


@ring_step.right
def _(q, k, v, keys, values, position):
    slot = position % len(keys)
    keys = torch.cat((keys[:slot], k[None], keys[slot + 1 :]))
    values = torch.cat((values[:slot], v[None], values[slot + 1 :]))
    seen = slice(None) if position >= len(keys) - 1 else slice(position + 1)
    weights = torch.softmax(torch.einsum("sd,d->s", keys[seen], q) / math.sqrt(len(q)), dim=0)
    return torch.einsum("s,sd->d", weights, values[seen]), keys, values


def put(keys, values, k, v, slot):
    """Copies with one slot written: what most of the mistakes below get right."""
    keys, values = keys.clone(), values.clone()
    keys[slot], values[slot] = k, v
    return keys, values


def look(q, keys, values):
    """One query (D,) over keys and values (n, D): -> (D,)."""
    return (keys @ q / math.sqrt(len(q))).softmax(0) @ values


def stored(keys, values, k, v, position):
    """The right keys and values, and how many slots hold a token."""
    return *put(keys, values, k, v, position % len(keys)), min(position + 1, len(keys))


SMALL = ("The scores of empty slots get a small number such as -100 instead of minus infinity. What is small depends on the other scores: "
         "only float(\"-inf\") gives them no weight whatever lies there.")
LATE = ("It masks after the softmax. By then the empty slots have taken their weight, here all of it. Mask the scores with minus infinity, or "
        "leave those slots out.")


@ring_step.mistake("It looks before it writes: the token does not see itself, and it sees the one that has just fallen out of the window.")
def _(q, k, v, keys, values, position):
    n = min(position + 1, len(keys))
    return look(q, keys[:n], values[:n]), *put(keys, values, k, v, position % len(keys))


@ring_step.mistake("Slots that were never written are looked at. Before the ring is full only the first position + 1 slots hold a token.")
def _(q, k, v, keys, values, position):
    keys, values, _ = stored(keys, values, k, v, position)
    return look(q, keys, values), keys, values


@ring_step.mistake(SMALL)
def _(q, k, v, keys, values, position):
    keys, values, n = stored(keys, values, k, v, position)
    scores = keys @ q / math.sqrt(len(q))
    scores[n:] = -100.0
    return scores.softmax(0) @ values, keys, values


@ring_step.mistake(SMALL)
def _(q, k, v, keys, values, position):
    keys, values, n = stored(keys, values, k, v, position)
    scores = keys @ q / math.sqrt(len(q))
    scores[n:] -= 100.0
    return scores.softmax(0) @ values, keys, values


@ring_step.mistake("The scores of empty slots are set to 0. But e^0 is 1, so they take weight; minus infinity gives none.")
def _(q, k, v, keys, values, position):
    keys, values, n = stored(keys, values, k, v, position)
    scores = keys @ q / math.sqrt(len(q))
    scores[n:] = 0.0
    return scores.softmax(0) @ values, keys, values


@ring_step.mistake(LATE)
def _(q, k, v, keys, values, position):
    keys, values, n = stored(keys, values, k, v, position)
    weights = (keys @ q / math.sqrt(len(q))).softmax(0)
    weights[n:] = 0.0
    return weights @ values, keys, values


@ring_step.mistake(LATE)
def _(q, k, v, keys, values, position):
    keys, values, n = stored(keys, values, k, v, position)
    weights = (keys @ q / math.sqrt(len(q))).softmax(0)
    weights[n:] = 0.0
    return weights / weights.sum() @ values, keys, values


@ring_step.mistake("The keys are put in the order of the text and the values are not: each key now stands beside another token's value. Move both, or "
                   "neither.")
def _(q, k, v, keys, values, position):
    keys, values, n = stored(keys, values, k, v, position)
    ordered = keys.roll(-(position + 1), 0) if position >= len(keys) else keys  # the oldest first
    return look(q, ordered[:n], values[:n]), keys, values


@ring_step.mistake("The values are put in the order of the text and the keys are not: each value now stands beside another token's key. Move both, or "
                   "neither.")
def _(q, k, v, keys, values, position):
    keys, values, n = stored(keys, values, k, v, position)
    ordered = values.roll(-(position + 1), 0) if position >= len(keys) else values
    return look(q, keys[:n], ordered[:n]), keys, values


@ring_step.mistake("The scores are divided by D. It is the square root of D.")
def _(q, k, v, keys, values, position):
    keys, values, n = stored(keys, values, k, v, position)
    return look(q / math.sqrt(len(q)), keys[:n], values[:n]), keys, values


@ring_step.mistake("keys and values come back in each other's place: return the result, then keys, then values.")
def _(q, k, v, keys, values, position):
    out, keys, values = ring_step.answer(q, k, v, keys, values, position)
    return out, values, keys


@ring_step.mistake("Only the token's result is returned. Three things are asked for: the result, keys and values.")
def _(q, k, v, keys, values, position):
    return ring_step.answer(q, k, v, keys, values, position)[0]


@ring_step.mistake("The result is right and the keys too, but the old values are returned.")
def _(q, k, v, keys, values, position):
    out, new, _ = ring_step.answer(q, k, v, keys, values, position)
    return out, new, values


@ring_step.mistake("The result is right and the values too, but the old keys are returned.")
def _(q, k, v, keys, values, position):
    out, _, new = ring_step.answer(q, k, v, keys, values, position)
    return out, keys, new


@ring_step.mistake("It looks at W - 1 slots only, and never at the last one. W counts the token itself, so in a full ring it sees all W slots.")
def _(q, k, v, keys, values, position):
    keys, values, _ = stored(keys, values, k, v, position)
    n = min(position + 1, len(keys) - 1)
    return look(q, keys[:n], values[:n]), keys, values


@ring_step.mistake("It looks only at the slots up to the one just written. Once the ring is full, those behind it hold tokens too.")
def _(q, k, v, keys, values, position):
    keys, values, _ = stored(keys, values, k, v, position)
    n = position % len(keys) + 1
    return look(q, keys[:n], values[:n]), keys, values


@ring_step.mistake("After the ring is full, every token goes to the last slot. The slot is position mod W.")
def _(q, k, v, keys, values, position):
    n = min(position + 1, len(keys))
    keys, values = put(keys, values, k, v, n - 1)
    return look(q, keys[:n], values[:n]), keys, values


@ring_step.mistake("position itself is taken for the slot. It is, until position reaches W; from there on it is position mod W.")
def _(q, k, v, keys, values, position):
    n = min(position + 1, len(keys))
    keys, values = put(keys, values, k, v, position)
    return look(q, keys[:n], values[:n]), keys, values


@ring_step.mistake("The others have moved up. In a ring nobody moves: only slot position mod W changes.")
def _(q, k, v, keys, values, position):
    if position < len(keys):
        return ring_step.answer(q, k, v, keys, values, position)
    keys, values = torch.cat((keys[1:], k[None])), torch.cat((values[1:], v[None]))
    return look(q, keys, values), keys, values


@ring_step.mistake("The ring has grown: key and value were appended. With W slots, one is written over.")
def _(q, k, v, keys, values, position):
    n = min(position, len(keys))
    keys, values = torch.cat((keys[:n], k[None])), torch.cat((values[:n], v[None]))
    return look(q, keys, values), keys, values


@ring_step.mistake("The key is written and the value is not: the new key now stands beside an old value.")
def _(q, k, v, keys, values, position):
    keys, _, n = stored(keys, values, k, v, position)
    return look(q, keys[:n], values[:n]), keys, values


@ring_step.mistake("k was written into the values too. The values get v.")
def _(q, k, v, keys, values, position):
    keys, values, n = stored(keys, values, k, k, position)
    return look(q, keys[:n], values[:n]), keys, values


@ring_step.mistake("The result is right, but the old keys and values are returned: the next token would not know of this one.")
def _(q, k, v, keys, values, position):
    return ring_step.answer(q, k, v, keys, values, position)[0], keys, values


@ring_step.mistake("The number of filled slots is counted before the new token is written, so a ring that is not yet full leaves the new token out.")
def _(q, k, v, keys, values, position):
    n = max(min(position, len(keys)), 1)
    keys, values, _ = stored(keys, values, k, v, position)
    return look(q, keys[:n], values[:n]), keys, values


@ring_step.mistake("The slot is one too far: the first token, at position 0, goes to slot 0.")
def _(q, k, v, keys, values, position):
    n = min(position + 1, len(keys))
    keys, values = put(keys, values, k, v, (position + 1) % len(keys))
    return look(q, keys[:n], values[:n]), keys, values


@ring_step.mistake("The slot is position mod D, and D is the size of the head. The number of slots is W, the first number of keys.shape.")
def _(q, k, v, keys, values, position):
    n = min(position + 1, len(keys))
    keys, values = put(keys, values, k, v, position % len(q))
    return look(q, keys[:n], values[:n]), keys, values


@ring_step.mistake("The oldest token that may still be seen is left out: W counts the token itself, so it sees W slots, not W - 1.")
def _(q, k, v, keys, values, position):
    W = len(keys)
    keys, values, _ = stored(keys, values, k, v, position)
    seen = [p % W for p in range(max(0, position - W + 2), position + 1)] or [0]
    return look(q, keys[seen], values[seen]), keys, values


@ring_step.mistake("It uses one slot too few: position mod W - 1, so the last slot is never written. W counts the token itself, so there are W slots.")
def _(q, k, v, keys, values, position):
    size = max(len(keys) - 1, 1)
    keys, values = put(keys, values, k, v, position % size)
    n = min(position + 1, size)
    return look(q, keys[:n], values[:n]), keys, values


@ring_step.mistake("It writes into the keys and values it was given. The library does that too; here the check wants copies: keys.clone().")
def _(q, k, v, keys, values, position):
    n = min(position + 1, len(keys))
    keys[position % len(keys)], values[position % len(keys)] = k, v
    return look(q, keys[:n], values[:n]), keys, values


@ring_step.mistake("The scores are not divided by the square root of D.")
def _(q, k, v, keys, values, position):
    keys, values, n = stored(keys, values, k, v, position)
    return (keys[:n] @ q).softmax(0) @ values[:n], keys, values


@ring_step.mistake("Nothing is weighed: this is the plain average of the values.")
def _(q, k, v, keys, values, position):
    keys, values, n = stored(keys, values, k, v, position)
    return values[:n].mean(0), keys, values


@ring_step.mistake("The token sees only itself: what is stored was not used.")
def _(q, k, v, keys, values, position):
    keys, values, _ = stored(keys, values, k, v, position)
    return v, keys, values
