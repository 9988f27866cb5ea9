"""notebooks/paper_to_code.md: every name on it is there, and the way back is the way there."""

import ast
import pkgutil
import re
from functools import cache

import nbformat
import pytest

from minimistral import course

PAGE = course.NOTEBOOKS / "paper_to_code.md"
ROOT = course.NOTEBOOKS.parent
CHAPTERS = {chapter.file for chapter in (*course.CHAPTERS, *course.APPENDICES)}


def named(cell: str) -> list[tuple[str, str]]:
    """The names in a cell of a table, each with the file that it links to: ("cache.RollingBuffer", "minimistral/cache.py")."""
    return re.findall(r"\[`([^`]+)`\]\(\.\./([^)]+)\)", cell)


def part(title: str) -> str:
    """What stands under a heading."""
    return PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def table(title: str) -> list[list[str]]:
    """The rows of the table under a heading, without the first two lines."""
    lines = [line for line in part(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


HELD = {re.match(r"\[(\d+)\]\(#s\1\)$", row)[1]: cells for row, *cells in table("What holds it, and what shows it")}
THERE, BACK = table("From paper to code"), table("From code to paper")
each_row = pytest.mark.parametrize("row", THERE, ids=lambda row: number(row))


def number(row) -> str:
    return re.match(r'<a id="s(\d+)"></a>\1$', row[0])[1]


@cache
def functions(path: str) -> set[str]:
    """The functions of a file, without running it."""
    return {node.name for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def is_there(name: str, path: str) -> bool:
    """Whether a name can be imported from minimistral, and the file it links to is its module's."""
    try:
        pkgutil.resolve_name(f"minimistral.{name}")
    except (ImportError, AttributeError):
        return False
    return f"minimistral.{name}".startswith(path.removesuffix(".py").replace("/", ".") + ".") and (ROOT / path).is_file()


def test_the_rows_are_numbered():
    assert [number(row) for row in THERE] == [str(n) for n in range(1, len(THERE) + 1)] and len(THERE) > 15
    assert {len(row) for row in THERE} == {5}
    assert list(HELD) == [number(row) for row in THERE]


@each_row
def test_each_sentence_has_its_chapter_code_test_and_picture(row):
    chapters, code, (tests, pictures) = *row[3:], HELD[number(row)]
    links = re.findall(r"\[(\w+)\]\(([^)]+)\)", chapters)
    assert links and all(to in CHAPTERS and to.startswith(f"{n}_") for n, to in links)
    assert named(code) and [name for name, path in named(code) if not is_there(name, path)] == []
    assert named(pictures) and [name for name, path in named(pictures) if not is_there(name, path)] == []
    assert all(name.startswith("widgets.") for name, _ in named(pictures))
    assert named(tests) and [name for name, path in named(tests) if name not in functions(path)] == []
    for cell in (code, tests, pictures):
        assert cell.count("`") == 2 * len(named(cell)), "a name without a link"


@each_row
def test_the_chapters_show_the_pictures_of_their_row(row):
    """Of each row's pictures at least one is in a chapter of the row, under its own name or that of its module."""
    told = ""
    for to in re.findall(r"\((\d[^)]+)\)", row[3]):
        nb = nbformat.read(course.NOTEBOOKS / to, as_version=4)
        told += "\n".join(cell.source for cell in nb.cells if cell.cell_type == "code")
    assert any(re.search(rf"\b{name.split('.')[-1]}\(", told) for name, _ in named(HELD[number(row)][1]))


def test_the_way_back_is_the_way_there():
    forth = {(name, number(row)) for row in THERE for name, _ in named(row[4]) + named(HELD[number(row)][1])}
    back = {(name, n) for row in BACK for name, _ in named(row[0]) for n in re.findall(r"\[(\d+)\]\(#s\1\)", row[1])}
    assert back == forth
    names = [named(row[0])[0][0] for row in BACK]
    assert names == sorted(set(names))
    assert all(is_there(*one) for row in BACK for one in named(row[0]))


def test_where_text_and_code_part_there_is_a_chapter_that_shows_it():
    said = re.findall(r'^<a id="(d\d+)"></a>(.+)$', part("Where the text and the code part"), flags=re.MULTILINE)
    assert [name for name, _ in said] == [f"d{n}" for n in range(1, len(said) + 1)] and len(said) >= 5
    parted = {number(row): re.search(r"\[but\]\(#(d\d)\)", row[1]) for row in THERE}
    for name, text in said:
        assert any(f"]({to})" in text for to in CHAPTERS)
        assert set(re.findall(r"\[row (\d+)\]\(#s\1\)", text)) == {n for n, but in parted.items() if but and but[1] == name}


def test_a_name_that_is_not_there_is_found():
    assert is_there("cache.RollingBuffer.held", "minimistral/cache.py")
    assert not is_there("cache.RollingBuffer.hold", "minimistral/cache.py")
    assert not is_there("cache.RollingBuffer.held", "minimistral/model.py")
    assert not is_there("cash.RollingBuffer", "minimistral/cash.py")
    assert "test_the_rows_are_numbered" in functions("tests/test_paper_to_code.py")
