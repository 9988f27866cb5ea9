"""Running code that a model wrote: only when asked for, in a process of its own that can do as little as possible.

    outcome = sandbox.run("assert 1 + 1 == 2")      # Outcome(passed=True, what='passed')

On Linux it runs in user, mount, process and network namespaces of its own, without rights: no network, no file it can write, no
process it can signal or start. There is a limit on time, and on memory and open files where the system knows one. Where the
kernel gives no such namespaces the code is refused, unless the caller says unsafe=True: then the limits alone hold.

It can still read what you can read. For code meant to do harm, take a virtual machine.
"""

import os
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass


class SandboxError(ValueError):
    """The code was not run: this machine cannot shut it in, and nobody said unsafe=True."""


@dataclass(frozen=True)
class Outcome:
    """passed: it ran to its end without an error. what: "passed", or what happened instead, in one line."""

    passed: bool
    what: str


def run(code: str, timeout: float = 3.0, memory: int = 512 * 2**20, unsafe: bool = False) -> Outcome:
    """Run Python code (a solution with its tests) shut in; memory in bytes, timeout in seconds of the clock.

    Raises SandboxError where the machine cannot shut it in and unsafe is False.
    """
    if timeout <= 0 or memory < 32 * 2**20:
        raise ValueError(f"timeout is {timeout} s and memory {memory} bytes; expected more than 0 s and at least 32 MiB.")
    if not hasattr(os, "fork"):
        raise SandboxError(f"This system ({sys.platform}) cannot run code apart from this process: use Linux, or WSL on Windows.")
    # The code can end its process in many ways; only reaching its end prints this word, which it does not know.
    word = secrets.token_hex(16)
    jail = subprocess.Popen(
        [getattr(sys, "_base_executable", None) or sys.executable, "-I", "-S", __file__, str(timeout), str(memory),
         "unsafe" if unsafe else "shut"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, env={}, cwd="/",
    )  # fmt: skip
    try:
        said = jail.communicate(f"{word}\n{code}".encode(), timeout=timeout + 5)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        said = f"{word} out of time"
    finally:
        try:
            os.killpg(jail.pid, signal.SIGKILL)  # and all it started
        except (ProcessLookupError, PermissionError):
            pass
        jail.communicate()
    what = next((line.removeprefix(word).strip() for line in said.splitlines() if line.startswith(word)), "ended before its end")
    if what.startswith("refused"):
        raise SandboxError(
            f"This machine cannot shut code in ({what.removeprefix('refused: ')}). To run it with limits on time and memory "
            "alone, where it can read, write and send what you can: unsafe=True (--unsafe)."
        )
    limits = {"out of time": f"out of time ({timeout:g} s)", "MemoryError": f"out of memory ({memory >> 20} MiB)"}
    return Outcome(what == "passed", limits.get(what, what))


# ---- What runs in the other process ------------------------------------------------------------------------


# The system calls that start a process or a thread: (AUDIT_ARCH, [clone, fork, vfork, clone3]).
STARTING = {"x86_64": (0xC000003E, [56, 57, 58, 435]), "aarch64": (0xC00000B7, [220, 435])}


def _kernel():
    """A way to call the kernel that raises OSError where it says no."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def call(name, *arguments):
        if getattr(libc, name)(*arguments):
            code = ctypes.get_errno()
            raise OSError(code, f"{name}: {os.strerror(code)}")

    return call


def _shut_in(call):
    """Namespaces of our own, everything mounted read-only."""
    import ctypes

    uid, gid = os.getuid(), os.getgid()
    newns, newipc, newuser, newpid, newnet = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
    call("unshare", newuser | newns | newpid | newnet | newipc)
    for name, text in (("setgroups", "deny"), ("uid_map", f"65534 {uid} 1"), ("gid_map", f"65534 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:
            file.write(text)
    read_only, private, recursive, here = 1, 1 << 18, 0x8000, -100
    attributes = (ctypes.c_uint64 * 4)(read_only, 0, private, 0)
    mount_setattr = ctypes.c_long(442)
    call("syscall", mount_setattr, ctypes.c_int(here), b"/", ctypes.c_uint(recursive), attributes, ctypes.c_size_t(32))


def _give_up_rights(call):
    """No capability, none to be had later, no new process and no thread: what is shut stays shut."""
    import ctypes
    import platform
    import struct

    call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))
    call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if platform.machine() not in STARTING:
        raise OSError(f"its processor is {platform.machine()}")
    arch, numbers = STARTING[platform.machine()]
    load, equal, give, allow, deny = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050001  # deny: EPERM
    rules = [(load, 0, 0, 4), (equal, 1, 0, arch), (give, 0, 0, deny), (load, 0, 0, 0)]
    rules += [(equal, len(numbers) - n, 0, number) for n, number in enumerate(numbers)]
    rules += [(give, 0, 0, allow), (give, 0, 0, deny)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    call("prctl", 22, 2, struct.pack("HxxxxxxP", len(rules), ctypes.addressof(program)), 0, 0)  # PR_SET_SECCOMP


def _limit(timeout: float, memory: int):
    import resource

    for name, value in (("RLIMIT_AS", memory), ("RLIMIT_CPU", int(timeout) + 1), ("RLIMIT_FSIZE", 0), ("RLIMIT_NOFILE", 32),
                        ("RLIMIT_CORE", 0)):  # fmt: skip
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (ValueError, OSError, AttributeError):
            pass  # macOS knows some of them by name only


def _child(code: str, report, timeout: float, memory: int, call=None):
    if call:
        try:
            _give_up_rights(call)
        except OSError as error:
            return report(f"refused: {error}")
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    _limit(timeout, memory)
    try:
        exec(compile(code, "<solution>", "exec"), {"__name__": "__main__"})
        report("passed")
    except MemoryError:
        report("MemoryError")
    except BaseException as error:
        text = " ".join(str(error).split())[:200]
        report(type(error).__name__ + (f": {text}" if text else ""))


def _main(timeout: str, memory: str, how: str):
    import select

    word, code = sys.stdin.buffer.read().decode().split("\n", 1)
    call, seconds = None, float(timeout)
    if how == "shut":
        try:
            if sys.platform != "linux":
                raise OSError("it is not Linux")
            call = _kernel()
            _shut_in(call)
        except OSError as error:
            print(f"{word} refused: {error}")
            return
    reader, writer = os.pipe()
    child = os.fork()  # the first process of the new namespace: when it ends, all it started end with it
    if child == 0:
        os.close(reader)
        os.setsid()
        try:
            _child(code, lambda what: os.write(writer, f"{word} {what}\n".encode()), seconds, int(memory), call)
        finally:
            os._exit(0)
    os.close(writer)
    # Its own end of the pipe may live on in a process it started: wait for what it says, or for the time.
    ready = select.select([reader], [], [], seconds)[0]
    said = os.read(reader, 4096).decode(errors="replace") if ready else f"{word} out of time"
    for kill in (os.killpg, os.kill):
        try:
            kill(child, signal.SIGKILL)
        except OSError:
            pass
    _, status = os.waitpid(child, 0)
    if not said and os.WIFSIGNALED(status):
        said = f"{word} killed by {signal.Signals(os.WTERMSIG(status)).name}"
    print(said)


if __name__ == "__main__":
    _main(*sys.argv[1:])
