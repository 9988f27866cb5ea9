"""Chapter 13: where a bug begins, the exam with its six caches (judge, locate), and two of them mended."""

import inspect
import textwrap

import torch

from minimistral.exercises.frame import Exercise
from minimistral.museum import exam

# --- by hand --------------------------------------------------------------------------------------------------------------

first_wrong = Exercise(
    "first_wrong",
    hints=[
        "Position i has i + 1 keys stored when it is its turn, its own counted. How many may it see?",
        "It goes wrong when more are stored than the window holds: i + 1 > 64.",
    ],
)


@first_wrong.reference
def _():
    return 64


@first_wrong.right
def _():
    return 64.0


@first_wrong.mistake("Position 63 has 64 keys, its own counted, and may see all of them. It is the last one that is right.")
def _():
    return 63


@first_wrong.mistake("One earlier: positions are counted from 0, so position 64 is the 65th token.")
def _():
    return 65


@first_wrong.mistake("Decode begins there, and with it the missing mask. But a mask that hides nothing is not missed yet.")
def _():
    return 40


@first_wrong.mistake("The prompt does not count extra: the window is about positions, and the prompt's are 0 to 39.")
def _():
    return 104


# --- the exam: judge ------------------------------------------------------------------------------------------------------

HEALTHY, BROKEN = "healthy", "broken"
ACCUSED = (
    "You call a cache broken that no trial makes part. Written in another way is not wrong: which trial did it fail? Run it again."
)
#: what somebody did not try who takes this one for healthy
BLIND = {
    "C": "One that you call healthy parts when tokens come one by one, from the very first. Follow the length up to W, one at a time.",
    "A": "One that you call healthy parts in a chunk of several tokens after the window is full, but not in its first layer, "
         "and not for every number of tokens before the chunk. Try more than one.",
    "E": "One that you call healthy parts when the rows of a batch have different lengths. Give lists for chunks, "
         "with one chunk longer than the window.",
    "F": "One that you call healthy parts in its second text. Use the same cache again: again=True.",
}  # fmt: skip


class Sat(Exercise):
    """An exercise of the exam, which remembers its best attempt: a later wrong one takes nothing away."""

    solved = False  # in any check
    best: int | None = None  # how many were right at best
    count: int | None = None  # and in the last check

    def _judge(self, yours) -> str:
        said = super()._judge(yours)
        self.solved |= self._passed
        if self.count is not None:
            self.best = max(self.best or 0, self.count)
        return said


class Verdicts(Sat):
    """Six verdicts at once: it says how many are right, and not which. Checks are counted until all are."""

    checks = 0

    def _judge_value(self, yours) -> str:
        self.count, self._attempted = None, yours is not None and yours is not ...
        if not self._attempted:
            return f"○ {self.name}: not attempted yet."
        if not isinstance(yours, dict) or set(yours) != set(exam.CACHES) or not set(map(str, yours.values())) <= {HEALTHY, BROKEN}:
            self._advice = "a dict with the keys 'A' to 'F', and for each the word 'healthy' or 'broken'."
            return f"✗ {self.name}: expected {self._advice}"
        truth = self.answer()
        self.checks += not self.solved
        self.count = sum(yours[letter] == truth[letter] for letter in truth)
        self._passed = self.count == len(truth)
        return f"{'✓' if self._passed else '✗'} {self.name}: {self.count} of {len(truth)} are right."

    def _likely(self) -> str:
        if self._advice:
            return self._advice
        truth = self.answer()
        if any(self._yours[letter] == BROKEN and truth[letter] == HEALTHY for letter in truth):
            return ACCUSED
        return next(BLIND[letter] for letter in BLIND if self._yours[letter] == HEALTHY)


