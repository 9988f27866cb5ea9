"""The learner's copy is never overwritten; `minimistral lab` serves it; `minimistral generate` writes; the set-up files agree."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import browser
import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import minimistral as mm
from minimistral import cli, lab
from minimistral.lab import sync

ROOT = Path(__file__).parent.parent


# ---- sync --------------------------------------------------------------------------------------------------------------


def lay(folder, text, name="01_a.ipynb", **metadata):
    """Put a notebook with one executed cell into a folder, as the course would."""
    output = nbformat.v4.new_output("stream", text=f"the answer to {text}\n")
    cells = [nbformat.v4.new_markdown_cell("# A"), nbformat.v4.new_code_cell(text, outputs=[output], execution_count=7)]
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=metadata)), encoding="utf-8")
    return path


def edit(path, change):
    """Change a notebook by a function of its nbformat object, and save it."""
    nb = nbformat.read(path, as_version=4)
    change(nb)
    path.write_text(nbformat.writes(nb), encoding="utf-8")


def type_into(path, text):
    edit(path, lambda nb: nb.cells[1].update(source=text))


def text_of(path):
    return nbformat.read(path, as_version=4).cells[1].source


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def course(tmp_path):
    lay(tmp_path / "notebooks", "one")
    return tmp_path / "notebooks"


@pytest.fixture
def my(tmp_path, course):
    """The learner's folder after the first sync."""
    assert sync(course, tmp_path / "my") == []
    return tmp_path / "my"


def test_a_first_copy_has_no_outputs_no_counts_and_no_widget_state(tmp_path):
    path = lay(tmp_path / "notebooks", "one", widgets={"state": {}}, kernelspec={"name": "python3", "display_name": "P"})
    before = path.read_bytes()
    assert sync(tmp_path / "notebooks", tmp_path / "my") == []
    assert path.read_bytes() == before
    nb = nbformat.read(tmp_path / "my" / path.name, as_version=4)
    nbformat.validate(nb)
    assert (nb.cells[1].outputs, nb.cells[1].execution_count, nb.cells[1].source) == ([], None, "one")
    assert nb.metadata == {"kernelspec": {"name": "python3", "display_name": "P"}}
    assert [cell.id for cell in nb.cells] == [cell.id for cell in nbformat.read(path, as_version=4).cells]


def test_of_a_link_that_would_be_dead_only_the_words_stay(tmp_path):
    links = "[`a`](../a.py#b), [the\nother](../c.py), [d](d.md)"
    edit(lay(tmp_path / "notebooks", "one"), lambda nb: nb.cells[0].update(source=links))
    (tmp_path / "notebooks" / "page.md").write_text("| [a](../a.py) | [d](d.md) |", encoding="utf-8")
    (tmp_path / "a.py").touch()
    for folder, cell, page in [
        (tmp_path / "my", "[`a`](../a.py#b), the\nother, [d](d.md)", "| [a](../a.py) | [d](d.md) |"),
        (tmp_path / "far" / "my", "`a`, the\nother, [d](d.md)", "| a | [d](d.md) |"),
    ]:
        sync(tmp_path / "notebooks", folder)
        assert nbformat.read(folder / "01_a.ipynb", as_version=4).cells[0].source == cell
        assert (folder / "page.md").read_text(encoding="utf-8") == page


def test_a_second_sync_changes_nothing(course, my):
    before = {name: (my / name).read_bytes() for name in files(my)}
    assert sync(course, my) == []
    assert {name: (my / name).read_bytes() for name in files(my)} == before
    assert files(my) == [".sync.json", "01_a.ipynb"]


def test_an_untouched_copy_follows_the_course_silently(course, my):
    lay(course, "two")
    assert sync(course, my) == []
    assert text_of(my / "01_a.ipynb") == "two"
    assert files(my) == [".sync.json", "01_a.ipynb"]


