"""The library's own source on the page, folded until it is asked for."""

import html
import inspect
from pathlib import Path


class source:
    """Functions, classes or modules as they stand in the library now: `source(mm.attend)`, the last line of a cell."""

    def __init__(self, *things):
        self.things = things

    def __repr__(self):
        return "\n\n".join(inspect.getsource(thing).rstrip() for thing in self.things)

    def _repr_mimebundle_(self, include=None, exclude=None):
        names = " and ".join(getattr(thing, "__qualname__", thing.__name__) for thing in self.things)
        path = Path(inspect.getsourcefile(self.things[0]))
        where = path.relative_to(Path(__file__).parents[2]).as_posix()
        shown = (
            f"<details><summary style='cursor:pointer'>The source of {html.escape(names)}, from {html.escape(where)}</summary>"
            f"<pre style='line-height:1.35'>{html.escape(repr(self))}</pre></details>"
        )
        return {"text/html": shown, "text/plain": repr(self)}