verdicts = Verdicts(
    "verdicts",
    hints=[
        "Healthy means: right in every trial. One trial that parts is enough to call a cache broken; no number of them proves it healthy. "
        "So think of kinds of trial, not of many.",
        "Vary one thing at a time: the length, one token after another, up to beyond W; the size of a chunk after the window is full; "
        "rows of different lengths; a second text in the same cache.",
        "The lattice of chapter 06 tries most of these at once: lattice.run(cells, lattice.through(exam.CACHES['A'])), with the cells "
        "from above. One thing it never does.",
    ],
)


@verdicts.reference
def _():
    return {"A": "broken", "B": "healthy", "C": "broken", "D": "healthy", "E": "broken", "F": "broken"}


@verdicts.right
def _():
    return {"F": "broken", "E": "broken", "D": "healthy", "C": "broken", "B": "healthy", "A": "broken"}


def _judged(**changes):
    return verdicts.answer() | changes


@verdicts.mistake(ACCUSED)
def _():
    return dict.fromkeys("ABCDEF", BROKEN)


@verdicts.mistake(ACCUSED)
def _():
    return _judged(B=BROKEN)


@verdicts.mistake(BLIND["C"])
def _():
    return dict.fromkeys("ABCDEF", HEALTHY)


@verdicts.mistake(BLIND["C"])
def _():
    return _judged(C=HEALTHY)


@verdicts.mistake(BLIND["A"])
def _():
    return _judged(A=HEALTHY)


@verdicts.mistake(BLIND["E"])
def _():
    return _judged(E=HEALTHY)


@verdicts.mistake(BLIND["F"])
def _():
    return _judged(F=HEALTHY)


@verdicts.mistake("a dict with the keys 'A' to 'F', and for each the word 'healthy' or 'broken'.")
def _():
    return {"A": "broken"}


# --- the exam: locate -----------------------------------------------------------------------------------------------------

FEWEST = {"A": 5, "C": 2, "E": 5, "F": 1}  # tokens; tests/test_museum.py proves that fewer are not enough
ALL_RIGHT = "At least one of your cases does not part. Run it: exam.trial(letter, **case)."
SMALLER = (
    "All your cases part, and at least one can still be smaller. Take a token out of a chunk, drop a chunk, or try a smaller window, "
    "as long as it still parts. Count the real tokens of all rows, as the trial does."
)
MISSING = "Your cases part, and none can be smaller. But a broken cache is not among them: go back to your verdicts."
NO_CASES = "give for each letter the arguments of its trial, as in {'A': dict(window=4, chunks=[5, 1])}."


class Located(Sat):
    """For each broken cache a trial in which it parts, with as few tokens as can be. How many, and not which, is said."""

    def _judge_value(self, yours) -> str:
        self.count, self._attempted = None, yours is not None and yours is not ...
        if not self._attempted:
            return f"○ {self.name}: not attempted yet."
        fits = isinstance(yours, dict) and yours and all(isinstance(case, dict) for case in yours.values())
        if not fits or not set(yours) <= set(exam.CACHES):
            self._advice = NO_CASES
            return f"✗ {self.name}: {NO_CASES}"
        trials = {}
        for letter, case in yours.items():
            try:
                trials[letter] = exam.trial(letter, **case)
            except Exception as error:
                self._advice = f"{letter}'s case cannot be run: {' '.join(str(error).split())[:200]}"
                return f"✗ {self.name}: {self._advice}"
        part = {letter for letter, trial in trials.items() if not trial}
        least = {letter for letter in part if trials[letter].tokens <= FEWEST[letter]}
        self.count = len(least)  # cases that part and cannot be smaller
        if part != set(yours):
            self._advice = ALL_RIGHT
        elif least != part:
            self._advice = SMALLER
        elif least != set(FEWEST):
            self._advice = MISSING
        else:
            self._passed = True
            return f"✓ {self.name}: all {len(least)} part, and none can be smaller."
        cases = f"{len(yours)} case" + "s" * (len(yours) > 1)
        return f"✗ {self.name}: of {cases} {len(part)} part, {len(least)} cannot be smaller" + (
            ", and a broken cache is missing." if self._advice is MISSING else "."
        )

    def _likely(self) -> str:
        return self._advice


