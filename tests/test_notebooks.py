"""What a committed notebook must be, so that nbval compares something, readers see something and a diff stays readable."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import execute
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from minimistral import course

NOTEBOOKS = sorted(execute.NOTEBOOKS.glob("*.ipynb"))
MOST_BYTES, MOST_CODE_LINES, MOST_OUTPUT_LINES, LEAST_TWIN = 600_000, 25, 200, 20
MOST_BYTES_IN_ALL = 40_000_000  # what a clone brings along
IMAGES = (*execute.PICTURES, "image/svg+xml")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks():
    assert NOTEBOOKS, f"{execute.NOTEBOOKS} holds no notebook"


@each_notebook
def test_structure(path):
    assert problems(path) == []


def test_the_repository_is_small():
    root = execute.NOTEBOOKS.parent
    if not shutil.which("git") or not (root / ".git").exists():
        pytest.skip("no git repository")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
    tracked = [root / name for name in names if name]
    assert len(tracked) > len(NOTEBOOKS)
    assert sum(path.stat().st_size for path in tracked if path.is_file()) <= MOST_BYTES_IN_ALL


def test_the_first_code_cell_is_the_same_everywhere_and_installs_only_in_colab(monkeypatch):
    first = [execute.code_cells(nbformat.read(path, as_version=4))[0] for path in NOTEBOOKS]
    ((source, tags, outputs),) = {(cell.source, *map(str, (cell.metadata.get("tags"), cell.outputs))) for cell in first}
    assert (tags, outputs) == ("['colab']", "[]")
    ran = []
    shell = {"get_ipython": lambda: SimpleNamespace(run_line_magic=lambda *line: ran.append(line))}
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    exec(TransformerManager().transform_cell(source), shell)
    assert ran == []
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    exec(TransformerManager().transform_cell(source), shell)
    assert ran == [("pip", "install -q minimistral")]


@pytest.mark.parametrize("chapter", [*course.CHAPTERS, *course.APPENDICES], ids=lambda chapter: chapter.file)
def test_a_chapter_links_to_its_neighbours(chapter):
    cells = nbformat.read(execute.NOTEBOOKS / chapter.file, as_version=4).cells
    back = course.CHAPTERS[: chapter.number + (chapter in course.APPENDICES)][-1:]
    on = course.CHAPTERS[chapter.number + 1 :][:1]
    links = [f"[← {one.file.split('_')[0]} {one.title}]({one.file})" for one in back]
    links += [f"[{one.file.split('_')[0]} {one.title} →]({one.file})" for one in on]
    assert cells[0].source.splitlines()[2] == " · ".join(links)
    for one in on:
        assert not re.search(rf"chapter {one.number:02}\b(?!\**\]\({one.file}\))", cells[-1].source, re.IGNORECASE)


@pytest.mark.pictures
@each_notebook
def test_pictures(path):
    assert execute.check(path) == []


def problems(path: Path) -> list[str]:
    """Everything that is wrong with a notebook's file, a sentence each."""
    nb = nbformat.v4.reads(path.read_text(encoding="utf-8"))  # as it lies there: nbformat.read mends ids
    found = []
    if (size := path.stat().st_size) > MOST_BYTES:
        found.append(f"the file is {size} bytes long; at most {MOST_BYTES}")
    if (nb.nbformat, nb.nbformat_minor) != (4, 5):
        found.append(f"the format is {nb.nbformat}.{nb.nbformat_minor}; expected 4.5: make notebooks")
        return found
    if nb.metadata != {"kernelspec": execute.KERNELSPEC, "language_info": execute.LANGUAGE_INFO}:
        found.append("the metadata are not those that make notebooks writes (no widget state, no versions)")
    ids = [cell.id for cell in nb.cells]
    found += [f"two cells have the id {twice}" for twice in sorted({one for one in ids if ids.count(one) > 1})]
    counts = [cell.execution_count for cell in execute.code_cells(nb)]
    if counts != list(range(1, len(counts) + 1)):
        found.append(f"the execution counts are {counts}, not 1 to {len(counts)}: nbval would not compare them; make notebooks")
    for number, cell in enumerate(nb.cells, 1):
        said = code_problems(cell) if cell.cell_type == "code" else markdown_problems(cell, path.parent)
        found += [f"cell {number} (id {cell.id}): {what}" for what in said]
    return found