@pytest.mark.parametrize(
    "change",
    [
        lambda nb: nb.cells[1].update(outputs=[nbformat.v4.new_output("stream", text="ran\n")], execution_count=3),
        lambda nb: nb.metadata.update(language_info={"name": "python", "version": "3.12"}),
        lambda nb: nb.cells[1].metadata.update(scrolled=True, trusted=True),
        lambda nb: nb.cells[1].update(id="another-id"),
        lambda nb: nb.cells.append(nbformat.v4.new_code_cell("")),
    ],
    ids=["run", "notebook metadata", "cell metadata", "ids", "an empty cell at the end"],
)
def test_opening_running_and_saving_is_no_edit(course, my, change):
    edit(my / "01_a.ipynb", change)
    kept = (my / "01_a.ipynb").read_bytes()
    assert sync(course, my) == []
    assert (my / "01_a.ipynb").read_bytes() == kept, "outputs should stay while the course is the same"
    lay(course, "two")
    assert sync(course, my) == []
    assert text_of(my / "01_a.ipynb") == "two"


@pytest.mark.parametrize(
    "change",
    [
        lambda nb: nb.cells[1].update(source="mine"),
        lambda nb: nb.cells[0].update(source="# A, annotated"),
        lambda nb: nb.cells.append(nbformat.v4.new_markdown_cell("a note")),
        lambda nb: nb.cells.pop(),
        lambda nb: nb.cells.reverse(),
        lambda nb: nb.cells.__setitem__(1, nbformat.v4.new_markdown_cell(nb.cells[1].source)),
    ],
    ids=["code", "text", "a new cell", "a removed cell", "order", "a cell's kind"],
)
def test_an_edit_is_kept_and_a_new_version_laid_beside_it_once(course, my, change):
    edit(my / "01_a.ipynb", change)
    kept = (my / "01_a.ipynb").read_bytes()
    assert sync(course, my) == []  # the course is the same: nothing to offer
    assert files(my) == [".sync.json", "01_a.ipynb"]
    lay(course, "two")
    (line,) = sync(course, my)
    assert "01_a.ipynb" in line and "01_a.new.ipynb" in line
    assert (my / "01_a.ipynb").read_bytes() == kept
    assert text_of(my / "01_a.new.ipynb") == "two"
    assert sync(course, my) == []  # said once
    assert (my / "01_a.ipynb").read_bytes() == kept


def test_a_changed_picture_inside_a_text_is_a_new_version(course, my):
    edit(course / "01_a.ipynb", lambda nb: nb.cells[0].update(attachments={"a.png": {"image/png": "AAAA"}}))
    assert sync(course, my) == []
    assert nbformat.read(my / "01_a.ipynb", as_version=4).cells[0].attachments


def test_a_deleted_copy_is_laid_again(course, my):
    (my / "01_a.ipynb").unlink()
    assert sync(course, my) == []
    assert text_of(my / "01_a.ipynb") == "one"
    lay(course, "two")  # and it follows the course from there
    sync(course, my)
    assert text_of(my / "01_a.ipynb") == "two"


def test_a_deleted_edited_copy_is_laid_again_in_the_newest_version(course, my):
    type_into(my / "01_a.ipynb", "mine")
    lay(course, "two")
    sync(course, my)
    (my / "01_a.ipynb").unlink()
    assert sync(course, my) == []
    assert text_of(my / "01_a.ipynb") == "two"


def test_a_deleted_offer_is_not_laid_again(course, my):
    type_into(my / "01_a.ipynb", "mine")
    lay(course, "two")
    sync(course, my)
    (my / "01_a.new.ipynb").unlink()
    assert sync(course, my) == []
    assert files(my) == [".sync.json", "01_a.ipynb"]


def test_an_untouched_offer_is_replaced_by_the_next_one(course, my):
    type_into(my / "01_a.ipynb", "mine")
    for version in ("two", "three"):
        lay(course, version)
        assert len(sync(course, my)) == 1
    assert text_of(my / "01_a.new.ipynb") == "three"
    assert files(my) == [".sync.json", "01_a.ipynb", "01_a.new.ipynb"]


def test_an_offer_the_learner_works_in_is_kept_too(course, my):
    type_into(my / "01_a.ipynb", "mine")
    lay(course, "two")
    sync(course, my)
    type_into(my / "01_a.new.ipynb", "mine again")
    lay(course, "three")
    (line,) = sync(course, my)
    assert "01_a.new2.ipynb" in line
    texts = [text_of(my / name) for name in ("01_a.ipynb", "01_a.new.ipynb", "01_a.new2.ipynb")]
    assert texts == ["mine", "mine again", "three"]


