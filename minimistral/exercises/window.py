"""Chapter 04: the window as a predicate and as a mask, how far layers reach back, and a predicate for sinks."""

import torch

from minimistral.exercises.frame import Exercise

# --- the predicate --------------------------------------------------------------------------------------------------------


def near(i, j, window):
    """May i see j: what the cases below are made around."""
    return 0 <= i - j < (i + 1 if window is None else window)


def pair_draws():
    """(i, j, window) around every edge: the future, the token itself, the last key in the window, the first one out of it.

    First come some that tell mistakes apart: far outside is asked before the edge, far in the future before the next token.
    """
    first = [(1, 1, 3), (0, 3, 2), (0, 1, 3), (6, 0, 2), (3, 0, 3), (2, 1, 3), (2, 0, 3), (0, 0, None), (2, 0, None), (0, 1, None)]
    cases = []
    for window in (1, 2, 3, 5, None):
        for i in (0, 1, 2, 4, 7):
            edges = (i - 1, i, i + 1, i + 2) if window is None else (i - window - 1, i - window, i - window + 1, i - 1, i, i + 1)
            cases += [(i, j, window) for j in sorted({*edges, 0, i + 3}) if j >= 0]
    small = sorted(cases, key=lambda case: (case[0] + case[1] + (case[2] or 9), case[0]))
    return [*first, *small, (500, 100, 400), (500, 101, 400), (10, 9, 400), (5_000, 0, None)]


may_see = Exercise(
    "may_see",
    cases=pair_draws,
    hints=[
        "Two conditions, and both must hold. The first: j is not later than i.",
        "The second: how many steps back is j? That is i - j. The token itself is 0 steps back and counts as one of the W.",
        "So i - j may be 0, 1, ... W - 1. And if window is None, the second condition always holds; ask for that first.",
    ],
)


@may_see.reference
def _(i, j, window):
    if j > i:
        return False  # the future
    return window is None or i - j < window


@may_see.right
def _(i, j, window):
    return j <= i and (window is None or j > i - window)


@may_see.right
def _(i, j, window):
    first = 0 if window is None else max(0, i - window + 1)
    return j in range(first, i + 1)


@may_see.right
def _(i, j, window):
    return 0 <= i - j < (float("inf") if window is None else window)


@may_see.right
def _(i, j, window):
    if window is None:
        window = i + 1
    for back in range(window):
        if j == i - back:
            return True
    return False


NO_LIMIT = "Without a window (None) it sees too little. None is no number: nothing is too far back, and the token itself is seen."


@may_see.mistake(NO_LIMIT)
def _(i, j, window):
    return 0 <= i - j < (window or 0)


@may_see.mistake(NO_LIMIT)
def _(i, j, window):
    return 0 <= i - j < (1 if window is None else window)


@may_see.mistake(NO_LIMIT)
def _(i, j, window):
    return 0 <= i - j < (4_096 if window is None else window)


@may_see.mistake("Without a window (None) it gives back nothing: that way through the function needs a return, too.")
def _(i, j, window):
    if window is not None:
        return 0 <= i - j < window


@may_see.mistake("Without a window (None) the future is visible. None takes away the far end, not the rule j <= i.")
def _(i, j, window):
    if window is None:
        return True
    return 0 <= i - j < window


@may_see.mistake("Where nothing may be seen it gives back None. False is asked for: that way needs a return, too.")
def _(i, j, window):
    if near(i, j, window):
        return True


@may_see.mistake("With window None it ends in an error: None cannot be subtracted or compared. Ask `window is None` first.")
def _(i, j, window):
    return j <= i and j > i - window


@may_see.mistake("With window None it ends in an error: None cannot be subtracted or compared. Ask `window is None` first.")
def _(i, j, window):
    return 0 <= i - j < window


@may_see.mistake("One key too many: position i, the W before it. The token itself is one of the W, so the first key is i - W + 1.")
def _(i, j, window):
    return j <= i and (window is None or j >= i - window)


@may_see.mistake("The token does not see itself. The window ends with i, not before it.")
def _(i, j, window):
    return j < i and (window is None or j > i - window)


