"""Execute notebooks and write their outputs, the same bytes each time.

    python tests/execute.py                        all of notebooks/
    python tests/execute.py notebooks/05*.ipynb    these
    python tests/execute.py --check                write nothing; compare the pictures, as nbval does not

A notebook is written only when all its cells ran; otherwise the failing cell is named and the file stays as it was.
"""

import argparse
import asyncio
import base64
import hashlib
import io
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE_INFO = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}
WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURES = ("image/png", "image/jpeg")

CELL_SECONDS = 600
NOTEBOOK_SECONDS = 1500
#: a pixel differs when a channel does by more than LEVELS of 255; pictures differ when more than SHARE of their pixels do
LEVELS, SHARE = 24, 0.001


class ExecutionError(Exception):
    """A notebook that did not run to its end; the message names the cell."""


@contextmanager
def clean_environment():
    """What a notebook's kernel gets: this environment without what a user has configured, and an empty home for its state."""
    with tempfile.TemporaryDirectory(prefix="minimistral-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        (home / "matplotlibrc").write_text("", encoding="utf-8")
        yield os.environ | {
            "MINIMISTRAL_HOME": str(home / "home"),
            "MATPLOTLIBRC": str(home / "matplotlibrc"),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_PREFER_ENV_PATH": "1",
            "PYTHONHASHSEED": "0",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }


def execute(path: Path, seconds: float = NOTEBOOK_SECONDS) -> nbformat.NotebookNode:
    """Run all cells of a notebook in a fresh kernel, in the notebook's folder; return it as it should be committed.

    Raises ExecutionError when a cell fails or the whole takes longer than `seconds`.
    """
    path = Path(path)
    nb = nbformat.read(path, as_version=4)
    reached = 0

    def note(cell, cell_index):
        nonlocal reached
        reached = cell_index

    for cell in code_cells(nb):
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        nb, kernel_name="python3", timeout=CELL_SECONDS, record_timing=False, store_widget_state=False,
        coalesce_streams=True, on_cell_start=note, extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent.resolve())}},
    )

    def failed(why):
        cell = nb.cells[reached]
        return ExecutionError(f"{path.name}: cell {reached + 1} (id {cell.get('id')}) failed: {why}\n{indent(cell.source)}")

    start = time.monotonic()
    with clean_environment() as env:
        try:
            asyncio.run(asyncio.wait_for(client.async_execute(env=env), seconds))
        except CellExecutionError as error:
            raise failed(f"{error.ename}: {error.evalue}") from None
        except CellTimeoutError:
            raise failed(f"it took longer than {CELL_SECONDS} s.") from None
        except (DeadKernelError, TimeoutError):  # nbclient takes being cancelled for the kernel's death
            if time.monotonic() - start < seconds:
                raise failed("the kernel died (out of memory?).") from None
            raise failed(f"the notebook took longer than {seconds:g} s in all; this cell was running.") from None
    return tidy(nb)


def tidy(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take away, in place, whatever depends on the machine, the hour or the editor."""
    nb.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": LANGUAGE_INFO})
    nb.nbformat, nb.nbformat_minor = 4, 5
    for cell in nb.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {})
        for number, output in enumerate(cell.get("outputs", [])):
            if WIDGET in output.get("data", {}):
                output.data[WIDGET].model_id = hashlib.sha256(f"{cell.id} {number}".encode()).hexdigest()[:32]
    return nb


def code_cells(nb) -> list:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def indent(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def render(nb) -> str:
    """The notebook as the text of its file."""
    return nbformat.writes(nb, version=4).rstrip("\n") + "\n"


def write(path: Path, text: str):
    """Write a whole file or none: to a temporary name first."""
    new = path.with_name(f".{path.name}.tmp")
    new.write_text(text, encoding="utf-8", newline="\n")
    os.replace(new, path)


def pictures(cell) -> list[bytes]:
    """The PNG and JPEG pictures of a cell's outputs."""
    found = [output.data[kind] for output in cell.outputs for kind in PICTURES if kind in output.get("data", {})]
    return [base64.b64decode(data) for data in found]


def changed_share(old: bytes, new: bytes) -> float:
    """The share of pixels, 0 to 1, in which two pictures visibly differ; 1 for pictures of different sizes."""
    if old == new:
        return 0.0
    a, b = (np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"), dtype=np.int16) for data in (old, new))
    if a.shape != b.shape:
        return 1.0
    return float((np.abs(a - b).max(-1) > LEVELS).mean())


def compare(old, new) -> list[str]:
    """What differs between the pictures of two executions of one notebook, a sentence each.

    A cell tagged nbval-ignore-output may differ: its outputs are measurements.
    """
    differences = []
    for number, (before, after) in enumerate(zip(old.cells, new.cells, strict=True), 1):
        if before.cell_type != "code" or "nbval-ignore-output" in before.metadata.get("tags", []):
            continue
        was, now = pictures(before), pictures(after)
        if len(was) != len(now):
            differences.append(f"cell {number} (id {before.id}) shows {len(now)} pictures; {len(was)} are committed")
            continue
        for a, b in zip(was, now, strict=True):
            if (share := changed_share(a, b)) > SHARE:
                differences.append(f"cell {number} (id {before.id}): {share:.1%} of a picture's pixels differ")
    return differences


def check(path: Path) -> list[str]:
    """Execute a notebook and say in which pictures it differs from the file; nothing is run when it has none."""
    committed = nbformat.read(path, as_version=4)
    if not any(pictures(cell) for cell in code_cells(committed)):
        return []
    return compare(committed, execute(path))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="which (default: all of notebooks/)")
    parser.add_argument("--check", action="store_true", help="write nothing; compare pictures with the committed ones")
    parser.add_argument("--timeout", type=float, default=NOTEBOOK_SECONDS, help="seconds a notebook may take (%(default)s)")
    args = parser.parse_args(argv)
    bad = 0
    for path in args.notebooks or sorted(NOTEBOOKS.glob("*.ipynb")):
        start = time.perf_counter()
        try:
            if args.check:
                problems = check(path)
                said = "; ".join(problems) or "pictures agree"
            else:
                problems, text = [], render(execute(path, args.timeout))
                same = text == path.read_text(encoding="utf-8")
                if not same:
                    write(path, text)
                said = "unchanged" if same else "written"
        except ExecutionError as error:
            problems, said = [error], f"left as it was\n{error}"
        bad += bool(problems)
        print(f"{path.name}  {time.perf_counter() - start:.1f} s  {said}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