def code_problems(cell) -> list[str]:
    found = []
    if (length := len(cell.source.splitlines())) > MOST_CODE_LINES:
        found.append(f"{length} lines of code; at most {MOST_CODE_LINES}")
    if extra := set(cell.metadata) - {"tags"}:
        found.append(f"metadata {sorted(extra)}: make notebooks takes them away")
    found += ["it ends in an error" for output in cell.outputs if output.output_type == "error"]
    for output in cell.outputs:
        if (length := max((len(text.splitlines()) for text in texts(output)), default=0)) > MOST_OUTPUT_LINES:
            found.append(f"an output of {length} lines; at most {MOST_OUTPUT_LINES}")
        for text in texts(output):
            if machine := re.search(MACHINE_PATH, text):
                found.append(f"an output names a path of one machine: {machine.group()}")
            if address := re.search(r" at 0x[0-9a-f]{6,}", text):
                found.append(f"an output shows an address,{address.group()}: end the line with ; or give the object a __repr__")
    if any(kind in output.get("data", {}) for output in cell.outputs for kind in IMAGES) and not has_twin(cell):
        found.append("a picture without a text twin: print its state too, nbval compares only text")
    return found


#: this repository's folder; /home/ada/..., /Users/ada/..., /tmp/...; C:\Users\...; the temporary files of ipykernel
MACHINE_PATH = "|".join([
    re.escape(str(execute.NOTEBOOKS.parent)),
    r"/(?:home|Users|root|tmp|private/var|var/folders|mnt)/[\w.~/+-]+",
    r"\b[A-Z]:\\\\?\w\S*",
    r"ipykernel_\d+",
])


def texts(output) -> list[str]:
    """The texts of an output that a reader sees."""
    if output.output_type == "stream":
        return [output.text]
    data = output.get("data", {})
    return [data[kind] for kind in ("text/plain", "text/html", "text/markdown") if kind in data]


def has_twin(cell) -> bool:
    """Whether the outputs say in words what the picture shows: more than <Figure size 640x480 with 1 Axes>."""
    said = [output.text for output in cell.outputs if output.output_type == "stream"]
    said += [output.data.get("text/plain", "") for output in cell.outputs if "data" in output]
    return any(len(text.strip()) >= LEAST_TWIN and not re.fullmatch(r"<[^>]*>", text.strip()) for text in said)


def markdown_problems(cell, folder: Path) -> list[str]:
    if cell.cell_type != "markdown":
        return []
    return [f"a link to {target}, which is not there" for target in dead_links(cell, folder)]