located = Located(
    "located",
    hints=[
        "Begin with any trial that parts. The trial says at which position: what comes after it is not needed.",
        "Then make it smaller: a window of 2 or 1, and one token less somewhere, until it is right again. One step back is your case.",
        "When every way to take a token out of it makes it right, cut the same tokens in other ways, or spread them over two rows, "
        "and try again.",
    ],
)


@located.reference
def _():
    return {
        "A": dict(window=2, chunks=[3, 2]),
        "C": dict(window=2, chunks=[1, 1]),
        "E": dict(window=2, chunks=[[3, 1], [0, 1]]),
        "F": dict(window=1, chunks=[1], again=True),
    }


@located.right
def _():
    return {
        "F": dict(window=3, chunks=[1], again=True),
        "E": dict(window=2, chunks=[[1, 3], [1, 0]]),
        "C": dict(window=2, chunks=(1, 1)),
        "A": dict(window=2, chunks=[1, 2, 2]),
    }


@located.mistake(ALL_RIGHT)
def _():
    return located.answer() | {"B": dict(window=2, chunks=[3, 2])}


@located.mistake(ALL_RIGHT)
def _():
    return located.answer() | {"F": dict(window=1, chunks=[1])}


@located.mistake(SMALLER)
def _():
    return located.answer() | {"A": dict(window=4, chunks=[5, 1, 4])}


@located.mistake(SMALLER)
def _():
    return located.answer() | {"C": dict(window=3, chunks=[1, 1, 1])}


@located.mistake(MISSING)
def _():
    return {letter: case for letter, case in located.answer().items() if letter != "F"}


@located.mistake(NO_CASES)
def _():
    return {"A": [3, 2]}


@located.mistake("A's case cannot be run: chunks is 5: expected a list of whole numbers above 0")
def _():
    return {"A": dict(window=2, chunks=5)}


# --- the exam: repair -----------------------------------------------------------------------------------------------------


def _lists():
    """(kept, new, position): before the list is full, when it becomes so, and after. Hkv, size and D are all different."""
    g = torch.Generator().manual_seed(13)
    cases = [(torch.zeros(1, 2, 1), torch.tensor([[7.0]]), 0), (torch.tensor([[[3.0], [0.0]]]), torch.tensor([[7.0]]), 1)]
    for Hkv, size, D, position in ((2, 4, 3, 3), (2, 4, 3, 2), (3, 5, 2, 5), (2, 3, 4, 4), (1, 6, 2, 30), (3, 1, 2, 0), (3, 1, 2, 8)):
        kept = torch.randn(Hkv, size, D, generator=g)
        kept[:, position:] = 0
        cases.append((kept, torch.randn(Hkv, D, generator=g), position))
    return cases


append = Sat(
    "append",
    cases=_lists,
    hints=[
        "How many tokens are in the list already? As many as `position` says, up to `size`. When is there no place left?",
        "While position < size there is a free place, and it is the place `position`. Only from position == size on must the list move up.",
        "kept.roll(-1, dims=1) moves everything up by one; the oldest comes round to the last place, where the new one overwrites it.",
    ],
)


@append.reference
def _(kept, new, position):
    size = kept.shape[1]
    kept = kept.roll(-1, dims=1) if position >= size else kept.clone()
    kept[:, min(position, size - 1)] = new
    return kept


@append.right
def _(kept, new, position):
    size = kept.shape[1]
    if position < size:
        return torch.cat((kept[:, :position], new[:, None], kept[:, position + 1 :]), dim=1)
    return torch.cat((kept[:, 1:], new[:, None]), dim=1)


@append.right
def _(kept, new, position):
    out = kept.clone()
    last = kept.shape[1] - 1
    if position > last:
        for place in range(last):
            out[:, place] = kept[:, place + 1]
    out[:, position if position < last else last] = new
    return out


@append.right
def _(kept, new, position):
    size = kept.shape[1]
    places = torch.arange(size)
    longer = torch.cat((kept, new.unsqueeze(1)), dim=1)
    picked = places + int(position >= size)
    picked[min(position, size - 1)] = size
    return longer.index_select(1, picked)


