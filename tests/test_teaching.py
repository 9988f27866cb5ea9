"""TEACHING.md keeps its word: a section a chapter, plans that fit their minutes, nothing named that is not in the notebook."""

import inspect
import json
import re
from functools import cache
from pathlib import Path

import pytest

from minimistral.course import APPENDICES, CHAPTERS, NOTEBOOKS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
FILES = [chapter.file for chapter in CHAPTERS + APPENDICES]
WRITTEN = [chapter.file for chapter in CHAPTERS + APPENDICES if chapter.written]


def sections() -> dict[str, str]:
    """The chapters' sections by their number as text: "00" to "14", and "12b"."""
    return {part.split(" ")[0]: part for part in re.split(r"(?m)^## (?=\d\d)", TEXT)[1:]}


def section(file: str) -> str:
    return sections()[file.split("_")[0]]


def rows(text: str) -> list[list[str]]:
    """The cells of all rows of a section's tables, rulers left out."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [line for line in lines if set(line[0]) - set("-")]


def plans(text: str) -> dict[int, list[list[str]]]:
    """The rows of the 50- and the 90-minute plan: minutes, what, where."""
    found, plan = {}, None
    for row in rows(text):
        if row[0] in ("50 min", "90 min"):
            plan = found.setdefault(int(row[0][:2]), [])
        elif re.fullmatch(r"\d+|home", row[0]):
            plan.append(row)
    return found


@cache
def page(file: str) -> dict:
    """What can be named of a notebook: its cells' ids and exercise tags; its headings; its code."""
    cells = json.loads((NOTEBOOKS / file).read_text(encoding="utf-8"))["cells"]
    named = {cell["id"] for cell in cells} | {tag for cell in cells for tag in cell["metadata"].get("tags", ())}
    markdown = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return {"named": named, "headings": set(re.findall(r"(?m)^##+ (.+)$", markdown)), "code": code}


def test_every_chapter_has_its_section_in_order():
    order = sorted(FILES)
    assert list(sections()) == [file.split("_")[0] for file in order]
    for chapter in CHAPTERS + APPENDICES:
        assert section(chapter.file).splitlines()[0].endswith(f"· {chapter.title}")
        assert f"(notebooks/{chapter.file})" in section(chapter.file)


@pytest.mark.parametrize("file", FILES)
def test_the_plans_fit_into_their_minutes(file):
    both = plans(section(file))
    assert set(both) == {50, 90}
    for limit, plan in both.items():
        total = sum(int(minutes) for minutes, *_ in plan if minutes != "home")
        assert limit - 15 <= total <= limit, f"{limit} minutes hold {total}"


@pytest.mark.parametrize("file", WRITTEN)
def test_what_is_named_is_on_the_page(file):
    """In a chapter's section all between backticks is a cell, an exercise, or a widget that the notebook calls."""
    known = page(file)
    for name in re.findall(r"`([^`]+)`", section(file)):
        assert name in known["named"] or f"{name}(" in known["code"], f"{file} has no {name}"


@pytest.mark.parametrize("file", WRITTEN)
def test_bold_in_a_plan_is_a_heading(file):
    for plan in plans(section(file)).values():
        for _, what, where in plan:
            assert re.search("`.+`", where), f"no cell is named for: {what}"
            for heading in re.findall(r"\*\*(.+?)\*\*", what):
                assert heading in page(file)["headings"], f"{file} has no heading {heading!r}"


@pytest.mark.parametrize("file", WRITTEN)
def test_every_exercise_has_its_place_in_both_plans(file):
    exercises = {name for name in page(file)["named"] if name.startswith("exercise:")}
    for limit, plan in plans(section(file)).items():
        planned = {name for _, _, where in plan for name in re.findall(r"`(exercise:\w+)`", where)}
        assert planned == exercises, f"{file}, {limit} minutes"


@pytest.mark.parametrize("file", FILES)
def test_each_chapter_has_misconceptions_and_answers(file):
    text = section(file)
    table = text[text.index("| they think | what answers it |"):]
    answered = rows(table)[1:]
    assert len(answered) >= 3 and all("`" in answer or "chapter" in answer for _, answer in answered)


def test_links_resolve():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    later = {f"notebooks/{file}" for file in set(FILES) - set(WRITTEN)}
    assert len(links) > len(FILES)
    assert [link for link in links if not (ROOT / link).exists() and link not in later] == []


def test_the_short_way_is_the_courses():
    short = ", ".join(f"{chapter.number:02d}" for chapter in CHAPTERS if chapter.short)
    assert f"| {short} |" in TEXT


def test_the_projector_option_is_there():
    from minimistral.lab import lab

    assert "minimistral lab --projector" in TEXT and "projector" in inspect.signature(lab).parameters
