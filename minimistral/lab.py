"""`minimistral lab`: lay the learner's own copy of the notebooks in my/ and serve JupyterLab on it.

notebooks/ holds the executed course, for readers. A learner predicts before running, so my/ gets the notebooks without
their outputs; and what a learner has changed there is never overwritten. `minimistral notebooks` lays the same copy in
another folder, `minimistral reset` lays one chapter of it afresh.
"""

import hashlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from minimistral.files import write

ROOT = Path(__file__).resolve().parent.parent
PACKED = ROOT / "minimistral" / "notebooks"  # where a wheel brings the course along; setup.py puts it there
FIRST = "00_*.ipynb"
MANIFEST = ".sync.json"
PROJECTOR = Path(__file__).parent / "projector"  # holds custom.css


class LabError(ValueError):
    """The learner's copy cannot be laid, found or served; the message says what to do."""


def sync(source, target) -> list[str]:
    """Bring the learner's copy `target` of the folder of notebooks `source` up to date; return a line for each thing to know.

    Notebooks are laid without outputs; of a link to a file of the repository that is not there, only the words. A copy that
    the learner has not changed is replaced when the course's version changed, and laid again when deleted. A changed copy
    stays as it is, and a new version of the course is laid beside it, once, as NAME.new.ipynb. Only cells count as a change,
    not outputs, counts or metadata: opening, running and saving a notebook changes nothing.

    target/.sync.json remembers for each file: "laid", the mark of what the learner's copy was when laid; "seen", the mark
    of the last course version that was laid or offered; "offers", the marks of the .new files when laid.
    """
    source, target = Path(source), Path(target)
    target.mkdir(parents=True, exist_ok=True)
    manifest, lines = _read_manifest(target), []
    for path in course_files(source):
        name = path.relative_to(source).as_posix()
        copy = target / name
        course = _cleared(path, copy.parent)
        known = manifest.setdefault(name, {"laid": None, "seen": None, "offers": {}})
        new, now = mark(name, course), mark(name, _bytes(copy))
        if now == new:
            known["laid"] = new
        elif now is None or now == known["laid"]:
            write(copy, course)
            known["laid"] = new
        elif new not in (known["seen"], known["laid"]):
            offer = _free_name(copy, known["offers"])
            write(offer, course)
            known["offers"][offer.name] = new
            lines.append(f"{name} has a new version: it lies beside your own copy, which stays as it is, as {offer.name}.")
        known["seen"] = new
        write(target / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    return lines


def course_files(source: Path) -> list[Path]:
    """The files of the course below a folder: no hidden ones, no checkpoints, no caches."""
    def wanted(path):
        parts = path.relative_to(source).parts
        return path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts)

    return sorted(path for path in source.rglob("*") if wanted(path))


def mark(name: str, data: bytes | None) -> str | None:
    """What two versions of a file are compared by: of a notebook its cells' kinds, sources and attachments, else all of it.

    Empty cells do not count: JupyterLab adds one when the last cell is run. None for a file that is not there.
    """
    if data is None:
        return None
    if name.endswith(".ipynb"):
        try:
            cells = json.loads(data)["cells"]
            told = [(cell["cell_type"], "".join(cell["source"]), cell.get("attachments")) for cell in cells]
            data = json.dumps([cell for cell in told if cell[1].strip()], sort_keys=True).encode()
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # no notebook as it stands: the learner's all the same, so its bytes count
    return hashlib.sha256(data).hexdigest()


