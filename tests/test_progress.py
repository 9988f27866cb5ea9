"""Progress is what the learner's saved notebooks show; a reset loses nothing; a wheel brings the course along."""

import importlib
import io
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from datetime import date
from pathlib import Path

import browser
import execute
import nbformat
import pytest

import minimistral.exercises
from minimistral import cli, course, lab, solved
from minimistral.exercises.frame import Exercise

ROOT = Path(__file__).parent.parent
CHAPTERS = ("00_start_here.ipynb", "05_rolling_buffer.ipynb", "12b_evaluation_and_guardrails.ipynb")
TODAY = f"{date.today()}"


def lay(folder, name, exercises=("held", "ring_step"), text="1 + 1"):
    """A chapter as the course has it: executed, a cell for each exercise, none attempted."""
    cells = [nbformat.v4.new_markdown_cell("# A"), nbformat.v4.new_code_cell(text, execution_count=1)]
    for one in exercises:
        cells.append(nbformat.v4.new_code_cell(f"ex.{one}.check({one})", metadata={"tags": [f"exercise:{one}"]}))
        say(cells[-1], f"○ {one}: not attempted yet.\n")
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)), encoding="utf-8")


def say(cell, text):
    cell.outputs = [nbformat.v4.new_output("stream", text=text)]


def saved(path, **said):
    """What JupyterLab would save: below the cell of each exercise, what its check printed."""
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        for name, text in said.items():
            if f"exercise:{name}" in cell.metadata.get("tags", []):
                cell.source = f"mine\n{cell.source}"
                say(cell, text)
    path.write_text(nbformat.writes(nb), encoding="utf-8")


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of three chapters, and we stand in it; nothing laid yet."""
    for name, exercises in zip(CHAPTERS, (["finish"], ["held", "ring_step"], ["pass_at_k"]), strict=True):
        lay(tmp_path / "notebooks", name, exercises)
    monkeypatch.setattr(lab, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def my(repository):
    lab.sync(repository / "notebooks", repository / "my")
    return repository / "my"


def marks(folder):
    return {chapter.file: chapter.marks for chapter in solved.chapters(folder)}


# ---- progress ----------------------------------------------------------------------------------------------------------


def test_every_exercise_of_the_package_is_found_in_the_course_by_its_tag():
    names = [module.name for module in pkgutil.iter_modules(minimistral.exercises.__path__)]
    modules = [importlib.import_module(f"minimistral.exercises.{name}") for name in names]
    declared = [one.name for module in modules for one in vars(module).values() if isinstance(one, Exercise)]
    found = [name for path in sorted(course.NOTEBOOKS.glob("*.ipynb")) for name in solved.exercises(path)]
    assert sorted(found) == sorted(declared) and len(set(found)) == len(found) > 50


def test_an_untouched_copy_has_everything_open(my):
    assert list(marks(my)) == list(CHAPTERS)
    assert list(marks(my).values()) == [{"finish": "○"}, {"held": "○", "ring_step": "○"}, {"pass_at_k": "○"}]


def test_what_the_check_prints_is_what_counts(my, capsys):
    """The real frame's lines, for the three verdicts."""
    said = {}
    for name, yours in (("held", lambda x: 2 * x), ("ring_step", lambda x: x), ("finish", None)):
        exercise = Exercise(name, cases=lambda: [(1,), (21,)])
        exercise.reference(lambda x: x + x)
        exercise.check(yours)
        said[name] = capsys.readouterr().out
    saved(my / CHAPTERS[0], **said)
    saved(my / CHAPTERS[1], **said)
    assert marks(my)[CHAPTERS[1]] == {"held": "✓", "ring_step": "✗"}
    assert marks(my)[CHAPTERS[0]] == {"finish": "○"}


def test_a_value_that_was_worked_out_counts(my, capsys):
    exercise = Exercise("finish")
    exercise.reference(lambda: 0.42)
    exercise.check(0.42)
    saved(my / CHAPTERS[0], finish=capsys.readouterr().out)
    assert marks(my)[CHAPTERS[0]] == {"finish": "✓"}


@pytest.mark.parametrize("text", [
    "✗ held: right, but not yours: it calls minimistral.cache. Write it out once yourself.\n",
    "some print of mine\n✗ held: expected 2, got 3, for x=1.\nheld: a known mistake.\n",
])  # fmt: skip
def test_an_attempt_is_no_solution(my, text):
    saved(my / CHAPTERS[1], held=text)
    assert marks(my)[CHAPTERS[1]] == {"held": "✗", "ring_step": "○"}


