"""Records and what stands in them: read, and laid out as tables that say what could have been expected."""

import html
import json
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files

NOT_YET = "not recorded yet"


@dataclass(frozen=True)
class Line:
    """One figure of a table: what it is of, what was measured, and the ceiling (or the rival) that it is held against."""

    what: str
    measured: str
    ceiling: str = ""


@dataclass(frozen=True)
class Table:
    """Figures, and beside each what could have been computed before anything was measured. Text, or HTML on a page."""

    title: str
    lines: list[Line]
    notes: tuple[str, ...] = ()
    columns: tuple[str, str, str] = ("what", "measured", "computed")

    def rows(self) -> list[tuple[str, str, str]]:
        return [(line.what, line.measured, line.ceiling) for line in self.lines]

    def __str__(self):
        if not self.lines:
            return "\n".join([self.title, *self.notes])
        rows = [self.columns, *self.rows()]
        widths = [max(len(row[n]) for row in rows) for n in range(len(self.columns))]
        told = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self.title, "", told[0], "-" * len(told[0]), *told[1:], *self.notes])

    __repr__ = __str__

    def _repr_html_(self):
        def row(cells, tag):
            aligned = "".join(f"<{tag} style='text-align:left;padding:2px 14px 2px 0'>{html.escape(c)}</{tag}>" for c in cells)
            return f"<tr>{aligned}</tr>"

        body = "".join(row(cells, "td") for cells in self.rows())
        notes = "".join(f"<p style='margin:4px 0'><small>{html.escape(note)}</small></p>" for note in self.notes)
        return (
            f"<p style='margin:4px 0'><b>{html.escape(self.title)}</b></p>"
            f"<table>{row(self.columns, 'th')}{body}</table>{notes}"
        )


def recorded(kind: str | None = None) -> list[dict]:
    """The records that lie in recorded/, in the order of their files' names; those of one benchmark if `kind` names it."""
    found = []
    for path in sorted(files("minimistral").joinpath("bench", "recorded").iterdir(), key=lambda path: path.name):
        if path.name.endswith(".json"):
            found += singles(json.loads(path.read_text(encoding="utf-8")))
    return [record for record in found if kind in (None, record["benchmark"])]


def singles(record: dict) -> list[dict]:
    """The records in a file: it is one (which says of what machine), or holds several, as what `bench all` writes does."""
    if "machine" in record and "records" not in record:
        return [record]
    parts = record.get("records", record.values())
    return [part for part in parts if isinstance(part, dict) and "machine" in part]


def table(record: dict) -> Table:
    """One record, as its benchmark's module lays it out."""
    module = import_module(f"minimistral.bench.{record['benchmark']}")
    lines, notes = module.lines(record) if hasattr(module, "lines") else ([], module.table(record).splitlines())
    return Table(f"{record['benchmark']}: {where(record['machine'])}", lines, tuple(notes))


def where(machine: dict) -> str:
    """The machine in a few words."""
    return f"{machine.get('gpu') or machine['processor'] + ', ' + str(machine['threads']) + ' threads'}, torch {machine['torch']}"


#: what is to be reached: benchmark, device and case; the slower and the faster contender; in words; the goal; the ceiling
GOALS = (
    ("attention cpu float32", "causal", "auto", "window attention, 16k, W = 4096, CPU, over full causal", "2.1 (1.9)", "2.286"),
    ("attention cpu float32", "mask", "auto", "the same over masked SDPA, as transformers calls it", "5", "a rival"),
    ("attention cuda bfloat16", "causal", "auto", "the same on a GPU, over its fastest causal kernel", "2.2", "2.286"),
    ("prefill cuda 7B", "full", "window", "whole 7B pre-fill, 16k, GPU", "95 % of what the rates predict", "1.15 to 1.27"),
    ("decode cuda 7B", "copy of as many bytes", "compiled", "7B decode, bf16, batch 1, GPU, of a copy's bandwidth", "0.9", "1"),
    ("decode cuda 7B", "transformers", "compiled", "over transformers, static cache and compile", "above 1", "a rival"),
    ("decode cuda 7B", "captured, at 1 W", "captured, at 4 W", "7B decode at 16k over 4k", "within 5 %", "1"),
    ("decode cuda 7B", "captured, at 1 W", "captured, at 8 W", "7B decode at 32k over 4k", "within 5 %", "1"),
    ("decode cpu 1.8M", "captured, at 1 W", "captured, at 8 W", "1.8M decode at 8 W over W, CPU", "within 5 %", "1"),
    ("decode cpu 1.8M", "transformers", "captured, at 4 W", "1.8M decode, CPU, over transformers", "2", "a rival"),
    ("decode cpu 141M", "transformers", "captured, at 4 W", "141M decode, CPU, over transformers", "1.05", "a rival"),
    ("prefill cpu 141M", "transformers", "window", "141M pre-fill, 8k, W = 1024, CPU, over transformers", "2", "a rival"),
    ("decode cuda 7B", "batch 32, full", "batch 32, window", "7B decode, batch 32, 16k, GPU", "close to it", "2.6"),
)


def goals(records: list[dict] | None = None) -> Table:
    """What is to be reached, and the last record of it; without one, "not recorded yet"."""
    records = recorded() if records is None else records
    lines = []
    for where, slow, fast, what, goal, ceiling in GOALS:
        kind, device, case = where.split()
        found = [got for record in records if (got := ratio_in(record, kind, device, case, slow, fast))]
        lines.append(Line(what, found[-1] if found else NOT_YET, f"{goal} | {ceiling}"))
    return Table("What is to be reached", lines, columns=("what", "recorded", "goal | ceiling or rival"))


def ratio_in(record: dict, kind: str, device: str, case: str, slow: str, fast: str) -> str | None:
    """slow over fast as this record has it, or None."""
    from minimistral.bench import attention, measure

    if record["benchmark"] != kind or record["setting"].get("device") != device:
        return None
    seconds = {name: taken for name, taken in record["results"].get(case, {}).get("seconds", {}).items() if len(taken) > 1}
    if slow == "causal" and any(name.startswith("causal") for name in seconds):
        slow = attention.baseline(seconds)
    n = min(len(seconds.get(slow, [])), len(seconds.get(fast, [])))
    return str(measure.ratio(seconds[slow][:n], seconds[fast][:n])) if n else None
