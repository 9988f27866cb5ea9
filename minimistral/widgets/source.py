"""The library's own source on the page, folded until it is asked for."""

import inspect
from pathlib import Path

from minimistral.widgets.picture import Folded


def source(*things) -> Folded:
    """Functions, classes or modules as they stand in the library now: `source(mm.attend)`, the last line of a cell."""
    names = " and ".join(getattr(thing, "__qualname__", thing.__name__) for thing in things)
    path = Path(inspect.getsourcefile(things[0])).relative_to(Path(__file__).parents[2])
    text = "\n\n".join(inspect.getsource(thing).rstrip() for thing in things)
    return Folded(f"The source of {names}, from {path.as_posix()}", text)
