"""A project: the pattern of windows that remembers most within so many bytes, and a table of who tried what.

    league.enter("even", (36, 36, 36, 36))      trains it for some two minutes, and enters its score
    league.table()

A pattern is a window for each of four layers, None for one that sees everything. Its cache, of real tensors, must fit a budget
after TOKENS tokens. Its score is its recall of one fact, the mean over all distances up to TOKENS; of two with the same, the one
with fewer bytes stands first. The table is a file on your own disk; nothing leaves the machine.
"""

import json
import os
from pathlib import Path

from minimistral.config import check_count
from minimistral.files import write
from minimistral.hybrid import cache_for
from minimistral.model import Mistral
from minimistral.reach import cliff
from minimistral.reach.runs import listed

LAYERS, TOKENS = 4, 128
BUDGET = 36 * 1024  # bytes: 144 slots. Four layers without a window take 512; one of them, and three windows of 1, take 131
FILE = Path("league.json")


class LeagueError(ValueError):
    """A pattern or a file that cannot take part; the message says why."""


def n_bytes(windows: tuple) -> int:
    """Bytes of keys and values after TOKENS tokens, float32: of the cache that the model really uses."""
    try:
        cache = cache_for(cliff.config(LAYERS, checked(windows)), device="meta")
    except (RuntimeError, TypeError, OverflowError):
        raise LeagueError(f"{windows} is wider than any cache can be.") from None
    for part in cache.parts:
        if part.window is None:
            part._grow(TOKENS)
    return cache.n_bytes()


def checked(windows: tuple, budget: int | None = None) -> tuple:
    """The pattern as a tuple. Raises LeagueError for one that is none, or is over the budget, and says by how much."""
    if not isinstance(windows, list | tuple) or len(windows) != LAYERS:
        raise LeagueError(f"windows is {windows!r}; expected a window, or None, for each of {LAYERS} layers: (36, 36, 36, 36).")
    if budget is not None and (not isinstance(budget, int | float) or budget != budget):
        raise LeagueError(f"budget is {budget!r}; expected a number of bytes, or None for no limit.")
    windows = tuple(windows)
    cliff.config(LAYERS, windows)  # refuses entries that are no window
    if all(window == 1 for window in windows):
        raise LeagueError("Every window is 1: such a model sees nothing but the question.")
    if budget is not None and (taken := n_bytes(windows)) > budget:
        raise LeagueError(
            f"{windows} takes {taken:,} bytes after {TOKENS} tokens, {taken - budget:,} more than the budget of {budget:,}: "
            "make a window narrower."
        )
    return windows


def enter(name: str, windows: tuple, *, budget: int = BUDGET, file=FILE, steps: int = 800, seed: int = 0, n: int = 64,
          progress: bool = True) -> dict:
    """Check, train, question and write down a pattern: -> its entry. A name that is there already is entered again.

    steps    of training; n: questions at each distance. The same seed gives the same score on the same machine
    Raises ValueError before any training for a pattern over the budget, a name that is no text in one line, or a file that is no
    table or cannot be written.
    """
    if not isinstance(name, str) or not name.isprintable() or not name:
        raise LeagueError(f"name is {name!r}; expected a text in one line.")
    check_count("steps", steps)
    check_count("n", n)
    if not isinstance(seed, int) or seed < 0:
        raise LeagueError(f"seed is {seed!r}; expected a whole number of at least 0.")
    windows, entries = checked(windows, budget), read(file)
    _check_writable(Path(file))
    model = train(windows, steps, seed, progress)
    recall = cliff.curve(model, range(1, TOKENS + 1), n)
    entry = dict(name=name, windows=windows, bytes=n_bytes(windows), recall=sum(recall.values()) / len(recall),
                 forgets=cliff.first_forgotten(recall), budget=budget, steps=steps, seed=seed)  # fmt: skip
    entries = [other for other in entries if other["name"] != name] + [entry]
    write(Path(file), (json.dumps(entries, indent=1) + "\n").encode())
    return entry


def train(windows: tuple, steps: int, seed: int, progress: bool = True) -> Mistral:
    """A model with these windows, taught to recall a fact from up to TOKENS tokens back: the distances grow as it learns."""
    from minimistral.train import fit, new_model

    model = new_model(cliff.config(LAYERS, windows), seed)
    rows = cliff.growing(LAYERS, windows, steps, seed=seed, farthest=TOKENS)
    fit(model, rows, steps=steps, lr=3e-3, warmup=50, progress=progress)
    return model


def _check_writable(path: Path):
    """Better before two minutes of training than after."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return
        reason = "no permission"
    except OSError as error:
        reason = error.strerror or "no folder"
    raise LeagueError(f"{path} cannot be written ({reason}): give another file.")


def read(file=FILE) -> list[dict]:
    """The entries of a table; none where there is no file yet."""
    if not isinstance(file, str | Path):
        raise LeagueError(f"file is {file!r}; expected a path.")
    path = Path(file)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise ValueError("not a list of entries")
        for entry in entries:
            entry["windows"] = checked(entry["windows"])
            numbers = [entry["bytes"], entry["recall"], *(x for x in (entry["budget"], entry["forgets"]) if x is not None)]
            finite = all(isinstance(x, int | float) and abs(x) < float("inf") for x in numbers)
            if not isinstance(entry["name"], str) or not finite:
                raise ValueError("a name that is no text, or a number that is none")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise LeagueError(f"{path} is no table of this league ({error!r}); move it away, or give another file.") from None
    return entries


def table(file=FILE) -> str:
    """All entries, best first."""
    rows = [f"{'':3} {'name':20} {'windows':22} {'bytes':>8}  recall  first forgotten"]
    order = sorted(read(file), key=lambda entry: (-round(entry["recall"], 3), entry["bytes"]))
    for place, entry in enumerate(order, 1):
        rows.append(f"{place:2}. {entry['name'][:20]:20} {listed(entry['windows']):22} {entry['bytes']:8,}  "
                    f"{entry['recall']:6.3f}  {entry['forgets'] or '-':>15}")  # fmt: skip
    return "\n".join(rows) if len(rows) > 1 else "Nobody has entered a pattern yet."