@may_see.mistake("W others, and the token itself is left out. It sees itself, and itself is one of the W.")
def _(i, j, window):
    return j < i and (window is None or j >= i - window)


@may_see.mistake("A key far outside the window is seen. Only the last W are, the token itself among them.")
def _(i, j, window):
    return j <= i


@may_see.mistake("One key too few at the far end: i - W + 1 may still be seen.")
def _(i, j, window):
    return j <= i and (window is None or j > i - window + 1)


@may_see.mistake("The future is visible. A key must also not be later than its query: j <= i.")
def _(i, j, window):
    return window is None or j > i - window


@may_see.mistake("The window looks both ways. Nobody sees the future: only the distance *back* counts.")
def _(i, j, window):
    return window is None or abs(i - j) < window


@may_see.mistake("Right, but as a number. True or False is asked for: leave the comparison as it is.")
def _(i, j, window):
    return int(j <= i and (window is None or j > i - window))


@may_see.mistake("A key is seen that may not be. In the smallest failing case: is j later than i, or W or more steps back?")
def _(i, j, window):
    return True


@may_see.mistake("A key is hidden that may be seen. In the smallest failing case: how many steps is it from i back to j?")
def _(i, j, window):
    return False


@may_see.mistake("`&` binds tighter than `<=` and `>`: Python reads i & j first. Write `and`, or put brackets round both comparisons.")
def _(i, j, window):
    return j <= i if window is None else j <= i & j > i - window


@may_see.mistake("`&` binds tighter than `<=` and `>`: Python reads i & j first. Write `and`, or put brackets round both comparisons.")
def _(i, j, window):
    return j <= i & j > i - window


@may_see.mistake("Near the start of the text i - W + 1 is negative, and a list counts a negative start from its end. Cut it off at 0.")
def _(i, j, window):
    past = list(range(i + 1))
    return j in (past if window is None else past[i - window + 1 :])


@may_see.mistake("i and j have changed places: i is the query that looks, j the key that is looked at.")
def _(i, j, window):
    return 0 <= j - i < (j + 1 if window is None else window)