def test_a_learners_own_file_in_the_offers_place_is_kept(course, my):
    type_into(my / "01_a.ipynb", "mine")
    (my / "01_a.new.ipynb").write_text("my notes")
    lay(course, "two")
    assert len(sync(course, my)) == 1
    assert (my / "01_a.new.ipynb").read_text() == "my notes"
    assert text_of(my / "01_a.new2.ipynb") == "two"


def test_taking_the_offer_makes_the_copy_follow_again(course, my):
    type_into(my / "01_a.ipynb", "mine")
    lay(course, "two")
    sync(course, my)
    (my / "01_a.new.ipynb").replace(my / "01_a.ipynb")
    assert sync(course, my) == []
    lay(course, "three")
    assert sync(course, my) == []
    assert text_of(my / "01_a.ipynb") == "three"


def test_undoing_an_edit_makes_the_copy_follow_again(course, my):
    type_into(my / "01_a.ipynb", "mine")
    sync(course, my)
    type_into(my / "01_a.ipynb", "one")
    lay(course, "two")
    assert sync(course, my) == []
    assert text_of(my / "01_a.ipynb") == "two"


def test_a_course_that_went_back_offers_nothing(course, my):
    type_into(my / "01_a.ipynb", "mine")
    lay(course, "two")
    sync(course, my)
    lay(course, "one")  # what the learner's copy was made from
    assert sync(course, my) == []


@pytest.mark.parametrize("manifest", [None, "", "{", "[]", '{"01_a.ipynb": 3}', '{"01_a.ipynb": {"laid": "x"}}'])
def test_without_a_readable_manifest_nothing_of_the_learner_is_lost(course, my, manifest):
    type_into(my / "01_a.ipynb", "mine")
    (my / ".sync.json").unlink() if manifest is None else (my / ".sync.json").write_text(manifest)
    assert len(sync(course, my)) == 1  # whether the course changed is not known: it is offered
    assert (text_of(my / "01_a.ipynb"), text_of(my / "01_a.new.ipynb")) == ("mine", "one")
    assert sync(course, my) == []


def test_without_a_manifest_an_equal_copy_follows_the_course(course, my):
    (my / ".sync.json").unlink()
    assert sync(course, my) == []
    lay(course, "two")
    assert sync(course, my) == []
    assert text_of(my / "01_a.ipynb") == "two"


@pytest.mark.parametrize("content", ["", "half a {", "[]", '{"cells": 3}', "\N{GREEK SMALL LETTER ALPHA}"])
def test_a_copy_that_is_no_notebook_is_kept(course, my, content):
    (my / "01_a.ipynb").write_text(content, encoding="utf-8")
    assert sync(course, my) == []
    lay(course, "two")
    assert len(sync(course, my)) == 1
    assert (my / "01_a.ipynb").read_text(encoding="utf-8") == content


def test_pictures_come_along_under_the_same_rules(course, my):
    (course / "images").mkdir()
    (course / "images" / "ring.png").write_bytes(b"one")
    sync(course, my)
    assert (my / "images" / "ring.png").read_bytes() == b"one"
    (course / "images" / "ring.png").write_bytes(b"two")
    assert sync(course, my) == []
    assert (my / "images" / "ring.png").read_bytes() == b"two"
    (my / "images" / "ring.png").write_bytes(b"mine")
    (course / "images" / "ring.png").write_bytes(b"three")
    assert len(sync(course, my)) == 1
    assert (my / "images" / "ring.png").read_bytes() == b"mine"
    assert (my / "images" / "ring.new.png").read_bytes() == b"three"


def test_hidden_files_and_caches_are_not_copied(course, tmp_path):
    for name in (".ipynb_checkpoints/01_a-checkpoint.ipynb", ".hidden", "__pycache__/x.pyc"):
        (course / name).parent.mkdir(exist_ok=True)
        (course / name).write_text("{}")
    sync(course, tmp_path / "my")
    assert files(tmp_path / "my") == [".sync.json", "01_a.ipynb"]