@append.mistake("It moves up one step too early. The token at position size - 1 still finds a free place: the last one.")
def _(kept, new, position):
    return exam.C.append(kept, new, position)


@append.mistake("It never moves up: once the list is full, the newest overwrites the newest.")
def _(kept, new, position):
    out = kept.clone()
    out[:, min(position, kept.shape[1] - 1)] = new
    return out


@append.mistake("This is a ring, with the slot position mod size. Here the list stays in order, oldest first.")
def _(kept, new, position):
    out = kept.clone()
    out[:, position % kept.shape[1]] = new
    return out


@append.mistake("It moves up one step too late: with position == size the list is full already.")
def _(kept, new, position):
    size = kept.shape[1]
    out = kept.roll(-1, dims=1) if position > size else kept.clone()
    out[:, min(position, size - 1)] = new
    return out


@append.mistake("It always moves up. While there is room nobody moves: the new one goes to place `position`.")
def _(kept, new, position):
    return torch.cat((kept[:, 1:], new[:, None]), dim=1)


@append.mistake("It moves the wrong way: roll(1) brings the newest to the front.")
def _(kept, new, position):
    size = kept.shape[1]
    out = kept.roll(1, dims=1) if position >= size else kept.clone()
    out[:, min(position, size - 1)] = new
    return out


@append.mistake("The list grows. It has `size` places, and keeps them: the oldest goes.")
def _(kept, new, position):
    return torch.cat((kept, new[:, None]), dim=1)


@append.mistake("It writes into kept itself: the caller still holds it. Make a new list: clone() it first.")
def _(kept, new, position):
    size = kept.shape[1]
    if position >= size:
        kept[:] = kept.roll(-1, dims=1)
    kept[:, min(position, size - 1)] = new
    return kept


def _padded():
    """(T, lengths, size): longer and shorter than the buffer, rows full, short and empty."""
    sizes = ((2, [2], 1), (3, [3, 1], 2), (5, [5, 2, 0], 3), (4, [1, 3], 6), (7, [7, 6, 5, 2], 4), (1, [0, 1], 1), (9, [4, 9, 8], 5))
    return [(T, torch.tensor(lengths), size) for T, lengths, size in sizes]


keepers = Sat(
    "keepers",
    cases=_padded,
    hints=[
        "Write out one row by hand: T = 3, one real token, room for 2. Which columns must be stored?",
        "A row of n real tokens has them in the columns 0 to n - 1. The last `size` of them are n - size to n - 1.",
        "columns = torch.arange(T), and lengths[:, None] beside it: two comparisons, joined with &.",
    ],
)


@keepers.reference
def _(T, lengths, size):
    columns = torch.arange(T)
    real = columns < lengths[:, None]
    return real & (columns >= lengths[:, None] - size)


@keepers.right
def _(T, lengths, size):
    out = torch.zeros(len(lengths), T, dtype=torch.bool)
    for row, n in enumerate(lengths.tolist()):
        out[row, max(0, n - size) : n] = True
    return out


@keepers.right
def _(T, lengths, size):
    steps_back = lengths.unsqueeze(1) - torch.arange(T).expand(len(lengths), T)  # 1 for a row's last real token
    return (steps_back >= 1) & (steps_back <= size)


@keepers.right
def _(T, lengths, size):
    return torch.tensor([[0 <= n - 1 - t < size for t in range(T)] for n in lengths.tolist()])


@keepers.mistake("It counts the last `size` columns of the chunk. In a row that is shorter than the chunk these are padding, "
                 "and its own tokens are lost: count from the row's own length.")
def _(T, lengths, size):
    return exam.E.keepers(T, lengths, size)


@keepers.mistake("Padding is stored too. Only columns before a row's own length are real.")
def _(T, lengths, size):
    return torch.arange(T) >= (lengths[:, None] - size)