@may_see.mistake("This cuts the text into fixed blocks of W. A sliding window moves with its query: each position has its own.")
def _(i, j, window):
    return j <= i and (window is None or i // window == j // window)


@may_see.mistake("Turned round: it says True where nothing may be seen, and False where something may.")
def _(i, j, window):
    return not near(i, j, window)


# --- the dense mask -------------------------------------------------------------------------------------------------------


def mask_draws():
    """(q_positions, k_positions, window), T and S never equal after the first; positions late, out of order, and twice."""
    g = torch.Generator().manual_seed(4)
    mixed = torch.randperm(9, generator=g) + 20
    return [
        (torch.tensor([0]), torch.tensor([0]), 3),
        (torch.tensor([5]), torch.tensor([0, 1, 2, 3, 4, 5, 6, 9]), 4),  # tells nearly all mistakes apart
        (torch.tensor([2]), torch.arange(3), 2),
        (torch.arange(4), torch.arange(3), 2),
        (torch.arange(3), torch.arange(5), None),
        (torch.tensor([7, 8]), torch.arange(9), 3),
        (torch.arange(6, 10), torch.arange(3, 10), 4),
        (torch.tensor([6, 7]), torch.tensor([4, 5, 6, 7, 3]), 4),
        (torch.arange(24, 29), mixed, 3),
        (torch.arange(24, 29), mixed, None),
        (torch.arange(3), torch.arange(4), 1),
        (torch.tensor([5_000, 5_001, 5_002]), torch.tensor([904, 905, 906, 5_001]), 4_096),
        (torch.arange(6), torch.arange(8), 4_096),
        (torch.tensor([8, 3, 3, 9]), torch.tensor([7, 2, 7, 3, 8]), 3),
        (torch.tensor([5_000, 12]), torch.tensor([0, 7, 4_999, 5_001]), None),
    ]


dense_mask = Exercise(
    "dense_mask",
    cases=mask_draws,
    hints=[
        "Row r is about q_positions[r], column c about k_positions[c]. Two loops that ask may_see for each pair are fine.",
        "Without loops: q_positions[:, None] has shape (T, 1) and k_positions[None, :] shape (1, S). Comparing them gives (T, S).",
        "Two such tables of True and False are joined with &, not with `and`. And each comparison needs its own brackets.",
    ],
)


@dense_mask.reference
def _(q_positions, k_positions, window):
    i, j = q_positions[:, None], k_positions[None, :]  # (T, 1) and (1, S): compared, they give (T, S)
    if window is None:
        return j <= i
    return (j <= i) & (j > i - window)


@dense_mask.right
def _(q_positions, k_positions, window):
    mask = torch.zeros(len(q_positions), len(k_positions), dtype=torch.bool)
    for row, i in enumerate(q_positions.tolist()):
        for column, j in enumerate(k_positions.tolist()):
            mask[row, column] = near(i, j, window)
    return mask


@dense_mask.right
def _(q_positions, k_positions, window):
    rows = [[0 <= i - j and (window is None or i - j < window) for j in k_positions.tolist()] for i in q_positions.tolist()]
    return torch.tensor(rows)


@dense_mask.right
def _(q_positions, k_positions, window):
    back = q_positions.unsqueeze(1).sub(k_positions)
    return torch.logical_and(back >= 0, back < (back.max() + 1 if window is None else window))


@dense_mask.right
def _(q_positions, k_positions, window):
    far = float("inf") if window is None else window
    back = torch.stack([i - k_positions for i in q_positions]).float()
    return torch.where(back < 0, False, back < far)


@dense_mask.mistake("The numbers of rows and columns were compared, not the positions that stand in them. A chunk need not begin at 0.")
def _(q_positions, k_positions, window):
    i, j = torch.arange(len(q_positions))[:, None], torch.arange(len(k_positions))[None, :]
    return j <= i if window is None else (j <= i) & (j > i - window)


@dense_mask.mistake("It takes for granted that the keys stand in order and end with the last query (tril with S - T). In a ring of "
                    "seats they do neither: compare the positions themselves.")
def _(q_positions, k_positions, window):
    T, S = len(q_positions), len(k_positions)
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    return mask if window is None else mask.triu(S - T - window + 1)


@dense_mask.mistake("The token does not see itself. The window ends with the query's own position, not before it.")
def _(q_positions, k_positions, window):
    i, j = q_positions[:, None], k_positions[None, :]
    return j < i if window is None else (j < i) & (j > i - window)


@dense_mask.mistake("W others, and the token itself is left out. It sees itself, and itself is one of the W.")
def _(q_positions, k_positions, window):
    i, j = q_positions[:, None], k_positions[None, :]
    return j < i if window is None else (j < i) & (j >= i - window)


@dense_mask.mistake("Keys far outside the window are seen: `window` does nothing yet.")
def _(q_positions, k_positions, window):
    return k_positions[None, :] <= q_positions[:, None]


@dense_mask.mistake("One key too many in each row. The token itself is one of the W: a key W places back is out already.")
def _(q_positions, k_positions, window):
    i, j = q_positions[:, None], k_positions[None, :]
    return j <= i if window is None else (j <= i) & (j >= i - window)


@dense_mask.mistake("One key too few in each row: i - W + 1 is still inside.")
def _(q_positions, k_positions, window):
    i, j = q_positions[:, None], k_positions[None, :]
    return j <= i if window is None else (j <= i) & (j > i - window + 1)


def near_all(q_positions, k_positions, window):
    """The right table, for the mistakes below that spoil what goes in or what comes out."""
    i, j = q_positions[:, None], k_positions[None, :]
    return (j <= i) & (True if window is None else j > i - window)


IN_A_ROW = (
    "The positions were sorted, or counted on from one of them. "
    "They need not follow one another, and may repeat: compare each as it is."
)


@dense_mask.mistake(IN_A_ROW)
def _(q_positions, k_positions, window):
    return near_all(q_positions[0] + torch.arange(len(q_positions)), k_positions, window)


@dense_mask.mistake(IN_A_ROW)
def _(q_positions, k_positions, window):
    return near_all(q_positions.sort().values, k_positions, window)


@dense_mask.mistake(IN_A_ROW)
def _(q_positions, k_positions, window):
    return near_all(q_positions[-1] - torch.arange(len(q_positions)).flip(0), k_positions, window)


@dense_mask.mistake(IN_A_ROW)
def _(q_positions, k_positions, window):
    return near_all(q_positions, k_positions[0] + torch.arange(len(k_positions)), window)


@dense_mask.mistake(IN_A_ROW)
def _(q_positions, k_positions, window):
    return near_all(q_positions, k_positions.sort().values, window)


@dense_mask.mistake("One position can stand in two columns, and both are to be filled. A dictionary, or .index(), finds only one of them.")
def _(q_positions, k_positions, window):
    column = {j: n for n, j in enumerate(k_positions.tolist())}
    mask = torch.zeros(len(q_positions), len(k_positions), dtype=torch.bool)
    for row, i in enumerate(q_positions.tolist()):
        for j, n in column.items():
            mask[row, n] = near(i, j, window)
    return mask


@dense_mask.mistake("One position can stand in two columns, and both are to be filled. A dictionary, or .index(), finds only one of them.")
def _(q_positions, k_positions, window):
    keys = k_positions.tolist()
    mask = torch.zeros(len(q_positions), len(keys), dtype=torch.bool)
    for row, i in enumerate(q_positions.tolist()):
        for j in keys:
            mask[row, keys.index(j)] = near(i, j, window)
    return mask


@dense_mask.mistake("Query and key have changed places in the comparison. The shape is right; but i is the query's position, j the key's.")
def _(q_positions, k_positions, window):
    return near_all(k_positions, q_positions, window).T


@dense_mask.mistake("Rows and columns have changed places: (T, S) is asked for, a row for each query.")
def _(q_positions, k_positions, window):
    i, j = q_positions[None, :], k_positions[:, None]
    return j <= i if window is None else (j <= i) & (j > i - window)


@dense_mask.mistake("Turned round: True must mean *may see*. Yours says True where a key is hidden.")
def _(q_positions, k_positions, window):
    i, j = q_positions[:, None], k_positions[None, :]
    return ~(j <= i) if window is None else (j > i) | (j <= i - window)


@dense_mask.mistake("The future is visible. The far end is right; j <= i is missing.")
def _(q_positions, k_positions, window):
    i, j = q_positions[:, None], k_positions[None, :]
    return j <= i if window is None else j > i - window


@dense_mask.mistake("The window looks both ways: only the distance back counts, and nobody sees the future.")
def _(q_positions, k_positions, window):
    i, j = q_positions[:, None], k_positions[None, :]
    return j <= i if window is None else (i - j).abs() < window


@dense_mask.mistake("Without a window (None) the future is visible: j <= i holds all the same.")
def _(q_positions, k_positions, window):
    i, j = q_positions[:, None], k_positions[None, :]
    return torch.ones(len(q_positions), len(k_positions)).bool() if window is None else (j <= i) & (j > i - window)


@dense_mask.mistake(NO_LIMIT)
def _(q_positions, k_positions, window):
    return near_all(q_positions, k_positions, 4_096 if window is None else window)


@dense_mask.mistake(NO_LIMIT)
def _(q_positions, k_positions, window):
    return near_all(q_positions, k_positions, len(k_positions) if window is None else window)


@dense_mask.mistake(NO_LIMIT)
def _(q_positions, k_positions, window):
    return near_all(q_positions, k_positions, len(q_positions) if window is None else window)


@dense_mask.mistake(NO_LIMIT)
def _(q_positions, k_positions, window):
    return near_all(q_positions, k_positions, q_positions.max() if window is None else window)


@dense_mask.mistake(NO_LIMIT)
def _(q_positions, k_positions, window):
    return near_all(q_positions, k_positions, window or 0)


@dense_mask.mistake("With window None it gives back nothing: that way through the function needs a return, too.")
def _(q_positions, k_positions, window):
    if window is not None:
        return near_all(q_positions, k_positions, window)


@dense_mask.mistake("With window None it ends in an error: nothing can be subtracted from a position there. Ask `window is None` first.")
def _(q_positions, k_positions, window):
    i, j = q_positions[:, None], k_positions[None, :]
    return (j <= i) & (j > i - window)


NUMBERS = "Numbers came out, 0 and 1. A mask is a bool tensor: keep the comparison as it is, or fill torch.zeros(..., dtype=torch.bool)."


@dense_mask.mistake(NUMBERS)
def _(q_positions, k_positions, window):
    return near_all(q_positions, k_positions, window).long()


@dense_mask.mistake(NUMBERS)
def _(q_positions, k_positions, window):
    return near_all(q_positions, k_positions, window).float()


@dense_mask.mistake(NUMBERS)
def _(q_positions, k_positions, window):
    return near_all(q_positions, k_positions, window).byte()


@dense_mask.mistake("This is a mask to be *added* to scores, 0 and -inf. Here True and False are asked for.")
def _(q_positions, k_positions, window):
    i, j = q_positions[:, None], k_positions[None, :]
    seen = j <= i if window is None else (j <= i) & (j > i - window)
    return torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))


