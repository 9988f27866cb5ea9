"""Code that a model wrote, shut in: the limits hold, and the row says what happened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minimistral import sandbox


def shut_in_here() -> bool:
    try:
        return sandbox.run("").passed
    except sandbox.SandboxError:
        return False


SHUT = shut_in_here()
UNSAFE = not SHUT  # where the kernel gives no namespaces the limits are tested all the same


def what(code, **options):
    return sandbox.run(code, **{"timeout": 1.0, "unsafe": UNSAFE} | options).what


def test_a_right_solution_passes_and_a_wrong_one_says_why():
    assert sandbox.run("import math\nassert math.gcd(12, 18) == 6", unsafe=UNSAFE) == sandbox.Outcome(True, "passed")
    assert what("assert 1 + 1 == 3, 'two'") == "AssertionError: two"
    assert what("def f(:") == "SyntaxError: invalid syntax (<solution>, line 1)"
    assert what("raise SystemExit(0)") == "SystemExit: 0"


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(60)"])
def test_what_loops_or_sleeps_is_stopped(code):
    assert what(code) == "out of time (1 s)"


@pytest.mark.parametrize("code", ["x = bytearray(2 ** 31)", "x = []\nwhile True: x.append('x' * 10 ** 6)"])
def test_what_allocates_is_stopped(code):
    assert what(code, memory=128 * 2**20, timeout=10) == "out of memory (128 MiB)"


@pytest.mark.parametrize("code", [
    "import os; os._exit(0)",
    "print('passed')\nimport os; os._exit(0)",
    "import os\nfor fd in range(3, 30):\n    try: os.write(fd, b'passed\\n')\n    except OSError: pass\nos._exit(0)",
])  # fmt: skip
def test_leaving_early_is_no_pass(code):
    assert what(code) == "ended before its end"


def test_a_crash_names_its_signal():
    assert what("import ctypes; ctypes.string_at(0)") == "killed by SIGSEGV"


@pytest.mark.parametrize(("code", "refused"), [
    ("open('{file}', 'w')", "Read-only file system"),
    ("import os; os.remove('{file}')", "Read-only file system"),
    ("import os; os.chmod('{file}', 0o777)", "Read-only file system"),
    ("open('/dev/shm/minimistral', 'w')", "Read-only file system"),
    ("import os\nwhile True: os.fork()", "Operation not permitted"),
    ("import subprocess; subprocess.run(['true'])", "Operation not permitted"),
    ("import threading; threading.Thread(target=print).start()", "can't start new thread"),
    ("import socket; socket.create_connection(('127.0.0.1', {port}), 1)", "Network is unreachable"),
    ("import os; os.kill({pid}, 9)", "No such process"),
    ("import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
     "assert not libc.mount(None, b'/', None, 32 | 4096, None), os.strerror(ctypes.get_errno())", "Operation not permitted"),
])  # fmt: skip
def test_nothing_outside_can_be_touched(code, refused, tmp_path):
    import socket

    file = tmp_path / "mine"
    file.write_text("as it was")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = code.format(file=file, port=server.getsockname()[1], pid=os.getpid())
        if SHUT:
            assert refused in what(code)
        else:
            with pytest.raises(sandbox.SandboxError, match="cannot shut code in .* unsafe=True"):
                sandbox.run(code)
    assert file.read_text() == "as it was"


def test_where_it_cannot_be_shut_in_it_is_not_run(tmp_path):
    """As on another system: the very same file, told that it is not on Linux."""
    here = Path(sandbox.__file__).read_text().replace('sys.platform != "linux"', "True")
    copy = tmp_path / "sandbox.py"
    copy.write_text(here)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import sandbox\n"
    for call, expected in (("sandbox.run('')", "it is not Linux"), ("print(sandbox.run('', unsafe=True).what)", "passed")):
        done = subprocess.run([sys.executable, "-c", script + call], capture_output=True, text=True)
        assert expected in done.stdout + done.stderr


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"memory": 1000}])
def test_limits_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="expected more than 0 s and at least 32 MiB"):
        sandbox.run("", **wrong)
