"""What other systems need, as far as it shows from here: dtypes that Apple's GPUs have, text in UTF-8, names Windows takes."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import random_ids, small_model
from torch.utils._python_dispatch import TorchDispatchMode

import minimistral as mm
from minimistral import window
from minimistral.hybrid import cache_for

ROOT = Path(__file__).parent.parent
SCRIPTS = [ROOT / "tests" / name for name in ("run.py", "execute.py", "browser.py")]
SOURCES = sorted((ROOT / "minimistral").rglob("*.py")) + SCRIPTS


# ---- Apple's GPUs (MPS) have no float64 and no complex128: what a model does on its device must need neither ----------------

WIDE = (torch.float64, torch.complex32, torch.complex64, torch.complex128)


class Dtypes(TorchDispatchMode):
    """Collects the dtypes of all tensors that go into any operation or come out of it."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, out))
        self.seen |= {leaf.dtype for leaf in leaves if isinstance(leaf, torch.Tensor)}
        return out


def one_pass(model):
    model(random_ids(2, 9), lengths=[9, 4], last_only=True)


def in_chunks(model):
    cache = cache_for(model.config, batch_size=2)
    for size in (1, 5, 2, 1, 1):
        model(random_ids(2, size), cache=cache)


def generated(model):
    prompts = [[5, 1, 7, 7, 3], [2]]
    mm.generate(model, prompts, 6, chunk_size=2, eos_id=None)
    mm.generate(model, prompts, 6, temperature=0.8, top_k=9, top_p=0.9, min_p=0.01, seed=1, eos_id=None)


def attended(model):
    q, k = torch.randn(1, 6, 600, 4), torch.randn(1, 2, 600, 4)
    for method in ("dense", "triangles"):
        mm.attend(q, k, k, window=64, method=method)


@pytest.mark.parametrize("work", [one_pass, in_chunks, generated, attended], ids=lambda work: work.__name__)
@pytest.mark.parametrize("windows", [3, None, (3, None)], ids=["window", "none", "mixed"])
@torch.no_grad()
def test_no_float64_and_no_complex_number_on_the_way(work, windows):
    model = small_model(windows)
    with Dtypes() as dtypes:
        work(model)
    assert torch.float32 in dtypes.seen and not dtypes.seen & set(WIDE)


def test_the_guard_sees_what_it_should():
    with Dtypes() as dtypes:
        torch.view_as_complex(torch.ones(2, dtype=torch.float64).float().reshape(1, 2))
    assert dtypes.seen == {torch.float64, torch.float32, torch.complex64}


def test_a_device_without_kernels_of_its_own_gets_the_dense_mask():
    """Tensors on the meta device are neither on a CPU nor on CUDA, just as those on MPS."""
    q = torch.empty(1, 2, 4096, 64, device="meta")
    assert window.choose(q, 128) == "dense"
    assert window.lacking("triangles", q) and window.lacking("flex", q) and window.lacking("varlen", q)
    assert window.choose(torch.empty(q.shape), 128) == "triangles"


# ---- text is UTF-8, whatever a system's own encoding is ---------------------------------------------------------------------


def unsaid(source: str) -> list[int]:
    """The lines that open text without an encoding."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or any(word.arg == "encoding" for word in call.keywords):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
        text = name == "read_text" and not call.args or name == "write_text" and len(call.args) == 1
        if isinstance(call.func, ast.Name) and name == "open":
            mode = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode")]
            text = not mode or "b" not in getattr(mode[0], "value", "b")
        if text:
            found.append(call.lineno)
    return found


def test_each_text_file_is_opened_as_utf_8():
    found = {path.relative_to(ROOT).as_posix(): unsaid(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_the_check_of_encodings_sees_what_it_should():
    wrong = "path.read_text()\npath.write_text(x)\nopen(x)\nopen(x, 'w')\nopen(x, mode='a')\n"
    right = "path.read_text(encoding='utf-8')\nopen(x, 'rb')\npath.write_text(x, encoding='utf-8')\narchive.open(x)\n"
    assert sorted(unsaid(wrong)) == [1, 2, 3, 4, 5] and unsaid(right) == []


# ---- names ------------------------------------------------------------------------------------------------------------------

RESERVED = {"con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(1, 10))}


def illegal(path: str) -> bool:
    """Whether Windows refuses a file of this name in a repository, or a long path of it in a user's folder."""
    return len(path) > 120 or any(
        re.search(r'[<>:"\\|?*\x00-\x1f]|[. ]$', part) or part.split(".")[0].lower() in RESERVED for part in path.split("/")
    )


@pytest.fixture(scope="module")
def tracked():
    """(mode, path) of each file of the repository."""
    listed = subprocess.run(["git", "ls-files", "-s", "-z"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if listed.returncode:
        pytest.skip("this is not a git repository")
    entries = [line.split("\t") for line in listed.stdout.split("\0") if line]
    return [(meta.split()[0], path) for meta, path in entries]


def test_each_file_name_is_one_that_windows_takes(tracked):
    assert [path for _, path in tracked if illegal(path)] == []
    lower = [path.lower() for _, path in tracked]
    assert [path for path in lower if lower.count(path) > 1] == []


def test_the_check_of_names_sees_what_it_should():
    assert all(map(illegal, ("a:b.py", "docs/aux.md", "x/what?.txt", "end.", "NUL", "a" * 121)))
    assert not any(map(illegal, ("minimistral/cache.py", "notebooks/00_start_here.ipynb", ".github/workflows/test.yml")))


def test_no_symbolic_link_is_in_the_repository(tracked):
    assert [path for mode, path in tracked if mode == "120000"] == []


#: the sandbox works in Linux namespaces, is optional, and says so elsewhere (tests/test_sandbox.py)
LINUX_ONLY = {"minimistral/sandbox.py"}


def test_nothing_else_forks_or_makes_links():
    needle = re.compile(r"os\.fork\(|\.symlink_to\(|os\.symlink\(|hardlink_to\(|get_context\(.fork|set_start_method\(.fork")
    found = {path.relative_to(ROOT).as_posix() for path in SOURCES if needle.search(path.read_text(encoding="utf-8"))}
    assert found == LINUX_ONLY