@dense_mask.mistake("`and` wants one answer for the whole table. To join two tables pair by pair, write &, with brackets round each side.")
def _(q_positions, k_positions, window):
    i, j = q_positions[:, None], k_positions[None, :]
    return j <= i if window is None else (j <= i) and (j > i - window)


@dense_mask.mistake("The answers are right, and lie in lists. A tensor is asked for: put torch.tensor(...) round them.")
def _(q_positions, k_positions, window):
    return near_all(q_positions, k_positions, window).tolist()


@dense_mask.mistake("Nothing is seen, where something should be.")
def _(q_positions, k_positions, window):
    return torch.zeros(len(q_positions), len(k_positions)).bool()


# --- how far layers reach -------------------------------------------------------------------------------------------------


def reach_draws():
    """(position, n_layers, window): the start of the text, no layer, no window, a window of 1, the sizes of real models.

    The first tells nearly all mistakes apart: each gives another number there.
    """
    return [
        (200, 3, 5), (5, 1, 3), (0, 2, 3), (5, 2, 3), (5, 3, 3), (1, 1, 4), (3, 1, 3), (6, 0, 3), (0, 0, 3), (6, 4, 1), (1, 4, 1),
        (6, 2, None), (6, 1, None), (6, 0, None), (0, 1, None), (9, 3, 4), (10, 3, 4), (3, 1, 2), (378, 6, 64), (379, 6, 64),
        (400, 6, 64), (2_000, 32, 33), (262_144, 2, None), (262_144, 32, 4_096),
    ]  # fmt: skip