def test_the_words_alone_do_not_count(my):
    saved(my / CHAPTERS[1], held="it should say ✓ held: correct\nheld: from here on, the library's is used\n✓ other: correct.\n")
    assert marks(my)[CHAPTERS[1]] == {"held": "○", "ring_step": "○"}


def test_a_check_in_a_cell_of_ones_own_counts_and_a_later_miss_takes_nothing_away(my):
    nb = nbformat.read(my / CHAPTERS[1], as_version=4)
    mine = [nbformat.v4.new_code_cell("ex.held.check(other)") for _ in range(2)]
    say(mine[0], "✓ held: correct, in all 2 cases.\n")
    say(mine[1], "✗ held: expected 2, got 3, for x=1.\n")
    for cells in (mine, mine[::-1]):
        nb.cells = nb.cells[:4] + cells
        (my / CHAPTERS[1]).write_text(nbformat.writes(nb), encoding="utf-8")
        assert marks(my)[CHAPTERS[1]]["held"] == "✓"


def test_work_in_a_newer_version_beside_the_copy_counts(repository, my):
    saved(my / CHAPTERS[1], held="✓ held: correct, in all 2 cases.\n")
    lay(repository / "notebooks", CHAPTERS[1], text="a new cell")
    assert len(lab.sync(repository / "notebooks", my)) == 1
    offer = my / "05_rolling_buffer.new.ipynb"
    saved(offer, ring_step="✓ ring_step: correct, in all 2 cases.\n", held="✗ held: expected 1, got 2.\n")
    assert marks(my)[CHAPTERS[1]] == {"held": "✓", "ring_step": "✓"}
    (my / "05_rolling_buffer.newer_ideas.ipynb").write_text("not one of ours")
    assert marks(my)[CHAPTERS[1]] == {"held": "✓", "ring_step": "✓"}


@pytest.mark.parametrize("content", ["", "half a {", "[]", '{"cells": 3}', '{"cells": [3]}', "\N{GREEK SMALL LETTER ALPHA}"])
def test_a_notebook_that_cannot_be_read_is_said(my, content, capsys):
    (my / CHAPTERS[1]).write_text(content, encoding="utf-8")
    assert cli.main(["progress"]) == 0
    out = capsys.readouterr().out
    assert f"{CHAPTERS[1]} cannot be read" in out and "0 of 2 solved" in out


def test_bytes_that_are_no_text_are_said(my, capsys):
    (my / CHAPTERS[1]).write_bytes(b"\xff\xfe\x00")
    assert cli.main(["progress"]) == 0
    assert f"{CHAPTERS[1]} cannot be read" in capsys.readouterr().out


def test_the_table(my, capsys):
    saved(my / CHAPTERS[1], held="✓ held: correct, in all 2 cases.\n", ring_step="✗ ring_step: expected 1, got 2.\n")
    saved(my / CHAPTERS[0], finish="✓ finish: correct.\n")
    assert cli.main(["progress"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"00  start here +1 of 1 solved +45 min", lines[0]) and lines[1] == "    ✓ finish"
    assert re.fullmatch(r"05  the rolling buffer +1 of 2 solved +75 min", lines[2]) and lines[3] == "    ✓ held   ✗ ring_step"
    assert re.fullmatch(r"12b evaluation and guardrails +0 of 1 solved +45 min", lines[4]) and lines[5] == "    ○ pass_at_k"
    assert lines[7] == "2 of 4 exercises solved; the chapters with an open one take 2.0 hours in all."
    assert max(map(len, lines)) <= 80


def test_the_real_course_fits_a_terminal_of_80_columns(tmp_path):
    lab.sync(execute.NOTEBOOKS, tmp_path)
    lines = solved.table(solved.chapters(tmp_path)).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.endswith(" min") for line in lines) == len(list(execute.NOTEBOOKS.glob("[01]*.ipynb")))
    assert re.match(rf"0 of {sum(map(len, marks(tmp_path).values()))} exercises solved", lines[-2])


def test_a_terminal_without_the_marks_gets_others(my, monkeypatch):
    saved(my / CHAPTERS[1], held="✓ held: correct, in all 2 cases.\n", ring_step="✗ ring_step: expected 1, got 2.\n")
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["progress"]) == 0
    out.seek(0)
    text = out.read()
    assert "    x held   ! ring_step" in text and "    - finish" in text and "x solved, ! checked" in text


