"""`minimistral progress`: which exercises are solved, read off the notebooks that the learner has saved.

A check prints ✓, ✗ or ○ and the exercise's name below its cell, and JupyterLab saves that with the notebook. So nothing
needs to be recorded while one learns: the notebooks are the record, and whoever is handed them can read it too.
"""

import json
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from minimistral import course, lab

SOLVED, TRIED, OPEN = "✓", "✗", "○"
PLAIN = str.maketrans({SOLVED: "x", TRIED: "!", OPEN: "-"})  # for a terminal without them
#: what Exercise.check prints, at the beginning of a line
VERDICT = re.compile(rf"^({SOLVED}|{TRIED}) (\w+): ", re.M)


@dataclass(frozen=True)
class Chapter:
    """marks: exercise -> SOLVED, TRIED or OPEN, in the chapter's order. unreadable: files that are no notebooks as they stand."""

    file: str
    marks: dict[str, str]
    unreadable: tuple[str, ...] = ()

    @property
    def solved(self) -> int:
        return list(self.marks.values()).count(SOLVED)


def chapters(folder: str | Path) -> list[Chapter]:
    """The course's chapters with what the learner's folder shows of each; LabError where there is no such folder.

    An exercise is solved if any cell of the chapter's notebook, or of a newer version beside it, was saved with its ✓.
    """
    folder, found = lab.existing(folder), []
    for path in sorted(lab.find_notebooks().glob("*.ipynb")):
        told, unreadable = {}, []
        for copy in lab.versions(folder / path.name):
            try:
                said = verdicts(copy)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                unreadable.append(copy.name)
                continue
            told |= {name: mark for name, mark in said.items() if told.get(name) != SOLVED}
        found.append(Chapter(path.name, {name: told.get(name, OPEN) for name in exercises(path)}, tuple(unreadable)))
    return found


def exercises(path: Path) -> list[str]:
    """The names of a notebook's exercises, by its cells' tags, in order."""
    tags = [tag for cell in _cells(path) for tag in cell["metadata"].get("tags", [])]
    return [tag.removeprefix("exercise:") for tag in tags if tag.startswith("exercise:")]


def verdicts(path: Path) -> dict[str, str]:
    """Exercise -> SOLVED or TRIED, as the checks printed it in a saved notebook."""
    outputs = [output for cell in _cells(path) for output in cell.get("outputs", [])]
    told = {}
    for output in outputs:
        for mark, name in VERDICT.findall("".join(output.get("text", ""))):
            told[name] = SOLVED if SOLVED in (mark, told.get(name)) else TRIED
    return told


def table(found: list[Chapter]) -> str:
    """Two lines a chapter, how many exercises are solved and which, and a last line that sums up."""
    known = {chapter.file: chapter for chapter in (*course.CHAPTERS, *course.APPENDICES)}
    found = [chapter for chapter in found if chapter.file in known]  # not the pages beside the chapters
    lines, left = [], 0
    for chapter in found:
        its = known[chapter.file]
        count = f"{chapter.solved} of {len(chapter.marks)} solved" if chapter.marks else "no exercise"
        lines.append(f"{chapter.file.split('_')[0]:3} {its.title:40} {count:>14} {its.minutes:5} min")
        lines += textwrap.wrap("   ".join(f"{mark} {name}" for name, mark in chapter.marks.items()), 76, initial_indent="    ",
                               subsequent_indent="    ")  # fmt: skip
        lines += [f"    {name} cannot be read as a notebook" for name in chapter.unreadable]
        left += its.minutes if chapter.solved < len(chapter.marks) else 0
    solved, total = sum(chapter.solved for chapter in found), sum(len(chapter.marks) for chapter in found)
    end = f"; the chapters with an open one take {left / 60:.1f} hours in all" if left else ""
    marks = f"{SOLVED} solved, {TRIED} checked and not right yet, {OPEN} not tried; as last saved."
    return "\n".join([*lines, "", f"{solved} of {total} exercises solved{end}.", marks])


def _cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]