first_reachable = Exercise(
    "first_reachable",
    cases=reach_draws,
    tolerance=0,
    hints=[
        "How far back does one layer look? The first key that position i sees in one layer is i - W + 1, so W - 1 steps back.",
        "Each layer adds as many steps, because what it sees there has looked back itself, one layer below.",
        "Before position 0 there is nothing: the answer is never negative. Without a window one layer reaches position 0, and "
        "with no layer at all nothing moves, window or not.",
    ],
)


@first_reachable.reference
def _(position, n_layers, window):
    if window is None:
        return 0 if n_layers else position
    return max(0, position - n_layers * (window - 1))


@first_reachable.right
def _(position, n_layers, window):
    for _ in range(n_layers):
        position = 0 if window is None else max(0, position - window + 1)
    return position


@first_reachable.right
def _(position, n_layers, window):
    def down(position, layers):
        if layers == 0:
            return position
        return down(max(0, position - (position if window is None else window - 1)), layers - 1)

    return down(position, n_layers)


@first_reachable.right
def _(position, n_layers, window):
    steps = position if window is None else window - 1
    return position - min(position, n_layers * steps)


@first_reachable.right
def _(position, n_layers, window):
    first = position
    while n_layers > 0:
        n_layers -= 1
        seen = [j for j in (0, first - (window or first + 1) + 1) if j >= 0]
        first = max(seen)
    return first