def test_the_learners_own_files_and_removed_chapters_stay(course, my):
    lay(my, "notes", "notes.ipynb")
    (course / "01_a.ipynb").unlink()
    lay(course, "one", "02_b.ipynb")
    assert sync(course, my) == []
    assert files(my) == [".sync.json", "01_a.ipynb", "02_b.ipynb", "notes.ipynb"]


def test_an_interrupted_write_leaves_the_old_copy(course, my, monkeypatch):
    lay(course, "two")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sync(course, my)
    assert text_of(my / "01_a.ipynb") == "one"
    assert sync(course, my) == []
    assert text_of(my / "01_a.ipynb") == "two"


# ---- minimistral lab ---------------------------------------------------------------------------------------------------


def test_without_any_notebooks_the_lab_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "ROOT", tmp_path)
    with pytest.raises(lab.LabError, match="Clone the repository and run make lab"):
        lab.find_notebooks()


def test_a_taken_port_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < lab.free_port(port) < port + 100


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="these systems always have a display")
def test_a_display_is_noticed(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    assert not lab.has_display()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert lab.has_display()


@pytest.mark.parametrize(("where", "given", "absent"), [
    ({"has_display": True, "is_root": False, "in_container": False}, "--ip=127.0.0.1", ("--no-browser", "--allow-root")),
    ({"has_display": False, "is_root": False, "in_container": False}, "--no-browser", ("--allow-root", "--ip=0.0.0.0")),
    ({"has_display": False, "is_root": True, "in_container": True}, "--allow-root", ("--ip=127.0.0.1",)),
    ({"has_display": False, "is_root": False, "in_container": True}, "--ip=0.0.0.0", ("--allow-root",)),
])
def test_the_server_suits_the_place(tmp_path, monkeypatch, capsys, where, given, absent):
    lay(tmp_path / "notebooks", "one", "00_start_here.ipynb")
    monkeypatch.setattr(lab, "ROOT", tmp_path)
    for name, answer in where.items():
        monkeypatch.setattr(lab, name, lambda answer=answer: answer)
    started = []
    monkeypatch.setattr(lab, "run", lambda command, env: started.append((command, env)))
    assert cli.main(["lab"]) == 0
    ((command, env),) = started
    assert given in command and not set(absent) & set(command)
    said = capsys.readouterr().out
    assert f"/lab/tree/my/00_start_here.ipynb?token={env['JUPYTER_TOKEN']}" in said and len(env["JUPYTER_TOKEN"]) >= 32
    assert not any(env["JUPYTER_TOKEN"] in word for word in command), "other users see command lines"
    assert ("opens in your browser" in said) == where["has_display"]


def test_the_lab_serves_the_first_chapter(tmp_path):
    """In a subprocess, without a display: in a container as root it needs --allow-root and finds that out itself."""
    repository = tmp_path / "repository"
    lay(repository / "notebooks", "one", "00_start_here.ipynb")
    script = "import pathlib, sys; from minimistral import cli, lab; lab.ROOT = pathlib.Path(sys.argv.pop(1)); cli.main()"
    command = [sys.executable, "-c", script, str(repository), "lab", "--port", str(lab.free_port(28888)), "--no-browser"]
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "JUPYTER_TOKEN")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    env |= {"JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"), "PYTHONUNBUFFERED": "1"}
    log = tmp_path / "log"
    with open(log, "wb") as out:
        server = subprocess.Popen(command, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        url, first, token = address(server, log)
        assert first == "my/00_start_here.ipynb"
        browser.wait_for_server(server, url, 180, log, token)
        chapter = browser.ask(f"{url}/api/contents/{first}", token)
        assert chapter["content"]["cells"][1]["outputs"] == []
        assert browser.ask(f"{url}/api/kernelspecs", token)["default"] == "python3"
        with pytest.raises(OSError, match="403"):
            browser.ask(f"{url}/api/contents/{first}")
        if os.name == "posix":  # Ctrl-C ends it, without a question
            server.send_signal(signal.SIGINT)
            assert server.wait(60) == 0, log.read_text()
    finally:
        browser.end(server)


def address(server, log, seconds=180):
    """The address that the lab prints: (server, notebook, token)."""
    for _ in range(seconds * 5):
        if found := re.search(r"(http://127\.0\.0\.1:\d+)/lab/tree/(\S+)\?token=(\w+)", log.read_text()):
            return found.groups()
        assert server.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(f"no address in {seconds} s: {log.read_text()}")


# ---- minimistral generate ----------------------------------------------------------------------------------------------


def test_generate_continues_the_prompt_as_the_library_does(capsys):
    assert cli.main(["generate", "Once upon a time", "--max-new-tokens", "12", "--chunk-size", "2"]) == 0
    text = capsys.readouterr().out
    model, tokenizer = mm.load_tiny()
    assert text == "Once upon a time" + "".join(mm.stream(model, tokenizer, "Once upon a time", max_new_tokens=12)) + "\n"


def test_generate_draws_the_same_for_the_same_seed(capsys):
    texts = []
    for seed in ("1", "1", "2"):
        options = ["--temperature", "2", "--top-p", "0.99", "--seed", seed, "--max-new-tokens", "20"]
        assert cli.main(["generate", "The", *options]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--temperature", "-1"], "temperature"),
        (["--top-p", "2"], "top_p"),
        (["--max-new-tokens", "-3"], "max_new_tokens"),
        (["--chunk-size", "0"], "chunk_size"),
        (["--folder", "no/such/folder"], "no/such/folder"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(options, word, capsys):
    assert cli.main(["generate", "x", *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and word in err


def test_a_folder_without_a_tokenizer_is_said(tmp_path, capsys):
    config = mm.MistralConfig(dim=8, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=4, hidden_dim=8, vocab_size=11)
    mm.checkpoint.save(mm.Mistral(config), tmp_path)
    assert cli.main(["generate", "x", "--folder", str(tmp_path)]) == 2
    assert "tokenizer.model" in capsys.readouterr().err


def test_ctrl_c_ends_without_a_traceback(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(mm, "load_tiny", interrupted)
    assert cli.main(["generate", "x"]) == 130
    assert capsys.readouterr().err == "\n"


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "minimistral", "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert answer.returncode == 0 and "generate" in answer.stdout and "lab" in answer.stdout


# ---- the set-up files --------------------------------------------------------------------------------------------------


@pytest.fixture
def project():
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_environment_yml_agrees_with_pyproject(project):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == project["name"]
    *conda, last = environment["dependencies"]
    assert last["pip"][-1] == "-e ." and "pip" in conda
    (python,) = (Requirement(line) for line in conda if line.startswith("python"))
    oldest = project["requires-python"].removeprefix(">=")
    assert python.specifier.contains(oldest) and not python.specifier.contains("3.10")


def test_constraints_satisfy_every_range_of_pyproject(project):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line) for line in lines), "only name==version lines"
    pinned = {normal(name): Version(version) for name, version in (line.split("==") for line in lines)}
    needed = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    for requirement in map(Requirement, needed):
        if requirement.name == project["name"]:  # test takes the other extras in
            assert requirement.extras <= project["optional-dependencies"].keys()
            continue
        version = pinned.get(normal(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), f"constraints.txt has {requirement.name} {version}: {requirement}"


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_version_is_the_same_everywhere(project):
    assert mm.__version__ == project["version"]


def test_the_learners_folder_is_not_in_the_repository():
    assert "/my/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_manifest_says_what_the_docstring_says(my):
    manifest = json.loads((my / ".sync.json").read_text())
    assert {name: sorted(entry) for name, entry in manifest.items()} == {"01_a.ipynb": ["laid", "offers", "seen"]}


def test_the_course_is_its_files_without_what_jupyter_and_python_leave_behind(tmp_path):
    for name in ("00_a.ipynb", "glossary.md", "data/a.json", ".ipynb_checkpoints/00_a.ipynb", "__pycache__/x.pyc", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}", encoding="utf-8")
    found = [path.relative_to(tmp_path).as_posix() for path in lab.course_files(tmp_path)]
    assert found == ["00_a.ipynb", "data/a.json", "glossary.md"]


def test_a_folder_without_the_course_is_no_copy_of_it(tmp_path):
    with pytest.raises(lab.LabError, match="There is no copy of the course in"):
        lab.existing(tmp_path)
    (tmp_path / "05_rolling_buffer.ipynb").write_text("{}", encoding="utf-8")
    assert lab.existing(str(tmp_path)) == tmp_path