@keepers.mistake("All real tokens are stored, also more than there are slots: some slot is then written twice in one go.")
def _(T, lengths, size):
    return torch.arange(T) < lengths[:, None]


@keepers.mistake("These are the first `size` real tokens of each row. The last ones are needed.")
def _(T, lengths, size):
    columns = torch.arange(T)
    return (columns < lengths[:, None]) & (columns < size)


@keepers.mistake("One too few: of `size` slots one stays empty. The first column that is kept is n - size.")
def _(T, lengths, size):
    columns = torch.arange(T)
    return (columns < lengths[:, None]) & (columns > lengths[:, None] - size)


@keepers.mistake("All rows are treated as if they were as long as the longest.")
def _(T, lengths, size):
    columns = torch.arange(T).expand(len(lengths), T)
    return (columns < lengths.max()) & (columns >= lengths.max() - size)


@keepers.mistake("The numbers are right, but they are 0 and 1. A mask that picks tokens is bool.")
def _(T, lengths, size):
    columns = torch.arange(T)
    return ((columns < lengths[:, None]) & (columns >= lengths[:, None] - size)).long()


@keepers.mistake("The result lies on its side: rows of the batch first, then the columns of the chunk, (B, T).")
def _(T, lengths, size):
    columns = torch.arange(T)[:, None]
    return (columns < lengths) & (columns >= lengths - size)


# --- what the exam shows when it may ----------------------------------------------------------------------------------------

LABELS = {
    "A": "puts the mask's columns in order of age as well, in place: the first layer does it, and so does the second, to the same "
         "mask. Right for single tokens, until the ring is full, and whenever the position is a multiple of W.",
    "B": "healthy: a list whose last place is the newest token.",
    "C": "moves up one step too early, before the list is full: the oldest key goes too soon, and an empty place takes part. "
         "transformers #37574, exhibit 5.",
    "D": "healthy: a ring with three seats to spare; the mask knows the window.",
    "E": "stores the last columns of a chunk, not the last real tokens of a row: in a chunk longer than the ring a short row loses its own.",
    "F": "keeps its book when it is reset: the keys are cleared, and the book still says which positions lie there.",
}  # fmt: skip


def patients(now: bool = False):
    """The function to be mended that is shown, once your verdicts are right; at once with now=True."""
    if not (now or verdicts.solved):
        print("Judge first: this opens when your verdicts are right. To see it anyway: patients(now=True).")
        return
    print(textwrap.dedent(inspect.getsource(exam.C.append)))


def labels(now: bool = False):
    """What the six were, once your verdicts are right; at once with now=True."""
    if not (now or verdicts.solved):
        print("The labels hang behind a curtain until your verdicts are right. To see them anyway: labels(now=True).")
        return
    print("\n".join(f"{letter} {text}" for letter, text in LABELS.items()))


def retry(append, keepers):
    """Try the two caches that these functions mend."""
    kinds = [kind for kind in exam.mended(append, keepers).values() if kind not in exam.CACHES.values()]
    trials = [dict(window=W, chunks=chunks, again=again) for W in (1, 2, 3) for again in (False, True)
              for chunks in ([1] * 7, [3, 2, 4], [[3, 1], [0, 1], [4, 4]], [W, 1, 1], [2 * W + 2, W + 1, 1])]  # fmt: skip
    right = sum(bool(exam.trial(kind, **trial)) for kind in kinds for trial in trials)
    print(f"The two mended caches: right in {right} of {len(kinds) * len(trials)} trials.")


def score():
    """What you have done so far; of several attempts, the best."""
    judged, located_ = "not yet", "not yet"
    if verdicts.best is not None:
        judged = f"{verdicts.best} of 6, in {verdicts.checks} check" + "s" * (verdicts.checks > 1)
    if located.best is not None:
        located_ = f"{located.best} with as few tokens as can be" + ", and none is missing" * located.solved
    print(f"judged:   {judged}\nlocated:  {located_}\nrepaired: {append.solved + keepers.solved} of 2")