def test_without_a_copy_it_is_said_what_to_do(repository, capsys):
    for command in (["progress"], ["reset", "5"], ["progress", "elsewhere"], ["reset", "5", "."]):
        assert cli.main(command) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "make lab" in err
    assert not (repository / "my").exists()


def test_the_course_itself_is_no_copy(repository, capsys):
    before = files(repository / "notebooks")
    for command in (["notebooks", "notebooks"], ["lab", "notebooks"], ["reset", "5", "notebooks"]):
        assert cli.main(command) == 2
        assert "for a copy of your own" in capsys.readouterr().err
    assert files(repository / "notebooks") == before


def test_a_folder_handed_in_with_some_chapters_is_enough(my, repository, capsys):
    saved(my / CHAPTERS[1], held="✓ held: correct, in all 2 cases.\n")
    (repository / "ada").mkdir()
    shutil.copy(my / CHAPTERS[1], repository / "ada")
    assert cli.main(["progress", "ada"]) == 0
    assert "1 of 4 exercises solved" in capsys.readouterr().out


def test_reading_writes_nothing(my):
    saved(my / CHAPTERS[1], held="✓ held: correct, in all 2 cases.\n")
    before = files(my)
    solved.table(solved.chapters(my))
    assert files(my) == before


# ---- which folder ------------------------------------------------------------------------------------------------------


def test_the_folder_is_the_one_given_the_one_we_stand_in_or_my(repository, my, monkeypatch, tmp_path_factory):
    assert lab.own() == my
    other = repository / "class"
    lab.lay(other)
    assert lab.own() == my, "in the repository it is my/, whatever else was laid"
    (other / "notes").mkdir()
    for place in (other, other / "notes"):
        monkeypatch.chdir(place)
        assert lab.own() == other
        assert lab.own("x") == place / "x"


def test_without_a_repository_it_is_what_was_laid_here(repository, monkeypatch, tmp_path_factory):
    here = tmp_path_factory.mktemp("here")
    monkeypatch.setattr(lab, "PACKED", repository / "notebooks")
    monkeypatch.setattr(lab, "ROOT", tmp_path_factory.mktemp("site-packages"))
    monkeypatch.chdir(here)
    assert lab.own() == here / "my"
    lab.lay("course")
    assert lab.own() == here / "course"
    lab.lay("another")
    assert lab.own() == here / "my"


def test_the_lab_of_a_folder_elsewhere_serves_that_folder_alone(repository, monkeypatch, tmp_path_factory, capsys):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "course"
    started = []
    monkeypatch.setattr(lab, "run", lambda command, env: started.append(command))
    assert cli.main(["lab", str(elsewhere), "--no-browser"]) == 0
    assert f"--ServerApp.root_dir={elsewhere}" in started[0]
    assert "--LabApp.default_url=/lab/tree/00_start_here.ipynb" in started[0]
    assert str(elsewhere) in capsys.readouterr().out and (elsewhere / CHAPTERS[1]).is_file()


# ---- reset -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["5", "05", "05_rolling_buffer", "05_rolling_buffer.ipynb", "my/05_rolling_buffer.ipynb"])
def test_reset_lays_the_chapter_afresh_and_keeps_the_old_file(my, given, capsys):
    untouched = files(my)
    saved(my / CHAPTERS[1], held="✓ held: correct, in all 2 cases.\n")
    mine = (my / CHAPTERS[1]).read_bytes()
    assert cli.main(["reset", given]) == 0
    kept = f"05_rolling_buffer.old-{TODAY}.ipynb"
    assert files(my) == untouched | {kept: mine}
    assert kept in capsys.readouterr().out
    assert marks(my)[CHAPTERS[1]] == {"held": "○", "ring_step": "○"}


@pytest.mark.parametrize(("given", "name"), [("0", CHAPTERS[0]), ("00", CHAPTERS[0]), ("12b", CHAPTERS[2]), ("12B", CHAPTERS[2])])
def test_chapters_are_found_by_number(repository, given, name):
    assert lab.find_chapter(given, repository / "notebooks") == name