def dead_links(cell, folder: Path) -> list[str]:
    """The local files that a cell's Markdown links to, or shows, and that do not exist."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", cell.source, flags=re.DOTALL)
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r"(?:src|href)=[\"']([^\"']+)", text)
    dead = []
    for target in targets:
        name = target.split("#")[0]
        if name.startswith("attachment:"):
            if name.removeprefix("attachment:") not in cell.get("attachments", {}):
                dead.append(target)
        elif name and not re.match(r"[a-z]+:|//", name) and (name.startswith("/") or not (folder / name).exists()):
            dead.append(target)
    return dead


# ---- the gate itself ---------------------------------------------------------------------------------------------------


def notebook(*cells):
    nb = nbformat.v4.new_notebook(cells=list(cells))
    for number, cell in enumerate(execute.code_cells(nb), 1):
        cell.execution_count = number
    return execute.tidy(nb)


def code(source="1", **output):
    outputs = [nbformat.v4.new_output(**output)] if output else []
    return nbformat.v4.new_code_cell(source, outputs=outputs)


def shown(**data):
    return code(output_type="display_data", data={kind.replace("_", "/"): value for kind, value in data.items()})


def printed(text):
    return code(output_type="stream", name="stdout", text=text)


def markdown(text):
    return nbformat.v4.new_markdown_cell(text)


@pytest.fixture
def found(tmp_path):
    """The problems of a notebook after its cells were changed by hand."""

    def find(nb):
        path = tmp_path / "01_here.ipynb"
        path.write_text(nbformat.v4.writes(nb), encoding="utf-8")
        return problems(path)

    return find


def test_a_good_notebook_passes(found):
    cells = [markdown("[here](01_here.ipynb#top) [out](https://example.org) `[no](nowhere)`"), printed("a line of words\n" * 3)]
    assert found(notebook(*cells, shown(image_png="AAAA", text_plain="row 1 sees 1, row 2 sees 2"))) == []


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        (code("x\n" * 26), "26 lines of code"),
        (printed("x\n" * 201), "201 lines"),
        (printed("saved in /home/ada/model"), "/home/ada/model"),
        (printed(r"saved in C:\Users\ada"), "one machine"),
        (printed("/tmp/ipykernel_12/3.py:1: UserWarning"), "one machine"),
        (shown(text_plain="[<matplotlib.lines.Line2D at 0x7f0012345678>]"), "address"),
        (shown(image_png="AAAA", text_plain="<Figure size 640x480 with 1 Axes>"), "twin"),
        (shown(image_png="AAAA"), "twin"),
        (code(output_type="error", ename="E", evalue="", traceback=[]), "error"),
        (markdown("[later](99_later.ipynb)"), "99_later.ipynb"),
        (markdown("![picture](images/none.png)"), "images/none.png"),
        (markdown('<img src="none.svg">'), "none.svg"),
        (markdown("![picture](attachment:none.png)"), "attachment:none.png"),
    ],
)
def test_each_problem_is_found(found, cell, word):
    assert [word in problem for problem in found(notebook(cell))] == [True]


def test_a_stripped_or_stale_notebook_is_found(found):
    for counts in ([None, None], [1, None], [2, 1], [2, 3]):
        nb = notebook(code(), code())
        for cell, count in zip(nb.cells, counts, strict=True):
            cell.execution_count = count
        assert "execution counts" in found(nb)[0]


def test_metadata_widgets_and_ids_are_checked(found):
    nb = notebook(code())
    nb.metadata.widgets = {}
    assert "metadata" in found(nb)[0]
    nb = notebook(code())
    nb.cells[0].metadata.execution = {}
    assert "execution" in found(nb)[0]
    nb = notebook(code(), code())
    nb.cells[1].id = nb.cells[0].id
    assert any("two cells have the id" in problem for problem in found(nb))


def test_a_picture_with_words_printed_beside_it_passes(found):
    cell = shown(image_png="AAAA", text_plain="<Figure size 640x480 with 1 Axes>")
    cell.outputs.append(nbformat.v4.new_output("stream", name="stdout", text="6 of 36 scores attended\n"))
    assert found(notebook(cell)) == []


# ---- tests/execute.py --------------------------------------------------------------------------------------------------


def test_executing_twice_gives_the_same_bytes(tmp_path):
    path = tmp_path / "scratch.ipynb"
    cells = [
        code("import os, pathlib\nhome = pathlib.Path(os.environ['MINIMISTRAL_HOME'])\nprint(home.exists()); home.mkdir()"),
        code("import ipywidgets\nipywidgets.IntSlider(3)"),
        code("for word in ('one', 'two'):\n    print(word, flush=True)"),
        code(f"from pathlib import Path\nPath.cwd().name == {tmp_path.name!r}"),
    ]
    path.write_text(nbformat.writes(notebook(*cells)), encoding="utf-8")
    assert execute.main([str(path)]) == 0
    first = path.read_bytes()
    assert execute.main([str(path)]) == 0
    assert path.read_bytes() == first
    nb = nbformat.read(path, as_version=4)
    assert [output.get("text") or output.data["text/plain"] for cell in nb.cells for output in cell.outputs] == [
        "False\n", nb.cells[1].outputs[0].data["text/plain"], "one\ntwo\n", "True",
    ]
    assert problems(path) == []


def test_a_failing_notebook_stays_as_it_was(tmp_path, capsys):
    path = tmp_path / "scratch.ipynb"
    path.write_text(nbformat.writes(notebook(code("print(1)"), code("1 / 0"), code("2"))), encoding="utf-8")
    before = path.read_bytes()
    assert execute.main([str(path)]) == 1
    assert "cell 2" in (said := capsys.readouterr().out) and "ZeroDivisionError: division by zero" in said
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_endless_notebook_is_ended(tmp_path):
    path = tmp_path / "scratch.ipynb"
    path.write_text(nbformat.writes(notebook(code("1"), code("import time; time.sleep(600)"))), encoding="utf-8")
    with pytest.raises(execute.ExecutionError, match="(?s)cell 2 .*longer than 20 s"):
        execute.execute(path, seconds=20)


DRAW = """import matplotlib.pyplot as plt
fig, ax = plt.subplots(figsize=(3, 2))
ax.imshow([[0, 1], [1, {}]])
plt.show()
"""


def test_the_check_sees_a_changed_picture(tmp_path, capsys):
    path = tmp_path / "scratch.ipynb"
    path.write_text(nbformat.writes(notebook(code(DRAW.format(0)))), encoding="utf-8")
    assert execute.main([str(path)]) == 0
    nb = nbformat.read(path, as_version=4)
    nb.cells[0].source = DRAW.format(1)  # the committed picture is now of another program
    path.write_text(nbformat.writes(nb), encoding="utf-8")
    assert execute.main(["--check", str(path)]) == 1
    assert "of a picture's pixels differ" in capsys.readouterr().out
    nb.cells[0].metadata.tags = ["nbval-ignore-output"]
    path.write_text(nbformat.writes(nb), encoding="utf-8")
    assert execute.main(["--check", str(path)]) == 0