@first_reachable.mistake("With no layer nothing moves: the answer is the position itself.")
def _(position, n_layers, window):
    if window is None or n_layers == 0:
        return 0
    return max(0, position - n_layers * (window - 1))


@first_reachable.mistake("The 1 was taken off once. It comes off in each layer: L·(W - 1), not L·W - 1.")
def _(position, n_layers, window):
    if window is None or n_layers == 0:
        return 0 if n_layers else position
    return max(0, position - n_layers * window + 1)


@first_reachable.mistake("One too early: the first position reached is position - L·(W - 1) itself, not the one before it.")
def _(position, n_layers, window):
    if window is None:
        return 0 if n_layers else position
    return max(0, position - n_layers * (window - 1) - 1)


@first_reachable.mistake("Each layer reaches W - 1 back, not W: the token itself takes one of the W places.")
def _(position, n_layers, window):
    if window is None:
        return 0 if n_layers else position
    return max(0, position - n_layers * window)


@first_reachable.mistake("One too late: the first position reached is position - L·(W - 1) itself, not the one after it.")
def _(position, n_layers, window):
    if window is None:
        return 0 if n_layers else position
    return max(0, position - n_layers * (window - 1) + 1)


@first_reachable.mistake("The text begins at position 0: cut there, nothing stands before it.")
def _(position, n_layers, window):
    if window is None:
        return 0 if n_layers else position
    return position - n_layers * (window - 1)


@first_reachable.mistake("This is how far it reaches, a distance. The first position itself is asked for.")
def _(position, n_layers, window):
    if window is None:
        return position if n_layers else 0
    return min(position, n_layers * (window - 1))


@first_reachable.mistake("This is how far it reaches, a distance. The first position itself is asked for.")
def _(position, n_layers, window):
    if window is None:
        return position if n_layers else 0
    return n_layers * (window - 1)


@first_reachable.mistake("One layer too many: n_layers layers, n_layers times W - 1.")
def _(position, n_layers, window):
    if window is None:
        return 0
    return max(0, position - (n_layers + 1) * (window - 1))


@first_reachable.mistake("This is one layer. What is seen there has looked back itself, one layer below: each layer adds W - 1.")
def _(position, n_layers, window):
    if window is None:
        return 0 if n_layers else position
    return max(0, position - (window - 1) * min(n_layers, 1))


@first_reachable.mistake("One layer too few. The first layer looks back too: L layers, L times W - 1.")
def _(position, n_layers, window):
    if window is None:
        return 0 if n_layers else position
    return max(0, position - max(n_layers - 1, 0) * (window - 1))


@first_reachable.mistake("It multiplies where it should add: a second layer goes W - 1 further back, not W times as far.")
def _(position, n_layers, window):
    if window is None:
        return 0 if n_layers else position
    return max(0, position - window**n_layers + 1)


@first_reachable.mistake("With window None it ends in an error. Without a window one layer sees everything from position 0 on.")
def _(position, n_layers, window):
    return max(0, position - n_layers * (window - 1))


@first_reachable.mistake("Almost: with no layer nothing moves, and a token knows only itself, also without a window.")
def _(position, n_layers, window):
    if window is None:
        return 0
    return max(0, position - n_layers * (window - 1))


@first_reachable.mistake("Without a window nothing is out of reach: one layer goes back to position 0.")
def _(position, n_layers, window):
    if window is None:
        return position
    return max(0, position - n_layers * (window - 1))


@first_reachable.mistake("Without a window nothing is out of reach: one layer goes back to position 0.")
def _(position, n_layers, window):
    return max(0, position - n_layers * ((window or 4_096) - 1))


@first_reachable.mistake("Without a window nothing is out of reach: one layer goes back to position 0.")
def _(position, n_layers, window):
    return max(0, position - n_layers * ((window or position) - 1))


# --- transfer: four sinks and a window ------------------------------------------------------------------------------------