@pytest.mark.parametrize("given", ["", "12", "1", "50", "rolling", "05_rolling", ".", "../notebooks"])
def test_another_name_is_refused_with_what_there_is(my, given, capsys):
    before = files(my)
    assert cli.main(["reset", given]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and repr(given) in err and all(name in err for name in CHAPTERS)
    assert files(my) == before


def test_two_resets_a_day_keep_both_files(my):
    kept = {}
    for number, name in enumerate((f"05_rolling_buffer.old-{TODAY}{end}.ipynb" for end in ("", "-2", "-3")), 1):
        saved(my / CHAPTERS[1], held=f"attempt {number}\n")
        kept[name] = (my / CHAPTERS[1]).read_bytes()
        assert lab.reset("5", my) == [my / name]
    assert {name: data for name, data in files(my).items() if ".old-" in name} == kept


def test_an_untouched_chapter_stays_and_a_deleted_one_comes_back(my, capsys):
    before = files(my)
    assert cli.main(["reset", "5"]) == 0
    assert files(my) == before and "nothing to keep" in capsys.readouterr().out
    (my / CHAPTERS[1]).unlink()
    assert lab.reset("5", my) == []
    assert files(my) == before


def test_newer_versions_beside_the_copy_are_set_aside_too(repository, my):
    saved(my / CHAPTERS[1], held="one\n")
    lay(repository / "notebooks", CHAPTERS[1], text="two")
    lab.sync(repository / "notebooks", my)
    saved(my / "05_rolling_buffer.new.ipynb", held="✓ held: correct, in all 2 cases.\n")
    lay(repository / "notebooks", CHAPTERS[1], text="three")
    lab.sync(repository / "notebooks", my)  # an offer that nobody touched: .new2
    mine = files(my)
    kept = lab.reset("05", my)
    assert [path.name for path in kept] == [f"05_rolling_buffer{which}.old-{TODAY}.ipynb" for which in ("", ".new")]
    assert [path.read_bytes() for path in kept] == [mine[CHAPTERS[1]], mine["05_rolling_buffer.new.ipynb"]]
    assert not list(my.glob("*.new*.ipynb")) or [path.name for path in my.glob("*.new*.ipynb")] == [kept[1].name]
    assert "three" in (my / CHAPTERS[1]).read_text(encoding="utf-8")
    assert marks(my)[CHAPTERS[1]] == {"held": "○", "ring_step": "○"}


def test_after_a_reset_the_copy_follows_the_course_again(repository, my):
    saved(my / CHAPTERS[1], held="one\n")
    lay(repository / "notebooks", CHAPTERS[1], text="two")
    lab.reset("5", my)
    lay(repository / "notebooks", CHAPTERS[1], text="three")
    assert lab.sync(repository / "notebooks", my) == []
    assert "three" in (my / CHAPTERS[1]).read_text(encoding="utf-8")


def test_a_reset_that_is_interrupted_has_lost_nothing(my, monkeypatch):
    saved(my / CHAPTERS[1], held="one\n")
    mine = (my / CHAPTERS[1]).read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lab.reset("5", my)
    assert (my / CHAPTERS[1]).read_bytes() == mine
    assert lab.reset("5", my) == [my / f"05_rolling_buffer.old-{TODAY}-2.ipynb"]


def test_a_folder_that_cannot_be_written_to_is_one_line(repository, my, monkeypatch, capsys):
    saved(my / CHAPTERS[1], held="one\n")
    before = files(my)

    def refused(self, mode="r", *_, **__):
        if mode[0] in "rb":
            return opens(self, mode, *_, **__)
        raise PermissionError(13, "Permission denied")

    opens = Path.open
    monkeypatch.setattr(Path, "open", refused)  # a folder's rights do not hold back root, who may run this
    for command in (["reset", "5"], ["notebooks", "class"], ["lab", "class"]):
        assert cli.main(command) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "Permission denied" in err and "may write to" in err
    monkeypatch.undo()
    assert files(my) == before


# ---- notebooks, and the wheel ------------------------------------------------------------------------------------------


def test_the_notebooks_are_laid_where_one_says_and_never_over_ones_work(repository, capsys):
    (repository / "class").mkdir()
    (repository / "class" / CHAPTERS[0]).write_text("mine")
    for _ in range(2):
        assert cli.main(["notebooks", "class"]) == 0
        saved(repository / "class" / CHAPTERS[1], held="✓ held: correct, in all 2 cases.\n")
        mine = (repository / "class" / CHAPTERS[1]).read_bytes()
    out = capsys.readouterr().out
    assert "00_start_here.new.ipynb" in out and "The 3 notebooks lie in class" in out
    assert (repository / "class" / CHAPTERS[0]).read_text() == "mine"
    assert (repository / "class" / CHAPTERS[1]).read_bytes() == mine
    assert nbformat.read(repository / "class" / CHAPTERS[2], as_version=4).cells[2].outputs == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of this repository, built without asking the network, as a zip file."""
    setuptools = pytest.importorskip("setuptools", "77", reason="setuptools builds the wheel: pip install 'setuptools>=77'")
    assert setuptools
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for folder in ("minimistral", "notebooks"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)
    (tree / "notebooks" / ".ipynb_checkpoints").mkdir(exist_ok=True)
    (tree / "notebooks" / ".ipynb_checkpoints" / "00.ipynb").write_text("{")
    (tree / "build/lib/minimistral/notebooks").mkdir(parents=True)
    (tree / "build/lib/minimistral/notebooks/99_of_an_earlier_build.ipynb").write_text("{}")
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(out)]
    built = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr
    (file,) = out.glob("*.whl")
    return file


def test_the_wheel_holds_the_package_and_the_course_and_is_small(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if name.startswith("minimistral/")}
    ours = [path for path in (ROOT / "minimistral").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {path.relative_to(ROOT).as_posix() for path in ours}
    expected |= {f"minimistral/{path.relative_to(ROOT).as_posix()}" for path in lab.course_files(execute.NOTEBOOKS)}
    assert held.keys() == expected
    assert wheel.stat().st_size < 6e6
    for path in execute.NOTEBOOKS.glob("*.ipynb"):
        packed, ours = json.loads(held[f"minimistral/notebooks/{path.name}"]), json.loads(lab.clear(path.read_bytes()))
        assert packed == ours


USE = """
import pathlib, sys
from minimistral import cli, course
assert course.__file__.startswith(sys.argv[1]), course.__file__
assert cli.main(["notebooks", "course"]) == 0
copy = pathlib.Path("course/05_rolling_buffer.ipynb")
laid = copy.read_bytes()
copy.write_text("mine")
assert cli.main(["reset", "5"]) == 0 and copy.read_bytes() == laid
print("table:")
assert cli.main(["progress"]) == 0
print(course.table().count("not written yet"))
"""


def test_a_wheel_lays_the_course_resets_it_and_knows_its_chapters(wheel, tmp_path, tmp_path_factory):
    site, ours = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("ours")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    env = os.environ | {"PYTHONPATH": str(site), "PYTHONUTF8": "1"}
    command = [sys.executable, "-c", USE, str(site)]
    answer = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, encoding="utf-8", timeout=180)
    assert answer.returncode == 0, answer.stderr
    lab.sync(execute.NOTEBOOKS, ours)
    assert files(tmp_path / "course").items() >= files(ours).items()
    unwritten = [chapter.file for chapter in course.CHAPTERS if not (execute.NOTEBOOKS / chapter.file).is_file()]
    assert answer.stdout.endswith(f"table:\n{solved.table(solved.chapters(ours))}\n{len(unwritten)}\n")


# ---- in JupyterLab -----------------------------------------------------------------------------------------------------

SOLVE = """async () => {
    const panel = window.jupyterapp.shell.currentWidget, cells = panel.content.model.sharedModel.cells;
    const typed = "share_of_cat = 0.42\\nex.share_of_cat.check(share_of_cat)";
    for (const [id, source] of [["setup", null], ["exercise-by-hand", typed]]) {
        const at = cells.findIndex(cell => cell.id === id);
        if (source) cells[at].setSource(source);
        panel.content.activeCellIndex = at;
        await window.jupyterapp.commands.execute('notebook:run-cell');
    }
    await window.jupyterapp.commands.execute('docmanager:save');
}"""


@pytest.mark.browser
@pytest.mark.skipif(browser.find_chromium() is None, reason=f"no Chromium: {browser.INSTALL}")
def test_solved_and_saved_in_jupyterlab_counts(monkeypatch):
    with browser.learners_copy(execute.NOTEBOOKS) as folder, browser.Lab(folder) as served:
        notebook = served.open_notebook("my/01_attention.ipynb")
        assert notebook.do(SOLVE, 300)
        notebook.close()
        found = {chapter.file: chapter for chapter in solved.chapters(folder / "my")}["01_attention.ipynb"]
    assert found.marks == {"share_of_cat": "✓", "attend": "○", "attend_sdpa": "○", "multi_head": "○"}