def clear(data: bytes) -> bytes:
    """A notebook without outputs, execution counts and widget state."""
    notebook = json.loads(data)
    notebook.get("metadata", {}).pop("widgets", None)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
            cell.get("metadata", {}).pop("execution", None)
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def reset(chapter: str, folder: str | Path) -> list[Path]:
    """Lay one chapter of the learner's folder afresh; return the files that now keep what stood there, as NAME.old-DATE.ipynb.

    chapter: its number, as 5, 05 or 12b, or its file's name. Newer versions laid beside the learner's copy go the same way.
    No file is lost or overwritten: of two resets a day, the second keeps NAME.old-DATE-2.ipynb. LabError: no such chapter,
    no copy of the course in the folder, or one that cannot be written to.
    """
    source, folder = find_notebooks(), existing(folder)
    name, kept = find_chapter(chapter, source), []
    course, copy = _cleared(source / name, folder), folder / name
    with _writing(folder):
        for path in versions(copy):
            if (data := path.read_bytes()) != course:
                kept.append(_keep(path, data))
            if path != copy:
                path.unlink()
        write(copy, course)
        new = mark(name, course)
        manifest = _read_manifest(folder) | {name: {"laid": new, "seen": new, "offers": {}}}
        write(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    return kept


def versions(copy: Path) -> list[Path]:
    """A learner's notebook and, beside it, the newer ones of the course that they may have gone on in; those that exist."""
    beside = [path for path in copy.parent.glob(f"{copy.stem}.new*{copy.suffix}") if re.search(r"\.new\d*$", path.stem)]
    return [path for path in (copy, *sorted(beside)) if path.is_file()]


def find_chapter(chapter: str, source: Path) -> str:
    """The file's name of a chapter given as 5, 05, 12b or by that name, whatever folder stands before it."""
    names = sorted(path.name for path in source.glob("*.ipynb"))
    given = Path(chapter).name.removesuffix(".ipynb").lower()
    for name in names:
        stem = name.removesuffix(".ipynb")
        if given and (given == stem.lower() or given.lstrip("0") == stem.split("_")[0].lstrip("0")):
            return name
    raise LabError(f"There is no chapter {chapter!r}; expected a number, such as 5 or 12b, or one of {', '.join(names)}.")


def find_notebooks() -> Path:
    """The course's notebooks: those an installed package brought along, or the repository's; LabError where there are none."""
    for folder in (PACKED, ROOT / "notebooks"):
        if any(folder.glob(FIRST)):
            return folder
    raise LabError(
        f"There are no notebooks in {ROOT / 'notebooks'}, and this installation brought none along. "
        "Clone the repository and run make lab there, or pip install -e . in it."
    )


def own(folder: str | Path | None = None) -> Path:
    """The learner's folder: the one given; else the one we stand in or below; else the repository's my/.

    Without a repository: the only one that was laid in the folder we stand in, or else my/ in it. One that was laid is known
    by its manifest.
    """
    if folder is not None:
        return Path(folder).absolute()
    here = Path.cwd()
    for one in (here, *here.parents):
        if (one / MANIFEST).is_file():
            return one
    if any((ROOT / "notebooks").glob(FIRST)):
        return ROOT / "my"
    laid = [path.parent for path in here.glob(f"*/{MANIFEST}")]
    return laid[0] if len(laid) == 1 else here / "my"


def existing(folder: str | Path) -> Path:
    """The folder itself; LabError where no chapter of the course lies in it."""
    folder = Path(folder)
    if not any((folder / path.name).is_file() for path in find_notebooks().glob("*.ipynb")):
        raise LabError(
            f"There is no copy of the course in {folder}. minimistral lab, or make lab, lays one; "
            "if yours lies elsewhere, name its folder."
        )
    return folder


def lay(folder: str | Path) -> list[str]:
    """Bring the learner's folder up to date with the course, as sync() does. LabError where it cannot be written to."""
    with _writing(folder):
        return sync(find_notebooks(), folder)


def lab(port: int = 8888, browser: bool = True, folder: str | Path | None = None, projector: bool = False) -> int:
    """Bring the learner's folder up to date and serve JupyterLab on chapter 00 until stopped; return its exit status.

    port: the first one to try. browser: open one, where there is a display. folder: see own(). projector: large type, pictures
    and widgets, for this run only: JupyterLab loads one more style sheet, and no setting is changed.
    """
    mine = own(folder)
    for line in lay(mine):
        print(line)
    root = ROOT if mine.is_relative_to(ROOT) else mine  # of the repository one sees all, of a folder elsewhere nothing around it
    print(f"Your own copy of the course lies in {mine}")
    first = min(mine.glob(FIRST)).relative_to(root).as_posix()
    port, ip = free_port(port), "0.0.0.0" if in_container() else "127.0.0.1"
    token = os.environ.get("JUPYTER_TOKEN") or secrets.token_hex(16)
    opens = browser and has_display()
    print(f"\n    http://127.0.0.1:{port}/lab/tree/{first}?token={token}\n")
    if opens:
        print("JupyterLab opens in your browser; if it does not, open the address above. Ctrl-C here stops it.", flush=True)
    else:
        print("Open the address above in a browser. Ctrl-C here stops JupyterLab.", flush=True)
    options = [
        f"--port={port}", "--ServerApp.port_retries=0", f"--ip={ip}", f"--ServerApp.root_dir={root}",
        f"--FileContentsManager.preferred_dir={mine}", f"--LabApp.default_url=/lab/tree/{first}", "--ServerApp.answer_yes=True",
        "--log-level=WARN",
    ]
    options += [] if opens else ["--no-browser"]
    options += ["--allow-root"] if is_root() else []
    options += large_type() if projector else []
    # the kernel "python3" is this environment's, whatever the user has installed elsewhere
    env = os.environ | {"JUPYTER_TOKEN": token, "JUPYTER_PREFER_ENV_PATH": "1"}
    return run([sys.executable, "-m", "jupyterlab", *options], env)


def large_type() -> list[str]:
    """Options with which JupyterLab loads projector/custom.css after its own style sheets."""
    return ["--LabApp.custom_css=True", f"--ServerApp.tornado_settings={ {'static_custom_path': str(PROJECTOR)} }"]


def run(command: list[str], env: dict) -> int:
    """Become this command, where the system can; else run it and return its exit status."""
    if os.name == "posix":
        os.execve(command[0], command, env)
    process = subprocess.Popen(command, env=env)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # it got the Ctrl-C too and is ending


def free_port(first: int = 8888) -> int:
    """The first free port of this machine from `first` on, among a hundred."""
    for port in range(first, min(first + 100, 65536)):
        with socket.socket() as trial:
            if os.name == "posix":
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise LabError(f"No port from {first} on is free for JupyterLab: choose another with --port.")


def has_display() -> bool:
    """Whether a browser opened here would be seen."""
    if os.environ.get("SSH_CONNECTION") and not os.environ.get("DISPLAY"):
        return False
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def is_root() -> bool:
    """Whether this process runs as root, as which Jupyter wants to be told that it may."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def in_container() -> bool:
    """Whether this is a Docker or Podman container, whose published ports reach only a server on all of its addresses."""
    return bool(os.environ.get("container")) or any(Path(p).exists() for p in ("/.dockerenv", "/run/.containerenv"))


def _cleared(path: Path, folder: Path) -> bytes:
    """A file of the course as it is laid in a folder: without outputs, and of a link that would be dead there only the words."""

    def alive(link):
        return link[0] if (folder / link[2].decode()).exists() else link[1]

    data = path.read_bytes()
    if path.suffix not in (".ipynb", ".md"):
        return data
    data = clear(data) if path.suffix == ".ipynb" else data
    return re.sub(rb"\[([^\[\]]*)\]\((\.\./[^)#]*)[^)]*\)", alive, data)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


@contextmanager
def _writing(folder):
    """Refuse the course's own folder, and say in a sentence what the system says of one that cannot be written to."""
    if Path(folder).resolve() == find_notebooks().resolve():
        raise LabError(f"{folder} is the course itself, executed, for reading: name a folder for a copy of your own.")
    try:
        yield
    except OSError as error:
        raise LabError(f"The notebooks cannot be laid in {folder}: {error}. Name a folder that you may write to.") from None


def _keep(path: Path, data: bytes) -> Path:
    """Write what a file holds under a dated name beside it that nobody has yet."""
    number, name = 1, f"{path.stem}.old-{date.today()}"
    while True:
        kept = path.with_name(f"{name}{f'-{number}' if number > 1 else ''}{path.suffix}")
        try:
            with kept.open("xb") as file:
                file.write(data)
            return kept
        except FileExistsError:
            number += 1


def _free_name(copy: Path, offers: dict) -> Path:
    """NAME.new.ipynb, or .new2 and so on where the learner has worked in an earlier offer."""
    number = 1
    while True:
        offer = copy.with_name(f"{copy.stem}.new{number if number > 1 else ''}{copy.suffix}")
        now = mark(offer.name, _bytes(offer))
        if now is None or now == offers.get(offer.name):
            return offer
        number += 1


def _read_manifest(target: Path) -> dict:
    """What was laid; empty where that is not known: then every copy that differs counts as the learner's."""
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        return {name: {"laid": e["laid"], "seen": e["seen"], "offers": dict(e["offers"])} for name, e in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