def sink_draws():
    """(i, j, window) around the edges of both rules, and where the two overlap; first some that tell mistakes apart."""
    first = [
        (6, 6, 3), (1, 3, 2), (5, 9, 2), (5, 6, 3), (12, 5, 2), (9, 6, 3), (9, 7, 3), (9, 1, 2), (9, 3, 2), (9, 4, 2), (9, 0, 2),
        (2, 0, 1), (3, 1, 3), (9, 9, None), (9, 5, None), (9, 1, None), (1, 3, None), (5, 6, None),
    ]  # fmt: skip
    cases = []
    for window in (1, 2, 5, None):
        for i in (0, 2, 4, 6, 9, 12):
            edges = (i - 1, i, i + 1) if window is None else (i - window - 1, i - window, i - window + 1, i - 1, i, i + 1)
            cases += [(i, j, window) for j in sorted({*edges, 0, 3, 4, 5}) if j >= 0]
    small = sorted(cases, key=lambda case: (case[0] + case[1] + (case[2] or 9), case[0]))
    return [*first, *small, (500, 3, 400), (500, 4, 400), (500, 100, 400), (500, 101, 400), (5_000, 3, 400), (5_000, 4, None)]


may_see_sinks = Exercise(
    "may_see_sinks",
    cases=sink_draws,
    hints=[
        "The first four positions of the text are 0, 1, 2 and 3. Which condition says that j is one of them?",
        "`or` joins the two ways of being seen: j is in the window, or j is one of the four.",
        "And the future? Token 1 must not see position 3. Ask j <= i once, for both ways.",
    ],
)


@may_see_sinks.reference
def _(i, j, window):
    if j > i:
        return False  # the future, a sink or not
    return j < 4 or window is None or i - j < window


@may_see_sinks.right
def _(i, j, window):
    in_window = near(i, j, window)
    sink = j in (0, 1, 2, 3) and j <= i
    return in_window or sink


@may_see_sinks.right
def _(i, j, window):
    first = 0 if window is None else max(0, i - window + 1)
    return j in {*range(min(4, i + 1)), *range(first, i + 1)}


@may_see_sinks.right
def _(i, j, window):
    if window is None or j <= 3:
        return j <= i
    return (j <= i) & (j > i - window)


@may_see_sinks.right
def _(i, j, window):
    return j <= i and not (4 <= j <= i - (window or i + 1))


WITHOUT = "Without a window (None) it sees too little. None is no number: everything up to i is seen, the token itself too."


@may_see_sinks.mistake(WITHOUT)
def _(i, j, window):
    return j <= i and (j < 4 or i - j < (window or 0))


@may_see_sinks.mistake(WITHOUT)
def _(i, j, window):
    return j <= i and (j < 4 or i - j < (1 if window is None else window))


@may_see_sinks.mistake(WITHOUT)
def _(i, j, window):
    return j <= i and (j < 4 or i - j < (window or 4_096))


@may_see_sinks.mistake("With window None it ends in an error. Without a window everything up to i is seen, the sinks among it.")
def _(i, j, window):
    return j <= i and (j < 4 or i - j < window)


@may_see_sinks.mistake("Without a window (None) the future is visible: j <= i holds all the same.")
def _(i, j, window):
    if window is None:
        return True
    return j <= i and (j < 4 or i - j < window)


def both(i, j, window):
    """The right answer, for the mistakes below that spoil it."""
    return near(i, j, window) or j <= min(i, 3)


@may_see_sinks.mistake("Right, but as a number. True or False is asked for: leave the comparison as it is.")
def _(i, j, window):
    return int(both(i, j, window))


@may_see_sinks.mistake("Where nothing may be seen it gives back None. False is asked for: that way needs a return, too.")
def _(i, j, window):
    if both(i, j, window):
        return True


@may_see_sinks.mistake("The token sees the sinks but not itself: the window ends with i.")
def _(i, j, window):
    return j < i and (j < 4 or window is None or i - j < window)


LATE = "Early tokens lose their sinks. Every token sees those of the first four that have come: token 2 sees 0, 1 and 2."


@may_see_sinks.mistake(LATE)
def _(i, j, window):
    return near(i, j, window) or (i >= 4 and j < 4)


@may_see_sinks.mistake(LATE)
def _(i, j, window):
    return near(i, j, window) or (i > 4 and j < 4)


