"""Chapter 00: the generation loop, taught to stop."""

from minimistral.exercises.frame import Exercise


def _chain(says: str, links: dict):
    """A pretend model over six ids: it looks at the whole text so far and answers with six logits."""
    def logits_of(ids):
        key = tuple(ids)
        while key and key not in links:
            key = key[1:]
        best = links.get(key, 0)
        return [1.0 if token == best else -abs(token - best) / 10 for token in range(6)]

    logits_of.__name__ = says
    return logits_of


def _cases():
    counts = _chain("after 1 says 3, then 4, 5, 2, 3, 4, 5, 2, ...", {(1,): 3, (3,): 4, (4,): 5, (5,): 2, (2,): 3})
    remembers = _chain(
        "after 1, 3 says 4, 3, 5, 2, by looking at the last two ids",
        {(1, 3): 4, (3, 4): 3, (4, 3): 5, (5,): 2, (3,): 5, (4,): 0},
    )
    return [
        (counts, [1], 1, 2),  # one id wanted
        (counts, [1], 3, 2),  # n reached before the stop
        (counts, [1], 9, 2),  # stops by itself
        (remembers, [1, 3], 9, 2),  # the last id alone is not enough to go on
        (counts, [2, 3], 9, 2),  # a stop in the prompt means nothing
        (counts, [1, 3, 4, 5, 2], 9, 2),  # the prompt ends with a stop
        (counts, [1], 9, 3),  # the first new id is the stop
        (counts, [1, 3], 0, 2),  # nothing wanted
    ]


continue_until = Exercise(
    "continue_until",
    cases=_cases,
    hints=[
        "Start from the loop in the section before. Which list grows, and which one should be returned?",
        "Keep two lists: a copy of the prompt that grows and is fed to logits_of, and the new ids.",
        "Append the new id first; then ask whether it was the stop, and leave the loop if so.",
    ],
    allowed=("minimistral.",),  # logits_of may be a real model's
)


@continue_until.reference
def _(logits_of, ids, n, stop):
    ids, new = list(ids), []
    for _ in range(n):
        logits = logits_of(ids)
        best = max(range(len(logits)), key=lambda token: logits[token])
        ids.append(best)
        new.append(best)
        if best == stop:
            break
    return new


@continue_until.right
def _(logits_of, ids, n, stop):
    new = []
    while len(new) < n and (not new or new[-1] != stop):
        logits = list(logits_of(list(ids) + new))
        new.append(logits.index(max(logits)))
    return new


@continue_until.right
def _(logits_of, ids, n, stop):
    def go(ids, n):
        if n == 0:
            return []
        logits = logits_of(ids)
        best = sorted(range(len(logits)), key=lambda token: -logits[token])[0]
        return [best] if best == stop else [best, *go([*ids, best], n - 1)]

    return go(ids, n)


@continue_until.right
def _(logits_of, ids, n, stop):
    import torch

    text = ids[:]
    for _ in range(n):
        text = text + [int(torch.tensor(logits_of(text)).argmax())]
        if text[-1] == stop:
            return text[len(ids) :]
    return text[len(ids) :]


@continue_until.mistake("It returns the prompt too. Only the new ids are asked for.")
def _(logits_of, ids, n, stop):
    ids = list(ids)
    for _ in range(n):
        logits = logits_of(ids)
        ids.append(logits.index(max(logits)))
        if ids[-1] == stop:
            break
    return ids


@continue_until.mistake("It never stops early: the stop id is not looked at.")
def _(logits_of, ids, n, stop):
    new = []
    for _ in range(n):
        logits = logits_of(ids + new)
        new.append(logits.index(max(logits)))
    return new


@continue_until.mistake("It leaves the stop id out. It belongs to the answer: it says that the story is over.")
def _(logits_of, ids, n, stop):
    new = []
    for _ in range(n):
        logits = logits_of(ids + new)
        best = logits.index(max(logits))
        if best == stop:
            break
        new.append(best)
    return new


@continue_until.mistake("It feeds the model only the newest id. The model has no memory of its own: it needs the whole text.")
def _(logits_of, ids, n, stop):
    new, last = [], ids[-1]
    for _ in range(n):
        logits = logits_of([last])
        last = logits.index(max(logits))
        new.append(last)
        if last == stop:
            break
    return new


@continue_until.mistake("It feeds the model the same prompt every time: the new id never joins the text.")
def _(logits_of, ids, n, stop):
    new = []
    for _ in range(n):
        logits = logits_of(ids)
        new.append(logits.index(max(logits)))
        if new[-1] == stop:
            break
    return new


@continue_until.mistake("It changes the caller's own list (append, +=, pop). Work on a copy: list(ids).")
def _(logits_of, ids, n, stop):
    new = []
    for _ in range(n):
        logits = logits_of(ids)
        ids.append(logits.index(max(logits)))
        new.append(ids[-1])
        if new[-1] == stop:
            break
    return new


@continue_until.mistake("It stops at a stop id anywhere in the text, the prompt included. Only a new one ends the story.")
def _(logits_of, ids, n, stop):
    ids, new = list(ids), []
    for _ in range(n):
        if stop in ids:
            break
        logits = logits_of(ids)
        ids.append(logits.index(max(logits)))
        new.append(ids[-1])
    return new


@continue_until.mistake("It asks whether the text ends with a stop before the first new id is there: a prompt may end with one.")
def _(logits_of, ids, n, stop):
    text = list(ids)
    while text[-1] != stop and len(text) - len(ids) < n:
        logits = logits_of(text)
        text.append(logits.index(max(logits)))
    return text[len(ids) :]


@continue_until.mistake("It goes one id too far: range(n + 1), or a check that comes one round late.")
def _(logits_of, ids, n, stop):
    new = []
    for _ in range(n + 1):
        logits = logits_of(ids + new)
        new.append(logits.index(max(logits)))
        if new[-1] == stop:
            break
    return new


@continue_until.mistake("It takes the largest logit itself instead of its place in the list: the id is the index.")
def _(logits_of, ids, n, stop):
    new = []
    for _ in range(n):
        best = max(logits_of(ids + [int(x) for x in new]))
        new.append(best)
        if best == stop:
            break
    return new


@continue_until.mistake("It takes the smallest logit. The likeliest next id has the largest.")
def _(logits_of, ids, n, stop):
    new = []
    for _ in range(n):
        logits = logits_of(ids + new)
        new.append(logits.index(min(logits)))
        if new[-1] == stop:
            break
    return new