@may_see_sinks.mistake(LATE)
def _(i, j, window):
    return near(i, j, window) or (i >= 3 and j < 4)


@may_see_sinks.mistake("The sinks are right, and the window is one too narrow: i - W + 1 may still be seen.")
def _(i, j, window):
    return j <= i and (j < 4 or window is None or i - j < window - 1)


@may_see_sinks.mistake("The sinks are seen by tokens that stand before them: token 1 sees position 3. No exception to j <= i.")
def _(i, j, window):
    return j < 4 or (j <= i and (window is None or i - j < window))


@may_see_sinks.mistake("Five sinks: positions 0, 1, 2 and 3 are four, so j < 4.")
def _(i, j, window):
    return j <= i and (j <= 4 or window is None or i - j < window)


@may_see_sinks.mistake("Three sinks. Position 0 is the first of the four, so position 3 is the last.")
def _(i, j, window):
    return j <= i and (j < 3 or window is None or i - j < window)


@may_see_sinks.mistake("Position 0 is missing: the first four positions are 0, 1, 2 and 3.")
def _(i, j, window):
    return j <= i and (1 <= j <= 4 or window is None or i - j < window)


@may_see_sinks.mistake("Both conditions are asked of the same key. A key is seen if it is a sink *or* in the window.")
def _(i, j, window):
    return j <= i and j < 4 and (window is None or i - j < window)


@may_see_sinks.mistake("The sinks were taken out of the window: a window of W still reaches W back, the four come on top of it.")
def _(i, j, window):
    return j <= i and (j < 4 or window is None or i - j < window - 4)


@may_see_sinks.mistake("A window four longer is not four sinks: the sinks stay at the beginning of the text, wherever the query is.")
def _(i, j, window):
    return j <= i and (window is None or i - j < window + 4)


@may_see_sinks.mistake("The sinks are right, and the window is one too wide: the token itself is one of the W.")
def _(i, j, window):
    return j <= i and (j < 4 or window is None or i - j <= window)


@may_see_sinks.mistake("A key far outside the window is seen that is no sink. Only the last W are seen, and the first four.")
def _(i, j, window):
    return j <= i


@may_see_sinks.mistake("Two answers were added: where a sink lies in the window that makes 2, one key counted twice. Join them with `or`.")
def _(i, j, window):
    return (j < 4 and j <= i) + near(i, j, window)


@may_see_sinks.mistake("A key is seen that may not be. In the smallest failing case: is j later than i, or out of the window and no sink?")
def _(i, j, window):
    return True


@may_see_sinks.mistake("A key is hidden that may be seen. In the smallest failing case: is j one of the first four, or in the window?")
def _(i, j, window):
    return False


@may_see_sinks.mistake("The window has no sinks yet: this is the predicate from before.")
def _(i, j, window):
    return near(i, j, window)


@may_see_sinks.mistake("i and j have changed places: i is the query that looks, j the key that is looked at.")
def _(i, j, window):
    return both(j, i, window)


@may_see_sinks.mistake("The last four are not the first four: the sinks are positions 0, 1, 2 and 3, wherever the query is.")
def _(i, j, window):
    return near(i, j, window) or 0 <= i - j < 4


@may_see_sinks.mistake("There are four sinks whatever W is: j < 4, not j < W.")
def _(i, j, window):
    return j <= i and (window is None or j < window or i - j < window)


@may_see_sinks.mistake("A key that is a sink and in the window is not seen. One of the two is enough, and both do no harm: `or`.")
def _(i, j, window):
    return j <= i and (window is None or (j < 4) != (i - j < window))


@may_see_sinks.mistake("Only one sink: the first four positions are 0, 1, 2 and 3.")
def _(i, j, window):
    return near(i, j, window) or j == 0


@may_see_sinks.mistake("`i < 4` asks who looks. The sinks are among the keys: j < 4.")
def _(i, j, window):
    return near(i, j, window) or (i < 4 and j <= i)


@may_see_sinks.mistake("Turned round: it says True where nothing may be seen, and False where something may.")
def _(i, j, window):
    return not both(i, j, window)
